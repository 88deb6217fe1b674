package ec2_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// carryIPv6 makes the world's node one whose network carries IPv6.
func (w *world) carryIPv6() {
	w.update(func(tx *store.Tx) {
		n, _ := store.Get(tx, store.Nodes, w.node)
		n.IPv6 = true
		store.Put(tx, store.Nodes, n)
	})
}

// vpc6 makes a VPC of both families and returns its IPv6 range too.
func (w *world) vpc6(block string) (id string, range6 netip.Prefix) {
	w.t.Helper()
	id = w.vpc(block)
	out, err := w.AssociateVpcCidrBlock(w.t.Context(), &sdk.AssociateVpcCidrBlockInput{VpcId: &id, AmazonProvidedIpv6CidrBlock: aws.Bool(true)})
	if err != nil {
		w.t.Fatal(err)
	}
	return id, netip.MustParsePrefix(*out.Ipv6CidrBlockAssociation.Ipv6CidrBlock)
}

// subnet64 is the first /64 of a VPC's range.
func subnet64(p netip.Prefix) string { return netip.PrefixFrom(p.Addr(), 64).String() }

func TestIPv6IsRefusedWhileNoServerCarriesIt(t *testing.T) {
	w := newWorld(t)
	id := w.vpc("10.1.0.0/16")
	_, err := w.AssociateVpcCidrBlock(t.Context(), &sdk.AssociateVpcCidrBlockInput{VpcId: &id, AmazonProvidedIpv6CidrBlock: aws.Bool(true)})
	refused(t, err, "UnsupportedOperation", "IPv6")
	w.unchanged(func() {
		_, err = w.CreateVpc(t.Context(), &sdk.CreateVpcInput{CidrBlock: aws.String("10.2.0.0/16"), AmazonProvidedIpv6CidrBlock: aws.Bool(true)})
		refused(t, err, "UnsupportedOperation", "IPv6")
	})
}

