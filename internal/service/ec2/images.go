package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerImages(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeImages, s.describeImages, awsapi.Honours("ExecutableUsers", "Filters", "ImageIds", "Owners", "MaxResults", "NextToken",
		"IncludeDeprecated", "IncludeDisabled"))
	awsapi.Handle(r, ec2.ActionRegisterImage, s.registerImage, awsapi.Honours("Name", "Description", "ImageLocation", "Architecture", "TagSpecifications", "RootDeviceName", "VirtualizationType", "EnaSupport", "ImdsSupport",
		"KernelId", "RamdiskId", "BootMode", "BlockDeviceMappings.DeviceName", "BlockDeviceMappings.NoDevice", "BlockDeviceMappings.Ebs"))
	awsapi.Handle(r, ec2.ActionDeregisterImage, s.deregisterImage, awsapi.Honours("ImageId"))
	awsapi.Handle(r, ec2.ActionDescribeImageAttribute, s.describeImageAttribute, awsapi.Honours("Attribute", "ImageId"))
	awsapi.Handle(r, ec2.ActionModifyImageAttribute, s.modifyImageAttribute, awsapi.Honours("ImageId", "Attribute", "OperationType", "UserIds", "UserGroups", "Value",
		"Description", "ImdsSupport", "LaunchPermission.Add.UserId", "LaunchPermission.Add.Group", "LaunchPermission.Remove.UserId", "LaunchPermission.Remove.Group"))
	awsapi.Handle(r, ec2.ActionResetImageAttribute, s.resetImageAttribute, awsapi.Honours("Attribute", "ImageId"))
}

func validImageName(name string) error {
	if !cloud.ValidImageName(name) {
		return awsapi.Errorf("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'")
	}
	return nil
}

func (s *Service) describeImages(_ context.Context, call *awsapi.Call, req *ec2.DescribeImagesRequest) (*ec2.DescribeImagesResult, error) {
	if err := pageBounds(req.MaxResults, 1, 1000, req.ImageIds, "imagesSet"); err != nil {
		return nil, err
	}
	view := s.store.View()
	list := slices.Clone(store.List(view, store.Images))
	if len(req.ImageIds) > 0 {
		list = nil
		for _, id := range req.ImageIds {
			img, err := visibleImage(view, call.Account, id)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(list, img) {
				list = append(list, img)
			}
		}
	}
	owned := func(img *cloud.Image) bool {
		return len(req.Owners) == 0 || slices.ContainsFunc(req.Owners, func(o string) bool {
			return o == string(img.Account) || o == "self" && img.Account == call.Account
		})
	}
	executable := func(img *cloud.Image) bool {
		return len(req.ExecutableUsers) == 0 || slices.ContainsFunc(req.ExecutableUsers, func(u string) bool {
			return u == "all" && img.Public || u == "self" && slices.Contains(img.Launch, call.Account) || slices.Contains(img.Launch, cloud.AccountID(u))
		})
	}
	pass, err := imageFilters.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(img *cloud.Image) bool {
		switch {
		case img.State == cloud.ImageDisabled && !deref(req.IncludeDisabled), img.State == cloud.ImageDeregistered:
			return true
		case img.Account != call.Account && deprecated(img, call.Now) && !deref(req.IncludeDeprecated):
			return true
		}
		return !mayLaunch(img, call.Account) || !owned(img) || !executable(img) || !pass(img)
	})
	slices.SortFunc(list, func(a, b *cloud.Image) int { return cmp.Compare(a.ID, b.ID) })
	page, err := awsapi.Paginate(list, func(img *cloud.Image) string { return string(img.ID) }, req.MaxResults, req.NextToken, []any{req.Filters, req.Owners, req.ExecutableUsers, req.IncludeDeprecated, req.IncludeDisabled})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeImagesResult{NextToken: page.Next, Images: []ec2.Image{}}
	for _, img := range page.Items {
		out.Images = append(out.Images, imageShape(img))
	}
	return out, nil
}

// failureCode is the code of the reason why an image failed, "" for one that didn't.
func failureCode(img *cloud.Image) string {
	if img.Failure == "" {
		return ""
	}
	return "Client.InternalError"
}

// shownHardware is what EC2 says of a machine image's start; of kernels and RAM disks it says nothing.
func shownHardware(img *cloud.Image) cloud.Hardware {
	if img.Kind() != cloud.ImageMachine {
		return cloud.Hardware{}
	}
	return img.Hardware
}

func imageShape(img *cloud.Image) ec2.Image {
	hardware := shownHardware(img)
	out := ec2.Image{
		ImageId: text(img.ID), ImageLocation: new(img.Location), State: text(img.State), OwnerId: text(img.Account), CreationDate: new(timeText(img.Created)),
		Public: &img.Public, Architecture: &img.Architecture, ImageType: text(img.Kind()), Name: &img.Name, Description: optional(img.Description),
		RootDeviceType: new("ebs"), RootDeviceName: &shared.rootDevice, BlockDeviceMappings: imageMappings(img), VirtualizationType: new("hvm"),
		Hypervisor: new("xen"), EnaSupport: new(true), PlatformDetails: new("Linux/UNIX"), UsageOperation: new("RunInstances"), Tags: tagList(img.Tags),
		DeregistrationProtection: new(protectionText(img.Protection)),
		KernelId:                 text(hardware.Kernel), RamdiskId: text(hardware.Ramdisk), BootMode: optional(hardware.Firmware.BootMode()),
	}
	if img.Failure != "" {
		out.StateReason = &ec2.StateReason{Code: new(failureCode(img)), Message: &img.Failure}
	}
	if img.Maker != "" {
		out.SourceInstanceId = text(img.Maker)
	}
	if !img.DeprecateAt.IsZero() {
		out.DeprecationTime = new(timeText(img.DeprecateAt))
	}
	if !img.LastLaunched.IsZero() {
		out.LastLaunchedTime = new(timeText(img.LastLaunched))
	}
	if img.TokensOnly {
		out.ImdsSupport = new(ec2.ImdsSupportValuesV20)
	}
	return out
}

