package ec2_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func (w *world) vpc(block string) string {
	w.t.Helper()
	out, err := w.CreateVpc(w.t.Context(), &sdk.CreateVpcInput{CidrBlock: &block, TagSpecifications: []types.TagSpecification{tagSpec(types.ResourceTypeVpc, "Name", block)}})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.Vpc.VpcId
}

func (w *world) subnetIn(vpc, block string) string {
	w.t.Helper()
	out, err := w.CreateSubnet(w.t.Context(), &sdk.CreateSubnetInput{VpcId: &vpc, CidrBlock: &block})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.Subnet.SubnetId
}

func (w *world) routeTable(vpc string) string {
	w.t.Helper()
	out, err := w.CreateRouteTable(w.t.Context(), &sdk.CreateRouteTableInput{VpcId: &vpc})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.RouteTable.RouteTableId
}

func (w *world) gateway(vpc string) string {
	w.t.Helper()
	out, err := w.CreateInternetGateway(w.t.Context(), &sdk.CreateInternetGatewayInput{})
	if err != nil {
		w.t.Fatal(err)
	}
	id := out.InternetGateway.InternetGatewayId
	if vpc != "" {
		if _, err := w.AttachInternetGateway(w.t.Context(), &sdk.AttachInternetGatewayInput{InternetGatewayId: id, VpcId: &vpc}); err != nil {
			w.t.Fatal(err)
		}
	}
	return *id
}

// routes writes a table's routes as one line each.
func (w *world) routes(table string) (list []string) {
	w.t.Helper()
	out, err := w.DescribeRouteTables(w.t.Context(), &sdk.DescribeRouteTablesInput{RouteTableIds: []string{table}})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range out.RouteTables[0].Routes {
		list = append(list, fmt.Sprint(aws.ToString(r.DestinationCidrBlock), " ", aws.ToString(r.GatewayId), aws.ToString(r.NetworkInterfaceId), " ", r.State, " ", r.Origin))
	}
	return list
}

func TestANewVPCHasWhatEC2PutsIntoIt(t *testing.T) {
	w := newWorld(t)
	id := w.vpc("10.1.2.3/16")
	vpcs, err := w.DescribeVpcs(t.Context(), &sdk.DescribeVpcsInput{VpcIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	v := vpcs.Vpcs[0]
	if *v.CidrBlock != "10.1.0.0/16" || v.State != types.VpcStateAvailable || *v.IsDefault || len(v.CidrBlockAssociationSet) != 1 || *v.Tags[0].Value != "10.1.2.3/16" {
		t.Errorf("it is %+v", v)
	}
	of := filterList("vpc-id", id)
	tables, err := w.DescribeRouteTables(t.Context(), &sdk.DescribeRouteTablesInput{Filters: of})
	if err != nil || len(tables.RouteTables) != 1 || !*tables.RouteTables[0].Associations[0].Main {
		t.Fatalf("its route tables are %+v, %v", tables, err)
	}
	sameLines(t, w.routes(*tables.RouteTables[0].RouteTableId), "10.1.0.0/16 local active CreateRouteTable")
	groups, err := w.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{Filters: of})
	if err != nil || len(groups.SecurityGroups) != 1 || *groups.SecurityGroups[0].GroupName != "default" || len(groups.SecurityGroups[0].IpPermissions) != 1 {
		t.Errorf("its groups are %+v, %v", groups, err)
	}
	if list := w.acls("vpc-id", id); len(list) != 1 || !*list[0].IsDefault {
		t.Errorf("its ACLs are %+v", list)
	}
	for attribute, want := range map[types.VpcAttributeName]bool{types.VpcAttributeNameEnableDnsSupport: true, types.VpcAttributeNameEnableDnsHostnames: false} {
		out, err := w.DescribeVpcAttribute(t.Context(), &sdk.DescribeVpcAttributeInput{VpcId: &id, Attribute: attribute})
		if err != nil {
			t.Fatal(err)
		}
		if attribute == types.VpcAttributeNameEnableDnsSupport && *out.EnableDnsSupport.Value != want || attribute == types.VpcAttributeNameEnableDnsHostnames && *out.EnableDnsHostnames.Value != want {
			t.Errorf("%s is not %v", attribute, want)
		}
	}
	if _, err := w.ModifyVpcAttribute(t.Context(), &sdk.ModifyVpcAttributeInput{VpcId: &id, EnableDnsHostnames: &types.AttributeBooleanValue{Value: aws.Bool(true)}}); err != nil {
		t.Fatal(err)
	}
	out, err := w.DescribeVpcAttribute(t.Context(), &sdk.DescribeVpcAttributeInput{VpcId: &id, Attribute: types.VpcAttributeNameEnableDnsHostnames})
	if err != nil || !*out.EnableDnsHostnames.Value {
		t.Errorf("the attribute was not kept: %+v, %v", out, err)
	}
	if _, err := w.DeleteVpc(t.Context(), &sdk.DeleteVpcInput{VpcId: &id}); err != nil {
		t.Fatal(err)
	}
	groups, err = w.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{Filters: of})
	if err != nil || len(groups.SecurityGroups) != 0 || len(w.acls("vpc-id", id)) != 0 {
		t.Errorf("the VPC's parts are left: %+v, %v", groups, err)
	}
}

