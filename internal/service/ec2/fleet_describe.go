package ec2

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// fleetOrder is what is shown of the call that made a fleet.
type fleetOrder struct {
	ExcessCapacityTerminationPolicy *string
	LaunchTemplateConfigs           []ec2.FleetLaunchTemplateConfig
	OnDemandOptions                 *ec2.OnDemandOptions
	TargetCapacitySpecification     *ec2.TargetCapacitySpecification
}

func orderOfFleet(f *cloud.Fleet) (*fleetOrder, error) {
	order := new(fleetOrder)
	if err := json.Unmarshal([]byte(f.Order), order); err != nil {
		return nil, fmt.Errorf("read the order of fleet %s: %w", f.ID, err)
	}
	return order, nil
}

// entry is what EC2 shows of one entry of a fleet's order.
func (o *fleetOrder) entry(e cloud.FleetEntry) *ec2.LaunchTemplateAndOverridesResponse {
	config := o.LaunchTemplateConfigs[e.Config]
	out := &ec2.LaunchTemplateAndOverridesResponse{LaunchTemplateSpecification: config.LaunchTemplateSpecification, Overrides: &ec2.FleetLaunchTemplateOverrides{}}
	if e.Override >= 0 {
		out.Overrides = &config.Overrides[e.Override]
	}
	return out
}

const onDemandLifecycle = ec2.InstanceLifecycleOnDemand

func createdFleetShape(f *cloud.Fleet) (*ec2.CreateFleetResult, error) {
	order, err := orderOfFleet(f)
	if err != nil {
		return nil, err
	}
	out := &ec2.CreateFleetResult{FleetId: text(f.ID), Instances: []ec2.CreateFleetInstance{}, Errors: []ec2.CreateFleetError{}}
	for _, g := range f.Groups {
		out.Instances = append(out.Instances, ec2.CreateFleetInstance{InstanceIds: strs(g.Instances), InstanceType: text(g.Type), Lifecycle: new(onDemandLifecycle),
			LaunchTemplateAndOverrides: order.entry(g.FleetEntry)})
	}
	for _, e := range f.Errors {
		out.Errors = append(out.Errors, ec2.CreateFleetError{ErrorCode: &e.Code, ErrorMessage: &e.Message, Lifecycle: new(onDemandLifecycle), LaunchTemplateAndOverrides: order.entry(e.FleetEntry)})
	}
	return out, nil
}

// fleetState is EC2's word for the state of a fleet: one that was deleted has ended when its instances have.
func fleetState(r store.Reader, f *cloud.Fleet) string {
	if f.State != cloud.FleetDeletedTerminating {
		return string(f.State)
	}
	for _, g := range f.Groups {
		for _, id := range g.Instances {
			if i, ok := store.Get(r, store.Instances, id); ok && i.State != cloud.StateTerminated {
				return string(f.State)
			}
		}
	}
	return "deleted"
}

func fleetActivity(f *cloud.Fleet) string {
	switch {
	case f.State != cloud.FleetActive:
		return ec2.FleetActivityStatusPendingTermination
	case len(f.Groups) == 0:
		return ec2.FleetActivityStatusError
	}
	return ec2.FleetActivityStatusFulfilled
}

// describeFleets shows fleets by their ids: without ids EC2 shows those of other types, of which this cloud has none.
func (s *Service) describeFleets(_ context.Context, call *awsapi.Call, req *ec2.DescribeFleetsRequest) (*ec2.DescribeFleetsResult, error) {
	if err := pageBounds(req.MaxResults, 1, 1000, nil, ""); err != nil {
		return nil, err
	}
	type F = *cloud.Fleet
	view := s.store.View()
	dashed := func(state string) string { return strings.ReplaceAll(state, "_", "-") }
	set := awsapi.FilterSet[F]{Tags: func(f F) map[string]string { return f.Tags }, Values: map[string]func(F) []string{
		"activity-status": func(f F) []string { return []string{fleetActivity(f), dashed(fleetActivity(f))} },
		"excess-capacity-termination-policy": one(func(f F) string {
			if order, err := orderOfFleet(f); err == nil && order.ExcessCapacityTerminationPolicy != nil {
				return boolText(*order.ExcessCapacityTerminationPolicy == "termination")
			}
			return ""
		}),
		"fleet-state":                 func(f F) []string { return []string{fleetState(view, f), dashed(fleetState(view, f))} },
		"replace-unhealthy-instances": func(F) []string { return []string{"false"} }, "type": func(F) []string { return []string{ec2.FleetTypeInstant} },
	}}
	pass, err := set.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list, err := lookupAll(view, store.Fleets, ownerOfFleet, kindFleet, call.Account, req.FleetIds)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(f F) bool { return !pass(f) })
	slices.SortFunc(list, func(a, b F) int { return strings.Compare(string(a.ID), string(b.ID)) })
	page, err := awsapi.Paginate(list, func(f F) string { return string(f.ID) }, req.MaxResults, req.NextToken, []any{req.Filters, req.FleetIds})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeFleetsResult{NextToken: page.Next, Fleets: []ec2.FleetData{}}
	for _, f := range page.Items {
		shape, err := fleetShape(view, f)
		if err != nil {
			return nil, err
		}
		out.Fleets = append(out.Fleets, *shape)
	}
	return out, nil
}

