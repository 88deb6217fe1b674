package ec2

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// registerImage makes a further AMI of content that is there already: ImageLocation is the digest of an image, or the id
// of one that the caller may launch. With a KernelId, an image of layers becomes one of virtual machines, whatever its source is.
func (s *Service) registerImage(ctx context.Context, call *awsapi.Call, req *ec2.RegisterImageRequest) (*ec2.RegisterImageResult, error) {
	name, location := deref(req.Name), deref(req.ImageLocation)
	if err := validImageName(name); err != nil {
		return nil, err
	}
	switch {
	case location == "":
		return nil, awsapi.MissingParameter("ImageLocation")
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
		from := registered(tx, call.Account, location)
		if from == nil {
			return awsapi.InvalidParameterValue("ImageLocation %s is neither the digest nor the id of an image in this cloud; ImportImage brings new ones", location)
		}
		if a := deref(req.Architecture); a != "" && a != from.Architecture {
			return awsapi.InvalidParameterValue("The image's architecture is %s, not %s", from.Architecture, a)
		}
		img := &cloud.Image{ID: id, Account: call.Account, Name: name, Description: deref(req.Description), Digest: from.Digest,
			Location: from.Location, Architecture: from.Architecture, State: cloud.ImageAvailable, System: from.System, SizeMiB: from.SizeMiB,
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
		if img.Digest == location && (from == nil || from.VM()) {
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