func TestAVPCGetsAnIPv6RangeOfItsOwnAndWhatEC2PutsWithIt(t *testing.T) {
	w := newWorld(t)
	w.carryIPv6()
	claims := w.claims()
	out, err := w.CreateVpc(t.Context(), &sdk.CreateVpcInput{CidrBlock: aws.String("10.1.0.0/16"), AmazonProvidedIpv6CidrBlock: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	id, of := *out.Vpc.VpcId, filterList("vpc-id", *out.Vpc.VpcId)
	first := out.Vpc.Ipv6CidrBlockAssociationSet[0]
	if first.Ipv6CidrBlockState.State != types.VpcCidrBlockStateCodeAssociating || *first.Ipv6Pool != "Amazon" || *first.NetworkBorderGroup != "us-east-1" {
		t.Errorf("its range is %+v", first)
	}
	p := netip.MustParsePrefix(*first.Ipv6CidrBlock)
	region, _ := store.Region(w.store.View())
	if p.Bits() != 56 || !region.IPv6Pool.Contains(p.Addr()) || p != p.Masked() {
		t.Errorf("%s is no /56 of %s", p, region.IPv6Pool)
	}
	tables, err := w.DescribeRouteTables(t.Context(), &sdk.DescribeRouteTablesInput{Filters: of})
	if err != nil || len(tables.RouteTables[0].Routes) != 2 || !slices.ContainsFunc(tables.RouteTables[0].Routes, func(r types.Route) bool {
		return aws.ToString(r.DestinationIpv6CidrBlock) == p.String() && *r.GatewayId == "local"
	}) {
		t.Errorf("its routes are %+v, %v", tables, err)
	}
	groups, err := w.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{Filters: of})
	if err != nil || len(groups.SecurityGroups[0].IpPermissionsEgress) != 1 || *groups.SecurityGroups[0].IpPermissionsEgress[0].Ipv6Ranges[0].CidrIpv6 != "::/0" {
		t.Errorf("its group is %+v, %v", groups, err)
	}
	sameLines(t, entries(w.acls("vpc-id", id)[0]), "out 100 allow -1 0.0.0.0/0", "out 101 allow -1 ::/0", "out 32767 deny -1 0.0.0.0/0", "out 32768 deny -1 ::/0",
		"in 100 allow -1 0.0.0.0/0", "in 101 allow -1 ::/0", "in 32767 deny -1 0.0.0.0/0", "in 32768 deny -1 ::/0")
	if _, other := w.vpc6("10.1.0.0/16"); other.Overlaps(p) {
		t.Errorf("two VPCs have %s and %s", p, other)
	}
	found, err := w.DescribeVpcs(t.Context(), &sdk.DescribeVpcsInput{Filters: filterList("ipv6-cidr-block-association.ipv6-cidr-block", p.String(), "ipv6-cidr-block-association.state", "associated")})
	if err != nil || len(found.Vpcs) != 1 || *found.Vpcs[0].VpcId != id {
		t.Errorf("by its range one finds %+v, %v", found, err)
	}
	gone, err := w.DisassociateVpcCidrBlock(t.Context(), &sdk.DisassociateVpcCidrBlockInput{AssociationId: first.AssociationId})
	if err != nil || *gone.Ipv6CidrBlockAssociation.Ipv6CidrBlock != p.String() {
		t.Errorf("%+v, %v", gone, err)
	}
	for _, v := range store.ListBy(w.store.View(), store.VPCsByAccount, w.key.Account) {
		if !v.Default {
			if _, err := w.DeleteVpc(t.Context(), &sdk.DeleteVpcInput{VpcId: (*string)(&v.ID)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := w.claims(); got != claims {
		t.Errorf("%d claims at first, %d now", claims, got)
	}
}

func TestASubnetOfBothFamiliesLendsAddressesOfBoth(t *testing.T) {
	w := newWorld(t)
	w.carryIPv6()
	vpc, p := w.vpc6("10.1.0.0/16")
	id := w.subnetIn(vpc, "10.1.0.0/24")
	on := &sdk.ModifySubnetAttributeInput{SubnetId: &id, AssignIpv6AddressOnCreation: &types.AttributeBooleanValue{Value: aws.Bool(true)}}
	_, err := w.ModifySubnetAttribute(t.Context(), on)
	refused(t, err, "InvalidParameterValue", id)
	for block, code := range map[string]string{"fd00:9::/64": "InvalidSubnet.Range", netip.PrefixFrom(p.Addr(), 60).String(): "InvalidSubnet.Range", "10.1.0.0/24": "InvalidParameterValue"} {
		_, err := w.AssociateSubnetCidrBlock(t.Context(), &sdk.AssociateSubnetCidrBlockInput{SubnetId: &id, Ipv6CidrBlock: &block})
		refused(t, err, code)
	}
	tied, err := w.AssociateSubnetCidrBlock(t.Context(), &sdk.AssociateSubnetCidrBlockInput{SubnetId: &id, Ipv6CidrBlock: aws.String(subnet64(p))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.CreateSubnet(t.Context(), &sdk.CreateSubnetInput{VpcId: &vpc, CidrBlock: aws.String("10.1.1.0/24"), Ipv6CidrBlock: aws.String(subnet64(p))})
	refused(t, err, "InvalidSubnet.Conflict")
	if _, err := w.ModifySubnetAttribute(t.Context(), on); err != nil {
		t.Fatal(err)
	}
	subnets, err := w.DescribeSubnets(t.Context(), &sdk.DescribeSubnetsInput{Filters: filterList("ipv6-cidr-block-association.association-id", *tied.Ipv6CidrBlockAssociation.AssociationId)})
	if err != nil || len(subnets.Subnets) != 1 || !*subnets.Subnets[0].AssignIpv6AddressOnCreation || *subnets.Subnets[0].Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlock != subnet64(p) {
		t.Fatalf("it is described as %+v, %v", subnets, err)
	}
	i := w.launch(func(in *order) { in.SubnetId = &id })[0]
	if len(i.NetworkInterfaces[0].Ipv6Addresses) != 1 || *i.Ipv6Address != *i.NetworkInterfaces[0].Ipv6Addresses[0].Ipv6Address || !netip.MustParsePrefix(subnet64(p)).Contains(netip.MustParseAddr(*i.Ipv6Address)) {
		t.Errorf("an instance there has %+v", i.NetworkInterfaces)
	}
	drop := &sdk.DisassociateSubnetCidrBlockInput{AssociationId: tied.Ipv6CidrBlockAssociation.AssociationId}
	_, err = w.DisassociateSubnetCidrBlock(t.Context(), drop)
	refused(t, err, "DependencyViolation")
	_, err = w.DisassociateVpcCidrBlock(t.Context(), &sdk.DisassociateVpcCidrBlockInput{AssociationId: (*string)(&w.vpcRecord(vpc).IPv6[0].ID)})
	refused(t, err, "DependencyViolation")
	nic := i.NetworkInterfaces[0].NetworkInterfaceId
	if _, err := w.UnassignIpv6Addresses(t.Context(), &sdk.UnassignIpv6AddressesInput{NetworkInterfaceId: nic, Ipv6Addresses: []string{*i.Ipv6Address}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DisassociateSubnetCidrBlock(t.Context(), drop); err != nil {
		t.Fatal(err)
	}
	_, err = w.DisassociateSubnetCidrBlock(t.Context(), drop)
	refused(t, err, "InvalidSubnetCidrBlockAssociationID.NotFound")
}

func (w *world) vpcRecord(id string) *cloud.VPC {
	w.t.Helper()
	v, ok := store.Get(w.store.View(), store.VPCs, cloud.VPCID(id))
	if !ok {
		w.t.Fatalf("%s is not there", id)
	}
	return v
}

func TestEgressOnlyGatewaysTakeIPv6RoutesAndNoOthers(t *testing.T) {
	w := newWorld(t)
	w.carryIPv6()
	vpc, _ := w.vpc6("10.1.0.0/16")
	table := w.routeTable(vpc)
	in := &sdk.CreateEgressOnlyInternetGatewayInput{VpcId: &vpc, ClientToken: aws.String("once"), TagSpecifications: []types.TagSpecification{tagSpec(types.ResourceTypeEgressOnlyInternetGateway, "Name", "out")}}
	out, err := w.CreateEgressOnlyInternetGateway(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	id := out.EgressOnlyInternetGateway.EgressOnlyInternetGatewayId
	again, err := w.CreateEgressOnlyInternetGateway(t.Context(), in)
	if err != nil || *again.EgressOnlyInternetGateway.EgressOnlyInternetGatewayId != *id {
		t.Errorf("the same call again: %+v, %v", again, err)
	}
	_, err = w.CreateRoute(t.Context(), &sdk.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("0.0.0.0/0"), EgressOnlyInternetGatewayId: id})
	refused(t, err, "InvalidParameterValue", "IPv6")
	if _, err := w.CreateRoute(t.Context(), &sdk.CreateRouteInput{RouteTableId: &table, DestinationIpv6CidrBlock: aws.String("::/0"), EgressOnlyInternetGatewayId: id}); err != nil {
		t.Fatal(err)
	}
	state := func(want types.RouteState) {
		t.Helper()
		tables, err := w.DescribeRouteTables(t.Context(), &sdk.DescribeRouteTablesInput{Filters: filterList("route.egress-only-internet-gateway-id", *id)})
		if err != nil || len(tables.RouteTables) != 1 {
			t.Fatal(tables, err)
		}
		for _, r := range tables.RouteTables[0].Routes {
			if aws.ToString(r.DestinationIpv6CidrBlock) == "::/0" && (r.State != want || *r.EgressOnlyInternetGatewayId != *id) {
				t.Errorf("the route is %+v", r)
			}
		}
	}
	state(types.RouteStateActive)
	list, err := w.DescribeEgressOnlyInternetGateways(t.Context(), &sdk.DescribeEgressOnlyInternetGatewaysInput{Filters: filterList("tag:Name", "out")})
	if err != nil || len(list.EgressOnlyInternetGateways) != 1 || *list.EgressOnlyInternetGateways[0].Attachments[0].VpcId != vpc {
		t.Errorf("%+v, %v", list, err)
	}
	if out, err := w.DeleteEgressOnlyInternetGateway(t.Context(), &sdk.DeleteEgressOnlyInternetGatewayInput{EgressOnlyInternetGatewayId: id}); err != nil || !*out.ReturnCode {
		t.Fatal(out, err)
	}
	state(types.RouteStateBlackhole)
	if _, err := w.DeleteRoute(t.Context(), &sdk.DeleteRouteInput{RouteTableId: &table, DestinationIpv6CidrBlock: aws.String("::/0")}); err != nil {
		t.Fatal(err)
	}
}
