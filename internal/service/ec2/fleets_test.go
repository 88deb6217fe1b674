package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

type fleetOrder = sdk.CreateFleetInput
type override = types.FleetLaunchTemplateOverridesRequest

// fleet orders instances from version 1 of a launch template.
func fleet(template string, total int32, overrides ...override) *fleetOrder {
	return &fleetOrder{Type: types.FleetTypeInstant,
		TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{TotalTargetCapacity: &total, DefaultTargetCapacityType: types.DefaultTargetCapacityTypeOnDemand},
		LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{Overrides: overrides,
			LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{LaunchTemplateId: &template, Version: aws.String("1")}}}}
}

func (w *world) filled(in *fleetOrder) *sdk.CreateFleetOutput {
	w.t.Helper()
	once := *in // the SDK writes a token of its own into what it is given
	out, err := w.CreateFleet(w.t.Context(), &once)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func TestAFleetIsFilledAtOnceAndReadBack(t *testing.T) {
	w := newWorld(t)
	template := w.template("web", &templateData{ImageId: &w.image, InstanceType: "t3.micro"})
	in := fleet(template, 3)
	in.TagSpecifications = []types.TagSpecification{tagSpec("fleet", "of", "three"), tagSpec("instance", "in", "fleet")}
	out := w.filled(in)
	if len(out.Errors) != 0 || len(out.Instances) != 1 || len(out.Instances[0].InstanceIds) != 3 || out.Instances[0].InstanceType != "t3.micro" {
		t.Fatalf("filled with %+v, %+v", out.Instances, out.Errors)
	}
	if spec := out.Instances[0].LaunchTemplateAndOverrides.LaunchTemplateSpecification; *spec.LaunchTemplateId != template || *spec.Version != "1" {
		t.Errorf("from %+v", spec)
	}
	w.settle()
	if got := w.found("tag:aws:ec2:fleet-id", *out.FleetId, "tag:in", "fleet", "tag:aws:ec2launchtemplate:id", template, "instance-state-name", "running"); len(got) != 3 {
		t.Errorf("%d instances run with the fleet's tags", len(got))
	}
	described, err := w.DescribeFleets(t.Context(), &sdk.DescribeFleetsInput{FleetIds: []string{*out.FleetId}})
	if err != nil || len(described.Fleets) != 1 {
		t.Fatal(described, err)
	}
	if f := described.Fleets[0]; f.FleetState != "active" || f.ActivityStatus != "fulfilled" || f.Type != "instant" || *f.FulfilledCapacity != 3 || *f.TargetCapacitySpecification.OnDemandTargetCapacity != 3 ||
		len(f.Instances[0].InstanceIds) != 3 || *f.Tags[0].Value != "three" || f.OnDemandOptions.AllocationStrategy != "lowestPrice" {
		t.Errorf("described as %+v", f)
	}
	if all, err := w.DescribeFleets(t.Context(), &sdk.DescribeFleetsInput{}); err != nil || len(all.Fleets) != 0 {
		t.Errorf("instant fleets are shown without their ids: %v, %v", all, err)
	}
	_, err = w.DescribeFleetInstances(t.Context(), &sdk.DescribeFleetInstancesInput{FleetId: out.FleetId})
	refused(t, err, "Unsupported", "instant")

	gone, err := w.DeleteFleets(t.Context(), &sdk.DeleteFleetsInput{FleetIds: []string{*out.FleetId, "fleet-1"}, TerminateInstances: aws.Bool(true)})
	if err != nil || len(gone.SuccessfulFleetDeletions) != 1 || gone.SuccessfulFleetDeletions[0].CurrentFleetState != "deleted_terminating" ||
		len(gone.UnsuccessfulFleetDeletions) != 1 || gone.UnsuccessfulFleetDeletions[0].Error.Code != "fleetIdMalformed" {
		t.Fatal(gone, err)
	}
	w.settle()
	described, err = w.DescribeFleets(t.Context(), &sdk.DescribeFleetsInput{FleetIds: []string{*out.FleetId}})
	if err != nil || described.Fleets[0].FleetState != "deleted" {
		t.Errorf("deleted: %+v, %v", described, err)
	}
	if left := w.found("instance-state-name", "pending,running"); len(left) != 0 {
		t.Errorf("%d instances are left", len(left))
	}
}

func TestAFleetTakesOnePoolAfterTheOtherAndTellsWhyOneFailed(t *testing.T) {
	w := newWorld(t)
	template := w.template("web", &templateData{ImageId: &w.image})
	in := fleet(template, 5,
		override{InstanceType: "t3.nano", Priority: aws.Float64(2)},
		override{InstanceType: "m5.16xlarge", Priority: aws.Float64(0)},
		override{InstanceType: "t3.small", SubnetId: aws.String("subnet-00000000000000000"), Priority: aws.Float64(1)})
	in.OnDemandOptions = &types.OnDemandOptionsRequest{AllocationStrategy: types.FleetOnDemandAllocationStrategyPrioritized}
	out := w.filled(in)
	if len(out.Instances) != 1 || out.Instances[0].InstanceType != "t3.nano" || len(out.Instances[0].InstanceIds) != 5 {
		t.Errorf("filled with %+v", out.Instances)
	}
	if len(out.Errors) != 2 || *out.Errors[0].ErrorCode != "InsufficientInstanceCapacity" || *out.Errors[1].ErrorCode != "InvalidSubnetID.NotFound" ||
		out.Errors[0].LaunchTemplateAndOverrides.Overrides.InstanceType != "m5.16xlarge" {
		t.Errorf("errors %+v", out.Errors)
	}
}

func TestAFleetStartsWithTheCheapestAndCountsWeights(t *testing.T) {
	w := newWorld(t)
	template := w.template("web", &templateData{ImageId: &w.image})
	out := w.filled(fleet(template, 3, override{InstanceType: "c5.large", WeightedCapacity: aws.Float64(1)}, override{InstanceType: "m5.large", WeightedCapacity: aws.Float64(2)}))
	// A unit of m5.large costs half of 96,000, one of c5.large 85,000: two of the former are four units.
	if len(out.Instances) != 1 || out.Instances[0].InstanceType != "m5.large" || len(out.Instances[0].InstanceIds) != 2 {
		t.Errorf("filled with %+v", out.Instances)
	}
}

func TestAFleetOfOneTypeBelowItsMinimumIsEmpty(t *testing.T) {
	w := newWorld(t) // with 16 GiB: two m5.large
	template := w.template("web", &templateData{ImageId: &w.image})
	in := fleet(template, 6, override{InstanceType: "m5.large"}, override{InstanceType: "r5.large"})
	in.OnDemandOptions = &types.OnDemandOptionsRequest{SingleInstanceType: aws.Bool(true), MinTargetCapacity: aws.Int32(5)}
	if out := w.filled(in); len(out.Instances) != 0 || len(out.Errors) == 0 || *out.Errors[0].ErrorCode != "InsufficientInstanceCapacity" {
		t.Errorf("filled with %+v, %+v", out.Instances, out.Errors)
	}
	if n := len(store.List(w.store.View(), store.Interfaces)); n != 0 {
		t.Errorf("%d interfaces are left of instances that were taken back", n)
	}
	in.LaunchTemplateConfigs[0].Overrides = append(in.LaunchTemplateConfigs[0].Overrides, override{InstanceType: "t3.small"})
	in.OnDemandOptions.MinTargetCapacity = aws.Int32(6)
	if out := w.filled(in); len(out.Instances) != 1 || out.Instances[0].InstanceType != "t3.small" || len(out.Instances[0].InstanceIds) != 6 {
		t.Errorf("filled with %+v, %+v", out.Instances, out.Errors)
	}
}

func TestAPoolThatRunsOutOfAddressesLeavesNothingBehind(t *testing.T) {
	w := newWorld(t)
	template := w.template("web", &templateData{ImageId: &w.image, InstanceType: "t3.nano"})
	w.update(func(tx *store.Tx) { // all but two of the default subnet's addresses are taken
		subnet := w.subnet()
		addr := subnet.CIDR.Masked().Addr()
		for n := 0; subnet.CIDR.Contains(addr); n++ {
			if n > 5 {
				store.Put(tx, store.Claims, &store.Claim{Key: store.AddressClaim(subnet.ID, addr), Owner: "eni-x"})
			}
			addr = addr.Next()
		}
	})
	before := len(store.List(w.store.View(), store.Claims))
	out := w.filled(fleet(template, 4))
	if len(out.Instances) != 0 || len(out.Errors) != 1 || *out.Errors[0].ErrorCode != "InsufficientFreeAddressesInSubnet" {
		t.Errorf("filled with %+v, %+v", out.Instances, out.Errors)
	}
	if after := len(store.List(w.store.View(), store.Claims)); after != before || len(store.List(w.store.View(), store.Instances)) != 0 {
		t.Errorf("%d claims became %d", before, after)
	}
}

func TestAFleetChoosesTypesByRequirements(t *testing.T) {
	w := newWorld(t)
	template := w.template("any", &templateData{ImageId: &w.image, InstanceRequirements: &types.InstanceRequirementsRequest{
		MemoryMiB: &types.MemoryMiBRequest{Min: aws.Int32(3000)}, VCpuCount: &types.VCpuCountRangeRequest{Min: aws.Int32(2), Max: aws.Int32(4)}}})
	in := fleet(template, 4)
	in.TargetCapacitySpecification.TargetCapacityUnitType = types.TargetCapacityUnitTypeVcpu
	if out := w.filled(in); len(out.Instances) != 1 || out.Instances[0].InstanceType != "c5.large" || len(out.Instances[0].InstanceIds) != 2 {
		t.Errorf("filled with %+v, %+v", out.Instances, out.Errors)
	}
	_, err := w.run(from(template, ""))
	refused(t, err, "InvalidParameterCombination", "InstanceType")
}

func TestARetriedFleetIsTheSame(t *testing.T) {
	w := newWorld(t)
	in := fleet(w.template("web", &templateData{ImageId: &w.image}), 1)
	in.ClientToken = aws.String("once")
	first, second := w.filled(in), w.filled(in)
	if *first.FleetId != *second.FleetId || second.Instances[0].InstanceIds[0] != first.Instances[0].InstanceIds[0] || len(w.found()) != 1 {
		t.Errorf("%s and %s", *first.FleetId, *second.FleetId)
	}
	if !cloud.ValidID[cloud.FleetID](*first.FleetId) {
		t.Errorf("the id %s is not of a fleet", *first.FleetId)
	}
}

func TestFleetsThatCannotBeAreRefused(t *testing.T) {
	w := newWorld(t)
	template := w.template("web", &templateData{ImageId: &w.image})
	w.unchanged(func() {
		for _, c := range []struct {
			code   string
			change func(*fleetOrder)
		}{
			{"UnsupportedOperation", func(in *fleetOrder) { in.Type = "" }}, {"UnsupportedOperation", func(in *fleetOrder) { in.Type = types.FleetTypeRequest }},
			{"UnsupportedOperation", func(in *fleetOrder) { in.TargetCapacitySpecification.DefaultTargetCapacityType = "spot" }},
			{"UnsupportedOperation", func(in *fleetOrder) { in.TargetCapacitySpecification.SpotTargetCapacity = aws.Int32(1) }},
			{"UnsupportedOperation", func(in *fleetOrder) {
				in.OnDemandOptions = &types.OnDemandOptionsRequest{MaxTotalPrice: aws.String("1")}
			}},
			{"InvalidParameterValue", func(in *fleetOrder) { in.TargetCapacitySpecification.TotalTargetCapacity = aws.Int32(0) }},
			{"InvalidParameterCombination", func(in *fleetOrder) {
				in.OnDemandOptions = &types.OnDemandOptionsRequest{MinTargetCapacity: aws.Int32(1)}
			}},
			{"InvalidParameterCombination", func(in *fleetOrder) { in.ReplaceUnhealthyInstances = aws.Bool(true) }},
			{"MissingParameter", func(in *fleetOrder) { in.LaunchTemplateConfigs[0].LaunchTemplateSpecification.Version = nil }},
			{"InvalidLaunchTemplateId.VersionNotFound", func(in *fleetOrder) {
				in.LaunchTemplateConfigs[0].LaunchTemplateSpecification.Version = aws.String("2")
			}},
			{"InvalidParameterValue", func(in *fleetOrder) {
				in.LaunchTemplateConfigs[0].Overrides = []override{{SubnetId: aws.String("subnet-1,subnet-2")}}
			}},
			{"InvalidParameterValue", func(in *fleetOrder) {
				in.LaunchTemplateConfigs[0].Overrides = []override{{WeightedCapacity: aws.Float64(0)}}
			}},
			{"DryRunOperation", func(in *fleetOrder) { in.DryRun = aws.Bool(true) }},
		} {
			in := fleet(template, 2)
			c.change(in)
			_, err := w.CreateFleet(t.Context(), in)
			refused(t, err, c.code)
		}
	})
}
