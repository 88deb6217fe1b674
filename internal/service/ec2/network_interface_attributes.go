package ec2

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerNetworkInterfaceAttributes(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeNetworkInterfaceAttribute, s.describeNetworkInterfaceAttribute, awsapi.Honours("Attribute", "NetworkInterfaceId"))
	awsapi.Handle(r, ec2.ActionModifyNetworkInterfaceAttribute, s.modifyNetworkInterfaceAttribute, awsapi.Honours("NetworkInterfaceId", "Description", "Groups",
		"SourceDestCheck", "Attachment"))
	awsapi.Handle(r, ec2.ActionResetNetworkInterfaceAttribute, s.resetNetworkInterfaceAttribute, awsapi.Honours("NetworkInterfaceId", "SourceDestCheck"))
}

func (s *Service) describeNetworkInterfaceAttribute(_ context.Context, call *awsapi.Call, req *ec2.DescribeNetworkInterfaceAttributeRequest) (*ec2.DescribeNetworkInterfaceAttributeResult, error) {
	view := s.store.View()
	n, err := lookup(view, store.Interfaces, ownerOfInterface, kindInterface, call.Account, deref(req.NetworkInterfaceId))
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeNetworkInterfaceAttributeResult{NetworkInterfaceId: text(n.ID)}
	switch attribute := deref(req.Attribute); attribute {
	case "":
		return nil, awsapi.InvalidCombination("No attributes specified.")
	case "description":
		out.Description = &ec2.AttributeValue{Value: &n.Description}
	case "groupSet":
		out.Groups = newDescriber(view).groupList(n.Groups)
	case "sourceDestCheck":
		out.SourceDestCheck = boolValue(n.SourceDestCheck)
	case "attachment":
		out.Attachment = attachmentShape(n)
	case "associatePublicIpAddress":
		out.AssociatePublicIpAddress = &n.AutoPublicIP
	default:
		return nil, awsapi.InvalidParameterValue("Value (%s) for parameter attribute is invalid.", attribute)
	}
	return out, nil
}

func (s *Service) modifyNetworkInterfaceAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ModifyNetworkInterfaceAttributeRequest) (*ec2.ModifyNetworkInterfaceAttributeResult, error) {
	given := 0
	for _, set := range []bool{req.Description != nil, len(req.Groups) > 0, req.SourceDestCheck != nil, req.Attachment != nil} {
		if set {
			given++
		}
	}
	switch {
	case given == 0:
		return nil, awsapi.InvalidCombination("No attributes specified.")
	case given > 1:
		return nil, awsapi.InvalidCombination("Fields for multiple attribute types specified: change one attribute a call.")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		n, err := ownInterface(tx, call.Account, deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		switch {
		case req.Description != nil:
			if n.Description, err = interfaceDescription(req.Description.Value); err != nil {
				return err
			}
		case len(req.Groups) > 0:
			if n.Groups, err = guardedGroups(tx, call.Account, n.VPC, req.Groups, nil); err != nil {
				return err
			}
		case req.SourceDestCheck != nil:
			if req.SourceDestCheck.Value == nil {
				return awsapi.MissingParameter("SourceDestCheck.Value")
			}
			checkSource(tx, n, *req.SourceDestCheck.Value)
		case req.Attachment != nil:
			if err := modifyAttachment(n, *req.Attachment); err != nil {
				return err
			}
		}
		store.Put(tx, store.Interfaces, n)
		return nil
	})
	return &ec2.ModifyNetworkInterfaceAttributeResult{}, err
}

// checkSource sets an interface's check; EC2 shows that of the first interface as the instance's own.
func checkSource(tx *store.Tx, n *cloud.Interface, check bool) {
	n.SourceDestCheck = check
	if n.Instance == "" || n.DeviceIndex != 0 {
		return
	}
	if i, ok := store.Get(tx, store.Instances, n.Instance); ok {
		i.SourceDestCheck = check
		store.Put(tx, store.Instances, i)
	}
}

func modifyAttachment(n *cloud.Interface, a ec2.NetworkInterfaceAttachmentChanges) error {
	id := deref(a.AttachmentId)
	switch {
	case id == "":
		return awsapi.MissingParameter("Attachment.AttachmentId")
	case !cloud.ValidID[cloud.AttachmentID](id):
		return awsapi.Malformed("InvalidNetworkInterfaceAttachmentId.Malformed", id)
	case n.Instance == "" || string(n.Attachment) != id:
		return awsapi.Errorf("InvalidAttachmentID.NotFound", "The attachment ID '%s' does not exist", id)
	case a.DeleteOnTermination == nil:
		return awsapi.MissingParameter("Attachment.DeleteOnTermination")
	}
	n.DeleteOnTermination = *a.DeleteOnTermination
	return nil
}

func (s *Service) resetNetworkInterfaceAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ResetNetworkInterfaceAttributeRequest) (*ec2.ResetNetworkInterfaceAttributeResult, error) {
	if req.SourceDestCheck == nil {
		return nil, awsapi.InvalidCombination("No attributes specified.")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		n, err := ownInterface(tx, call.Account, deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		checkSource(tx, n, true)
		store.Put(tx, store.Interfaces, n)
		return nil
	})
	return &ec2.ResetNetworkInterfaceAttributeResult{}, err
}
