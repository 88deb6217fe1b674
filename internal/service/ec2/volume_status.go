package ec2

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerVolumeStatus(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeVolumeStatus, s.describeVolumeStatus, awsapi.Honours("Filters", "MaxResults", "NextToken", "VolumeIds"))
	awsapi.Handle(r, ec2.ActionDescribeVolumeAttribute, s.describeVolumeAttribute, awsapi.Honours("Attribute", "VolumeId"))
	awsapi.Handle(r, ec2.ActionModifyVolumeAttribute, s.modifyVolumeAttribute, awsapi.Honours("AutoEnableIO", "VolumeId"))
}

// volumeHealth is EC2's word for a volume's health, and what is wrong.
func volumeHealth(v *cloud.Volume) (status, event, description string) {
	switch {
	case v.State == cloud.VolumeError:
		return "impaired", "io-enabled", v.Failure
	case v.Busy != "" && v.Instance != "":
		return "ok", "", "The volume could not be detached yet: " + v.Busy
	case v.Busy != "":
		return "ok", "", "The volume could not be attached: " + v.Busy
	case v.State == cloud.VolumeCreating:
		return "insufficient-data", "", ""
	}
	return "ok", "", ""
}

func (s *Service) describeVolumeStatus(_ context.Context, call *awsapi.Call, req *ec2.DescribeVolumeStatusRequest) (*ec2.DescribeVolumeStatusResult, error) {
	type V = *cloud.Volume
	none := func(V) []string { return nil }
	status := one(func(v V) string { s, _, _ := volumeHealth(v); return s })
	described := one(func(v V) string { _, _, d := volumeHealth(v); return d })
	l := listing[cloud.VolumeID, cloud.Volume]{table: store.Volumes, account: store.VolumesByAccount, owner: ownerOfVolume, kind: kindVolume, id: func(v V) cloud.VolumeID { return v.ID },
		filters: awsapi.FilterSet[V]{Values: map[string]func(V) []string{
			"action.code": none, "action.description": none, "action.event-id": none, "event.event-id": none, "event.event-type": none, "event.not-after": none, "event.not-before": none,
			"event.description":            described,
			"availability-zone":            one(func(v V) string { return v.Zone }),
			"volume-status.details-name":   func(V) []string { return []string{"io-enabled", "io-performance"} },
			"volume-status.details-status": func(v V) []string { return []string{"passed", "not-applicable"} },
			"volume-status.status":         status,
		}}}
	page, err := l.page(s.store.View(), call.Account, req.VolumeIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVolumeStatusResult{NextToken: page.Next, VolumeStatuses: []ec2.VolumeStatusItem{}}
	for _, v := range page.Items {
		health, kind, description := volumeHealth(v)
		enabled := "passed"
		if v.State == cloud.VolumeError {
			enabled = "failed"
		}
		item := ec2.VolumeStatusItem{VolumeId: text(v.ID), AvailabilityZone: &v.Zone, Actions: []ec2.VolumeStatusAction{}, Events: []ec2.VolumeStatusEvent{},
			VolumeStatus: &ec2.VolumeStatusInfo{Status: &health, Details: []ec2.VolumeStatusDetails{{Name: new("io-enabled"), Status: &enabled}, {Name: new("io-performance"), Status: new("not-applicable")}}}}
		if description != "" {
			item.Events = append(item.Events, ec2.VolumeStatusEvent{Description: &description, EventType: optional(kind), InstanceId: text(v.Instance)})
		}
		out.VolumeStatuses = append(out.VolumeStatuses, item)
	}
	return out, nil
}

func (s *Service) describeVolumeAttribute(_ context.Context, call *awsapi.Call, req *ec2.DescribeVolumeAttributeRequest) (*ec2.DescribeVolumeAttributeResult, error) {
	v, err := lookup(s.store.View(), store.Volumes, ownerOfVolume, kindVolume, call.Account, deref(req.VolumeId))
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVolumeAttributeResult{VolumeId: text(v.ID)}
	switch attribute := deref(req.Attribute); attribute {
	case "autoEnableIO":
		out.AutoEnableIO = boolValue(v.AutoIO)
	case "productCodes":
		out.ProductCodes = shared.noProductCodes
	case "":
		return nil, awsapi.MissingParameter("Attribute")
	default:
		return nil, awsapi.InvalidParameterValue("Invalid value '%s' for Attribute: it is autoEnableIO or productCodes.", attribute)
	}
	return out, nil
}

func (s *Service) modifyVolumeAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ModifyVolumeAttributeRequest) (*ec2.ModifyVolumeAttributeResult, error) {
	if req.AutoEnableIO == nil || req.AutoEnableIO.Value == nil {
		return nil, awsapi.MissingParameter("AutoEnableIO")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		v, err := lookup(tx, store.Volumes, ownerOfVolume, kindVolume, call.Account, deref(req.VolumeId))
		if err != nil {
			return err
		}
		v.AutoIO = *req.AutoEnableIO.Value
		store.Put(tx, store.Volumes, v)
		return nil
	})
	return &ec2.ModifyVolumeAttributeResult{}, err
}
