package ec2

import (
	"context"
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/attachments"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerCaptures(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateImage, s.createImage, awsapi.Honours("BlockDeviceMappings.DeviceName", "BlockDeviceMappings.NoDevice", "BlockDeviceMappings.Ebs", "Description", "InstanceId", "Name",
		"NoReboot", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionCreateSnapshots, s.createSnapshots, awsapi.Honours("CopyTagsFromSource", "Description", "InstanceSpecification", "TagSpecifications"))
}

// maxCaptures bounds what may be under way of one instance.
const maxCaptures = 5

// createImage makes an image of an instance. What a container wrote becomes a layer over those of its image; a virtual machine's root and
// every instance's volumes become snapshots. Unless the call says NoReboot, a running instance is rebooted, and its disks are read in between;
// else they are read at one instant, at which its processes stand still.
func (s *Service) createImage(ctx context.Context, call *awsapi.Call, req *ec2.CreateImageRequest) (*ec2.CreateImageResult, error) {
	name := deref(req.Name)
	if err := validImageName(name); err != nil {
		return nil, err
	}
	tags, err := tagsFor(req.TagSpecifications, "image", "snapshot")
	if err != nil {
		return nil, err
	}
	description, err := describedAs(req.Description)
	if err != nil {
		return nil, err
	}
	id := newID[cloud.ImageID](s)
	ids := make([]cloud.SnapshotID, 1+maxAttachments)
	for n := range ids {
		ids[n] = newID[cloud.SnapshotID](s)
	}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		i, err := keepable(tx, call.Account, deref(req.InstanceId))
		if err != nil {
			return err
		}
		img := &cloud.Image{ID: id, Account: call.Account, Name: name, Description: description, Location: fmt.Sprintf("%s/%s", call.Account, name), Isolation: i.Isolation,
			Architecture: i.Architecture, State: cloud.ImagePending, Created: call.Now, Maker: i.ID, Tags: tags["image"]}
		capture := cloud.Capture{ID: string(id), Image: id, Asked: call.Now}
		if i.VM() {
			img.Digest, img.Hardware = i.ImageDigest, i.Hardware
		} else {
			capture.Layer = name
		}
		if img.Volumes, err = mapped(tx, i, req.BlockDeviceMappings); err != nil {
			return err
		}
		if err := describeVolumes(tx, call, i, img, &capture, ids, tags["snapshot"]); err != nil {
			return err
		}
		if i.State == cloud.StateRunning && !deref(req.NoReboot) {
			i.Boot++
			capture.Rest = i.Boot
		}
		img.Tags = withTags(img.Tags, isolationTag(img.Isolation))
		if err := devicesLike(img, &cloud.Image{Hardware: i.Hardware}); err != nil {
			return err
		}
		if err := claimImageName(tx, call.Account, name, id); err != nil {
			return err
		}
		i.Captures = append(i.Captures, capture)
		store.Put(tx, store.Instances, i)
		store.Put(tx, store.Images, img)
		return nil
	})
	return &ec2.CreateImageResult{ImageId: text(id)}, err
}

// keepable finds an instance whose disks can be kept.
func keepable(tx *store.Tx, account cloud.AccountID, id string) (*cloud.Instance, error) {
	i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, account, id)
	switch {
	case err != nil:
		return nil, err
	case i.State != cloud.StateRunning && i.State != cloud.StateStopped:
		return nil, awsapi.Errorf("IncorrectInstanceState", "Instance '%s' is not 'running' or 'stopped': it is '%s'.", i.ID, i.State)
	case len(i.Captures) >= maxCaptures:
		return nil, awsapi.Errorf("ConcurrentSnapshotLimitExceeded", "%d images and sets of snapshots of %s are being made already; wait for one.", len(i.Captures), i.ID)
	case i.VM() && !i.RootVolume:
		return nil, awsapi.Unsupported("The root of %s is no volume, as it was launched before they were: copy what is on it to a new instance.", i.ID)
	}
	return i, rooted(tx, i)
}

// kept are the volumes of an instance that are kept with it: its root, unless that is a container's layer, and those that are attached beside.
func kept(r store.Reader, i *cloud.Instance) []*cloud.Volume {
	return slices.DeleteFunc(volumesByDevice(r, i), func(v *cloud.Volume) bool {
		return v.Layer || v.State != cloud.VolumeInUse || v.Attach == cloud.Detaching
	})
}

