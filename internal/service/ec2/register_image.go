package ec2

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// registerImage makes a further AMI of content that is there already: ImageLocation is the digest of an image, or the id
// of one that the caller may launch. With a KernelId, an image of layers becomes one of virtual machines, whatever its source is. Without an ImageLocation,
// the root is a snapshot, by the block-device mappings.
func (s *Service) registerImage(ctx context.Context, call *awsapi.Call, req *ec2.RegisterImageRequest) (*ec2.RegisterImageResult, error) {
	name, location := deref(req.Name), deref(req.ImageLocation)
	if err := validImageName(name); err != nil {
		return nil, err
	}
	switch {
	case deref(req.VirtualizationType) == "paravirtual":
		return nil, awsapi.Unsupported("The virtualization type paravirtual is not supported by this cloud.")
	case deref(req.VirtualizationType) != "" && *req.VirtualizationType != "hvm":
		return nil, awsapi.InvalidParameterValue("Invalid value '%.100s' for VirtualizationType. Expecting one of [hvm, paravirtual]", *req.VirtualizationType)
	case deref(req.RootDeviceName) != "" && deref(req.RootDeviceName) != rootDeviceName:
		return nil, awsapi.Unsupported("The root device is called %s in this cloud.", rootDeviceName)
	case req.EnaSupport != nil && !*req.EnaSupport:
		return nil, awsapi.Unsupported("The value false of EnaSupport is not supported by this cloud.")
	}
	tags, err := tagsFor(req.TagSpecifications, "image")
	if err != nil {
		return nil, err
	}
	id := newID[cloud.ImageID](s)
	err = s.update(ctx, call, func(tx *store.Tx) error {
		volumes, origin, err := registeredVolumes(tx, call.Account, req.BlockDeviceMappings)
		if err != nil {
			return err
		}
		from := origin
		switch {
		case location == "" && origin == nil:
			return awsapi.MissingParameter("ImageLocation")
		case location != "" && origin != nil:
			return awsapi.InvalidCombination("The root is given twice: as ImageLocation and as the snapshot of %s.", rootDeviceName)
		case location != "":
			if from = registered(tx, call.Account, location); from == nil {
				return awsapi.InvalidParameterValue("ImageLocation %s is neither the digest nor the id of an image in this cloud; ImportImage brings new ones", location)
			}
			if len(from.Volumes) > 0 && from.Account != call.Account {
				return awsapi.InvalidParameterValue("The snapshots of the image %s are another account's: CopyImage makes an image with some of its own.", from.ID)
			}
			volumes = append(withoutVolumes(from.Volumes, volumes, req.BlockDeviceMappings), volumes...)
		default:
			from.Location = fmt.Sprintf("%s/%s", call.Account, name)
			if !from.VM() { // a disk of which nothing is known
				from.Isolation, from.Hardware = cloud.IsolationVM, cloud.Hardware{Content: cloud.ContentDisk, Firmware: cloud.FirmwareBIOS}
				if from.Architecture = cmp.Or(deref(req.Architecture), ec2.ArchitectureValuesX8664); from.Architecture == ec2.ArchitectureValuesArm64 {
					from.Hardware.Firmware = cloud.FirmwareUEFI
				}
			}
		}
		if a := deref(req.Architecture); a != "" && a != from.Architecture {
			return awsapi.InvalidParameterValue("The image's architecture is %s, not %s", from.Architecture, a)
		}
		img := &cloud.Image{ID: id, Account: call.Account, Name: name, Description: deref(req.Description), Digest: from.Digest,
			Location: from.Location, Architecture: from.Architecture, State: cloud.ImageAvailable, System: from.System, SizeMiB: from.SizeMiB, Volumes: volumes,
			Isolation: from.Isolation, Hardware: from.Hardware, Created: call.Now, TokensOnly: deref(req.ImdsSupport) == ec2.ImdsSupportValuesV20}
		if kernel, ramdisk := deref(req.KernelId), deref(req.RamdiskId); kernel != "" || ramdisk != "" {
			img.Isolation = cloud.IsolationVM
			if img.Hardware, err = startedWith(tx, call.Account, img, kernel, ramdisk); err != nil {
				return err
			}
		}
		if mode := deref(req.BootMode); mode != "" {
			if img.Hardware.Firmware, err = firmwareFor(img, mode); err != nil {
				return err
			}
		}
		img.Tags = withTags(tags["image"], isolationTag(img.Isolation))
		if err := devicesLike(img, from); err != nil {
			return err
		}
		if err := claimImageName(tx, call.Account, name, id); err != nil {
			return err
		}
		store.Put(tx, store.Images, img)
		return nil
	})
	return &ec2.RegisterImageResult{ImageId: text(id)}, err
}