// imageFilters are the documented filters of DescribeImages.
var imageFilters = func() awsapi.FilterSet[*cloud.Image] {
	one := func(f func(*cloud.Image) string) func(*cloud.Image) []string {
		return func(img *cloud.Image) []string { return []string{f(img)} }
	}
	some := func(f func(*cloud.Image) string) func(*cloud.Image) []string {
		return func(img *cloud.Image) []string {
			if v := f(img); v != "" {
				return []string{v}
			}
			return nil
		}
	}
	fixed := func(list ...string) func(*cloud.Image) []string { return func(*cloud.Image) []string { return list } }
	none := fixed()
	volumes := func(f func(ec2.BlockDeviceMapping) string) func(*cloud.Image) []string {
		return func(img *cloud.Image) (list []string) {
			for _, m := range imageMappings(img) {
				if v := f(m); v != "" {
					list = append(list, v)
				}
			}
			return list
		}
	}
	return awsapi.FilterSet[*cloud.Image]{Tags: func(img *cloud.Image) map[string]string { return img.Tags }, Values: map[string]func(*cloud.Image) []string{
		"architecture": one(func(i *cloud.Image) string { return i.Architecture }), "block-device-mapping.delete-on-termination": volumes(func(m ec2.BlockDeviceMapping) string { return boolText(*m.Ebs.DeleteOnTermination) }),
		"block-device-mapping.device-name": volumes(func(m ec2.BlockDeviceMapping) string { return *m.DeviceName }),
		"block-device-mapping.snapshot-id": volumes(func(m ec2.BlockDeviceMapping) string { return deref(m.Ebs.SnapshotId) }),
		"block-device-mapping.volume-size": volumes(func(m ec2.BlockDeviceMapping) string { return fmt.Sprint(deref(m.Ebs.VolumeSize)) }),
		"block-device-mapping.volume-type": volumes(func(m ec2.BlockDeviceMapping) string { return deref(m.Ebs.VolumeType) }),
		"block-device-mapping.encrypted":   volumes(func(ec2.BlockDeviceMapping) string { return "false" }), "boot-mode": some(func(i *cloud.Image) string { return shownHardware(i).Firmware.BootMode() }),
		"creation-date": one(func(i *cloud.Image) string { return timeText(i.Created) }), "description": one(func(i *cloud.Image) string { return i.Description }),
		"ena-support": fixed("true"), "hypervisor": fixed("xen"), "image-allowed": fixed("true"), "image-id": one(func(i *cloud.Image) string { return string(i.ID) }),
		"image-type": one(func(i *cloud.Image) string { return string(i.Kind()) }), "imds-support": func(i *cloud.Image) []string {
			if i.TokensOnly {
				return []string{ec2.ImdsSupportValuesV20}
			}
			return nil
		}, "is-public": one(func(i *cloud.Image) string { return boolText(i.Public) }), "kernel-id": some(func(i *cloud.Image) string { return string(shownHardware(i).Kernel) }),
		"manifest-location": one(func(i *cloud.Image) string { return i.Location }), "name": one(func(i *cloud.Image) string { return i.Name }),
		"owner-alias": none, "owner-id": one(func(i *cloud.Image) string { return string(i.Account) }), "platform": none, "product-code": none,
		"product-code.type": none, "ramdisk-id": some(func(i *cloud.Image) string { return string(shownHardware(i).Ramdisk) }), "root-device-name": fixed(rootDeviceName), "root-device-type": fixed("ebs"),
		"source-image-id": none, "source-image-region": none, "source-instance-id": some(func(i *cloud.Image) string { return string(i.Maker) }), "state": one(func(i *cloud.Image) string { return string(i.State) }),
		"state-reason-code": some(func(i *cloud.Image) string { return failureCode(i) }), "state-reason-message": some(func(i *cloud.Image) string { return i.Failure }), "sriov-net-support": none, "tpm-support": none, "virtualization-type": fixed("hvm"),
	}}
}()

func claimImageName(tx *store.Tx, account cloud.AccountID, name string, id cloud.ImageID) error {
	err := store.Insert(tx, store.Claims, &store.Claim{Key: store.NameClaim("image", account, name), Owner: string(id)})
	if errors.Is(err, store.ErrExists) {
		return awsapi.Errorf("InvalidAMIName.Duplicate", "AMI name %s is already in use by another AMI", name)
	}
	return err
}

// ownImage finds an image that the caller may change: its own.
func ownImage(tx store.Reader, account cloud.AccountID, id string) (*cloud.Image, error) {
	img, err := visibleImage(tx, account, id)
	if err != nil {
		return nil, err
	}
	if img.Account != account {
		return nil, awsapi.Errorf("AuthFailure", "Not authorized for image:%s", id)
	}
	return img, nil
}

func (s *Service) deregisterImage(ctx context.Context, call *awsapi.Call, req *ec2.DeregisterImageRequest) (*ec2.DeregisterImageResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		img, err := ownImage(tx, call.Account, deref(req.ImageId))
		if err != nil {
			return err
		}
		if err := deregistrable(img, call.Now); err != nil {
			return err
		}
		if err := unneeded(tx, img); err != nil {
			return err
		}
		store.Delete(tx, store.Images, img.ID)
		store.Delete(tx, store.Claims, store.NameClaim("image", call.Account, img.Name))
		return nil
	})
	return &ec2.DeregisterImageResult{}, err
}
