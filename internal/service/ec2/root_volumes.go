package ec2

import (
	"maps"

	"github.com/nacre-cloud/nacre/internal/attachments"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const rootDeviceName = cloud.RootDevice

// rootDevice tells whether a name is one of those that EC2's images have for their root.
func rootDevice(device string) bool {
	return device == rootDeviceName || device == "/dev/sda1" || device == "/dev/sda"
}

// parseRoot takes what a launch says of its instances' root.
func (l *launch) parseRoot(name string, m ec2.BlockDeviceMapping) error {
	switch {
	case *m.DeviceName != rootDeviceName:
		return badMapping("%s is not a device of the image, whose root is %s.", *m.DeviceName, rootDeviceName)
	case m.NoDevice != nil:
		return badMapping("The root device %s can't be suppressed.", rootDeviceName)
	case l.root.device != "":
		return badMapping("The device '%s' is used in more than one block-device mapping.", rootDeviceName)
	}
	ebs := deref(m.Ebs)
	if ebs.SnapshotId != nil {
		return badMapping("The snapshot of the root device can't be changed: the root is made of the image.")
	}
	var err error
	l.root, err = parseVolume(ebs)
	l.root.device = rootDeviceName
	return err
}

// resolveRoot settles the root of a launch's instances by their image.
func (l *launch) resolveRoot(tx *store.Tx) error {
	x := &l.root
	shape := x.asked // the transaction's function may run again
	size, least := l.image.RootGiB()
	x.snapshot = ""
	of := false
	if r := l.image.Root(); r != nil {
		from, err := l.snapshot(tx, string(r.Snapshot))
		if err != nil {
			return err
		}
		if err := l.keptBy(tx, from); err != nil {
			return err
		}
		x.snapshot, x.origin, least, of = string(r.Snapshot), from.Origin, from.SizeGiB, from.Encrypted
		if shape.Type == "" {
			shape.Type, shape.IOPS, shape.Throughput = r.Type, r.IOPS, r.Throughput
		}
		if !x.said {
			x.stays = !r.DeleteOnTermination
		}
	}
	if shape.SizeGiB == 0 {
		shape.SizeGiB = size
	}
	if shape.SizeGiB < least {
		return badMapping("Volume of size %dGB is smaller than the image '%s', expect size >= %dGB", shape.SizeGiB, l.image.ID, least)
	}
	if shape.Type == "" {
		shape.Type = cloud.VolumeGP3
	}
	var err error
	if x.shape, err = shape.Settle(); err != nil {
		return shapeError(err)
	}
	if !l.template.VM() {
		return l.containerRoot(tx)
	}
	if x.encrypted, err = x.wished.settle(tx, l.call.Account, of); err != nil {
		return err
	}
	l.volumeGiB = max(l.volumeGiB, x.shape.SizeGiB)
	_, err = nodeForVolume(tx, l.template.Zone, x.shape.SizeGiB)
	return err
}

// containerRoot refuses what a layer over an image's can't have: it is no device that something could limit or that could go elsewhere.
func (l *launch) containerRoot(tx *store.Tx) error {
	x := l.root
	usual, err := cloud.VolumeShape{Type: cloud.VolumeGP3, SizeGiB: x.shape.SizeGiB}.Settle()
	switch {
	case err != nil:
		return shapeError(err)
	case x.shape != usual:
		return awsapi.Unsupported("Instances of %s are containers, whose root is a layer on their server's disk: it has neither a type nor rates of its own. Attach a volume, or launch a virtual machine.", l.image.ID)
	case x.wished.asked:
		return awsapi.Unsupported("Instances of %s are containers, whose root is a layer on their server's disk and can't be encrypted. Keep what is secret on an encrypted volume, or launch a virtual machine.", l.image.ID)
	case x.stays:
		return layerStays()
	case x.asked.SizeGiB == 0:
		return nil
	}
	for _, n := range store.List(tx, store.Nodes) {
		if n.Zone == l.template.Zone && (n.VolumeGiB == 0 || n.VolumeGiB >= x.shape.SizeGiB) {
			return nil
		}
	}
	_, err = nodeForVolume(tx, l.template.Zone, x.shape.SizeGiB)
	return err
}

func layerStays() error {
	return awsapi.Unsupported("The value false of DeleteOnTermination is not supported for the root of a container: it is a layer over its image, which nothing else could be attached to. Keep data on a volume.")
}

// device refuses to treat a container's root as the block device that it isn't.
func device(v *cloud.Volume, verb string) error {
	if !v.Layer {
		return nil
	}
	return awsapi.Unsupported("The volume '%s' can't be %s: it is the root of a container, a layer over its image and no block device.", v.ID, verb)
}

// equipRoot makes the root of one instance.
func (l *launch) equipRoot(tx *store.Tx, i *cloud.Instance, id cloud.VolumeID) {
	v := l.newVolume(i, l.root, id)
	v.Root, v.Layer = true, !i.VM()
	if i.VM() && v.Snapshot == "" && i.ImageDigest != "" {
		v.Origin = cloud.Origin{Digest: i.ImageDigest, Architecture: i.Architecture, Hardware: i.Hardware, System: l.image.System}
	}
	if v.Tags[cloud.TagMount] != "" { // that is where another volume is mounted
		v.Tags = maps.Clone(v.Tags)
		delete(v.Tags, cloud.TagMount)
	}
	store.Put(tx, store.Volumes, v)
	i.RootVolume = true
}

// rooted refuses to start a virtual machine whose root was detached.
func rooted(r store.Reader, i *cloud.Instance) error {
	if !i.RootVolume || attachments.Root(r, i) != nil {
		return nil
	}
	return awsapi.InvalidParameterValue("Invalid value '%s' for instanceId. Instance does not have a volume attached at root (%s)", i.ID, rootDeviceName)
}

// freeRoot checks that a volume can become an instance's root.
func freeRoot(r store.Reader, i *cloud.Instance) error {
	if i.State != cloud.StateStopped || !i.VM() || rooted(r, i) == nil {
		return awsapi.InvalidParameterValue("Invalid value '%s' for unixDevice. Attachment point %s is already in use", rootDeviceName, rootDeviceName)
	}
	return nil
}

// imageMappings are the volumes that instances of an image are launched with, as EC2 shows them.
func imageMappings(img *cloud.Image) []ec2.BlockDeviceMapping {
	out := rootMapping(img)
	for _, v := range img.Volumes {
		out = append(out, ec2.BlockDeviceMapping{DeviceName: new(v.Device), Ebs: &ec2.EbsBlockDevice{DeleteOnTermination: new(v.DeleteOnTermination), Encrypted: new(v.Encrypted),
			SnapshotId: text(v.Snapshot), VolumeSize: optional(int64(v.SizeGiB)), VolumeType: text(v.Type), Iops: optional(int64(v.IOPS)), Throughput: optional(int64(v.Throughput))}})
	}
	return out
}

// rootMapping is what DescribeImages says of a root that is laid over the image's content.
func rootMapping(img *cloud.Image) []ec2.BlockDeviceMapping {
	if img.Kind() != cloud.ImageMachine {
		return []ec2.BlockDeviceMapping{}
	}
	if img.Root() != nil {
		return nil
	}
	size, _ := img.RootGiB()
	return []ec2.BlockDeviceMapping{{DeviceName: new(rootDeviceName), Ebs: &ec2.EbsBlockDevice{DeleteOnTermination: new(true), Encrypted: new(false), VolumeSize: new(int64(size)),
		VolumeType: text(cloud.VolumeGP3)}}}
}
