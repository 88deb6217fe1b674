package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// root is an instance's root volume.
func (w *world) root(i types.Instance) types.Volume {
	w.t.Helper()
	for _, m := range i.BlockDeviceMappings {
		if *m.DeviceName == *i.RootDeviceName {
			return w.describedVolume(*m.Ebs.VolumeId)
		}
	}
	w.t.Fatalf("%s has no root", *i.InstanceId)
	return types.Volume{}
}

// vm is an image of virtual machines, 12 GiB large.
func (w *world) vm() string {
	k, _ := w.withVMs().kernel("linux", "x86_64")
	id := w.vmImage("a vm", k)
	w.update(func(tx *store.Tx) {
		img, _ := store.Get(tx, store.Images, cloud.ImageID(id))
		img.SizeMiB = 10 << 10
		store.Put(tx, store.Images, img)
	})
	return id
}

func TestEveryInstancesRootIsAVolume(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for image, size := range map[string]int32{w.image: 8, w.vm(): 12} {
		i := w.launch(ofImage(image), func(in *order) { in.TagSpecifications = []types.TagSpecification{tagSpec("volume", "a", "b")} })[0]
		if v := w.root(i); v.State != types.VolumeStateCreating || *v.Size != size || v.VolumeType != types.VolumeTypeGp3 || *v.Iops != 3000 || *v.Tags[0].Key != "a" {
			t.Errorf("before it runs it is %+v", v)
		}
		w.settle()
		i = w.instance(*i.InstanceId)
		v := w.root(i)
		if v.State != types.VolumeStateInUse || *v.Attachments[0].Device != "/dev/xvda" || v.Attachments[0].State != types.VolumeAttachmentStateAttached || !*v.Attachments[0].DeleteOnTermination {
			t.Errorf("it is %+v", v)
		}
		_, err := w.DeleteVolume(ctx, &sdk.DeleteVolumeInput{VolumeId: v.VolumeId})
		refused(t, err, "VolumeInUse", *i.InstanceId)
		img, err := w.DescribeImages(ctx, &sdk.DescribeImagesInput{ImageIds: []string{image}, Filters: filterList("block-device-mapping.device-name", "/dev/xvda", "block-device-mapping.volume-type", "gp3")})
		if err != nil || len(img.Images) != 1 || *img.Images[0].BlockDeviceMappings[0].Ebs.VolumeSize != size {
			t.Errorf("%v, the image is %+v", err, img)
		}
		if _, err := w.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{*i.InstanceId}}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.settle()
		_, err = w.DescribeVolumes(ctx, &sdk.DescribeVolumesInput{VolumeIds: []string{*v.VolumeId}})
		refused(t, err, "InvalidVolume.NotFound")
	}
}

func TestTheRootOfAContainerIsNoDevice(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	i := w.running(mapped("/dev/xvda", ofSize(100)))
	v := w.root(w.instance(i))
	if *v.Size != 100 {
		t.Errorf("it is %+v", v)
	}
	other := w.running()
	w.unchanged(func() {
		_, err := w.CreateSnapshot(ctx, &sdk.CreateSnapshotInput{VolumeId: v.VolumeId})
		refused(t, err, "UnsupportedOperation", "no block device")
		_, err = w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: v.VolumeId})
		refused(t, err, "UnsupportedOperation", "no block device")
		_, err = w.ModifyVolume(ctx, &sdk.ModifyVolumeInput{VolumeId: v.VolumeId, Size: aws.Int32(200)})
		refused(t, err, "UnsupportedOperation", "no block device")
		_, err = w.AttachVolume(ctx, &sdk.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: &other, Device: aws.String("/dev/sdf")})
		refused(t, err, "VolumeInUse")
		_, err = w.ModifyInstanceAttribute(ctx, &sdk.ModifyInstanceAttributeInput{InstanceId: &i, BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{
			{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(false)}}}})
		refused(t, err, "UnsupportedOperation", "DeleteOnTermination")
		for _, ebs := range []*types.EbsBlockDevice{{DeleteOnTermination: aws.Bool(false)}, {VolumeType: types.VolumeTypeGp2}, {Iops: aws.Int32(4000)}} {
			_, err = w.run(mapped("/dev/xvda", ebs))
			refused(t, err, "UnsupportedOperation", "container")
		}
		_, err = w.run(mapped("/dev/xvda", ofSize(3000)))
		refused(t, err, "InsufficientVolumeCapacity", "2000 GiB")
	})
	w.halt(i)
	_, err := w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: v.VolumeId})
	refused(t, err, "UnsupportedOperation")
	// A server that keeps no volumes runs containers all the same.
	w.update(func(tx *store.Tx) {
		n, _ := store.Get(tx, store.Nodes, w.node)
		n.VolumeGiB = 0
		store.Put(tx, store.Nodes, n)
	})
	w.running(mapped("/dev/xvda", ofSize(100)))
}

