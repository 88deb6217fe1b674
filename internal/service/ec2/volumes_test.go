package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// volume makes one that is available.
func (w *world) volume(size int32, options ...func(*sdk.CreateVolumeInput)) string {
	w.t.Helper()
	in := &sdk.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: &size, VolumeType: types.VolumeTypeGp3}
	for _, o := range options {
		o(in)
	}
	out, err := w.CreateVolume(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	if out.State != types.VolumeStateCreating {
		w.t.Errorf("CreateVolume answers %s", out.State)
	}
	w.settle()
	return *out.VolumeId
}

func (w *world) describedVolume(id string) types.Volume {
	w.t.Helper()
	out, err := w.DescribeVolumes(w.t.Context(), &sdk.DescribeVolumesInput{VolumeIds: []string{id}})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.Volumes[0]
}

func TestAVolumeIsMadeAttachedDetachedAndDeleted(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.volume(10)
	i := *w.launch()[0].InstanceId
	attach := &sdk.AttachVolumeInput{VolumeId: &id, InstanceId: &i, Device: aws.String("/dev/sdf")}
	_, err := w.AttachVolume(ctx, attach)
	refused(t, err, "IncorrectState", "not 'running' or 'stopped'")
	w.settle()
	for device, why := range map[string]string{"/dev/xvda": "already in use", "/dev/hda": "not a valid EBS device name", "sdf": "not a valid EBS device name"} {
		_, err := w.AttachVolume(ctx, &sdk.AttachVolumeInput{VolumeId: &id, InstanceId: &i, Device: &device})
		refused(t, err, "InvalidParameterValue", why)
	}
	out, err := w.AttachVolume(ctx, attach)
	if err != nil || out.State != types.VolumeAttachmentStateAttaching {
		t.Fatal(err, out)
	}
	if v := w.describedVolume(id); v.State != types.VolumeStateInUse || len(v.Attachments) != 1 || *v.Attachments[0].InstanceId != i {
		t.Errorf("it is %s, attached to %+v", v.State, v.Attachments)
	}
	_, err = w.AttachVolume(ctx, attach)
	refused(t, err, "VolumeInUse", "already attached")
	other := w.volume(1)
	_, err = w.AttachVolume(ctx, &sdk.AttachVolumeInput{VolumeId: &other, InstanceId: &i, Device: aws.String("/dev/xvdf")})
	refused(t, err, "InvalidParameterValue", "already in use")
	w.settle()
	_, err = w.DeleteVolume(ctx, &sdk.DeleteVolumeInput{VolumeId: &id})
	refused(t, err, "VolumeInUse", i)
	_, err = w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: &other})
	refused(t, err, "IncorrectState", "'available' state")
	_, err = w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: &id, Device: aws.String("/dev/sdg")})
	refused(t, err, "InvalidAttachment.NotFound", "not attached")
	if got := extra(w.instance(i)); len(got) != 1 || *got["/dev/sdf"].VolumeId != id {
		t.Errorf("the instance has %+v", got)
	}
	if got := w.found("block-device-mapping.volume-id", id); len(got) != 1 || got[0] != i {
		t.Errorf("by its volume are found %v", got)
	}
	if _, err = w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: &id, InstanceId: &i}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if v := w.describedVolume(id); v.State != types.VolumeStateAvailable || len(v.Attachments) != 0 {
		t.Errorf("it is %s, attached to %+v", v.State, v.Attachments)
	}
	if _, err := w.DeleteVolume(ctx, &sdk.DeleteVolumeInput{VolumeId: &id}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	_, err = w.DescribeVolumes(ctx, &sdk.DescribeVolumesInput{VolumeIds: []string{id}})
	refused(t, err, "InvalidVolume.NotFound", id)
}

func TestAVolumeThatIsToGoWithItsInstanceGoes(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	stays, goes := w.volume(1), w.volume(1)
	i := *w.launch()[0].InstanceId
	w.settle()
	for device, id := range map[string]string{"/dev/sdf": stays, "/dev/sdg": goes} {
		if _, err := w.AttachVolume(ctx, &sdk.AttachVolumeInput{VolumeId: &id, InstanceId: &i, Device: &device}); err != nil {
			t.Fatal(err)
		}
	}
	w.settle()
	change := func(device string) error {
		_, err := w.ModifyInstanceAttribute(ctx, &sdk.ModifyInstanceAttributeInput{InstanceId: &i, BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{
			{DeviceName: &device, Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)}}}})
		return err
	}
	refused(t, change("/dev/sdz"), "InvalidInstanceAttributeValue", "/dev/sdz")
	if err := change("/dev/sdg"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{i}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.settle()
	out, err := w.DescribeVolumes(ctx, &sdk.DescribeVolumesInput{})
	if err != nil || len(out.Volumes) != 1 || *out.Volumes[0].VolumeId != stays || out.Volumes[0].State != types.VolumeStateAvailable {
		t.Errorf("%v, there are %+v", err, out.Volumes)
	}
}