// mapped are the volumes that an image of an instance is to have, by what the call says of them: those of the instance, still without snapshots, and further ones.
func mapped(tx *store.Tx, i *cloud.Instance, list []ec2.BlockDeviceMapping) ([]cloud.ImageVolume, error) {
	var out []cloud.ImageVolume
	for _, v := range kept(tx, i) {
		out = append(out, cloud.ImageVolume{Device: v.Device, SizeGiB: v.SizeGiB, Type: v.Type, IOPS: v.IOPS, Throughput: v.Throughput, DeleteOnTermination: v.DeleteOnTermination, Encrypted: v.Encrypted})
	}
	seen := map[string]bool{}
	for n, m := range list {
		name, device := fmt.Sprintf("BlockDeviceMapping.%d", n+1), deref(m.DeviceName)
		at := slices.IndexFunc(out, func(v cloud.ImageVolume) bool { return seenAs(v.Device) == seenAs(device) })
		switch {
		case device == "":
			return nil, awsapi.MissingParameter(name + ".DeviceName")
		case seen[seenAs(device)]:
			return nil, badMapping("The device '%s' is used in more than one block-device mapping.", device)
		case rootDevice(device) && device != rootDeviceName:
			return nil, badMapping("The root device is called %s in this cloud, not %s.", rootDeviceName, device)
		case rootDevice(device) && m.NoDevice != nil:
			return nil, badMapping("The root device %s can't be suppressed.", rootDeviceName)
		case rootDevice(device) && at < 0:
			return nil, badMapping("The root of %s is a container's: it becomes a layer of the image, and has neither a size nor a type of its own.", i.ID)
		case m.NoDevice != nil && m.Ebs != nil:
			return nil, badMapping("The device '%s' is mapped and suppressed at once: give Ebs or NoDevice.", device)
		case m.NoDevice != nil && at < 0:
			return nil, badMapping("The instance %s has no volume at '%s' that could be left out.", i.ID, device)
		}
		seen[seenAs(device)] = true
		if m.NoDevice != nil {
			out = slices.Delete(out, at, at+1)
			continue
		}
		if !rootDevice(device) && !deviceNames.MatchString(device) {
			return nil, badMapping("%s is not a valid EBS device name.", device)
		}
		v, err := imageVolume(tx, i.Account, name, device, deref(m.Ebs), at >= 0)
		if err != nil {
			return nil, err
		}
		if at < 0 {
			out = append(out, v)
			continue
		}
		if v.SizeGiB != 0 && v.SizeGiB < out[at].SizeGiB {
			return nil, badMapping("Volume of size %dGB is smaller than the volume at '%s', expect size >= %dGB", v.SizeGiB, device, out[at].SizeGiB)
		}
		if out[at], err = changed(out[at], v, m.Ebs); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// imageVolume reads a mapping of an image. One that changes a volume of the instance has no snapshot of its own.
func imageVolume(tx *store.Tx, account cloud.AccountID, name, device string, m ec2.EbsBlockDevice, changes bool) (cloud.ImageVolume, error) {
	v := cloud.ImageVolume{Device: device, DeleteOnTermination: m.DeleteOnTermination == nil || *m.DeleteOnTermination}
	if deref(m.Encrypted) || m.KmsKeyId != nil {
		return v, awsapi.Unsupported("%s.Ebs: volumes of an image are encrypted as their snapshots are. Say so at the launch, or copy the snapshot.", name)
	}
	shape, err := volumeShape(m.VolumeType, m.VolumeSize, m.Iops, m.Throughput)
	if err != nil {
		return v, err
	}
	if m.SnapshotId != nil {
		if changes {
			return v, badMapping("%s.Ebs.SnapshotId can't be given for '%s', which is the instance's: the snapshot is made with the image.", name, device)
		}
		from, err := usableSnapshot(tx, account, *m.SnapshotId)
		if err != nil {
			return v, err
		}
		v.Snapshot, v.Encrypted = from.ID, from.Encrypted
		if shape.SizeGiB == 0 {
			shape.SizeGiB = from.SizeGiB
		}
		if shape.SizeGiB < from.SizeGiB {
			return v, badMapping("Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", shape.SizeGiB, from.ID, from.SizeGiB)
		}
	}
	if !changes {
		if shape.SizeGiB == 0 {
			return v, awsapi.Errorf("MissingParameter", "The request must contain the parameter size or snapshotId for %s.", name)
		}
		if shape.Type == "" {
			shape.Type = cloud.VolumeGP2
		}
		if shape, err = shape.Settle(); err != nil {
			return v, shapeError(err)
		}
	}
	v.SizeGiB, v.Type, v.IOPS, v.Throughput = shape.SizeGiB, shape.Type, shape.IOPS, shape.Throughput
	return v, nil
}

// changed is a volume of an instance as its image is to have it.
func changed(v, by cloud.ImageVolume, m *ec2.EbsBlockDevice) (cloud.ImageVolume, error) {
	shape := v.Shape()
	if by.Type != "" && by.Type != v.Type {
		shape.Type, shape.IOPS, shape.Throughput = by.Type, 0, 0
	}
	if by.SizeGiB != 0 {
		shape.SizeGiB = by.SizeGiB
	}
	if by.IOPS != 0 {
		shape.IOPS = by.IOPS
	}
	if by.Throughput != 0 {
		shape.Throughput = by.Throughput
	}
	shape, err := shape.Settle()
	if err != nil {
		return v, shapeError(err)
	}
	v.SizeGiB, v.Type, v.IOPS, v.Throughput = shape.SizeGiB, shape.Type, shape.IOPS, shape.Throughput
	if m != nil && m.DeleteOnTermination != nil {
		v.DeleteOnTermination = *m.DeleteOnTermination
	}
	return v, nil
}

// describeVolumes makes the snapshots that an image's volumes need, still pending.
func describeVolumes(tx *store.Tx, call *awsapi.Call, i *cloud.Instance, img *cloud.Image, c *cloud.Capture, ids []cloud.SnapshotID, tags cloud.Tags) error {
	about := fmt.Sprintf("Created by CreateImage(%s) for %s", i.ID, img.ID)
	for _, v := range kept(tx, i) {
		at := slices.IndexFunc(img.Volumes, func(x cloud.ImageVolume) bool { return x.Device == v.Device && x.Snapshot == "" })
		if at < 0 {
			continue // the image is to have none
		}
		if err := keepVolume(tx, call, i, v, c, ids[len(c.Volumes)], about, tags); err != nil {
			return err
		}
		img.Volumes[at].Snapshot = ids[len(c.Volumes)-1]
	}
	return nil
}

// keepVolume adds a snapshot to those that an instance's node makes at one instant.
func keepVolume(tx *store.Tx, call *awsapi.Call, i *cloud.Instance, v *cloud.Volume, c *cloud.Capture, id cloud.SnapshotID, description string, tags cloud.Tags) error {
	if err := roomForSnapshot(tx, call.Account, v.ID); err != nil {
		return err
	}
	store.Put(tx, store.Snapshots, &cloud.Snapshot{ID: id, Account: call.Account, Volume: v.ID, SizeGiB: v.SizeGiB, Node: v.Node, Origin: v.Origin, Encrypted: v.Encrypted, Description: description, Tags: tags,
		Created: call.Now, State: cloud.SnapshotPending, Captured: i.ID})
	c.Volumes = append(c.Volumes, cloud.CapturedVolume{Volume: v.ID, Snapshot: id})
	return nil
}

// createSnapshots makes snapshots of an instance's volumes at one instant.
func (s *Service) createSnapshots(ctx context.Context, call *awsapi.Call, req *ec2.CreateSnapshotsRequest) (*ec2.CreateSnapshotsResult, error) {
	asked, err := tagsFor(req.TagSpecifications, "snapshot")
	if err != nil {
		return nil, err
	}
	description, err := describedAs(req.Description)
	if err != nil {
		return nil, err
	}
	which := *req.InstanceSpecification
	ids := make([]cloud.SnapshotID, 1+maxAttachments)
	for n := range ids {
		ids[n] = newID[cloud.SnapshotID](s)
	}
	out := &ec2.CreateSnapshotsResult{}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		out.Snapshots = []ec2.SnapshotInfo{}
		i, err := keepable(tx, call.Account, deref(which.InstanceId))
		if err != nil {
			return err
		}
		capture := cloud.Capture{ID: string(ids[0]), Asked: call.Now}
		volumes := kept(tx, i)
		for _, id := range which.ExcludeDataVolumeIds {
			v, err := lookup(tx, store.Volumes, ownerOfVolume, kindVolume, call.Account, id)
			switch {
			case err != nil:
				return err
			case v.Instance != i.ID:
				return awsapi.InvalidParameterValue("The volume '%s' is not attached to %s.", v.ID, i.ID)
			case v.Device == rootDeviceName:
				return awsapi.InvalidParameterValue("The volume '%s' is the root of %s: ExcludeBootVolume leaves it out.", v.ID, i.ID)
			}
			volumes = slices.DeleteFunc(volumes, func(x *cloud.Volume) bool { return x.ID == v.ID })
		}
		for _, v := range volumes {
			if v.Device == rootDeviceName && deref(which.ExcludeBootVolume) {
				continue
			}
			tags := asked["snapshot"]
			if deref(req.CopyTagsFromSource) == "volume" {
				if tags = withTags(userTags(v.Tags), tags); len(tags) > cloud.MaxTagsPerResource {
					return tooManyTags()
				}
			}
			id := ids[len(capture.Volumes)]
			if err := keepVolume(tx, call, i, v, &capture, id, description, tags); err != nil {
				return err
			}
			out.Snapshots = append(out.Snapshots, ec2.SnapshotInfo{SnapshotId: text(id), VolumeId: text(v.ID), VolumeSize: new(int64(v.SizeGiB)), OwnerId: text(call.Account), Description: new(description),
				Encrypted: &v.Encrypted, Progress: new("0%"), State: text(cloud.SnapshotPending), StartTime: &call.Now, Tags: tagList(tags)})
		}
		if len(capture.Volumes) == 0 {
			if attachments.Root(tx, i) != nil && !i.VM() {
				return awsapi.InvalidParameterValue("Nothing is left of %s to make a snapshot of: its root is a container's layer and no block device, which CreateImage keeps.", i.ID)
			}
			return awsapi.InvalidParameterValue("Nothing is left of %s to make a snapshot of.", i.ID)
		}
		i.Captures = append(i.Captures, capture)
		store.Put(tx, store.Instances, i)
		return nil
	})
	return out, err
}