func TestTheRootOfAVirtualMachineGoesElsewhere(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	image := w.vm()
	w.unchanged(func() {
		for name, c := range map[string]struct {
			ebs  *types.EbsBlockDevice
			code string
			says string
		}{
			"too small":  {ofSize(9), "InvalidBlockDeviceMapping", "size >= 12GB"},
			"too large":  {ofSize(3000), "InsufficientVolumeCapacity", "2000 GiB"},
			"a snapshot": {&types.EbsBlockDevice{SnapshotId: aws.String("snap-00000000000000000")}, "InvalidBlockDeviceMapping", "snapshot"},
		} {
			_, err := w.run(ofImage(image), mapped("/dev/xvda", c.ebs))
			if codeOf(err) != c.code {
				t.Errorf("%s: %v", name, err)
			}
			refused(t, err, c.code, c.says)
		}
		_, err := w.run(ofImage(image), mapped("/dev/sda1", ofSize(20)))
		refused(t, err, "InvalidBlockDeviceMapping", "/dev/xvda")
		_, err = w.run(func(in *order) {
			in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), NoDevice: aws.String("")}}
		})
		refused(t, err, "InvalidBlockDeviceMapping", "suppressed")
	})
	i := w.running(ofImage(image), mapped("/dev/xvda", &types.EbsBlockDevice{VolumeSize: aws.Int32(20), VolumeType: types.VolumeTypeIo1, Iops: aws.Int32(500), DeleteOnTermination: aws.Bool(false)}))
	v := w.root(w.instance(i))
	if *v.Size != 20 || v.VolumeType != types.VolumeTypeIo1 || *v.Iops != 500 {
		t.Errorf("it is %+v", v)
	}
	id := *v.VolumeId
	if _, err := w.CreateSnapshot(ctx, &sdk.CreateSnapshotInput{VolumeId: &id}); err != nil {
		t.Error(err)
	}
	_, err := w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: &id})
	refused(t, err, "OperationNotPermitted", "root volume")
	w.halt(i)
	if _, err := w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: &id}); err != nil {
		t.Fatal(err)
	}
	_, err = w.StartInstances(ctx, &sdk.StartInstancesInput{InstanceIds: []string{i}})
	refused(t, err, "InvalidParameterValue", "does not have a volume attached at root")
	// It is another instance's data, and then a root again.
	other := w.running()
	attach := func(to, device string) error {
		_, err := w.AttachVolume(ctx, &sdk.AttachVolumeInput{VolumeId: &id, InstanceId: &to, Device: &device})
		w.settle()
		return err
	}
	refused(t, attach(other, "/dev/xvda"), "InvalidParameterValue", "already in use")
	if err := attach(other, "/dev/sdf"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: &id}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if err := attach(i, "/dev/xvda"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StartInstances(ctx, &sdk.StartInstancesInput{InstanceIds: []string{i}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if _, err := w.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{i}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.settle()
	if v := w.describedVolume(id); v.State != types.VolumeStateAvailable {
		t.Errorf("after the instance's end it is %s", v.State)
	}
}

// Instances of before have their root for themselves, and go on as they were.
func TestAnInstanceOfBeforeRootsWereVolumesGoesOn(t *testing.T) {
	w := newWorld(t)
	i := w.running(ofImage(w.vm()))
	w.update(func(tx *store.Tx) {
		was, _ := store.Get(tx, store.Instances, cloud.InstanceID(i))
		was.RootVolume, was.Wiring = false, 0
		store.Put(tx, store.Instances, was)
		for _, v := range store.ListBy(tx, store.VolumesByInstance, was.ID) {
			store.Delete(tx, store.Volumes, v.ID)
		}
	})
	if got := w.instance(i).BlockDeviceMappings; len(got) != 0 {
		t.Errorf("it has %+v", got)
	}
	id := w.volume(1)
	w.halt(i)
	_, err := w.AttachVolume(t.Context(), &sdk.AttachVolumeInput{VolumeId: &id, InstanceId: &i, Device: aws.String("/dev/xvda")})
	refused(t, err, "InvalidParameterValue", "already in use")
	if _, err := w.StartInstances(t.Context(), &sdk.StartInstancesInput{InstanceIds: []string{i}}); err != nil {
		t.Error(err)
	}
}

// halt stops one and waits for it.
func (w *world) halt(id string) {
	w.t.Helper()
	if _, err := w.stop(id); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}