func TestAVolumeIsModifiedOnceAtATimeAndNeverSmaller(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.volume(10)
	modify := func(in sdk.ModifyVolumeInput) error {
		in.VolumeId = &id
		_, err := w.ModifyVolume(ctx, &in)
		return err
	}
	refused(t, modify(sdk.ModifyVolumeInput{Size: aws.Int32(5)}), "InvalidParameterValue", "smaller")
	refused(t, modify(sdk.ModifyVolumeInput{Size: aws.Int32(3000)}), "InsufficientVolumeCapacity", "2000 GiB")
	refused(t, modify(sdk.ModifyVolumeInput{Iops: aws.Int32(9000)}), "InvalidParameterValue", "ratio")
	refused(t, modify(sdk.ModifyVolumeInput{}), "InvalidParameterCombination", "")
	if err := modify(sdk.ModifyVolumeInput{Size: aws.Int32(20), VolumeType: types.VolumeTypeIo1, Iops: aws.Int32(500)}); err != nil {
		t.Fatal(err)
	}
	refused(t, modify(sdk.ModifyVolumeInput{Size: aws.Int32(30)}), "IncorrectModificationState", id)
	w.settle()
	out, err := w.DescribeVolumesModifications(ctx, &sdk.DescribeVolumesModificationsInput{})
	if err != nil || len(out.VolumesModifications) != 1 {
		t.Fatal(err, out)
	}
	m := out.VolumesModifications[0]
	if m.ModificationState != types.VolumeModificationStateCompleted || *m.OriginalSize != 10 || *m.TargetSize != 20 || *m.OriginalIops != 3000 || *m.TargetIops != 500 {
		t.Errorf("the modification is %+v", m)
	}
	if v := w.describedVolume(id); *v.Size != 20 || v.VolumeType != types.VolumeTypeIo1 || v.Throughput != nil {
		t.Errorf("the volume is %+v", v)
	}
}

func TestSnapshotsAreMadeCopiedAndEndInAnyOrder(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.volume(10)
	first, err := w.CreateSnapshot(ctx, &sdk.CreateSnapshotInput{VolumeId: &id, Description: aws.String("d")})
	if err != nil || first.State != types.SnapshotStatePending || *first.VolumeSize != 10 {
		t.Fatal(err, first)
	}
	copied := &sdk.CopySnapshotInput{SourceRegion: aws.String("us-east-1"), SourceSnapshotId: first.SnapshotId}
	_, err = w.CopySnapshot(ctx, copied)
	refused(t, err, "IncorrectState", "pending")
	w.settle()
	second, err := w.CopySnapshot(ctx, copied)
	if err != nil {
		t.Fatal(err)
	}
	w.settle()
	if _, err := w.DeleteSnapshot(ctx, &sdk.DeleteSnapshotInput{SnapshotId: first.SnapshotId}); err != nil {
		t.Fatal(err)
	}
	// Deleted is deleted, though its node has not said so yet.
	_, err = w.DescribeSnapshots(ctx, &sdk.DescribeSnapshotsInput{SnapshotIds: []string{*first.SnapshotId}})
	refused(t, err, "InvalidSnapshot.NotFound", *first.SnapshotId)
	list, err := w.DescribeSnapshots(ctx, &sdk.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
	if err != nil || len(list.Snapshots) != 1 || *list.Snapshots[0].SnapshotId != *second.SnapshotId || *list.Snapshots[0].Progress != "100%" {
		t.Errorf("%v, there are %+v", err, list.Snapshots)
	}
	smaller := &sdk.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: second.SnapshotId, Size: aws.Int32(5)}
	_, err = w.CreateVolume(ctx, smaller)
	refused(t, err, "InvalidParameterValue", "smaller")
	smaller.Size = nil
	v, err := w.CreateVolume(ctx, smaller)
	if err != nil || *v.Size != 10 || *v.SnapshotId != *second.SnapshotId {
		t.Errorf("%v, a volume of it is %+v", err, v)
	}
	_, err = w.stranger.CreateVolume(ctx, smaller)
	refused(t, err, "InvalidSnapshot.NotFound", "")
}

func TestWhatAVolumeCanNotBeIsRefused(t *testing.T) {
	w := newWorld(t)
	with := func(change func(*sdk.CreateVolumeInput)) error {
		in := &sdk.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), VolumeType: types.VolumeTypeGp3}
		change(in)
		_, err := w.CreateVolume(t.Context(), in)
		return err
	}
	mount := func(path string) func(*sdk.CreateVolumeInput) {
		return func(in *sdk.CreateVolumeInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: []types.Tag{{Key: aws.String(cloud.TagMount), Value: &path}}}}
		}
	}
	refused(t, with(func(in *sdk.CreateVolumeInput) { in.AvailabilityZone = aws.String("us-east-1x") }), "InvalidZone.NotFound", "us-east-1x")
	refused(t, with(func(in *sdk.CreateVolumeInput) { in.MultiAttachEnabled = aws.Bool(true) }), "UnsupportedOperation", "MultiAttachEnabled")
	refused(t, with(func(in *sdk.CreateVolumeInput) { in.Size = aws.Int32(2001) }), "InsufficientVolumeCapacity", "2000 GiB")
	refused(t, with(func(in *sdk.CreateVolumeInput) { in.Size = nil }), "MissingParameter", "Size")
	for _, path := range []string{"relative", "/", "/a/../b", "/dev/x", "/proc"} {
		refused(t, with(mount(path)), "InvalidParameterValue", cloud.TagMount)
	}
	if err := with(mount("/var/lib/data")); err != nil {
		t.Error(err)
	}
	w.update(func(tx *store.Tx) {
		n, _ := store.Get(tx, store.Nodes, w.node)
		n.VolumeGiB = 0
		store.Put(tx, store.Nodes, n)
	})
	refused(t, with(func(*sdk.CreateVolumeInput) {}), "InsufficientVolumeCapacity", "keeps volumes")
}
