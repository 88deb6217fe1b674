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
	origin   cloud.Origin      // of the snapshot
	stays    bool              // when the instance ends
	said     bool              // the call says whether it stays
	wished   encryption
	// encrypted is whether it is to be.
	encrypted bool
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
			l.suppressed = append(l.suppressed, seenAs(device))
			continue
		}
		x, err := parseVolume(deref(m.Ebs))
		if err != nil {
			return err
		}
		x.device = device
		l.mapped = append(l.mapped, x)
	}
	l.root.device = rootDeviceName
	return nil
}

// mapVolumes adds the volumes that the image maps to those of the call, which may change them or leave them out.
func (l *launch) mapVolumes() error {
	l.volumes = slices.Clone(l.mapped) // the transaction's function may run again
	for _, v := range l.image.Volumes {
		if rootDevice(v.Device) || slices.Contains(l.suppressed, seenAs(v.Device)) {
			continue
		}
		at := slices.IndexFunc(l.volumes, func(x launchVolume) bool { return seenAs(x.device) == seenAs(v.Device) })
		if at < 0 {
			at = len(l.volumes)
			l.volumes = append(l.volumes, launchVolume{device: v.Device})
		}
		l.volumes[at].take(&v)
	}
	for _, x := range l.volumes {
		if x.snapshot == "" && x.asked.SizeGiB == 0 {
			return awsapi.Errorf("MissingParameter", "The request must contain the parameter size or snapshotId for the device %s.", x.device)
		}
	}
	mount := l.volumeTags[cloud.TagMount]
	switch {
	case len(l.volumes) > maxAttachments:
		return awsapi.Errorf("AttachmentLimitExceeded", "Volume count %d exceeds the limit of %d for an instance.", len(l.volumes), maxAttachments)
	case len(l.volumes) != 1 && mount != "":
		return awsapi.InvalidParameterValue("The tag %s is for one volume, and the launch makes %d beside the root: %s would be the place of each.", cloud.TagMount, len(l.volumes), mount)
	}
	return nil
}

// take gives a volume what its image says of it and the call doesn't.
func (x *launchVolume) take(v *cloud.ImageVolume) {
	if x.snapshot == "" {
		x.snapshot = string(v.Snapshot)
		if x.asked.SizeGiB == 0 {
			x.asked.SizeGiB = v.SizeGiB
		}
	}
	if x.asked.Type == "" {
		size := x.asked.SizeGiB
		x.asked, x.asked.SizeGiB = v.Shape(), size
	}
	if !x.said {
		x.stays = !v.DeleteOnTermination
	}
}

// keptBy notes the server that keeps a launch's snapshots: all of them have to be there.
func (l *launch) keptBy(tx *store.Tx, from *cloud.Snapshot) error {
	if l.keeper != "" && l.keeper != from.Node {
		return awsapi.Unsupported("The snapshots of the launch are kept by different servers: make a volume of '%s' with CreateVolume.", from.ID)
	}
	if n, ok := store.Get(tx, store.Nodes, from.Node); !ok || n.Zone != l.template.Zone {
		return awsapi.Unsupported("The snapshot '%s' is kept in another Availability Zone.", from.ID)
	}
	l.keeper = from.Node
	return nil
}

func badMapping(format string, args ...any) error {
	return awsapi.Errorf("InvalidBlockDeviceMapping", format, args...)
}

// parseVolume reads what a mapping says of its volume.
func parseVolume(m ec2.EbsBlockDevice) (launchVolume, error) {
	x := launchVolume{snapshot: deref(m.SnapshotId), stays: m.DeleteOnTermination != nil && !*m.DeleteOnTermination, said: m.DeleteOnTermination != nil}
	var err error
	if x.wished, err = parseEncryption(m.Encrypted, m.KmsKeyId); err != nil {
		return x, err
	}
	x.asked, err = volumeShape(m.VolumeType, m.VolumeSize, m.Iops, m.Throughput)
	return x, err
}

// resolveVolumes finds what the volumes are made of, and which server has that.
func (l *launch) resolveVolumes(tx *store.Tx) error {
	l.keeper, l.volumeGiB = "", 0 // the transaction's function may run again
	if err := l.mapVolumes(); err != nil {
		return err
	}
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
		of := false
		if x.snapshot != "" {
			from, err := l.snapshot(tx, x.snapshot)
			if err != nil {
				return err
			}
			x.origin = from.Origin
			if x.shape.SizeGiB == 0 {
				x.shape.SizeGiB = from.SizeGiB
			}
			if x.shape.SizeGiB < from.SizeGiB {
				return badMapping("Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", x.shape.SizeGiB, from.ID, from.SizeGiB)
			}
			if err := l.keptBy(tx, from); err != nil {
				return err
			}
			of = from.Encrypted
		}
		var err error
		if x.encrypted, err = x.wished.settle(tx, l.call.Account, of); err != nil {
			return err
		}
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

// snapshot finds one that the launch makes a volume of: the account's own, or one of its image, which whoever may launch that may use so.
func (l *launch) snapshot(tx *store.Tx, id string) (*cloud.Snapshot, error) {
	if slices.ContainsFunc(l.image.Volumes, func(v cloud.ImageVolume) bool { return string(v.Snapshot) == id }) {
		return usableSnapshot(tx, l.image.Account, id)
	}
	return usableSnapshot(tx, l.call.Account, id)
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
		Snapshot: cloud.SnapshotID(x.snapshot), Origin: x.origin, Encrypted: x.encrypted, Tags: l.volumeTags, Created: l.call.Now}
	attach(v, i, x.device, !x.stays, l.call)
	v.State = cloud.VolumeCreating
	return v
}
