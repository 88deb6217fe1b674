package ec2

import (
	"context"
	"encoding/base64"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerInstanceAttributes(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeInstanceAttribute, s.describeInstanceAttribute, awsapi.Honours("Attribute", "InstanceId"))
	awsapi.Handle(r, ec2.ActionModifyInstanceAttribute, s.modifyInstanceAttribute, awsapi.Honours("InstanceId", "Attribute", "Value", "InstanceType", "Kernel", "Ramdisk", "UserData",
		"Groups", "DisableApiTermination", "DisableApiStop", "InstanceInitiatedShutdownBehavior", "SourceDestCheck", "EbsOptimized", "EnaSupport",
		"BlockDeviceMappings.DeviceName", "BlockDeviceMappings.Ebs.DeleteOnTermination", "BlockDeviceMappings.Ebs.VolumeId"))
	awsapi.Handle(r, ec2.ActionResetInstanceAttribute, s.resetInstanceAttribute, awsapi.Honours("Attribute", "InstanceId"))
	awsapi.Handle(r, ec2.ActionModifyInstanceMetadataOptions, s.modifyInstanceMetadataOptions, awsapi.Honours("InstanceId", "HttpTokens", "HttpEndpoint",
		"HttpPutResponseHopLimit", "InstanceMetadataTags", "HttpProtocolIpv6"))
}

func boolValue(b bool) *ec2.AttributeBooleanValue { return &ec2.AttributeBooleanValue{Value: &b} }

func (s *Service) describeInstanceAttribute(_ context.Context, call *awsapi.Call, req *ec2.DescribeInstanceAttributeRequest) (*ec2.InstanceAttribute, error) {
	view := s.store.View()
	i, err := lookup(view, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
	if err != nil {
		return nil, err
	}
	out := &ec2.InstanceAttribute{InstanceId: text(i.ID)}
	value := func(v string) *ec2.AttributeValue {
		if v == "" {
			return &ec2.AttributeValue{}
		}
		return &ec2.AttributeValue{Value: &v}
	}
	switch attribute := deref(req.Attribute); attribute {
	case "instanceType":
		out.InstanceType = value(string(i.Type))
	case "kernel":
		out.KernelId = value(string(i.Hardware.Kernel))
	case "ramdisk":
		out.RamdiskId = value(string(i.Hardware.Ramdisk))
	case "userData":
		out.UserData = value(base64.StdEncoding.EncodeToString(i.UserData))
	case "disableApiTermination":
		out.DisableApiTermination = boolValue(i.DisableAPITermination)
	case "disableApiStop":
		out.DisableApiStop = boolValue(i.DisableAPIStop)
	case "instanceInitiatedShutdownBehavior":
		out.InstanceInitiatedShutdownBehavior = value(string(i.ShutdownBehavior))
	case "rootDeviceName":
		out.RootDeviceName = value(rootDeviceName)
	case "blockDeviceMapping":
		out.BlockDeviceMappings = blockDevices(view, i)
	case "productCodes":
		out.ProductCodes = shared.noProductCodes
	case "sourceDestCheck":
		out.SourceDestCheck = boolValue(i.SourceDestCheck)
	case "groupSet":
		d := newDescriber(view)
		out.Groups = []ec2.GroupIdentifier{}
		if len(i.Interfaces) > 0 {
			if n, ok := store.Get(view, store.Interfaces, i.Interfaces[0]); ok {
				out.Groups = d.groupList(n.Groups)
			}
		}
	case "ebsOptimized":
		out.EbsOptimized = boolValue(i.EBSOptimized)
	case "enaSupport":
		out.EnaSupport = boolValue(true)
	case "sriovNetSupport":
		out.SriovNetSupport = value("") // which the instance types without ENA had
	case "enclaveOptions":
		out.EnclaveOptions = &ec2.EnclaveOptions{Enabled: new(false)}
	default:
		return nil, awsapi.Unsupported("The attribute '%s' is not supported by this cloud.", attribute)
	}
	return out, nil
}

// changes tells whether a request gives a new value to an attribute.
func changes(req *ec2.ModifyInstanceAttributeRequest, attribute string) bool {
	return map[string]bool{"instanceType": req.InstanceType != nil, "kernel": req.Kernel != nil, "ramdisk": req.Ramdisk != nil, "userData": req.UserData != nil, "groupSet": len(req.Groups) > 0,
		"disableApiTermination": req.DisableApiTermination != nil, "disableApiStop": req.DisableApiStop != nil,
		"instanceInitiatedShutdownBehavior": req.InstanceInitiatedShutdownBehavior != nil, "sourceDestCheck": req.SourceDestCheck != nil,
		"ebsOptimized": req.EbsOptimized != nil, "blockDeviceMapping": len(req.BlockDeviceMappings) > 0}[attribute]
}

// legacyAttribute moves the older form of a change, Attribute and Value, into the member that it means.
func legacyAttribute(req *ec2.ModifyInstanceAttributeRequest) error {
	attribute, v := deref(req.Attribute), req.Value
	if attribute == "" {
		if v != nil {
			return awsapi.MissingParameter("Attribute")
		}
		return nil
	}
	if v == nil {
		return nil // the attribute is only named beside its own member
	}
	flag := func() (*ec2.AttributeBooleanValue, error) {
		switch *v {
		case "true", "false":
			return boolValue(*v == "true"), nil
		}
		return nil, awsapi.InvalidParameterValue("Invalid value '%s' for %s. Expected 'true' or 'false'.", *v, attribute)
	}
	var err error
	switch attribute {
	case "instanceType":
		req.InstanceType = &ec2.AttributeValue{Value: v}
	case "kernel":
		req.Kernel = &ec2.AttributeValue{Value: v}
	case "ramdisk":
		req.Ramdisk = &ec2.AttributeValue{Value: v}
	case "userData":
		b, err := userDataOf(*v)
		if err != nil {
			return err
		}
		req.UserData = &ec2.BlobAttributeValue{Value: b}
	case "disableApiTermination":
		req.DisableApiTermination, err = flag()
	case "disableApiStop":
		req.DisableApiStop, err = flag()
	case "instanceInitiatedShutdownBehavior":
		req.InstanceInitiatedShutdownBehavior = &ec2.AttributeValue{Value: v}
	case "sourceDestCheck":
		req.SourceDestCheck, err = flag()
	case "ebsOptimized":
		req.EbsOptimized, err = flag()
	case "enaSupport":
		req.EnaSupport, err = flag()
	default:
		return awsapi.Unsupported("The attribute '%s' cannot be modified in this cloud.", attribute)
	}
	return err
}

func (s *Service) modifyInstanceAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ModifyInstanceAttributeRequest) (*ec2.ModifyInstanceAttributeResult, error) {
	if err := legacyAttribute(req); err != nil {
		return nil, err
	}
	given := 0
	for _, set := range []bool{req.InstanceType != nil, req.Kernel != nil, req.Ramdisk != nil, req.UserData != nil, len(req.Groups) > 0, req.DisableApiTermination != nil, req.DisableApiStop != nil,
		req.InstanceInitiatedShutdownBehavior != nil, req.SourceDestCheck != nil, req.EbsOptimized != nil, req.EnaSupport != nil, len(req.BlockDeviceMappings) > 0} {
		if set {
			given++
		}
	}
	switch {
	case given == 0:
		return nil, awsapi.InvalidCombination("No attributes specified.")
	case req.Attribute != nil && !changes(req, *req.Attribute):
		return nil, awsapi.InvalidCombination("The attribute '%s' is named and another one is given.", *req.Attribute)
	case given > 1:
		return nil, awsapi.InvalidCombination("Fields for multiple attribute types specified: change one attribute a call.")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
		if err != nil {
			return err
		}
		if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
			return wrongState(i, "modified")
		}
		if err := modifyInstance(tx, call, req, i); err != nil {
			return err
		}
		store.Put(tx, store.Instances, i)
		return nil
	})
	return &ec2.ModifyInstanceAttributeResult{}, err
}

