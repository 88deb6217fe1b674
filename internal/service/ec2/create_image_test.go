package ec2_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// imageMade makes an image of an instance, still pending.
func (w *world) imageMade(instance, name string, changes ...func(*sdk.CreateImageInput)) string {
	w.t.Helper()
	in := &sdk.CreateImageInput{InstanceId: &instance, Name: &name}
	for _, c := range changes {
		c(in)
	}
	out, err := w.CreateImage(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.ImageId
}

func (w *world) describedImage(id string) types.Image {
	w.t.Helper()
	out, err := w.DescribeImages(w.t.Context(), &sdk.DescribeImagesInput{ImageIds: []string{id}})
	if err != nil || len(out.Images) != 1 {
		w.t.Fatalf("%d images, %v", len(out.Images), err)
	}
	return out.Images[0]
}

// volumesOf are an image's volumes by device.
func volumesOf(img types.Image) map[string]types.EbsBlockDevice {
	out := map[string]types.EbsBlockDevice{}
	for _, m := range img.BlockDeviceMappings {
		out[*m.DeviceName] = *m.Ebs
	}
	return out
}

func noReboot(in *sdk.CreateImageInput) { in.NoReboot = aws.Bool(true) }

func TestAnImageOfAContainerIsPendingUntilItsNodeHasMadeIt(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.running()
	boot := w.record(id).Boot
	running := w.imageMade(id, "running", noReboot, func(in *sdk.CreateImageInput) { in.Description = aws.String("d") })
	if c := w.record(id).Captures; len(c) != 1 || c[0].Rest != 0 || c[0].Layer != "running" || w.record(id).Boot != boot {
		t.Errorf("the node is to keep %+v", c)
	}
	rebooted := w.imageMade(id, "rebooted")
	if c := w.record(id).Captures; len(c) != 2 || c[1].Rest != boot+1 || w.record(id).Boot != boot+1 {
		t.Errorf("the node is to keep %+v", c)
	}
	img := w.describedImage(running)
	if img.State != types.ImageStatePending || *img.SourceInstanceId != id || *img.Description != "d" || len(img.BlockDeviceMappings) != 1 || img.BlockDeviceMappings[0].Ebs.SnapshotId != nil {
		t.Errorf("it is %+v", img)
	}
	_, err := w.run(ofImage(running))
	refused(t, err, "InvalidAMIID.Unavailable")
	_, err = w.EnableImage(ctx, &sdk.EnableImageInput{ImageId: &running})
	refused(t, err, "InvalidAMIID.Unavailable")
	_, err = w.CreateImage(ctx, &sdk.CreateImageInput{InstanceId: &id, Name: aws.String("running")})
	refused(t, err, "InvalidAMIName.Duplicate")
	_, err = w.CreateImage(ctx, &sdk.CreateImageInput{InstanceId: &id, Name: aws.String("a")})
	refused(t, err, "InvalidAMIName.Malformed")
	w.settle()
	for _, made := range []string{running, rebooted} {
		if i := w.launch(ofImage(made))[0]; *i.ImageId != made {
			t.Errorf("it is %+v", i)
		}
	}
	if found := w.images("source-instance-id", id); len(found) != 2 {
		t.Errorf("%d images are of %s", len(found), id)
	}
	// One that is given up has no name any more, and nobody minds what comes of it.
	given := w.imageMade(id, "given up", noReboot)
	if _, err := w.DeregisterImage(ctx, &sdk.DeregisterImageInput{ImageId: &given}); err != nil {
		t.Fatal(err)
	}
	w.imageMade(id, "given up", noReboot)
	w.settle()
	pending := w.launch()[0]
	_, err = w.CreateImage(ctx, &sdk.CreateImageInput{InstanceId: pending.InstanceId, Name: aws.String("pending")})
	refused(t, err, "IncorrectInstanceState", "pending")
}

// images are the ids of images that pass filters.
func (w *world) images(filters ...string) (ids []string) {
	w.t.Helper()
	out, err := w.DescribeImages(w.t.Context(), &sdk.DescribeImagesInput{Filters: filterList(filters...)})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, img := range out.Images {
		ids = append(ids, *img.ImageId)
	}
	return ids
}

func TestAnImageOfAVirtualMachineIsItsVolumesSnapshots(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.running(ofImage(w.vm()), mapped("/dev/sdf", ofSize(10)), mapped("/dev/sdg", ofSize(20)), mapped("/dev/sdh", &types.EbsBlockDevice{VolumeSize: aws.Int32(5), DeleteOnTermination: aws.Bool(false)}))
	made := w.imageMade(id, "made", func(in *sdk.CreateImageInput) {
		in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdg"), NoDevice: aws.String("")},
			{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(30)}}, {DeviceName: aws.String("/dev/sdz"), Ebs: ofSize(3)}}
		in.TagSpecifications = []types.TagSpecification{tagSpec("image", "a", "b"), tagSpec("snapshot", "c", "d")}
	})
	img := w.describedImage(made)
	got := volumesOf(img)
	if len(got) != 4 || *got["/dev/xvda"].VolumeSize != 30 || got["/dev/xvda"].SnapshotId == nil || got["/dev/sdf"].SnapshotId == nil || got["/dev/sdz"].SnapshotId != nil || *got["/dev/sdh"].DeleteOnTermination {
		t.Errorf("it has %+v", got)
	}
	snaps, err := w.DescribeSnapshots(ctx, &sdk.DescribeSnapshotsInput{})
	if err != nil || len(snaps.Snapshots) != 3 || snaps.Snapshots[0].State != types.SnapshotStatePending || *snaps.Snapshots[0].Tags[0].Key != "c" || !strings.Contains(*snaps.Snapshots[0].Description, made) {
		t.Errorf("%v, %+v", err, snaps.Snapshots)
	}
	w.settle()
	root := got["/dev/xvda"].SnapshotId
	_, err = w.DeleteSnapshot(ctx, &sdk.DeleteSnapshotInput{SnapshotId: root})
	refused(t, err, "InvalidSnapshot.InUse", made)
	if found := w.images("block-device-mapping.snapshot-id", *root); len(found) != 1 || found[0] != made {
		t.Errorf("found are %v", found)
	}
	// Its instances have its volumes, unless the launch says otherwise.
	i := w.running(ofImage(made), mapped("/dev/sdf", &types.EbsBlockDevice{VolumeType: types.VolumeTypeGp3}), func(in *order) {
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, types.BlockDeviceMapping{DeviceName: aws.String("/dev/sdz"), NoDevice: aws.String("")})
	})
	v := w.root(w.instance(i))
	if *v.SnapshotId != *root || *v.Size != 30 {
		t.Errorf("the root is %+v", v)
	}
	beside := extra(w.instance(i))
	if f := w.describedVolume(*beside["/dev/sdf"].VolumeId); len(beside) != 2 || *f.SnapshotId != *got["/dev/sdf"].SnapshotId || *f.Size != 10 || f.VolumeType != types.VolumeTypeGp3 || *beside["/dev/sdh"].DeleteOnTermination {
		t.Errorf("beside it are %+v with %+v", beside, f)
	}
	_, err = w.run(ofImage(made), mapped("/dev/xvda", ofSize(9)))
	refused(t, err, "InvalidBlockDeviceMapping", "smaller")
	// A copy has snapshots of its own.
	region := "us-east-1"
	copied, err := w.CopyImage(ctx, &sdk.CopyImageInput{Name: aws.String("copied"), SourceImageId: &made, SourceRegion: &region})
	if err != nil {
		t.Fatal(err)
	}
	if img := w.describedImage(*copied.ImageId); img.State != types.ImageStatePending || *volumesOf(img)["/dev/xvda"].SnapshotId == *root {
		t.Errorf("the copy is %+v", img)
	}
	if _, err := w.DeregisterImage(ctx, &sdk.DeregisterImageInput{ImageId: &made}); err != nil {
		t.Fatal(err)
	}
	// What was its root is one again, as is a root that was kept by itself.
	again, err := w.RegisterImage(ctx, &sdk.RegisterImageInput{Name: aws.String("again"), BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: root}}}})
	if err != nil {
		t.Fatal(err)
	}
	if img := w.describedImage(*again.ImageId); img.KernelId == nil || *volumesOf(img)["/dev/xvda"].SnapshotId != *root || img.State != types.ImageStateAvailable || w.isolation(*again.ImageId) != cloud.IsolationVM {
		t.Errorf("registered is %+v", img)
	}
	if i := w.launch(ofImage(*again.ImageId))[0]; *w.root(i).SnapshotId != *root {
		t.Errorf("its root is %+v", w.root(i))
	}
}