func fleetShape(r store.Reader, f *cloud.Fleet) (*ec2.FleetData, error) {
	order, err := orderOfFleet(f)
	if err != nil {
		return nil, err
	}
	options := deref(order.OnDemandOptions)
	if deref(options.AllocationStrategy) != ec2.FleetOnDemandAllocationStrategyPrioritized {
		options.AllocationStrategy = new("lowestPrice") // what EC2 answers, whichever way it was written
	}
	target := *order.TargetCapacitySpecification
	target.OnDemandTargetCapacity, target.SpotTargetCapacity = target.TotalTargetCapacity, new(int64(0))
	if target.DefaultTargetCapacityType == nil {
		target.DefaultTargetCapacityType = new(ec2.DefaultTargetCapacityTypeOnDemand)
	}
	out := &ec2.FleetData{FleetId: text(f.ID), FleetState: new(fleetState(r, f)), ActivityStatus: new(fleetActivity(f)), Type: new(ec2.FleetTypeInstant), CreateTime: &f.Created,
		ClientToken: optional(f.ClientToken), FulfilledCapacity: &f.Fulfilled, FulfilledOnDemandCapacity: &f.Fulfilled, LaunchTemplateConfigs: order.LaunchTemplateConfigs,
		OnDemandOptions: &options, TargetCapacitySpecification: &target, TerminateInstancesWithExpiration: new(false), ReplaceUnhealthyInstances: new(false),
		ExcessCapacityTerminationPolicy: order.ExcessCapacityTerminationPolicy, Tags: tagList(f.Tags),
		Instances: []ec2.DescribeFleetsInstances{}, Errors: []ec2.DescribeFleetError{}}
	for _, g := range f.Groups {
		out.Instances = append(out.Instances, ec2.DescribeFleetsInstances{InstanceIds: strs(g.Instances), InstanceType: text(g.Type), Lifecycle: new(onDemandLifecycle),
			LaunchTemplateAndOverrides: order.entry(g.FleetEntry)})
	}
	for _, e := range f.Errors {
		out.Errors = append(out.Errors, ec2.DescribeFleetError{ErrorCode: &e.Code, ErrorMessage: &e.Message, Lifecycle: new(onDemandLifecycle), LaunchTemplateAndOverrides: order.entry(e.FleetEntry)})
	}
	return out, nil
}

// describeFleetInstances finds the fleet and refuses: EC2 doesn't list instant fleets so.
func (s *Service) describeFleetInstances(_ context.Context, call *awsapi.Call, req *ec2.DescribeFleetInstancesRequest) (*ec2.DescribeFleetInstancesResult, error) {
	if _, err := lookup(s.store.View(), store.Fleets, ownerOfFleet, kindFleet, call.Account, deref(req.FleetId)); err != nil {
		return nil, err
	}
	return nil, awsapi.Errorf("Unsupported", "DescribeFleetInstances does not support fleets of type instant. Use DescribeFleets with the ID of the fleet.")
}

// maxFleetDeletions is EC2's limit for instant fleets.
const maxFleetDeletions = 25

func (s *Service) deleteFleets(ctx context.Context, call *awsapi.Call, req *ec2.DeleteFleetsRequest) (*ec2.DeleteFleetsResult, error) {
	switch {
	case len(req.FleetIds) > maxFleetDeletions:
		return nil, awsapi.InvalidParameterValue("%d fleets of type instant can be deleted in one call", maxFleetDeletions)
	case !deref(req.TerminateInstances):
		return nil, awsapi.InvalidCombination("A fleet of type instant is deleted with its instances: TerminateInstances must be true")
	}
	out := &ec2.DeleteFleetsResult{}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		out.SuccessfulFleetDeletions, out.UnsuccessfulFleetDeletions = []ec2.DeleteFleetSuccessItem{}, []ec2.DeleteFleetErrorItem{}
		for _, id := range req.FleetIds {
			before := ""
			code, why := ec2.DeleteFleetErrorCodeFleetIdMalformed, "The fleet ID '"+id+"' is malformed"
			if cloud.ValidID[cloud.FleetID](id) {
				code, why = ec2.DeleteFleetErrorCodeFleetIdDoesNotExist, "The fleet ID '"+id+"' does not exist"
				if f, ok := store.Get(tx, store.Fleets, cloud.FleetID(id)); ok && f.Account == call.Account {
					before = fleetState(tx, f)
					if why = endFleet(tx, call, f); why == "" {
						out.SuccessfulFleetDeletions = append(out.SuccessfulFleetDeletions, ec2.DeleteFleetSuccessItem{FleetId: &id, PreviousFleetState: &before, CurrentFleetState: text(f.State)})
						continue
					}
					code = ec2.DeleteFleetErrorCodeFleetNotInDeletableState
				}
			}
			out.UnsuccessfulFleetDeletions = append(out.UnsuccessfulFleetDeletions, ec2.DeleteFleetErrorItem{FleetId: &id, Error: &ec2.DeleteFleetError{Code: &code, Message: &why}})
		}
		return nil
	})
	return out, err
}

// endFleet terminates a fleet's instances and marks it deleted, or says why it doesn't.
func endFleet(tx *store.Tx, call *awsapi.Call, f *cloud.Fleet) string {
	if f.State != cloud.FleetActive {
		return "The fleet " + string(f.ID) + " is deleted already"
	}
	var list []*cloud.Instance
	for _, g := range f.Groups {
		for _, id := range g.Instances {
			i, ok := store.Get(tx, store.Instances, id)
			if !ok || i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
				continue
			}
			if i.DisableAPITermination {
				return "The instance '" + string(id) + "' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again."
			}
			list = append(list, i)
		}
	}
	for _, i := range list {
		i.Desired = cloud.DesiredTerminated
		if err := i.Transition(cloud.StateShuttingDown, cloud.ReasonUserTerminate, call.Now); err != nil {
			return err.Error()
		}
		store.Put(tx, store.Instances, i)
	}
	f.State, f.Deleted = cloud.FleetDeletedTerminating, call.Now
	store.Put(tx, store.Fleets, f)
	return ""
}