// modifyInstance makes the one change that a call asks for.
func modifyInstance(tx *store.Tx, call *awsapi.Call, req *ec2.ModifyInstanceAttributeRequest, i *cloud.Instance) error {
	stopped := func(attribute string) error {
		if i.Asleep() {
			return asleep(i)
		}
		if i.State == cloud.StateStopped {
			return nil
		}
		return awsapi.Errorf("IncorrectInstanceState", "The instance '%s' must be in the 'stopped' state to modify its '%s' attribute.", i.ID, attribute)
	}
	switch {
	case req.InstanceType != nil:
		if i.State != cloud.StateRunning || i.Tags[cloud.TagLiveResize] != "true" {
			if err := stopped("instanceType"); err != nil {
				return err
			}
		}
		size, ok := cloud.LookupInstanceType(cloud.InstanceType(deref(req.InstanceType.Value)))
		if !ok {
			return awsapi.InvalidParameterValue("Invalid value '%s' for InstanceType.", deref(req.InstanceType.Value))
		}
		if size.Architecture != i.Architecture {
			return awsapi.InvalidParameterValue("The architecture '%s' of the instance type does not match the instance's, '%s'.", size.Architecture, i.Architecture)
		}
		if err := carries(tx, size, i); err != nil {
			return err
		}
		if g, ok := store.Get(tx, store.PlacementGroups, i.PlacementGroup); ok {
			if err := clusters(g, size); err != nil {
				return err
			}
		}
		want := i.Sizing()
		want.Type = size.Name
		if err := resizeInstance(tx, i, want); err != nil {
			return err
		}
		if size.Burstable() && i.Credits == "" {
			i.Credits = settingsOf(tx, i.Account).CreditsFor(size.Name.Family())
		}
	case req.Kernel != nil:
		if err := stopped("kernel"); err != nil {
			return err
		}
		return startInstanceWith(tx, i, deref(req.Kernel.Value), "")
	case req.Ramdisk != nil:
		if err := stopped("ramdisk"); err != nil {
			return err
		}
		return startInstanceWith(tx, i, "", deref(req.Ramdisk.Value))
	case req.UserData != nil:
		if err := stopped("userData"); err != nil {
			return err
		}
		if len(req.UserData.Value) > maxUserData {
			return awsapi.InvalidParameterValue("User data is limited to %d bytes", maxUserData)
		}
		i.UserData = req.UserData.Value
	case len(req.Groups) > 0:
		n, err := soleInterface(tx, i)
		if err != nil {
			return err
		}
		if n.Groups, err = guardedGroups(tx, call.Account, i.VPC, req.Groups, nil); err != nil {
			return err
		}
		store.Put(tx, store.Interfaces, n)
	case len(req.BlockDeviceMappings) > 0:
		return modifyBlockDevices(tx, i, req.BlockDeviceMappings)
	case req.DisableApiTermination != nil:
		i.DisableAPITermination = deref(req.DisableApiTermination.Value)
	case req.DisableApiStop != nil:
		i.DisableAPIStop = deref(req.DisableApiStop.Value)
	case req.InstanceInitiatedShutdownBehavior != nil:
		switch b := cloud.ShutdownBehavior(deref(req.InstanceInitiatedShutdownBehavior.Value)); b {
		case cloud.ShutdownStop, cloud.ShutdownTerminate:
			i.ShutdownBehavior = b
		default:
			return awsapi.InvalidParameterValue("Invalid value '%s' for InstanceInitiatedShutdownBehavior.", b)
		}
	case req.SourceDestCheck != nil:
		n, err := soleInterface(tx, i)
		if err != nil {
			return err
		}
		i.SourceDestCheck = deref(req.SourceDestCheck.Value)
		n.SourceDestCheck = i.SourceDestCheck
		store.Put(tx, store.Interfaces, n)
	case req.EbsOptimized != nil:
		if err := stopped("ebsOptimized"); err != nil {
			return err
		}
		i.EBSOptimized = deref(req.EbsOptimized.Value)
	case req.EnaSupport != nil:
		if err := stopped("enaSupport"); err != nil {
			return err
		}
		if !deref(req.EnaSupport.Value) {
			return awsapi.Unsupported("The value false of EnaSupport is not supported by this cloud.")
		}
	}
	return nil
}

