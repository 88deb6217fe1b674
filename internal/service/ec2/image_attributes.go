package ec2

import (
	"context"
	"regexp"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

var accountForm = regexp.MustCompile(`^[0-9]{12}$`)

func (s *Service) describeImageAttribute(_ context.Context, call *awsapi.Call, req *ec2.DescribeImageAttributeRequest) (*ec2.ImageAttribute, error) {
	img, err := ownImage(s.store.View(), call.Account, deref(req.ImageId))
	if err != nil {
		return nil, err
	}
	out := &ec2.ImageAttribute{ImageId: text(img.ID)}
	switch a := deref(req.Attribute); a {
	case "description":
		out.Description = &ec2.AttributeValue{Value: &img.Description}
	case "launchPermission":
		out.LaunchPermissions = []ec2.LaunchPermission{}
		if img.Public {
			out.LaunchPermissions = append(out.LaunchPermissions, ec2.LaunchPermission{Group: new("all")})
		}
		for _, account := range img.Launch {
			out.LaunchPermissions = append(out.LaunchPermissions, ec2.LaunchPermission{UserId: text(account)})
		}
	case "productCodes":
		out.ProductCodes = shared.noProductCodes
	case "blockDeviceMapping":
		out.BlockDeviceMappings = imageMappings(img)
	case "lastLaunchedTime":
		out.LastLaunchedTime = &ec2.AttributeValue{}
		if !img.LastLaunched.IsZero() {
			out.LastLaunchedTime.Value = new(timeText(img.LastLaunched))
		}
	case "imdsSupport":
		out.ImdsSupport = &ec2.AttributeValue{}
		if img.TokensOnly {
			out.ImdsSupport.Value = new(ec2.ImdsSupportValuesV20)
		}
	case "deregistrationProtection":
		out.DeregistrationProtection = &ec2.AttributeValue{Value: new(protectionText(img.Protection))}
	case "kernel":
		out.KernelId = &ec2.AttributeValue{Value: text(shownHardware(img).Kernel)}
	case "ramdisk":
		out.RamdiskId = &ec2.AttributeValue{Value: text(shownHardware(img).Ramdisk)}
	case "bootMode":
		out.BootMode = &ec2.AttributeValue{Value: optional(shownHardware(img).Firmware.BootMode())}
	// What images of this cloud don't have is there without a value, as EC2 has it.
	case "sriovNetSupport":
		out.SriovNetSupport = &ec2.AttributeValue{}
	case "tpmSupport":
		out.TpmSupport = &ec2.AttributeValue{}
	case "uefiData":
		out.UefiData = &ec2.AttributeValue{}
	default:
		return nil, awsapi.Unsupported("The attribute '%s' is not supported by this cloud.", a)
	}
	return out, nil
}

func (s *Service) modifyImageAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ModifyImageAttributeRequest) (*ec2.ModifyImageAttributeResult, error) {
	add, remove, err := launchChanges(req)
	if err != nil {
		return nil, err
	}
	description := req.Description
	if deref(req.Attribute) == "description" && req.Value != nil {
		description = &ec2.AttributeValue{Value: req.Value}
	}
	tokens := req.ImdsSupport
	if deref(req.Attribute) == "imdsSupport" && req.Value != nil {
		tokens = &ec2.AttributeValue{Value: req.Value}
	}
	permissions := len(add)+len(remove) > 0
	switch {
	case tokens != nil && deref(tokens.Value) != ec2.ImdsSupportValuesV20:
		return nil, awsapi.InvalidParameterValue("Invalid value '%s' for ImdsSupport. The valid value is %s.", deref(tokens.Value), ec2.ImdsSupportValuesV20)
	case tokens != nil && req.ImdsSupport != nil && tokens != req.ImdsSupport:
		return nil, awsapi.InvalidCombination("The support of metadata is given twice: as Value and as ImdsSupport.")
	case description == nil && tokens == nil && !permissions:
		return nil, awsapi.InvalidCombination("No attributes specified.")
	case req.Description != nil && description != req.Description:
		return nil, awsapi.InvalidCombination("The description is given twice: as Value and as Description.")
	case req.OperationType != nil && !permissions:
		return nil, awsapi.InvalidCombination("OperationType is for launch permissions.")
	}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		img, err := ownImage(tx, call.Account, deref(req.ImageId))
		if err != nil {
			return err
		}
		if description != nil {
			img.Description = deref(description.Value)
		}
		img.TokensOnly = img.TokensOnly || tokens != nil
		if img.State != cloud.ImageAvailable && len(add) > 0 {
			return imageUnavailable(img) // EC2 shares no image that is disabled
		}
		for _, p := range add {
			if err := permit(img, p, true); err != nil {
				return err
			}
		}
		for _, p := range remove {
			if err := permit(img, p, false); err != nil {
				return err
			}
		}
		store.Put(tx, store.Images, img)
		return nil
	})
	return &ec2.ModifyImageAttributeResult{}, err
}

// launchChanges reads both forms of a change of launch permissions.
func launchChanges(req *ec2.ModifyImageAttributeRequest) (add, remove []ec2.LaunchPermission, err error) {
	if req.LaunchPermission != nil {
		add, remove = req.LaunchPermission.Add, req.LaunchPermission.Remove
	}
	var list []ec2.LaunchPermission
	for _, id := range req.UserIds {
		list = append(list, ec2.LaunchPermission{UserId: &id})
	}
	for _, g := range req.UserGroups {
		list = append(list, ec2.LaunchPermission{Group: &g})
	}
	if len(list) == 0 {
		return add, remove, nil
	}
	switch deref(req.OperationType) {
	case "add":
		return append(add, list...), remove, nil
	case "remove":
		return add, append(remove, list...), nil
	}
	return nil, nil, awsapi.MissingParameter("OperationType")
}

// permit gives or takes one launch permission.
func permit(img *cloud.Image, p ec2.LaunchPermission, give bool) error {
	switch group, user := deref(p.Group), deref(p.UserId); {
	case group == "all" && user == "":
		img.Public = give
	case group != "":
		return awsapi.Errorf("InvalidAMIAttributeItemValue", "Invalid attribute item value \"%s\" for group item type.", group)
	case !accountForm.MatchString(user):
		return awsapi.Errorf("InvalidAMIAttributeItemValue", "Invalid attribute item value \"%s\" for userId item type.", user)
	default:
		img.Launch = slices.DeleteFunc(img.Launch, func(a cloud.AccountID) bool { return string(a) == user })
		if give {
			img.Launch = append(img.Launch, cloud.AccountID(user))
		}
	}
	return nil
}

func (s *Service) resetImageAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ResetImageAttributeRequest) (*ec2.ResetImageAttributeResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		img, err := ownImage(tx, call.Account, deref(req.ImageId))
		if err != nil {
			return err
		}
		img.Public, img.Launch = false, nil
		store.Put(tx, store.Images, img)
		return nil
	})
	return &ec2.ResetImageAttributeResult{}, err
}
