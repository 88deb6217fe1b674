package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// mapped launches with a mapping of one device.
func mapped(device string, ebs *types.EbsBlockDevice) func(*order) {
	return func(in *order) {
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, types.BlockDeviceMapping{DeviceName: &device, Ebs: ebs})
	}
}

func ofSize(gib int32) *types.EbsBlockDevice { return &types.EbsBlockDevice{VolumeSize: &gib} }

// extra are an instance's volumes beside its root, by device.
func extra(i types.Instance) map[string]types.EbsInstanceBlockDevice {
	out := map[string]types.EbsInstanceBlockDevice{}
	for _, m := range i.BlockDeviceMappings {
		if *m.DeviceName != *i.RootDeviceName {
			out[*m.DeviceName] = *m.Ebs
		}
	}
	return out
}

func TestALaunchMakesItsVolumesAndEndsThem(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	kept := &types.EbsBlockDevice{VolumeSize: aws.Int32(20), VolumeType: types.VolumeTypeGp3, Iops: aws.Int32(4000), Throughput: aws.Int32(200), DeleteOnTermination: aws.Bool(false)}
	list := w.launch(mapped("/dev/sdf", ofSize(10)), mapped("/dev/sdg", kept), count(2, 2), func(in *order) {
		in.ClientToken = aws.String("once")
		in.TagSpecifications = []types.TagSpecification{tagSpec("volume", "a", "b")}
	})
	first := extra(list[0])
	if len(first) != 2 || first["/dev/sdf"].Status != types.AttachmentStatusAttaching || !*first["/dev/sdf"].DeleteOnTermination || *first["/dev/sdg"].DeleteOnTermination {
		t.Errorf("RunInstances answers with %+v", first)
	}
	id := *first["/dev/sdg"].VolumeId
	if v := w.describedVolume(id); v.State != types.VolumeStateCreating || *v.Size != 20 || *v.Iops != 4000 || *v.Throughput != 200 || *v.Tags[0].Key != "a" {
		t.Errorf("the volume is %+v", v)
	}
	_, err := w.DetachVolume(ctx, &sdk.DetachVolumeInput{VolumeId: &id})
	refused(t, err, "IncorrectState", "creating")
	w.settle()
	i := w.instance(*list[0].InstanceId)
	if got := extra(i); got["/dev/sdf"].Status != types.AttachmentStatusAttached || got["/dev/sdg"].Status != types.AttachmentStatusAttached {
		t.Errorf("the instance has %+v", got)
	}
	if v := w.describedVolume(id); v.State != types.VolumeStateInUse || *v.AvailabilityZone != *i.Placement.AvailabilityZone {
		t.Errorf("the volume is %s in %s", v.State, *v.AvailabilityZone)
	}
	again := w.launch(mapped("/dev/sdf", ofSize(10)), mapped("/dev/sdg", kept), count(2, 2), func(in *order) {
		in.ClientToken = aws.String("once")
		in.TagSpecifications = []types.TagSpecification{tagSpec("volume", "a", "b")}
	})
	if *extra(again[0])["/dev/sdg"].VolumeId != id {
		t.Error("a retry made other volumes")
	}
	if _, err := w.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{*list[0].InstanceId, *list[1].InstanceId}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.settle()
	out, err := w.DescribeVolumes(ctx, &sdk.DescribeVolumesInput{})
	if err != nil || len(out.Volumes) != 2 || *out.Volumes[0].Size != 20 || out.Volumes[0].State != types.VolumeStateAvailable {
		t.Errorf("%v, left are %+v", err, out.Volumes)
	}
}

