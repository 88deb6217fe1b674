package ec2

import (
	"slices"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// launchVolume is one volume that a launch makes for each of its instances.
type launchVolume struct {
	device   string
	asked    cloud.VolumeShape // as the call has it
	shape    cloud.VolumeShape // settled
	snapshot string            // "" for an empty one
	stays    bool              // when the instance ends
}

// parseVolumes takes the volumes from the call's block-device mappings. tags are those that each of them gets.
func (l *launch) parseVolumes(tags cloud.Tags) error {
	if err := volumeTags(tags); err != nil {
		return err
	}
	l.volumeTags = tags
	seen := map[string]bool{}
	for n, m := range l.req.BlockDeviceMappings {
		name, device := "BlockDeviceMapping."+strconv.Itoa(n+1), deref(m.DeviceName)
		if rootDevice(device) {
			if err := l.parseRoot(name, m); err != nil {
				return err
			}
			continue
		}
		switch {
		case device == "":
			return awsapi.MissingParameter(name + ".DeviceName")
		case !deviceNames.MatchString(device):
			return badMapping("%s is not a valid EBS device name.", device)
		case seen[seenAs(device)]:
			return badMapping("The device '%s' is used in more than one block-device mapping.", device)
		case m.NoDevice != nil && m.Ebs != nil:
			return badMapping("The device '%s' is mapped and suppressed at once: give Ebs or NoDevice.", device)
		}
		seen[seenAs(device)] = true
		if m.NoDevice != nil {
			continue // images map nothing beside the root that could be suppressed
		}
		if deref(m.Ebs).VolumeSize == nil && deref(m.Ebs).SnapshotId == nil {
			return awsapi.Errorf("MissingParameter", "The request must contain the parameter size or snapshotId for %s.", name)
		}
		x, err := parseVolume(name, *m.Ebs)
		if err != nil {
			return err
		}
		x.device = device
		l.volumes = append(l.volumes, x)
	}
	l.root.device = rootDeviceName
	switch {
	case len(l.volumes) > maxAttachments:
		return awsapi.Errorf("AttachmentLimitExceeded", "Volume count %d exceeds the limit of %d for an instance.", len(l.volumes), maxAttachments)
	case len(l.volumes) != 1 && tags[cloud.TagMount] != "":
		return awsapi.InvalidParameterValue("The tag %s is for one volume, and the launch makes %d beside the root: %s would be the place of each.", cloud.TagMount, len(l.volumes), tags[cloud.TagMount])
	}
	return nil
}

func badMapping(format string, args ...any) error {
	return awsapi.Errorf("InvalidBlockDeviceMapping", format, args...)
}

// parseVolume reads what a mapping says of its volume.
func parseVolume(name string, m ec2.EbsBlockDevice) (launchVolume, error) {
	x := launchVolume{snapshot: deref(m.SnapshotId), stays: m.DeleteOnTermination != nil && !*m.DeleteOnTermination}
	if deref(m.Encrypted) {
		return x, awsapi.Unsupported("The value true of %s.Ebs.Encrypted is not supported by this cloud.", name)
	}
	var err error
	x.asked, err = volumeShape(m.VolumeType, m.VolumeSize, m.Iops, m.Throughput)
	return x, err
}

// resolveVolumes finds what the volumes are made of, and which server has that.
func (l *launch) resolveVolumes(tx *store.Tx) error {
	l.volumes, l.keeper, l.volumeGiB = slices.Clone(l.volumes), "", 0 // the transaction's function may run again
	if err := l.resolveRoot(tx); err != nil {
		return err
	}
	if len(l.volumes) > 0 && l.template.Hardware.Devices == cloud.DevicesEmulated && l.template.VM() {
		return awsapi.Unsupported("Instances of %s have emulated devices, and none of their disk controllers takes volumes.", l.image.ID)
	}
	if err := fitsBus(&l.template, len(l.volumes), len(l.interfaces)); err != nil {
		return err
	}
	for n := range l.volumes {
		x := &l.volumes[n]
		x.shape = x.asked
		if x.shape.Type == "" {
			x.shape.Type = cloud.VolumeGP2 // as for CreateVolume
		}
		if x.snapshot != "" {
			from, err := usableSnapshot(tx, l.call.Account, x.snapshot)
			if err != nil {
				return err
			}
			if x.shape.SizeGiB == 0 {
				x.shape.SizeGiB = from.SizeGiB
			}
			if x.shape.SizeGiB < from.SizeGiB {
				return badMapping("Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", x.shape.SizeGiB, from.ID, from.SizeGiB)
			}
			if l.keeper != "" && l.keeper != from.Node {
				return awsapi.Unsupported("The snapshots of the launch are kept by different servers: make a volume of '%s' with CreateVolume.", from.ID)
			}
			if n, ok := store.Get(tx, store.Nodes, from.Node); !ok || n.Zone != l.template.Zone {
				return awsapi.Unsupported("The snapshot '%s' is kept in another Availability Zone.", from.ID)
			}
			l.keeper = from.Node
		}
		var err error
		if x.shape, err = x.shape.Settle(); err != nil {
			return shapeError(err)
		}
		if _, err := nodeForVolume(tx, l.template.Zone, x.shape.SizeGiB); err != nil {
			return err
		}
		l.volumeGiB = max(l.volumeGiB, x.shape.SizeGiB)
	}
	return nil
}

// equip makes the volumes of one instance, its root's first.
func (l *launch) equip(tx *store.Tx, i *cloud.Instance, ids []cloud.VolumeID) {
	l.equipRoot(tx, i, ids[0])
	for n, x := range l.volumes {
		store.Put(tx, store.Volumes, l.newVolume(i, x, ids[n+1]))
	}
	i.Wiring = 1 // so that a fact about the machine from before it was asked for its volumes doesn't pass for one about them
}

// newVolume is a volume of an instance that has no node yet, and so has none itself.
func (l *launch) newVolume(i *cloud.Instance, x launchVolume, id cloud.VolumeID) *cloud.Volume {
	v := &cloud.Volume{ID: id, Account: i.Account, Zone: i.Zone, Type: x.shape.Type, SizeGiB: x.shape.SizeGiB, IOPS: x.shape.IOPS, Throughput: x.shape.Throughput,
		Snapshot: cloud.SnapshotID(x.snapshot), Tags: l.volumeTags, Created: l.call.Now}
	attach(v, i, x.device, !x.stays, l.call)
	v.State = cloud.VolumeCreating
	return v
}