func (s *Service) resetInstanceAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ResetInstanceAttributeRequest) (*ec2.ResetInstanceAttributeResult, error) {
	attribute := deref(req.Attribute)
	if attribute != "sourceDestCheck" && attribute != "kernel" && attribute != "ramdisk" {
		return nil, awsapi.InvalidParameterValue("The attribute '%s' cannot be reset: kernel, ramdisk and sourceDestCheck can.", attribute)
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
		if err != nil {
			return err
		}
		if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
			return wrongState(i, "modified")
		}
		if attribute != "sourceDestCheck" {
			if i.Asleep() {
				return asleep(i)
			}
			if i.State != cloud.StateStopped {
				return awsapi.Errorf("IncorrectInstanceState", "The instance '%s' must be in the 'stopped' state to reset its '%s' attribute.", i.ID, attribute)
			}
			if err := resetKernel(tx, i); err != nil {
				return err
			}
			store.Put(tx, store.Instances, i)
			return nil
		}
		if err := modifyInstance(tx, call, &ec2.ModifyInstanceAttributeRequest{SourceDestCheck: boolValue(true)}, i); err != nil {
			return err
		}
		store.Put(tx, store.Instances, i)
		return nil
	})
	return &ec2.ResetInstanceAttributeResult{}, err
}

func (s *Service) modifyInstanceMetadataOptions(ctx context.Context, call *awsapi.Call, req *ec2.ModifyInstanceMetadataOptionsRequest) (*ec2.ModifyInstanceMetadataOptionsResult, error) {
	var options cloud.MetadataOptions
	err := s.update(ctx, call, func(tx *store.Tx) error {
		i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
		if err != nil {
			return err
		}
		if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
			return wrongState(i, "modified")
		}
		err = applyMetadataOptions(&i.Metadata, req.HttpTokens, req.HttpEndpoint, req.InstanceMetadataTags, req.HttpProtocolIpv6, req.HttpPutResponseHopLimit)
		if err != nil {
			return err
		}
		if i.Metadata.InstanceTags {
			if err := visibleTags(i.Tags); err != nil {
				return err
			}
		}
		options = i.Metadata
		store.Put(tx, store.Instances, i)
		return nil
	})
	return &ec2.ModifyInstanceMetadataOptionsResult{InstanceId: req.InstanceId, InstanceMetadataOptions: metadataShape(options, "pending")}, err
}
