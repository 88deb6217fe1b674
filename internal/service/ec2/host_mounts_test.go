package ec2_test

import (
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestDirectoriesOfAServerAreTheOperatorsToAllow(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	shows := func(text string) func(*order) {
		return func(in *order) {
			in.TagSpecifications = []types.TagSpecification{tagSpec("instance", cloud.TagHostMounts, text)}
		}
	}
	allow := func(list ...cloud.HostPath) {
		w.update(func(tx *store.Tx) {
			n, _ := store.Get(tx, store.Nodes, w.node)
			n.HostPaths = list
			store.Put(tx, store.Nodes, n)
		})
	}
	_, err := w.run(shows("/srv/data:/data"))
	refused(t, err, "UnauthorizedOperation", "--allow-host-path")
	allow(cloud.HostPath{Path: "/srv/data"}, cloud.HostPath{Path: "/srv/data/fixed", ReadOnly: true})
	vm := w.vm()
	w.unchanged(func() {
		for text, code := range map[string]string{"/srv/data": "InvalidParameterValue", "/srv/data:/proc/x": "InvalidParameterValue", "/srv:/data": "UnauthorizedOperation", "/srv/data/fixed/x:/data": "UnauthorizedOperation"} {
			_, err := w.run(shows(text))
			refused(t, err, code, "/srv")
		}
		_, err := w.run(ofImage(vm), shows("/srv/data:/data"))
		refused(t, err, "UnsupportedOperation", "virtual machines")
	})
	mounts := func(id string) []cloud.HostMount {
		i, _ := store.Get(w.store.View(), store.Instances, cloud.InstanceID(id))
		return i.HostMounts
	}
	id := *w.launch(shows("/srv/data/a:/data,/srv/data/fixed:/fixed:ro"))[0].InstanceId
	if got := mounts(id); len(got) != 2 || got[0] != (cloud.HostMount{Source: "/srv/data/a", Target: "/data"}) || !got[1].ReadOnly {
		t.Errorf("it is shown %v", got)
	}
	w.settle()
	tag := types.Tag{Key: new(cloud.TagHostMounts), Value: new("/etc:/data:ro")}
	_, err = w.CreateTags(ctx, &sdk.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{tag}})
	refused(t, err, "UnauthorizedOperation", "/etc")
	if _, err = w.DeleteTags(ctx, &sdk.DeleteTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: tag.Key}}}); err != nil || len(mounts(id)) != 0 {
		t.Errorf("without the tag it is shown %v, %v", mounts(id), err)
	}
	w.update(func(tx *store.Tx) { // as an account that is not the operator's
		region, _ := store.Region(tx)
		region.Root = strangerAccount
		store.Put(tx, store.Regions, region)
	})
	_, err = w.run(shows("/srv/data:/data"))
	refused(t, err, "UnauthorizedOperation", "operator's account")
}