func TestRangesOfVPCsAndSubnetsAreChecked(t *testing.T) {
	w := newWorld(t)
	for block, code := range map[string]string{"10.0.0.0/8": "InvalidVpc.Range", "10.0.0.0/29": "InvalidVpc.Range", "169.254.0.0/16": "InvalidVpc.Range", "127.0.0.0/24": "InvalidVpc.Range", "10.0.0.0": "InvalidParameterValue", "fd00::/56": "InvalidParameterValue", "": "InvalidParameterValue"} {
		_, err := w.CreateVpc(t.Context(), &sdk.CreateVpcInput{CidrBlock: &block})
		refused(t, err, code)
	}
	id := w.vpc("10.1.0.0/20")
	w.subnetIn(id, "10.1.0.0/24")
	for block, code := range map[string]string{"10.1.0.128/25": "InvalidSubnet.Conflict", "10.1.16.0/24": "InvalidSubnet.Range", "10.1.0.0/16": "InvalidSubnet.Range", "10.1.1.0/29": "InvalidSubnet.Range", "x": "InvalidParameterValue"} {
		_, err := w.CreateSubnet(t.Context(), &sdk.CreateSubnetInput{VpcId: &id, CidrBlock: &block})
		refused(t, err, code)
	}
	_, err := w.CreateSubnet(t.Context(), &sdk.CreateSubnetInput{VpcId: &id, CidrBlock: aws.String("10.1.1.0/24"), AvailabilityZone: aws.String("us-east-1z")})
	refused(t, err, "InvalidParameterValue", "us-east-1z")
	// A second range opens more room, and can't go while it is used.
	more, err := w.AssociateVpcCidrBlock(t.Context(), &sdk.AssociateVpcCidrBlockInput{VpcId: &id, CidrBlock: aws.String("10.9.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.AssociateVpcCidrBlock(t.Context(), &sdk.AssociateVpcCidrBlockInput{VpcId: &id, CidrBlock: aws.String("10.9.0.0/25")})
	refused(t, err, "InvalidVpc.Range")
	_, err = w.AssociateVpcCidrBlock(t.Context(), &sdk.AssociateVpcCidrBlockInput{VpcId: &id, CidrBlock: aws.String("192.168.0.0/24")})
	refused(t, err, "InvalidVpc.Range", "restricted")
	subnet := w.subnetIn(id, "10.9.0.0/28")
	drop := &sdk.DisassociateVpcCidrBlockInput{AssociationId: more.CidrBlockAssociation.AssociationId}
	_, err = w.DisassociateVpcCidrBlock(t.Context(), drop)
	refused(t, err, "DependencyViolation")
	if _, err := w.DeleteSubnet(t.Context(), &sdk.DeleteSubnetInput{SubnetId: &subnet}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DisassociateVpcCidrBlock(t.Context(), drop); err != nil {
		t.Fatal(err)
	}
	_, err = w.DisassociateVpcCidrBlock(t.Context(), drop)
	refused(t, err, "InvalidVpcCidrBlockAssociationID.NotFound")
}

func TestRoutesLeadWhereTheyAreToldAndTurnBlackWhenTheirTargetGoes(t *testing.T) {
	w := newWorld(t)
	vpc := w.vpc("10.1.0.0/16")
	igw, table := w.gateway(vpc), w.routeTable(vpc)
	route := func(destination, gateway string) error {
		_, err := w.CreateRoute(t.Context(), &sdk.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: &destination, GatewayId: &gateway})
		return err
	}
	if err := route("0.0.0.0/0", igw); err != nil {
		t.Fatal(err)
	}
	if err := route("0.0.0.0/0", igw); err != nil {
		t.Errorf("the same route again: %v", err)
	}
	stray := w.gateway("")
	refused(t, route("8.0.0.0/8", stray), "InvalidParameterValue", "different networks")
	refused(t, route("10.1.2.0/24", igw), "InvalidParameterValue", "more specific")
	refused(t, route("8.0.0.0/8", "igw-0123456789abcdef0"), "InvalidInternetGatewayID.NotFound")
	_, err := w.CreateRoute(t.Context(), &sdk.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("8.0.0.0/8")})
	refused(t, err, "InvalidParameterCombination")
	sameLines(t, w.routes(table), "10.1.0.0/16 local active CreateRouteTable", "0.0.0.0/0 "+igw+" active CreateRoute")
	if _, err := w.DetachInternetGateway(t.Context(), &sdk.DetachInternetGatewayInput{InternetGatewayId: &igw, VpcId: &vpc}); err != nil {
		t.Fatal(err)
	}
	sameLines(t, w.routes(table), "10.1.0.0/16 local active CreateRouteTable", "0.0.0.0/0 "+igw+" blackhole CreateRoute")
	other := w.gateway(vpc)
	_, err = w.ReplaceRoute(t.Context(), &sdk.ReplaceRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: &other})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.ReplaceRoute(t.Context(), &sdk.ReplaceRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("9.0.0.0/8"), GatewayId: &other})
	refused(t, err, "InvalidParameterValue", "CreateRoute")
	if _, err := w.DeleteRoute(t.Context(), &sdk.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("0.0.0.0/0")}); err != nil {
		t.Fatal(err)
	}
	_, err = w.DeleteRoute(t.Context(), &sdk.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("0.0.0.0/0")})
	refused(t, err, "InvalidRoute.NotFound")
	_, err = w.DeleteRoute(t.Context(), &sdk.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("10.1.0.0/16")})
	refused(t, err, "InvalidParameterValue", "local")
}