func TestALaunchWhoseMappingsCanNotBeMakesNothing(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	v := w.volume(10)
	s, err := w.CreateSnapshot(ctx, &sdk.CreateSnapshotInput{VolumeId: &v})
	if err != nil {
		t.Fatal(err)
	}
	w.settle()
	of := func(change func(*types.EbsBlockDevice)) *types.EbsBlockDevice {
		e := ofSize(10)
		change(e)
		return e
	}
	w.unchanged(func() {
		for name, c := range map[string]struct {
			launch func(*order)
			code   string
			says   string
		}{
			"no device":      {mapped("", ofSize(1)), "MissingParameter", "DeviceName"},
			"no name":        {mapped("/dev/hda", ofSize(1)), "InvalidBlockDeviceMapping", "/dev/hda"},
			"twice":          {func(in *order) { mapped("/dev/sdf", ofSize(1))(in); mapped("/dev/xvdf", ofSize(1))(in) }, "InvalidBlockDeviceMapping", "more than one"},
			"no size":        {mapped("/dev/sdf", &types.EbsBlockDevice{}), "MissingParameter", "size or snapshotId"},
			"nothing":        {mapped("/dev/sdf", nil), "MissingParameter", "size or snapshotId"},
			"a key alone":    {mapped("/dev/sdf", of(func(e *types.EbsBlockDevice) { e.KmsKeyId = aws.String("k") })), "InvalidParameterDependency", "KmsKeyId"},
			"another key":    {mapped("/dev/sdf", of(func(e *types.EbsBlockDevice) { e.KmsKeyId, e.Encrypted = aws.String("k"), aws.Bool(true) })), "InvalidParameterValue", "'k'"},
			"iops of gp2":    {mapped("/dev/sdf", of(func(e *types.EbsBlockDevice) { e.Iops = aws.Int32(100) })), "InvalidParameterCombination", "iops"},
			"no iops of io1": {mapped("/dev/sdf", of(func(e *types.EbsBlockDevice) { e.VolumeType = types.VolumeTypeIo1 })), "InvalidParameterCombination", "iops"},
			"too large":      {mapped("/dev/sdf", ofSize(3000)), "InsufficientVolumeCapacity", "2000 GiB"},
			"not a size":     {mapped("/dev/sdf", ofSize(0)), "InvalidParameterValue", "size"},
			"an unknown one": {mapped("/dev/sdf", &types.EbsBlockDevice{SnapshotId: aws.String("snap-00000000000000000")}), "InvalidSnapshot.NotFound", "snap-0"},
			"too small":      {mapped("/dev/sdf", &types.EbsBlockDevice{SnapshotId: s.SnapshotId, VolumeSize: aws.Int32(9)}), "InvalidBlockDeviceMapping", "size >= 10GB"},
			"two at one path": {func(in *order) {
				mapped("/dev/sdf", ofSize(1))(in)
				mapped("/dev/sdg", ofSize(1))(in)
				in.TagSpecifications = []types.TagSpecification{tagSpec("volume", cloud.TagMount, "/data")}
			}, "InvalidParameterValue", cloud.TagMount},
			"too many": {func(in *order) {
				for c := 'b'; c <= 'z'; c++ {
					mapped("/dev/sd"+string(c), ofSize(1))(in)
				}
			}, "AttachmentLimitExceeded", "16"},
			"mapped and not": {func(in *order) {
				in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdf"), NoDevice: aws.String(""), Ebs: ofSize(1)}}
			}, "InvalidBlockDeviceMapping", "suppressed"},
			"a dry run": {func(in *order) { mapped("/dev/sdf", ofSize(1))(in); in.DryRun = aws.Bool(true) }, "DryRunOperation", ""},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := w.run(c.launch)
				refused(t, err, c.code, c.says)
			})
		}
	})
	i := w.launch(mapped("/dev/sdf", &types.EbsBlockDevice{SnapshotId: s.SnapshotId}), func(in *order) {
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, types.BlockDeviceMapping{DeviceName: aws.String("/dev/sdg"), NoDevice: aws.String("")})
	})[0]
	got := extra(i)
	if made := w.describedVolume(*got["/dev/sdf"].VolumeId); len(got) != 1 || *made.Size != 10 || *made.SnapshotId != *s.SnapshotId || made.VolumeType != types.VolumeTypeGp2 {
		t.Errorf("of a snapshot it has %+v, %+v", got, made)
	}
}

func TestATemplateCarriesVolumes(t *testing.T) {
	w := newWorld(t)
	i := w.running(from(w.template("web", &templateData{ImageId: &w.image, BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{
		{DeviceName: aws.String("/dev/sdf"), Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(3), DeleteOnTermination: aws.Bool(false)}}}}), ""))
	got := extra(w.instance(i))
	if v := w.describedVolume(*got["/dev/sdf"].VolumeId); len(got) != 1 || *v.Size != 3 || *got["/dev/sdf"].DeleteOnTermination {
		t.Errorf("it has %+v", got)
	}
	out, err := w.GetLaunchTemplateData(t.Context(), &sdk.GetLaunchTemplateDataInput{InstanceId: &i})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]types.LaunchTemplateEbsBlockDevice{}
	for _, m := range out.LaunchTemplateData.BlockDeviceMappings {
		told[*m.DeviceName] = *m.Ebs
	}
	if e := told["/dev/sdf"]; *e.VolumeSize != 3 || e.VolumeType != types.VolumeTypeGp2 || *e.DeleteOnTermination {
		t.Errorf("one more is launched with %+v", told)
	}
}

// A server without the room is not chosen, and a launch that no server takes leaves no volume behind.
func TestVolumesGoWithALaunchThatNoServerTakes(t *testing.T) {
	w := newWorld(t)
	id := *w.launch(mapped("/dev/sdf", ofSize(1)), mapped("/dev/sdg", &types.EbsBlockDevice{VolumeSize: aws.Int32(1), DeleteOnTermination: aws.Bool(false)}))[0].InstanceId
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, cloud.InstanceID(id))
		if i.Wiring == 0 {
			t.Error("a fact from before the launch would pass for one about its volumes")
		}
	})
	w.update(func(tx *store.Tx) {
		n, _ := store.Get(tx, store.Nodes, w.node)
		n.VolumeGiB = 0
		store.Put(tx, store.Nodes, n)
	})
	_, err := w.run(mapped("/dev/sdf", ofSize(1)))
	refused(t, err, "InsufficientVolumeCapacity", "keeps volumes")
}

func TestVolumesAndInterfacesOfAVirtualMachineShareItsSlots(t *testing.T) {
	w := newWorld(t).withVMs()
	kernel, _ := w.kernel("linux", "x86_64")
	image := w.vmImage("slots", kernel)
	full := func(image string, interfaces int) func(*order) {
		return func(in *order) {
			in.ImageId, in.InstanceType, in.DryRun = &image, "c5.4xlarge", aws.Bool(true)
			for c := 'b'; c <= 'q'; c++ {
				mapped("/dev/sd"+string(c), ofSize(1))(in)
			}
			for n := range interfaces {
				in.NetworkInterfaces = append(in.NetworkInterfaces, types.InstanceNetworkInterfaceSpecification{DeviceIndex: aws.Int32(int32(n))})
			}
		}
	}
	_, err := w.run(full(image, 7))
	refused(t, err, "AttachmentLimitExceeded", "22 slots")
	for image, interfaces := range map[string]int{image: 6, w.image: 8} {
		_, err := w.run(full(image, interfaces))
		refused(t, err, "InsufficientInstanceCapacity", "16 vCPUs") // of the node, which is asked after the slots
	}
}
