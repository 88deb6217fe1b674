package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (w *world) tag(id string, pairs ...string) error {
	_, err := w.CreateTags(w.t.Context(), &sdk.CreateTagsInput{Resources: []string{id}, Tags: tagSpec("instance", pairs...).Tags})
	return err
}

// tagsOf are an instance's tags as a client sees them.
func (w *world) tagsOf(id string) map[string]string {
	w.t.Helper()
	m := map[string]string{}
	for _, t := range w.instance(id).Tags {
		m[*t.Key] = *t.Value
	}
	return m
}

func (w *world) untag(id string, keys ...string) error {
	in := sdk.DeleteTagsInput{Resources: []string{id}}
	for _, key := range keys {
		in.Tags = append(in.Tags, types.Tag{Key: &key})
	}
	_, err := w.DeleteTags(w.t.Context(), &in)
	return err
}

func TestTagsGiveALaunchItsSize(t *testing.T) {
	w := newWorld(t)
	id := w.running(tagged("nacre:cpus", "3", "nacre:memory", "1536"))
	if r := w.record(id); r.CPUs != 3 || r.MemoryMiB != 1536 {
		t.Errorf("its node is told %d CPUs and %d MiB", r.CPUs, r.MemoryMiB)
	}
	if c := w.instance(id).CpuOptions; *c.CoreCount != 3 || *c.ThreadsPerCore != 1 {
		t.Errorf("it shows %d cores of %d threads", *c.CoreCount, *c.ThreadsPerCore)
	}
	w.unchanged(func() {
		for _, bad := range [][2]string{{"nacre:cpus", "0"}, {"nacre:cpus", "two"}, {"nacre:cpus", "+2"}, {"nacre:memory", "63"}, {"nacre:memory", "1GiB"}, {"nacre:memory", "99999999999999999999"}} {
			_, err := w.run(tagged(bad[0], bad[1]))
			refused(t, err, "InvalidParameterValue", bad[0])
			refused(t, w.tag(id, bad[0], bad[1]), "InvalidParameterValue", bad[0])
		}
		_, err := w.run(tagged("nacre:memory", "20000"))
		refused(t, err, "InsufficientInstanceCapacity", "20000 MiB")
	})
}

func TestTagsChangeTheSizeOfARunningInstanceByItsServer(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	if err := w.tag(id, "nacre:cpus", "4", "nacre:memory", "4096", "color", "red"); err != nil {
		t.Fatal(err)
	}
	if r := w.record(id); r.CPUs != 4 || r.MemoryMiB != 4096 || r.Sized != 1 || r.Before == nil || *r.Before != (cloud.Sizing{Type: "t3.micro"}) {
		t.Errorf("its node is told %+v", r)
	}
	if tags := w.tagsOf(id); tags["aws:nacre:resize"] != "pending" {
		t.Errorf("it shows %v", tags)
	}
	if err := w.tag(id, "nacre:memory", "4096"); err != nil || w.record(id).Sized != 1 {
		t.Error("the same size again is a change:", err)
	}
	if err := w.untag(id, "nacre:cpus"); err != nil {
		t.Fatal(err)
	}
	if r := w.record(id); r.CPUs != 0 || r.MemoryMiB != 4096 || r.Sized != 2 || *r.Before != (cloud.Sizing{Type: "t3.micro"}) {
		t.Errorf("its node is told %+v", r)
	}
	w.unchanged(func() {
		refused(t, w.tag(id, "nacre:memory", "17000"), "InsufficientInstanceCapacity", "17000 MiB")
		refused(t, w.tag(id, "nacre:cpus", "9"), "InsufficientInstanceCapacity", "9 vCPUs")
	})
	w.launch(ofType("m5.large"))
	w.settle()
	w.unchanged(func() {
		refused(t, w.tag(id, "nacre:memory", "9000"), "InsufficientInstanceCapacity", "8192 of 16384 MiB")
	})
	pending := *w.launch()[0].InstanceId
	w.unchanged(func() { refused(t, w.tag(pending, "nacre:cpus", "1"), "IncorrectInstanceState", "running") })
	if err := w.tag(pending, "color", "red"); err != nil {
		t.Error("another tag is refused:", err)
	}
}

func TestAStoppedInstanceStartsWithTheSizeOfItsTags(t *testing.T) {
	w := newWorld(t)
	id := w.stopped()
	if err := w.tag(id, "nacre:memory", "2048"); err != nil {
		t.Fatal(err)
	}
	if r := w.record(id); r.MemoryMiB != 2048 || r.Before != nil || r.Tags[cloud.TagResize] != "" {
		t.Errorf("it is %+v", r)
	}
	if err := w.tag(id, "nacre:memory", "17000"); err != nil { // as with types, the start is what fails
		t.Fatal(err)
	}
	_, err := w.start(id)
	refused(t, err, "InsufficientInstanceCapacity")
	if err := w.untag(id); err != nil || w.record(id).MemoryMiB != 0 {
		t.Errorf("without its tags it has %d MiB: %v", w.record(id).MemoryMiB, err)
	}
	if _, err := w.start(id); err != nil {
		t.Error(err)
	}
	if _, err := w.terminate(id); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if err := w.tag(id, "nacre:memory", "2048"); err == nil && w.record(id).Before != nil {
		t.Error("what is terminated changes its size")
	}
}

func TestATypeChangesLiveOnlyWhereItsOwnerSaysSo(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	to := func(name string) error {
		_, err := w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &id, InstanceType: &types.AttributeValue{Value: aws.String(name)}})
		return err
	}
	refused(t, to("t3.large"), "IncorrectInstanceState", "stopped")
	if err := w.tag(id, "nacre:live-resize", "true"); err != nil {
		t.Fatal(err)
	}
	if err := to("t3.large"); err != nil {
		t.Fatal(err)
	}
	if r := w.record(id); r.Type != "t3.large" || r.Sized != 1 || r.Before.Type != "t3.micro" {
		t.Errorf("its node is told %+v", r)
	}
	w.unchanged(func() {
		refused(t, to("r5.xlarge"), "InsufficientInstanceCapacity")
		refused(t, to("t4g.large"), "InvalidParameterValue", "architecture")
	})
	// The node can't: what it was is what it is.
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, cloud.InstanceID(id))
		i.Resized("no room")
		store.Put(tx, store.Instances, i)
	})
	if i := w.instance(id); i.InstanceType != "t3.micro" || w.tagsOf(id)["aws:nacre:resize"] != "failed: no room" {
		t.Errorf("it is a %s that shows %v", i.InstanceType, w.tagsOf(id))
	}
}