func TestRouteTablesAreAssociatedReplacedAndMadeMain(t *testing.T) {
	w := newWorld(t)
	vpc := w.vpc("10.1.0.0/16")
	subnet, a, b := w.subnetIn(vpc, "10.1.0.0/24"), w.routeTable(vpc), w.routeTable(vpc)
	tied, err := w.AssociateRouteTable(t.Context(), &sdk.AssociateRouteTableInput{RouteTableId: &a, SubnetId: &subnet})
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.AssociateRouteTable(t.Context(), &sdk.AssociateRouteTableInput{RouteTableId: &a, SubnetId: &subnet})
	if err != nil || *again.AssociationId != *tied.AssociationId {
		t.Errorf("the same association again: %+v, %v", again, err)
	}
	_, err = w.AssociateRouteTable(t.Context(), &sdk.AssociateRouteTableInput{RouteTableId: &b, SubnetId: &subnet})
	refused(t, err, "Resource.AlreadyAssociated")
	_, err = w.DeleteRouteTable(t.Context(), &sdk.DeleteRouteTableInput{RouteTableId: &a})
	refused(t, err, "DependencyViolation")
	moved, err := w.ReplaceRouteTableAssociation(t.Context(), &sdk.ReplaceRouteTableAssociationInput{AssociationId: tied.AssociationId, RouteTableId: &b})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.DisassociateRouteTable(t.Context(), &sdk.DisassociateRouteTableInput{AssociationId: moved.NewAssociationId}); err != nil {
		t.Fatal(err)
	}
	main, err := w.DescribeRouteTables(t.Context(), &sdk.DescribeRouteTablesInput{Filters: filterList("vpc-id", vpc, "association.main", "true")})
	if err != nil || len(main.RouteTables) != 1 {
		t.Fatal(main, err)
	}
	old := main.RouteTables[0]
	_, err = w.DisassociateRouteTable(t.Context(), &sdk.DisassociateRouteTableInput{AssociationId: old.Associations[0].RouteTableAssociationId})
	refused(t, err, "InvalidParameterValue", "main")
	if _, err := w.ReplaceRouteTableAssociation(t.Context(), &sdk.ReplaceRouteTableAssociationInput{AssociationId: old.Associations[0].RouteTableAssociationId, RouteTableId: &b}); err != nil {
		t.Fatal(err)
	}
	_, err = w.DeleteRouteTable(t.Context(), &sdk.DeleteRouteTableInput{RouteTableId: &b})
	refused(t, err, "DependencyViolation")
	for _, id := range []string{a, *old.RouteTableId} {
		if _, err := w.DeleteRouteTable(t.Context(), &sdk.DeleteRouteTableInput{RouteTableId: &id}); err != nil {
			t.Error(err)
		}
	}
}

