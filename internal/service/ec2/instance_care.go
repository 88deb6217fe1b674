package ec2

import (
	"context"
	"regexp"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// registerInstanceCare adds what is done about instances that run: watching them, and telling of trouble.
func (s *Service) registerInstanceCare(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionMonitorInstances, s.monitorInstances, awsapi.Honours("InstanceIds"))
	awsapi.Handle(r, ec2.ActionUnmonitorInstances, s.unmonitorInstances, awsapi.Honours("InstanceIds"))
	awsapi.Handle(r, ec2.ActionReportInstanceStatus, s.reportInstanceStatus, awsapi.Honours("Description", "EndTime", "Instances", "ReasonCodes", "StartTime", "Status"))
	awsapi.Handle(r, ec2.ActionModifyInstanceMaintenanceOptions, s.modifyInstanceMaintenanceOptions, awsapi.Honours("AutoRecovery", "InstanceId"))
	awsapi.Handle(r, ec2.ActionGetPasswordData, s.getPasswordData, awsapi.Honours("InstanceId"))
}

// setMonitoring switches detailed monitoring; EC2 answers with the state on the way there.
func (s *Service) setMonitoring(ctx context.Context, call *awsapi.Call, ids []string, on bool, state string) ([]ec2.InstanceMonitoring, error) {
	if len(ids) == 0 {
		return nil, awsapi.MissingParameter("InstanceId")
	}
	var out []ec2.InstanceMonitoring
	err := s.update(ctx, call, func(tx *store.Tx) error {
		out = []ec2.InstanceMonitoring{}
		list, err := lookupAll(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, ids)
		if err != nil {
			return err
		}
		for _, i := range list {
			if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
				return wrongState(i, "monitored")
			}
			i.Monitoring = on
			store.Put(tx, store.Instances, i)
			out = append(out, ec2.InstanceMonitoring{InstanceId: text(i.ID), Monitoring: &ec2.Monitoring{State: &state}})
		}
		return nil
	})
	return out, err
}

func (s *Service) monitorInstances(ctx context.Context, call *awsapi.Call, req *ec2.MonitorInstancesRequest) (*ec2.MonitorInstancesResult, error) {
	list, err := s.setMonitoring(ctx, call, req.InstanceIds, true, ec2.MonitoringStatePending)
	return &ec2.MonitorInstancesResult{InstanceMonitorings: list}, err
}

func (s *Service) unmonitorInstances(ctx context.Context, call *awsapi.Call, req *ec2.UnmonitorInstancesRequest) (*ec2.UnmonitorInstancesResult, error) {
	list, err := s.setMonitoring(ctx, call, req.InstanceIds, false, ec2.MonitoringStateDisabling)
	return &ec2.UnmonitorInstancesResult{InstanceMonitorings: list}, err
}

// reportInstanceStatus hands a user's report to the operator, in the log. EC2 too changes nothing by it.
func (s *Service) reportInstanceStatus(_ context.Context, call *awsapi.Call, req *ec2.ReportInstanceStatusRequest) (*ec2.ReportInstanceStatusResult, error) {
	if len(req.Instances) == 0 {
		return nil, awsapi.MissingParameter("InstanceId")
	}
	if req.StartTime != nil && req.EndTime != nil && req.EndTime.Before(*req.StartTime) {
		return nil, awsapi.InvalidParameterValue("The end time is before the start time")
	}
	list, err := lookupAll(s.store.View(), store.Instances, ownerOfInstance, kindInstance, call.Account, req.Instances)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if i.State != cloud.StateRunning {
			return nil, wrongState(i, "reported on")
		}
	}
	if !call.DryRun {
		for _, i := range list {
			s.cfg.Logger.Warn("a user reports an instance's status", "instance", i.ID, "account", i.Account, "node", i.Node, "status", deref(req.Status), "reasons", req.ReasonCodes,
				"from", deref(req.StartTime), "to", deref(req.EndTime), "description", deref(req.Description))
		}
	}
	return &ec2.ReportInstanceStatusResult{}, nil
}

// modifyInstanceMaintenanceOptions notes whether an instance may be brought to another server when its own fails. It is
// brought to none today, so that both choices are kept to.
func (s *Service) modifyInstanceMaintenanceOptions(ctx context.Context, call *awsapi.Call, req *ec2.ModifyInstanceMaintenanceOptionsRequest) (*ec2.ModifyInstanceMaintenanceOptionsResult, error) {
	if deref(req.AutoRecovery) == "" {
		return nil, awsapi.InvalidCombination("No attributes specified.")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
		if err != nil {
			return err
		}
		if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
			return wrongState(i, "modified")
		}
		i.NoAutoRecovery = *req.AutoRecovery == ec2.InstanceAutoRecoveryStateDisabled
		store.Put(tx, store.Instances, i)
		return nil
	})
	return &ec2.ModifyInstanceMaintenanceOptionsResult{InstanceId: req.InstanceId, AutoRecovery: req.AutoRecovery}, err
}

// getPasswordData answers what EC2 answers for instances that aren't Windows: no password, ever.
func (s *Service) getPasswordData(_ context.Context, call *awsapi.Call, req *ec2.GetPasswordDataRequest) (*ec2.GetPasswordDataResult, error) {
	i, err := lookup(s.store.View(), store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
	if err != nil {
		return nil, err
	}
	return &ec2.GetPasswordDataResult{InstanceId: text(i.ID), PasswordData: new(""), Timestamp: &i.LaunchTime}, nil
}

// metadataKey is what EC2 allows in the keys of tags that an instance sees in its metadata, where they are paths.
var metadataKey = regexp.MustCompile(`^[0-9a-zA-Z\-_+=,.@:]{1,255}$`)

// visibleTags refuses tags that an instance's metadata couldn't show.
func visibleTags(tags cloud.Tags) error {
	for key := range tags {
		if !metadataKey.MatchString(key) || key == "." || key == ".." || key == "_index" {
			return awsapi.InvalidParameterValue("'%s' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{1,255}), and must not be a reserved name ('.', '..', '_index')", key)
		}
	}
	return nil
}
