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
	awsapi.Handle(r, ec2.ActionDescribeInternetGateways, s.describeInternetGateways, awsapi.Honours("Filters", "InternetGatewayIds", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionDescribeRouteTables, s.describeRouteTables, awsapi.Honours("Filters", "RouteTableIds", "MaxResults", "NextToken"))
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

// page finds what a Describe call asks for.
func (l listing[K, T]) page(view *store.View, account cloud.AccountID, ids []string, fs []ec2.Filter, maxResults *int64, token *string) (awsapi.Page[*T], error) {
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
	list = slices.DeleteFunc(list, func(obj *T) bool { return !pass(obj) })
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
	none := func(V) []string { return nil }
	cidr := one(func(v V) string { return v.CIDR.String() })
	isDefault := one(func(v V) string { return boolText(v.Default) })
	l := listing[cloud.VPCID, cloud.VPC]{store.VPCs, store.VPCsByAccount, ownerOfVPC, kindVPC, func(v V) cloud.VPCID { return v.ID }, awsapi.FilterSet[V]{
		Tags: func(v V) map[string]string { return v.Tags }, Values: map[string]func(V) []string{
			"cidr": cidr, "cidr-block": cidr, "cidr-block-association.cidr-block": cidr, "cidr-block-association.association-id": one(cidrAssociation),
			"cidr-block-association.state": func(V) []string { return []string{"associated"} },
			"dhcp-options-id":              one(func(v V) string { return string(v.DHCPOptions) }), "dhcpOptionsId": one(func(v V) string { return string(v.DHCPOptions) }),
			"ipv6-cidr-block-association.ipv6-cidr-block": none, "ipv6-cidr-block-association.ipv6-pool": none, "ipv6-cidr-block-association.association-id": none,
			"ipv6-cidr-block-association.state": none, "is-default": isDefault, "isDefault": isDefault,
			"owner-id": one(func(v V) string { return string(v.Account) }), "state": func(V) []string { return []string{"available"} },
			"vpc-id": one(func(v V) string { return string(v.ID) }),
		}}}
	page, err := l.page(s.store.View(), call.Account, req.VpcIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVpcsResult{NextToken: page.Next, Vpcs: []ec2.Vpc{}}
	for _, v := range page.Items {
		cidr := new(v.CIDR.String())
		out.Vpcs = append(out.Vpcs, ec2.Vpc{VpcId: text(v.ID), OwnerId: text(v.Account), State: new("available"), CidrBlock: cidr, DhcpOptionsId: text(v.DHCPOptions),
			InstanceTenancy: new("default"), IsDefault: &v.Default, Tags: tagList(v.Tags), Ipv6CidrBlockAssociationSet: []ec2.VpcIpv6CidrBlockAssociation{},
			CidrBlockAssociationSet: []ec2.VpcCidrBlockAssociation{{AssociationId: new(cidrAssociation(v)), CidrBlock: cidr, CidrBlockState: &ec2.VpcCidrBlockState{State: new("associated")}}}})
	}
	return out, nil
}

// cidrAssociation is the id of a VPC's first range, which lives and dies with the VPC.
func cidrAssociation(v *cloud.VPC) string { return "vpc-cidr-assoc-" + string(v.ID)[len("vpc-"):] }

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
		out.EnableNetworkAddressUsageMetrics = boolValue(false)
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
	arn := func(n S) string {
		return "arn:aws:ec2:" + call.Region + ":" + string(n.Account) + ":subnet/" + string(n.ID)
	}
	zone, zoneID := one(func(n S) string { return n.Zone }), one(func(n S) string { return zoneIDs[n.Zone] })
	available := one(func(n S) string { return strconv.FormatInt(availableAddresses(view, n), 10) })
	cidr := one(func(n S) string { return n.CIDR.String() })
	def := one(func(n S) string { return boolText(n.DefaultForAZ) })
	l := listing[cloud.SubnetID, cloud.Subnet]{store.Subnets, store.SubnetsByAccount, ownerOfSubnet, kindSubnet, func(n S) cloud.SubnetID { return n.ID }, awsapi.FilterSet[S]{
		Tags: func(n S) map[string]string { return n.Tags }, Values: map[string]func(S) []string{
			"availability-zone": zone, "availabilityZone": zone, "availability-zone-id": zoneID, "availabilityZoneId": zoneID, "available-ip-address-count": available,
			"cidr": cidr, "cidr-block": cidr, "cidrBlock": cidr, "customer-owned-ipv4-pool": none, "default-for-az": def, "defaultForAz": def,
			"enable-dns64": fixed("false"), "enable-lni-at-device-index": none, "ipv6-cidr-block-association.ipv6-cidr-block": none,
			"ipv6-cidr-block-association.association-id": none, "ipv6-cidr-block-association.state": none, "ipv6-native": fixed("false"),
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
		out.Subnets = append(out.Subnets, ec2.Subnet{SubnetId: text(n.ID), SubnetArn: new(arn(n)), OwnerId: text(n.Account), VpcId: text(n.VPC), State: new("available"),
			CidrBlock: new(n.CIDR.String()), AvailabilityZone: &n.Zone, AvailabilityZoneId: optional(zoneIDs[n.Zone]), AvailableIpAddressCount: new(availableAddresses(view, n)),
			DefaultForAz: &n.DefaultForAZ, MapPublicIpOnLaunch: &n.MapPublicIPOnLaunch, MapCustomerOwnedIpOnLaunch: new(false), AssignIpv6AddressOnCreation: new(false),
			EnableDns64: new(false), Ipv6Native: new(false), Ipv6CidrBlockAssociationSet: []ec2.SubnetIpv6CidrBlockAssociation{}, Tags: tagList(n.Tags),
			PrivateDnsNameOptionsOnLaunch: &ec2.PrivateDnsNameOptionsOnLaunch{HostnameType: new("ip-name"), EnableResourceNameDnsARecord: new(false), EnableResourceNameDnsAAAARecord: new(false)}})
	}
	return out, nil
}

func (s *Service) describeInternetGateways(_ context.Context, call *awsapi.Call, req *ec2.DescribeInternetGatewaysRequest) (*ec2.DescribeInternetGatewaysResult, error) {
	type G = *cloud.InternetGateway
	l := listing[cloud.InternetGatewayID, cloud.InternetGateway]{store.InternetGateways, store.InternetGatewaysByAccount, ownerOfGateway, kindGateway,
		func(g G) cloud.InternetGatewayID { return g.ID }, awsapi.FilterSet[G]{Tags: func(g G) map[string]string { return g.Tags }, Values: map[string]func(G) []string{
			"attachment.state": one(func(g G) string {
				if g.VPC == "" {
					return ""
				}
				return "available"
			}),
			"attachment.vpc-id": one(func(g G) string { return string(g.VPC) }), "internet-gateway-id": one(func(g G) string { return string(g.ID) }),
			"owner-id": one(func(g G) string { return string(g.Account) }),
		}}}
	page, err := l.page(s.store.View(), call.Account, req.InternetGatewayIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInternetGatewaysResult{NextToken: page.Next, InternetGateways: []ec2.InternetGateway{}}
	for _, g := range page.Items {
		shape := ec2.InternetGateway{InternetGatewayId: text(g.ID), OwnerId: text(g.Account), Tags: tagList(g.Tags), Attachments: []ec2.InternetGatewayAttachment{}}
		if g.VPC != "" {
			shape.Attachments = append(shape.Attachments, ec2.InternetGatewayAttachment{VpcId: text(g.VPC), State: new("available")})
		}
		out.InternetGateways = append(out.InternetGateways, shape)
	}
	return out, nil
}

func (s *Service) describeRouteTables(_ context.Context, call *awsapi.Call, req *ec2.DescribeRouteTablesRequest) (*ec2.DescribeRouteTablesResult, error) {
	type T = *cloud.RouteTable
	none := func(T) []string { return nil }
	associations := func(f func(cloud.RouteAssociation) string) func(T) []string {
		return func(t T) (out []string) {
			for _, a := range t.Associations {
				if v := f(a); v != "" {
					out = append(out, v)
				}
			}
			return out
		}
	}
	routes := func(f func(cloud.Route) string) func(T) []string {
		return func(t T) (out []string) {
			for _, r := range t.Routes {
				out = append(out, f(r))
			}
			return out
		}
	}
	l := listing[cloud.RouteTableID, cloud.RouteTable]{store.RouteTables, store.RouteTablesByAccount, ownerOfRoutes, kindRouteTable, func(t T) cloud.RouteTableID { return t.ID },
		awsapi.FilterSet[T]{Tags: func(t T) map[string]string { return t.Tags }, Values: map[string]func(T) []string{
			"association.gateway-id": none, "association.main": associations(func(a cloud.RouteAssociation) string { return boolText(a.Main) }),
			"association.route-table-association-id": associations(func(a cloud.RouteAssociation) string { return string(a.ID) }),
			"association.route-table-id":             func(t T) []string { return []string{string(t.ID)} },
			"association.subnet-id":                  associations(func(a cloud.RouteAssociation) string { return string(a.Subnet) }),
			"owner-id":                               one(func(t T) string { return string(t.Account) }), "route-table-id": one(func(t T) string { return string(t.ID) }),
			"route.destination-cidr-block":      routes(func(r cloud.Route) string { return r.Destination.String() }),
			"route.destination-ipv6-cidr-block": none, "route.destination-prefix-list-id": none, "route.egress-only-internet-gateway-id": none,
			"route.gateway-id": routes(func(r cloud.Route) string { return r.Gateway }), "route.instance-id": none, "route.nat-gateway-id": none,
			"route.origin": routes(routeOrigin), "route.state": routes(func(cloud.Route) string { return "active" }), "route.transit-gateway-id": none,
			"route.vpc-peering-connection-id": none, "transit-gateway-id": none, "vpc-id": one(func(t T) string { return string(t.VPC) }),
		}}}
	page, err := l.page(s.store.View(), call.Account, req.RouteTableIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeRouteTablesResult{NextToken: page.Next, RouteTables: []ec2.RouteTable{}}
	for _, t := range page.Items {
		shape := ec2.RouteTable{RouteTableId: text(t.ID), OwnerId: text(t.Account), VpcId: text(t.VPC), Tags: tagList(t.Tags), PropagatingVgws: []ec2.PropagatingVgw{},
			Routes: []ec2.Route{}, Associations: []ec2.RouteTableAssociation{}}
		for _, r := range t.Routes {
			shape.Routes = append(shape.Routes, ec2.Route{DestinationCidrBlock: new(r.Destination.String()), GatewayId: &r.Gateway, State: new("active"), Origin: new(routeOrigin(r))})
		}
		for _, a := range t.Associations {
			shape.Associations = append(shape.Associations, ec2.RouteTableAssociation{RouteTableAssociationId: text(a.ID), RouteTableId: text(t.ID), Main: &a.Main,
				SubnetId: text(a.Subnet), AssociationState: &ec2.RouteTableAssociationState{State: new("associated")}})
		}
		out.RouteTables = append(out.RouteTables, shape)
	}
	return out, nil
}

func routeOrigin(r cloud.Route) string {
	if r.Gateway == "local" {
		return "CreateRouteTable"
	}
	return "CreateRoute"
}