// registeredVolumes are the volumes of a call's mappings. With a snapshot for the root, what is known of that is an image that is nowhere else.
func registeredVolumes(tx *store.Tx, account cloud.AccountID, list []ec2.BlockDeviceMapping) (out []cloud.ImageVolume, root *cloud.Image, err error) {
	seen := map[string]bool{}
	for n, m := range list {
		name, device := fmt.Sprintf("BlockDeviceMapping.%d", n+1), deref(m.DeviceName)
		switch {
		case device == "":
			return nil, nil, awsapi.MissingParameter(name + ".DeviceName")
		case seen[seenAs(device)]:
			return nil, nil, badMapping("The device '%s' is used in more than one block-device mapping.", device)
		case rootDevice(device) && device != rootDeviceName:
			return nil, nil, badMapping("The root device is called %s in this cloud, not %s.", rootDeviceName, device)
		case m.NoDevice != nil && (m.Ebs != nil || rootDevice(device)):
			return nil, nil, badMapping("The device '%s' can't be suppressed: it is the root, or mapped at once.", device)
		case !rootDevice(device) && !deviceNames.MatchString(device):
			return nil, nil, badMapping("%s is not a valid EBS device name.", device)
		}
		seen[seenAs(device)] = true
		if m.NoDevice != nil {
			continue
		}
		v, err := imageVolume(tx, account, name, device, deref(m.Ebs), false)
		if err != nil {
			return nil, nil, err
		}
		if rootDevice(device) {
			if v.Snapshot == "" {
				return nil, nil, badMapping("The root device %s needs a snapshot that it begins with.", device)
			}
			snap, err := usableSnapshot(tx, account, string(v.Snapshot))
			if err != nil {
				return nil, nil, err
			}
			root = &cloud.Image{Digest: snap.Origin.Digest, Architecture: snap.Origin.Architecture, Hardware: snap.Origin.Hardware, System: snap.Origin.System}
			if snap.Origin.Bootable() {
				root.Isolation = cloud.IsolationVM
			}
		}
		out = append(out, v)
	}
	return out, root, nil
}

// withoutVolumes are an image's volumes save for those that a call has in their place, or wants none at.
func withoutVolumes(list, instead []cloud.ImageVolume, mappings []ec2.BlockDeviceMapping) []cloud.ImageVolume {
	return slices.DeleteFunc(slices.Clone(list), func(v cloud.ImageVolume) bool {
		return slices.ContainsFunc(instead, func(x cloud.ImageVolume) bool { return seenAs(x.Device) == seenAs(v.Device) }) ||
			slices.ContainsFunc(mappings, func(m ec2.BlockDeviceMapping) bool {
				return m.NoDevice != nil && seenAs(deref(m.DeviceName)) == seenAs(v.Device)
			})
	})
}

// registered finds the machine image that a location means, nil when there is none. Of those of one digest it is one of
// containers, if there is any.
func registered(r store.Reader, account cloud.AccountID, location string) *cloud.Image {
	var from *cloud.Image
	for _, img := range store.List(r, store.Images) {
		if img.Kind() != cloud.ImageMachine || !mayLaunch(img, account) || img.State != cloud.ImageAvailable {
			continue
		}
		if string(img.ID) == location {
			return img
		}
		if img.Digest == location && img.Root() == nil && (from == nil || from.VM()) {
			from = img
		}
	}
	return from
}

// firmwareFor is the firmware of a boot mode, for images of whole disks.
func firmwareFor(img *cloud.Image, mode string) (cloud.Firmware, error) {
	if !img.VM() || img.Hardware.Content != cloud.ContentDisk {
		return "", awsapi.InvalidCombination("BootMode is for images of whole disks; %s", withoutFirmware(img))
	}
	for _, f := range []cloud.Firmware{cloud.FirmwareBIOS, cloud.FirmwareUEFI} {
		if f.BootMode() != mode {
			continue
		}
		if f == cloud.FirmwareBIOS && img.Architecture == ec2.ArchitectureValuesArm64 {
			return "", awsapi.InvalidCombination("The boot mode %s is not for the architecture %s, whose machines start with uefi", mode, img.Architecture)
		}
		return f, nil
	}
	return "", awsapi.Unsupported("The value %s of BootMode is not supported by this cloud: choose legacy-bios or uefi.", mode)
}

func withoutFirmware(img *cloud.Image) string {
	if img.VM() {
		return "this one is made of layers, and its kernel is started directly"
	}
	return "this one's instances are containers"
}
