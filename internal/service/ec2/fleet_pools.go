package ec2

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// pool is one kind of instance that a fleet may be filled from: an instance type with a launch template and overrides.
type pool struct {
	cloud.FleetEntry
	order    *ec2.RunInstancesRequest // without counts
	tags     cloud.Tags               // that tell of the template
	zone     string                   // "" when the launch decides
	weight   float64                  // units of the fleet's target that one instance is
	priority float64                  // the lowest comes first
	price    float64                  // of a unit
	refusal  error                    // why nothing can be launched from it
}

// poolsOf lists the pools of a fleet in the order in which its strategy takes them.
func poolsOf(r store.Reader, call *awsapi.Call, req *ec2.CreateFleetRequest) ([]pool, error) {
	if len(req.LaunchTemplateConfigs) == 0 {
		return nil, awsapi.MissingParameter("LaunchTemplateConfigs")
	}
	var pools []pool
	for n, config := range req.LaunchTemplateConfigs {
		spec := config.LaunchTemplateSpecification
		if spec == nil {
			return nil, awsapi.MissingParameter(fmt.Sprintf("LaunchTemplateConfigs.%d.LaunchTemplateSpecification", n+1))
		}
		if deref(spec.Version) == "" {
			return nil, awsapi.MissingParameter(fmt.Sprintf("LaunchTemplateConfigs.%d.LaunchTemplateSpecification.Version", n+1))
		}
		v, err := templateVersion(r, call.Account, ec2.LaunchTemplateSpecification{LaunchTemplateId: spec.LaunchTemplateId, LaunchTemplateName: spec.LaunchTemplateName, Version: spec.Version})
		if err != nil {
			return nil, err
		}
		base, err := parseDocument(v.Data)
		if err != nil {
			return nil, err
		}
		b := poolBuilder{r, call, req, v, base}
		if len(config.Overrides) == 0 {
			more, err := b.pools(cloud.FleetEntry{Config: n, Override: -1}, ec2.FleetLaunchTemplateOverridesRequest{})
			if err != nil {
				return nil, err
			}
			pools = append(pools, more...)
		}
		for k, over := range config.Overrides {
			more, err := b.pools(cloud.FleetEntry{Config: n, Override: k}, over)
			if err != nil {
				return nil, err
			}
			pools = append(pools, more...)
		}
	}
	by := func(a, b pool) int { return cmp.Compare(a.price, b.price) }
	if deref(deref(req.OnDemandOptions).AllocationStrategy) == ec2.FleetOnDemandAllocationStrategyPrioritized {
		by = func(a, b pool) int { return cmp.Compare(a.priority, b.priority) }
	}
	slices.SortStableFunc(pools, by)
	return pools, nil
}

// choicesOf divides pools into those of which a fleet may use one set only; the order stays.
func choicesOf(pools []pool, options ec2.OnDemandOptionsRequest) [][]pool {
	var choices [][]pool
	at := map[string]int{}
	for _, p := range pools {
		key := ""
		if deref(options.SingleInstanceType) {
			key += string(p.Type)
		}
		if deref(options.SingleAvailabilityZone) {
			key += " " + p.zone
		}
		n, ok := at[key]
		if !ok {
			n = len(choices)
			at[key], choices = n, append(choices, nil)
		}
		choices[n] = append(choices[n], p)
	}
	return choices
}

// poolBuilder makes the pools of one launch template of a fleet.
type poolBuilder struct {
	r       store.Reader
	call    *awsapi.Call
	req     *ec2.CreateFleetRequest
	version *cloud.LaunchTemplateVersion
	base    document
}

// pools makes the pools of one set of overrides: one, or as many as instance types meet its requirements.
func (b poolBuilder) pools(at cloud.FleetEntry, over ec2.FleetLaunchTemplateOverridesRequest) ([]pool, error) {
	if over.WeightedCapacity != nil && !(*over.WeightedCapacity > 0 && *over.WeightedCapacity <= 999) {
		return nil, awsapi.InvalidParameterValue("The weighted capacity %g is not above 0 and up to 999.", *over.WeightedCapacity)
	}
	if over.Priority != nil && *over.Priority < 0 {
		return nil, awsapi.InvalidParameterValue("The priority %g is below 0.", *over.Priority)
	}
	if strings.Contains(deref(over.SubnetId), ",") {
		return nil, awsapi.InvalidParameterValue("A fleet of type instant can have one subnet ID in an override: '%s'", *over.SubnetId)
	}
	requirements, err := b.requirements(over)
	if err != nil {
		return nil, err
	}
	unit := deref(b.req.TargetCapacitySpecification.TargetCapacityUnitType)
	if requirements == nil {
		if unit != "" && unit != ec2.TargetCapacityUnitTypeUnits {
			return nil, awsapi.InvalidCombination("The TargetCapacityUnitType %s needs InstanceRequirements", unit)
		}
		p, err := b.pool(at, over, deref(over.InstanceType))
		return []pool{p}, err
	}
	if refused := awsapi.Unhonoured(requirements, requirementHonours("")); len(refused) > 0 {
		return nil, awsapi.Unsupported("The instance requirement %s is not supported by this cloud.", refused[0])
	}
	image, _ := b.base["ImageId"].(string)
	if over.ImageId != nil {
		image = *over.ImageId
	}
	architectures := []string{ec2.ArchitectureTypeX8664, ec2.ArchitectureTypeArm64}
	if img, err := visibleImage(b.r, b.call.Account, image); err == nil {
		architectures = []string{img.Architecture}
	}
	var pools []pool
	for _, size := range typesMeeting(requirements, architectures) {
		p, err := b.pool(at, over, string(size.Name))
		if err != nil {
			return nil, err
		}
		switch unit {
		case ec2.TargetCapacityUnitTypeVcpu:
			p.weigh(float64(size.VCPUs))
		case ec2.TargetCapacityUnitTypeMemoryMib:
			p.weigh(float64(size.MemoryMiB))
		}
		pools = append(pools, p)
	}
	if len(pools) == 0 {
		pools = []pool{{FleetEntry: at, weight: 1, refusal: awsapi.Errorf("InvalidFleetConfiguration", "No instance type of this cloud meets the requirements.")}}
	}
	return pools, nil
}

