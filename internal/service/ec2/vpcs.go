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

func (s *Service) registerVPCs(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeVpcs, s.describeVPCs, awsapi.Honours("Filters", "VpcIds", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionDescribeVpcAttribute, s.describeVPCAttribute, awsapi.Honours("Attribute", "VpcId"))
	awsapi.Handle(r, ec2.ActionDescribeSubnets, s.describeSubnets, awsapi.Honours("Filters", "SubnetIds", "MaxResults", "NextToken"))
	s.registerVPCLife(r)
	s.registerDHCPOptions(r)
	s.registerSubnetReservations(r)
	s.registerPrefixLists(r)
	s.registerVPCEndpoints(r)
	s.registerDefaultVPC(r)
	s.registerSubnetLife(r)
	s.registerSubnetIPv6(r)
	s.registerInternetGateways(r)
	s.registerEgressOnlyGateways(r)
	s.registerPeerings(r)
	s.registerRouteTables(r)
}

// listing is what the Describe calls of one kind of resource have in common.
type listing[K interface {
	~string
	cloud.ID
}, T any] struct {
	table   store.Table[K, T]
	account store.Index[K, cloud.AccountID, T]
	owner   func(*T) cloud.AccountID
	kind    resourceKind
	id      func(*T) K
	filters awsapi.FilterSet[*T]
}

// page finds what a Describe call asks for, without what is to be skipped.
func (l listing[K, T]) page(view *store.View, account cloud.AccountID, ids []string, fs []ec2.Filter, maxResults *int64, token *string, skip ...func(*T) bool) (awsapi.Page[*T], error) {
	var none awsapi.Page[*T]
	if err := pageBounds(maxResults, 5, 1000, ids, "ids"); err != nil {
		return none, err
	}
	list := slices.Clone(store.ListBy(view, l.account, account))
	if len(ids) > 0 {
		var err error
		if list, err = lookupAll(view, l.table, l.owner, l.kind, account, ids); err != nil {
			return none, err
		}
	}
	pass, err := l.filters.Compile(filters(fs))
	if err != nil {
		return none, err
	}
	list = slices.DeleteFunc(list, func(obj *T) bool {
		return !pass(obj) || slices.ContainsFunc(skip, func(f func(*T) bool) bool { return f(obj) })
	})
	return awsapi.Paginate(list, func(obj *T) string { return string(l.id(obj)) }, maxResults, token, fs)
}

func one[T any](f func(T) string) func(T) []string {
	return func(obj T) []string {
		if v := f(obj); v != "" {
			return []string{v}
		}
		return nil
	}
}

