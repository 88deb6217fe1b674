package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"math"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/capacity"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerFleets(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateFleet, s.createFleet, awsapi.Honours(append(requirementHonours("LaunchTemplateConfigs.Overrides.InstanceRequirements."),
		"ClientToken", "ExcessCapacityTerminationPolicy", "LaunchTemplateConfigs.LaunchTemplateSpecification", "LaunchTemplateConfigs.Overrides.AvailabilityZone",
		"LaunchTemplateConfigs.Overrides.ImageId", "LaunchTemplateConfigs.Overrides.InstanceType", "LaunchTemplateConfigs.Overrides.Placement.GroupName",
		"LaunchTemplateConfigs.Overrides.Priority", "LaunchTemplateConfigs.Overrides.SubnetId", "LaunchTemplateConfigs.Overrides.WeightedCapacity",
		"OnDemandOptions.AllocationStrategy", "OnDemandOptions.MinTargetCapacity", "OnDemandOptions.SingleAvailabilityZone", "OnDemandOptions.SingleInstanceType",
		"ReplaceUnhealthyInstances", "TagSpecifications", "TargetCapacitySpecification", "TerminateInstancesWithExpiration", "Type")...))
	awsapi.Handle(r, ec2.ActionDescribeFleets, s.describeFleets, awsapi.Honours("FleetIds", "Filters", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionDescribeFleetInstances, s.describeFleetInstances, awsapi.Honours("FleetId", "Filters", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionDeleteFleets, s.deleteFleets, awsapi.Honours("FleetIds", "TerminateInstances"))
}

// checkFleet refuses what an instant fleet of on-demand instances isn't, and returns its target in units.
func checkFleet(req *ec2.CreateFleetRequest) (float64, error) {
	kind := deref(req.Type)
	if kind == "" {
		kind = ec2.FleetTypeMaintain // EC2's default
	}
	spec, options := *req.TargetCapacitySpecification, deref(req.OnDemandOptions)
	total, onDemand, spot := deref(spec.TotalTargetCapacity), deref(spec.OnDemandTargetCapacity), deref(spec.SpotTargetCapacity)
	switch {
	case kind != ec2.FleetTypeInstant:
		return 0, awsapi.Unsupported("The fleet type '%s' is not supported by this cloud, which has fleets of type instant.", kind)
	case deref(req.ReplaceUnhealthyInstances):
		return 0, awsapi.InvalidCombination("ReplaceUnhealthyInstances is supported only for fleets of type maintain")
	case deref(req.TerminateInstancesWithExpiration):
		return 0, awsapi.InvalidCombination("TerminateInstancesWithExpiration is not supported for fleets of type instant")
	case total < 1 || total > maxLaunch:
		return 0, awsapi.InvalidParameterValue("Value ( %d ) for parameter totalTargetCapacity is invalid. Expecting a value from 1 to %d.", total, maxLaunch)
	case onDemand < 0 || spot < 0 || onDemand+spot > total:
		return 0, awsapi.InvalidParameterValue("The on-demand (%d) and spot (%d) target capacities must not be more than the total one (%d).", onDemand, spot, total)
	case spot > 0 || onDemand < total && deref(spec.DefaultTargetCapacityType) == ec2.DefaultTargetCapacityTypeSpot:
		return 0, awsapi.Unsupported("Spot capacity is not supported by this cloud: set the DefaultTargetCapacityType on-demand.")
	case options.MinTargetCapacity != nil && (*options.MinTargetCapacity < 0 || *options.MinTargetCapacity > total):
		return 0, awsapi.InvalidParameterValue("Value ( %d ) for parameter minTargetCapacity is invalid. It must not be more than the total target capacity.", *options.MinTargetCapacity)
	case options.MinTargetCapacity != nil && !deref(options.SingleInstanceType) && !deref(options.SingleAvailabilityZone):
		return 0, awsapi.InvalidCombination("MinTargetCapacity needs SingleInstanceType or SingleAvailabilityZone")
	}
	return float64(total), nil
}

func (s *Service) createFleet(ctx context.Context, call *awsapi.Call, req *ec2.CreateFleetRequest) (*ec2.CreateFleetResult, error) {
	target, err := checkFleet(req)
	if err != nil {
		return nil, err
	}
	tags, err := tagsFor(req.TagSpecifications, "fleet", "instance")
	if err != nil {
		return nil, err
	}
	kept := *req
	kept.ClientToken, kept.DryRun, kept.TagSpecifications = nil, nil, nil
	doc, err := documentOf(kept)
	if err != nil {
		return nil, err
	}
	order, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	hash, id := awsapi.RequestHash(req), newID[cloud.FleetID](s)
	var fleet *cloud.Fleet
	err = s.update(ctx, call, func(tx *store.Tx) error {
		done, err := once(tx, call, "CreateFleet", deref(req.ClientToken), hash, string(id))
		if err != nil {
			return err
		}
		if done != "" {
			fleet, err = lookup(tx, store.Fleets, ownerOfFleet, kindFleet, call.Account, done)
			return err
		}
		fleet = &cloud.Fleet{ID: id, Account: call.Account, State: cloud.FleetActive, ClientToken: deref(req.ClientToken), Order: string(order), Tags: tags["fleet"], Created: call.Now}
		pools, err := poolsOf(tx.View(), call, req)
		if err != nil {
			return err
		}
		if err := s.fillFleet(tx, call, req, fleet, pools, target); err != nil {
			return err
		}
		store.Put(tx, store.Fleets, fleet)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return createdFleetShape(fleet)
}

// errShort takes back the instances of a fleet that came out smaller than it must be.
var errShort = errors.New("the fleet is smaller than its minimum")

// fillFleet launches from the pools. A fleet that must be of one type or in one zone takes the first choice that
// fills it, and else the one that comes nearest.
func (s *Service) fillFleet(tx *store.Tx, call *awsapi.Call, req *ec2.CreateFleetRequest, f *cloud.Fleet, pools []pool, target float64) error {
	choices := choicesOf(pools, deref(req.OnDemandOptions))
	best, most := choices[0], -1.0
	if len(choices) > 1 {
		for _, choice := range choices {
			probe := *f
			// A probe always ends in an error, which takes its writes back.
			err := tx.Try(func() error {
				if err := s.launchPools(tx, call, &probe, choice, target); err != nil {
					return err
				}
				return errShort
			})
			if !errors.Is(err, errShort) {
				return err
			}
			if probe.Fulfilled > most {
				best, most = choice, probe.Fulfilled
			}
			if most >= target {
				break
			}
		}
	}
	filled := *f
	err := tx.Try(func() error {
		if err := s.launchPools(tx, call, &filled, best, target); err != nil {
			return err
		}
		if filled.Fulfilled < float64(deref(deref(req.OnDemandOptions).MinTargetCapacity)) {
			return errShort
		}
		return nil
	})
	if errors.Is(err, errShort) {
		filled.Groups, filled.Fulfilled, err = nil, 0, nil
	}
	*f = filled
	return err
}

// launchPools launches from one pool after the other until the target is reached, and notes in the fleet what came
// of each.
func (s *Service) launchPools(tx *store.Tx, call *awsapi.Call, f *cloud.Fleet, pools []pool, target float64) error {
	promised, launched := capacity.Promised(tx.View()), 0
	for _, p := range pools {
		if f.Fulfilled >= target || launched == maxLaunch {
			break
		}
		want := min(int(math.Ceil((target-f.Fulfilled)/p.weight)), maxLaunch-launched)
		got, err := s.launchPool(tx, call, f, p, promised, want)
		var refusal *awsapi.Error
		switch {
		case errors.As(err, &refusal):
			f.Errors = append(f.Errors, cloud.FleetError{FleetEntry: p.FleetEntry, Code: refusal.Code, Message: refusal.Message})
		case err != nil:
			return err
		}
		if len(got) > 0 {
			f.Groups = append(f.Groups, cloud.FleetGroup{FleetEntry: p.FleetEntry, Instances: got})
			f.Fulfilled += float64(len(got)) * p.weight
			launched += len(got)
		}
	}
	return nil
}

// launchPool launches up to count instances of one pool. When there is room for some of them only, it returns these
// and the error that says so.
func (s *Service) launchPool(tx *store.Tx, call *awsapi.Call, f *cloud.Fleet, p pool, promised []placement.Candidate, count int) ([]cloud.InstanceID, error) {
	if p.refusal != nil {
		return nil, p.refusal
	}
	order := *p.order
	order.MinCount, order.MaxCount = new(int64(1)), new(int64(count))
	l := launch{call: call, req: &order}
	if err := l.parse(); err != nil {
		return nil, err
	}
	l.template.Tags = withTags(withTags(l.template.Tags, p.tags), cloud.Tags{cloud.TagFleetID: string(f.ID)})
	if err := l.resolve(tx); err != nil {
		return nil, err
	}
	n, err := l.room(promised)
	if err != nil {
		return nil, err
	}
	ids := s.drawIDs(&l)
	if err := tx.Try(func() error { return l.write(tx, newID[cloud.ReservationID](s), ids, n) }); err != nil {
		return nil, err
	}
	var last placement.Result
	for range count {
		last = placement.Take(promised, l.wanted())
	}
	if n < count {
		return ids.instances[:n], insufficientCapacity(l.size.Name, l.template.Zone, last)
	}
	return ids.instances, nil
}
