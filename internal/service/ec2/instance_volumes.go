package ec2

import (
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// volumesByDevice are the volumes that an instance has.
func volumesByDevice(r store.Reader, i *cloud.Instance) []*cloud.Volume {
	return slices.SortedFunc(slices.Values(store.ListBy(r, store.VolumesByInstance, i.ID)), func(a, b *cloud.Volume) int { return strings.Compare(a.Device, b.Device) })
}

// blockDevices are the volumes that an instance has, as EC2 shows them.
func blockDevices(r store.Reader, i *cloud.Instance) []ec2.InstanceBlockDeviceMapping {
	list := volumesByDevice(r, i)
	if len(list) == 0 {
		return shared.noBlockDevices
	}
	out := make([]ec2.InstanceBlockDeviceMapping, 0, len(list))
	for _, v := range list {
		status := string(v.Attach)
		out = append(out, ec2.InstanceBlockDeviceMapping{DeviceName: text(v.Device), Ebs: &ec2.EbsInstanceBlockDevice{VolumeId: text(v.ID), Status: &status, AttachTime: &v.AttachTime,
			DeleteOnTermination: new(v.DeleteOnTermination)}})
	}
	return out
}

// modifyBlockDevices says which of an instance's volumes go when it ends.
func modifyBlockDevices(tx *store.Tx, i *cloud.Instance, list []ec2.InstanceBlockDeviceMappingSpecification) error {
	for _, m := range list {
		switch {
		case deref(m.DeviceName) == "":
			return awsapi.MissingParameter("BlockDeviceMapping.DeviceName")
		case m.Ebs == nil || m.Ebs.DeleteOnTermination == nil:
			return awsapi.InvalidParameterValue("Nothing is to be changed of the block device %s: give DeleteOnTermination.", *m.DeviceName)
		}
		volumes := store.ListBy(tx, store.VolumesByInstance, i.ID)
		at := slices.IndexFunc(volumes, func(v *cloud.Volume) bool { return v.Device == *m.DeviceName })
		if at < 0 {
			return awsapi.Errorf("InvalidInstanceAttributeValue", "No device is currently mapped at %s", *m.DeviceName)
		}
		v := volumes[at]
		if m.Ebs.VolumeId != nil && *m.Ebs.VolumeId != string(v.ID) {
			return awsapi.Errorf("InvalidInstanceAttributeValue", "The volume %s is not the one that is mapped at %s, %s", *m.Ebs.VolumeId, v.Device, v.ID)
		}
		if v.Layer && !*m.Ebs.DeleteOnTermination {
			return layerStays()
		}
		v.DeleteOnTermination = *m.Ebs.DeleteOnTermination
		store.Put(tx, store.Volumes, v)
	}
	return nil
}
