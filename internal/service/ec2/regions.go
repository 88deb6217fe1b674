package ec2

import (
	"context"
	"slices"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerRegions(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeRegions, s.describeRegions, awsapi.Honours("AllRegions", "Filters", "RegionNames"))
	awsapi.Handle(r, ec2.ActionDescribeAvailabilityZones, s.describeAvailabilityZones, awsapi.Honours("AllAvailabilityZones", "Filters", "ZoneIds", "ZoneNames"))
	awsapi.Handle(r, ec2.ActionDescribeAccountAttributes, s.describeAccountAttributes, awsapi.Honours("AttributeNames"))
}

// describeRegions knows one region: this one.
func (s *Service) describeRegions(_ context.Context, call *awsapi.Call, req *ec2.DescribeRegionsRequest) (*ec2.DescribeRegionsResult, error) {
	endpoint := "ec2." + call.Region + ".amazonaws.com"
	for _, name := range req.RegionNames {
		if name != call.Region {
			return nil, awsapi.InvalidParameterValue("Invalid region names: [%s]", name)
		}
	}
	pass, err := awsapi.FilterSet[string]{Values: map[string]func(string) []string{
		"endpoint":      func(string) []string { return []string{endpoint} },
		"opt-in-status": func(string) []string { return []string{"opt-in-not-required"} },
		"region-name":   func(name string) []string { return []string{name} },
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeRegionsResult{Regions: []ec2.Region{}}
	if pass(call.Region) {
		out.Regions = append(out.Regions, ec2.Region{RegionName: &call.Region, Endpoint: &endpoint, OptInStatus: new("opt-in-not-required")})
	}
	return out, nil
}

func (s *Service) describeAvailabilityZones(_ context.Context, call *awsapi.Call, req *ec2.DescribeAvailabilityZonesRequest) (*ec2.DescribeAvailabilityZonesResult, error) {
	region, ok := store.Region(s.store.View())
	if !ok {
		return nil, awsapi.Errorf("InternalError", "The region is not set up.")
	}
	has := func(match func(cloud.Zone) bool) bool { return slices.ContainsFunc(region.Zones, match) }
	for _, name := range req.ZoneNames {
		if !has(func(z cloud.Zone) bool { return z.Name == name }) {
			return nil, awsapi.InvalidParameterValue("Invalid availability zone: [%s]", name)
		}
	}
	for _, id := range req.ZoneIds {
		if !has(func(z cloud.Zone) bool { return z.ID == id }) {
			return nil, awsapi.InvalidParameterValue("Invalid availability zone-id: [%s]", id)
		}
	}
	border := call.Region
	one := func(v string) func(cloud.Zone) []string { return func(cloud.Zone) []string { return []string{v} } }
	none := func(cloud.Zone) []string { return nil }
	pass, err := awsapi.FilterSet[cloud.Zone]{Values: map[string]func(cloud.Zone) []string{
		"group-name": one(border), "group-long-name": none, "message": none, "opt-in-status": one("opt-in-not-required"), "parent-zoneID": none,
		"parent-zoneName": none, "parent-zone-id": none, "parent-zone-name": none, "region-name": one(call.Region), "state": one("available"),
		"zone-id":   func(z cloud.Zone) []string { return []string{z.ID} },
		"zone-name": func(z cloud.Zone) []string { return []string{z.Name} }, "zone-type": one("availability-zone"),
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeAvailabilityZonesResult{AvailabilityZones: []ec2.AvailabilityZone{}}
	for _, z := range region.Zones {
		named := len(req.ZoneNames) == 0 && len(req.ZoneIds) == 0 || slices.Contains(req.ZoneNames, z.Name) || slices.Contains(req.ZoneIds, z.ID)
		if named && pass(z) {
			out.AvailabilityZones = append(out.AvailabilityZones, ec2.AvailabilityZone{ZoneName: &z.Name, ZoneId: &z.ID, RegionName: &call.Region,
				State: new("available"), OptInStatus: new("opt-in-not-required"), GroupName: &border, NetworkBorderGroup: &border,
				ZoneType: new("availability-zone"), Messages: []ec2.AvailabilityZoneMessage{}})
		}
	}
	return out, nil
}

func (s *Service) describeAccountAttributes(_ context.Context, call *awsapi.Call, req *ec2.DescribeAccountAttributesRequest) (*ec2.DescribeAccountAttributesResult, error) {
	vpc := "none"
	if v, err := defaultVPC(s.store.View(), call.Account); err == nil {
		vpc = string(v.ID)
	}
	limit := strconv.Itoa(maxAddresses)
	all := []struct{ name, value string }{
		{"default-vpc", vpc}, {"max-elastic-ips", limit}, {"max-instances", strconv.Itoa(maxLaunch)}, {"supported-platforms", "VPC"},
		{"vpc-max-elastic-ips", limit}, {"vpc-max-security-groups-per-interface", strconv.Itoa(maxGroupsPerInterface)},
	}
	out := &ec2.DescribeAccountAttributesResult{AccountAttributes: []ec2.AccountAttribute{}}
	for _, a := range all {
		if len(req.AttributeNames) == 0 || slices.Contains(req.AttributeNames, a.name) {
			out.AccountAttributes = append(out.AccountAttributes, ec2.AccountAttribute{AttributeName: &a.name,
				AttributeValues: []ec2.AccountAttributeValue{{AttributeValue: &a.value}}})
		}
	}
	return out, nil
}