// requirements are what the instance types of a pool must meet, nil where one is named.
func (b poolBuilder) requirements(over ec2.FleetLaunchTemplateOverridesRequest) (*ec2.InstanceRequirementsRequest, error) {
	if r := over.InstanceRequirements; r != nil {
		if deref(over.InstanceType) != "" {
			return nil, awsapi.InvalidCombination("The parameters InstanceRequirements and InstanceType cannot be used together")
		}
		return r, checkRequirements(r)
	}
	of, ok := b.base["InstanceRequirements"]
	if !ok || deref(over.InstanceType) != "" {
		return nil, nil
	}
	text, err := json.Marshal(of)
	if err != nil {
		return nil, err
	}
	return decodeDocument[ec2.InstanceRequirementsRequest](string(text))
}

// pool makes the pool of one instance type, "" for the template's own.
func (b poolBuilder) pool(at cloud.FleetEntry, over ec2.FleetLaunchTemplateOverridesRequest, size string) (pool, error) {
	call := &ec2.RunInstancesRequest{ImageId: over.ImageId, InstanceType: optional(size), Placement: over.Placement}
	for _, spec := range b.req.TagSpecifications {
		if deref(spec.ResourceType) == "instance" {
			call.TagSpecifications = append(call.TagSpecifications, spec)
		}
	}
	if over.AvailabilityZone != nil {
		place := deref(over.Placement)
		place.AvailabilityZone = over.AvailabilityZone
		call.Placement = &place
	}
	order, err := mergedOrder(b.base, call)
	if err != nil {
		return pool{}, err
	}
	if over.SubnetId != nil {
		order.SubnetId = over.SubnetId
		for n := range order.NetworkInterfaces {
			if deref(order.NetworkInterfaces[n].DeviceIndex) == 0 {
				order.SubnetId, order.NetworkInterfaces[n].SubnetId = nil, over.SubnetId
			}
		}
	}
	if deref(order.InstanceType) == "" {
		order.InstanceType = new(defaultType)
	}
	p := pool{FleetEntry: at, order: order, priority: math.Inf(1), zone: b.zone(order), tags: cloud.Tags{
		cloud.TagLaunchTemplateID: string(b.version.Template), cloud.TagLaunchTemplateVersion: fmt.Sprint(b.version.Number)}}
	p.Type = cloud.InstanceType(*order.InstanceType)
	if over.Priority != nil {
		p.priority = *over.Priority
	}
	p.weigh(1)
	if over.WeightedCapacity != nil {
		p.weigh(*over.WeightedCapacity)
	}
	if refused := awsapi.Unhonoured(order, launchHonours); len(refused) > 0 {
		p.refusal = awsapi.Unsupported("The parameter %s, which version %d of the launch template %s gives, is not supported by this cloud.", refused[0], b.version.Number, b.version.Template)
	}
	return p, nil
}

// weigh says how many units of the fleet's target one instance is.
func (p *pool) weigh(units float64) {
	p.weight, p.price = units, math.Inf(1)
	if size, ok := cloud.LookupInstanceType(p.Type); ok {
		p.price = float64(size.ListPrice()) / units
	}
}

// zone is where the instances of an order would be, "" when the launch decides.
func (b poolBuilder) zone(order *ec2.RunInstancesRequest) string {
	subnet := deref(order.SubnetId)
	for _, n := range order.NetworkInterfaces {
		if deref(n.DeviceIndex) == 0 && n.SubnetId != nil {
			subnet = *n.SubnetId
		}
	}
	if s, ok := store.Get(b.r, store.Subnets, cloud.SubnetID(subnet)); ok {
		return s.Zone
	}
	return deref(deref(order.Placement).AvailabilityZone)
}