func (w *world) isolation(image string) cloud.Isolation {
	w.t.Helper()
	img, _ := store.Get(w.store.View(), store.Images, cloud.ImageID(image))
	return img.Isolation
}

func TestAnImageIsRegisteredOfSnapshots(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.withVMs()
	data, err := w.CreateVolume(ctx, &sdk.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(4)})
	if err != nil {
		t.Fatal(err)
	}
	w.settle()
	snap, err := w.CreateSnapshot(ctx, &sdk.CreateSnapshotInput{VolumeId: data.VolumeId})
	if err != nil {
		t.Fatal(err)
	}
	w.settle()
	mapping := func(device string, ebs *types.EbsBlockDevice) types.BlockDeviceMapping {
		return types.BlockDeviceMapping{DeviceName: &device, Ebs: ebs}
	}
	of := &types.EbsBlockDevice{SnapshotId: snap.SnapshotId}
	register := func(name string, change func(*sdk.RegisterImageInput), list ...types.BlockDeviceMapping) (string, error) {
		in := &sdk.RegisterImageInput{Name: &name, BlockDeviceMappings: list}
		if change != nil {
			change(in)
		}
		out, err := w.RegisterImage(ctx, in)
		if err != nil {
			return "", err
		}
		return *out.ImageId, nil
	}
	// A disk of which nothing is known is started by firmware.
	disk, err := register("disk", nil, mapping("/dev/xvda", of), mapping("/dev/sdf", ofSize(2)))
	if err != nil {
		t.Fatal(err)
	}
	if img := w.describedImage(disk); img.BootMode != types.BootModeValuesLegacyBios || img.KernelId != nil || w.isolation(disk) != cloud.IsolationVM || img.Architecture != types.ArchitectureValuesX8664 {
		t.Errorf("it is %+v", img)
	}
	efi, err := register("efi", func(in *sdk.RegisterImageInput) { in.BootMode = types.BootModeValuesUefi }, mapping("/dev/xvda", of))
	if img := w.describedImage(efi); err != nil || img.BootMode != types.BootModeValuesUefi {
		t.Errorf("it is %+v, %v", img, err)
	}
	// A container's image with a volume beside.
	both, err := register("both", func(in *sdk.RegisterImageInput) { in.ImageLocation = &w.image }, mapping("/dev/sdf", of))
	if err != nil {
		t.Fatal(err)
	}
	if i := extra(w.launch(ofImage(both))[0]); len(i) != 1 {
		t.Errorf("its instances have %+v", i)
	}
	for what, c := range map[string]struct {
		list []types.BlockDeviceMapping
		also func(*sdk.RegisterImageInput)
		code string
	}{
		"no root":          {[]types.BlockDeviceMapping{mapping("/dev/sdf", of)}, nil, "MissingParameter"},
		"an empty root":    {[]types.BlockDeviceMapping{mapping("/dev/xvda", ofSize(8))}, nil, "InvalidBlockDeviceMapping"},
		"another's name":   {[]types.BlockDeviceMapping{mapping("/dev/sda1", of)}, nil, "InvalidBlockDeviceMapping"},
		"two of one":       {[]types.BlockDeviceMapping{mapping("/dev/xvda", of), mapping("/dev/xvda", of)}, nil, "InvalidBlockDeviceMapping"},
		"two roots":        {[]types.BlockDeviceMapping{mapping("/dev/xvda", of)}, func(in *sdk.RegisterImageInput) { in.ImageLocation = &w.image }, "InvalidParameterCombination"},
		"a kernel":         {[]types.BlockDeviceMapping{mapping("/dev/xvda", of)}, func(in *sdk.RegisterImageInput) { in.KernelId = aws.String("aki-01234567") }, "InvalidParameterCombination"},
		"an unknown one":   {[]types.BlockDeviceMapping{mapping("/dev/xvda", &types.EbsBlockDevice{SnapshotId: aws.String("snap-01234567")})}, nil, "InvalidSnapshot.NotFound"},
		"a smaller volume": {[]types.BlockDeviceMapping{mapping("/dev/xvda", &types.EbsBlockDevice{SnapshotId: snap.SnapshotId, VolumeSize: aws.Int32(1)})}, nil, "InvalidBlockDeviceMapping"},
	} {
		_, err := register("refused", c.also, c.list...)
		if codeOf(err) != c.code {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSnapshotsOfAnInstanceAreOneCapture(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.running(ofImage(w.vm()), mapped("/dev/sdf", ofSize(10)), mapped("/dev/sdg", ofSize(20)), func(in *order) {
		in.TagSpecifications = []types.TagSpecification{tagSpec("volume", "from", "volume")}
	})
	beside := extra(w.instance(id))
	take := func(spec *types.InstanceSpecification, changes ...func(*sdk.CreateSnapshotsInput)) ([]types.SnapshotInfo, error) {
		spec.InstanceId = &id
		in := &sdk.CreateSnapshotsInput{InstanceSpecification: spec}
		for _, c := range changes {
			c(in)
		}
		out, err := w.CreateSnapshots(ctx, in)
		if err != nil {
			return nil, err
		}
		return out.Snapshots, nil
	}
	all, err := take(&types.InstanceSpecification{}, func(in *sdk.CreateSnapshotsInput) {
		in.CopyTagsFromSource, in.Description = types.CopyTagsFromSourceVolume, aws.String("d")
		in.TagSpecifications = []types.TagSpecification{tagSpec("snapshot", "c", "d")}
	})
	if err != nil || len(all) != 3 || len(all[0].Tags) != 2 || *all[0].Description != "d" || all[0].State != types.SnapshotStatePending {
		t.Fatalf("%+v, %v", all, err)
	}
	if c := w.record(id).Captures; len(c) != 1 || len(c[0].Volumes) != 3 || c[0].Rest != 0 || c[0].Image != "" {
		t.Errorf("the node is to keep %+v", c)
	}
	w.settle()
	if some, err := take(&types.InstanceSpecification{ExcludeBootVolume: aws.Bool(true), ExcludeDataVolumeIds: []string{*beside["/dev/sdf"].VolumeId}}); err != nil || len(some) != 1 || *some[0].VolumeId != *beside["/dev/sdg"].VolumeId {
		t.Errorf("%+v, %v", some, err)
	}
	w.settle()
	w.unchanged(func() {
		_, err = take(&types.InstanceSpecification{ExcludeDataVolumeIds: []string{*w.root(w.instance(id)).VolumeId}})
		refused(t, err, "InvalidParameterValue", "ExcludeBootVolume")
		_, err = take(&types.InstanceSpecification{ExcludeBootVolume: aws.Bool(true), ExcludeDataVolumeIds: []string{*beside["/dev/sdf"].VolumeId, *beside["/dev/sdg"].VolumeId}})
		refused(t, err, "InvalidParameterValue", "Nothing is left")
	})
	id = w.running()
	w.unchanged(func() {
		_, err = take(&types.InstanceSpecification{})
		refused(t, err, "InvalidParameterValue", "CreateImage")
	})
}