func (s *Service) describeVPCs(_ context.Context, call *awsapi.Call, req *ec2.DescribeVpcsRequest) (*ec2.DescribeVpcsResult, error) {
	type V = *cloud.VPC
	cidr := one(func(v V) string { return v.CIDR.String() })
	ranges := func(f func(cloud.VPCRange) string) func(V) []string {
		return func(v V) []string {
			out := []string{f(cloud.VPCRange{ID: v.FirstRange(), Prefix: v.CIDR})}
			for _, r := range v.Secondary {
				out = append(out, f(r))
			}
			return out
		}
	}
	ranges6 := func(f func(cloud.VPCRange) string) func(V) []string {
		return func(v V) (out []string) {
			for _, r := range v.IPv6 {
				out = append(out, f(r))
			}
			return out
		}
	}
	isDefault := one(func(v V) string { return boolText(v.Default) })
	l := listing[cloud.VPCID, cloud.VPC]{store.VPCs, store.VPCsByAccount, ownerOfVPC, kindVPC, func(v V) cloud.VPCID { return v.ID }, awsapi.FilterSet[V]{
		Tags: func(v V) map[string]string { return v.Tags }, Values: map[string]func(V) []string{
			"cidr": cidr, "cidr-block": cidr, "cidr-block-association.cidr-block": ranges(func(r cloud.VPCRange) string { return r.Prefix.String() }),
			"cidr-block-association.association-id": ranges(func(r cloud.VPCRange) string { return string(r.ID) }),
			"cidr-block-association.state":          func(V) []string { return []string{"associated"} },
			"dhcp-options-id":                       one(func(v V) string { return string(v.DHCPOptions) }), "dhcpOptionsId": one(func(v V) string { return string(v.DHCPOptions) }),
			"ipv6-cidr-block-association.ipv6-cidr-block": ranges6(func(r cloud.VPCRange) string { return r.Prefix.String() }),
			"ipv6-cidr-block-association.ipv6-pool":       ranges6(func(cloud.VPCRange) string { return "Amazon" }),
			"ipv6-cidr-block-association.association-id":  ranges6(func(r cloud.VPCRange) string { return string(r.ID) }),
			"ipv6-cidr-block-association.state":           ranges6(func(cloud.VPCRange) string { return "associated" }), "is-default": isDefault, "isDefault": isDefault,
			"owner-id": one(func(v V) string { return string(v.Account) }), "state": func(V) []string { return []string{"available"} },
			"vpc-id": one(func(v V) string { return string(v.ID) }),
		}}}
	page, err := l.page(s.store.View(), call.Account, req.VpcIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVpcsResult{NextToken: page.Next, Vpcs: []ec2.Vpc{}}
	for _, v := range page.Items {
		out.Vpcs = append(out.Vpcs, vpcShape(v, call.Region))
	}
	return out, nil
}

func (s *Service) describeVPCAttribute(_ context.Context, call *awsapi.Call, req *ec2.DescribeVpcAttributeRequest) (*ec2.DescribeVpcAttributeResult, error) {
	v, err := lookup(s.store.View(), store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVpcAttributeResult{VpcId: text(v.ID)}
	switch a := deref(req.Attribute); a {
	case "enableDnsSupport":
		out.EnableDnsSupport = boolValue(v.EnableDNSSupport)
	case "enableDnsHostnames":
		out.EnableDnsHostnames = boolValue(v.EnableDNSHostnames)
	case "enableNetworkAddressUsageMetrics":
		out.EnableNetworkAddressUsageMetrics = boolValue(v.UsageMetrics)
	default:
		return nil, awsapi.InvalidParameterValue("Invalid value '%s' for Attribute.", a)
	}
	return out, nil
}

func (s *Service) describeSubnets(_ context.Context, call *awsapi.Call, req *ec2.DescribeSubnetsRequest) (*ec2.DescribeSubnetsResult, error) {
	view := s.store.View()
	type S = *cloud.Subnet
	none := func(S) []string { return nil }
	fixed := func(v string) func(S) []string { return func(S) []string { return []string{v} } }
	zoneIDs := map[string]string{}
	if region, ok := store.Region(view); ok {
		for _, z := range region.Zones {
			zoneIDs[z.Name] = z.ID
		}
	}
	arn := func(n S) string { return subnetARN(call.Region, n) }
	zone, zoneID := one(func(n S) string { return n.Zone }), one(func(n S) string { return zoneIDs[n.Zone] })
	available := one(func(n S) string { return strconv.FormatInt(availableAddresses(view, n), 10) })
	cidr := one(func(n S) string { return n.CIDR.String() })
	def := one(func(n S) string { return boolText(n.DefaultForAZ) })
	l := listing[cloud.SubnetID, cloud.Subnet]{store.Subnets, store.SubnetsByAccount, ownerOfSubnet, kindSubnet, func(n S) cloud.SubnetID { return n.ID }, awsapi.FilterSet[S]{
		Tags: func(n S) map[string]string { return n.Tags }, Values: map[string]func(S) []string{
			"availability-zone": zone, "availabilityZone": zone, "availability-zone-id": zoneID, "availabilityZoneId": zoneID, "available-ip-address-count": available,
			"cidr": cidr, "cidr-block": cidr, "cidrBlock": cidr, "customer-owned-ipv4-pool": none, "default-for-az": def, "defaultForAz": def,
			"enable-dns64": fixed("false"), "enable-lni-at-device-index": none, "ipv6-cidr-block-association.ipv6-cidr-block": one(func(n S) string {
				if !n.IPv6.IsValid() {
					return ""
				}
				return n.IPv6.String()
			}),
			"ipv6-cidr-block-association.association-id": one(func(n S) string { return string(n.IPv6Range) }),
			"ipv6-cidr-block-association.state": one(func(n S) string {
				if !n.IPv6.IsValid() {
					return ""
				}
				return "associated"
			}), "ipv6-native": fixed("false"),
			"map-customer-owned-ip-on-launch": fixed("false"), "map-public-ip-on-launch": one(func(n S) string { return boolText(n.MapPublicIPOnLaunch) }),
			"outpost-arn": none, "owner-id": one(func(n S) string { return string(n.Account) }), "private-dns-name-options-on-launch.hostname-type": fixed("ip-name"),
			"private-dns-name-options-on-launch.enable-resource-name-dns-a-record":    fixed("false"),
			"private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": fixed("false"), "state": fixed("available"),
			"subnet-arn": one(arn), "subnet-id": one(func(n S) string { return string(n.ID) }), "vpc-id": one(func(n S) string { return string(n.VPC) }),
		}}}
	page, err := l.page(view, call.Account, req.SubnetIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSubnetsResult{NextToken: page.Next, Subnets: []ec2.Subnet{}}
	for _, n := range page.Items {
		out.Subnets = append(out.Subnets, subnetShape(view, call.Region, n))
	}
	return out, nil
}