func TestNothingGoesWhileSomethingStandsOnIt(t *testing.T) {
	w := newWorld(t)
	vpc := w.vpc("10.1.0.0/16")
	subnet, igw, table := w.subnetIn(vpc, "10.1.0.0/24"), w.gateway(vpc), w.routeTable(vpc)
	group, err := w.CreateSecurityGroup(t.Context(), &sdk.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("g"), VpcId: &vpc})
	if err != nil {
		t.Fatal(err)
	}
	nic, err := w.CreateNetworkInterface(t.Context(), &sdk.CreateNetworkInterfaceInput{SubnetId: &subnet})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.DeleteSubnet(t.Context(), &sdk.DeleteSubnetInput{SubnetId: &subnet})
	refused(t, err, "DependencyViolation", subnet)
	_, err = w.DeleteInternetGateway(t.Context(), &sdk.DeleteInternetGatewayInput{InternetGatewayId: &igw})
	refused(t, err, "DependencyViolation", igw)
	steps := []func() error{
		func() error {
			_, err := w.DeleteNetworkInterface(t.Context(), &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: nic.NetworkInterface.NetworkInterfaceId})
			return err
		},
		func() error {
			_, err := w.DeleteSubnet(t.Context(), &sdk.DeleteSubnetInput{SubnetId: &subnet})
			return err
		},
		func() error {
			_, err := w.DetachInternetGateway(t.Context(), &sdk.DetachInternetGatewayInput{InternetGatewayId: &igw, VpcId: &vpc})
			return err
		},
		func() error {
			_, err := w.DeleteRouteTable(t.Context(), &sdk.DeleteRouteTableInput{RouteTableId: &table})
			return err
		},
		func() error {
			_, err := w.DeleteSecurityGroup(t.Context(), &sdk.DeleteSecurityGroupInput{GroupId: group.GroupId})
			return err
		},
	}
	for _, step := range steps {
		_, err := w.DeleteVpc(t.Context(), &sdk.DeleteVpcInput{VpcId: &vpc})
		refused(t, err, "DependencyViolation", vpc)
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.DeleteVpc(t.Context(), &sdk.DeleteVpcInput{VpcId: &vpc}); err != nil {
		t.Fatal(err)
	}
	_, err = w.stranger.DescribeVpcs(t.Context(), &sdk.DescribeVpcsInput{VpcIds: []string{string(w.subnet().VPC)}})
	refused(t, err, "InvalidVpcID.NotFound")
	left, err := w.DescribeVpcs(t.Context(), &sdk.DescribeVpcsInput{})
	if err != nil || slices.ContainsFunc(left.Vpcs, func(v types.Vpc) bool { return *v.VpcId == vpc }) {
		t.Errorf("left are %+v, %v", left, err)
	}
}

func TestASubnetCountsEachAddressThatItHasLent(t *testing.T) {
	w := newWorld(t)
	subnet := w.subnetIn(w.vpc("10.1.0.0/16"), "10.1.0.0/28")
	left := func(want int32) {
		t.Helper()
		out, err := w.DescribeSubnets(t.Context(), &sdk.DescribeSubnetsInput{SubnetIds: []string{subnet}})
		if err != nil || *out.Subnets[0].AvailableIpAddressCount != want {
			t.Errorf("%+v has not %d left, %v", out, want, err)
		}
	}
	left(11)
	nic, err := w.CreateNetworkInterface(t.Context(), &sdk.CreateNetworkInterfaceInput{SubnetId: &subnet, SecondaryPrivateIpAddressCount: aws.Int32(3)})
	if err != nil {
		t.Fatal(err)
	}
	left(7)
	if _, err := w.DeleteNetworkInterface(t.Context(), &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: nic.NetworkInterface.NetworkInterfaceId}); err != nil {
		t.Fatal(err)
	}
	left(11)
}

func TestPublicAddressesHaveNamesWhereTheVPCGivesThem(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	if name := aws.ToString(w.instance(id).PublicDnsName); name == "" {
		t.Error("in the default VPC the instance has no public name")
	}
	vpc := string(w.subnet().VPC)
	if _, err := w.ModifyVpcAttribute(t.Context(), &sdk.ModifyVpcAttributeInput{VpcId: &vpc, EnableDnsHostnames: &types.AttributeBooleanValue{Value: aws.Bool(false)}}); err != nil {
		t.Fatal(err)
	}
	if i := w.instance(id); aws.ToString(i.PublicDnsName) != "" || aws.ToString(i.PublicIpAddress) == "" {
		t.Errorf("with EnableDnsHostnames off it has the name %q and the address %q", aws.ToString(i.PublicDnsName), aws.ToString(i.PublicIpAddress))
	}
}
