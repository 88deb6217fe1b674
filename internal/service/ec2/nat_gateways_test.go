package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func (w *world) natGateway(id string) types.NatGateway {
	w.t.Helper()
	out, err := w.DescribeNatGateways(w.t.Context(), &sdk.DescribeNatGatewaysInput{NatGatewayIds: []string{id}})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.NatGateways[0]
}

func TestANATGatewayHoldsItsAddressAndItsInterfaceUntilItIsDeleted(t *testing.T) {
	w := newWorld(t)
	vpc := w.vpc("10.7.0.0/16")
	subnet := w.subnetIn(vpc, "10.7.1.0/24")
	eip, err := w.AllocateAddress(t.Context(), &sdk.AllocateAddressInput{})
	if err != nil {
		t.Fatal(err)
	}
	create := func() types.NatGateway {
		t.Helper()
		out, err := w.CreateNatGateway(t.Context(), &sdk.CreateNatGatewayInput{SubnetId: &subnet, AllocationId: eip.AllocationId,
			TagSpecifications: []types.TagSpecification{tagSpec(types.ResourceTypeNatgateway, "Name", "nat")}})
		if err != nil {
			t.Fatal(err)
		}
		return *out.NatGateway
	}
	if g := create(); g.State != types.NatGatewayStateFailed || *g.FailureCode != "Gateway.NotAttached" {
		t.Errorf("without an internet gateway it is %s: %s", g.State, aws.ToString(g.FailureCode))
	}
	gateway := w.gateway(vpc)
	g := create()
	a := g.NatGatewayAddresses[0]
	if g.State != types.NatGatewayStatePending || *a.PublicIp != *eip.PublicIp || *a.AllocationId != *eip.AllocationId || len(g.Tags) != 1 {
		t.Errorf("it is %+v", g)
	}
	if again := create(); *again.FailureCode != "Resource.AlreadyAssociated" {
		t.Errorf("a second one with the same address: %+v", again)
	}
	n, err := w.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{*a.NetworkInterfaceId}})
	if err != nil {
		t.Fatal(err)
	}
	if i := n.NetworkInterfaces[0]; i.InterfaceType != types.NetworkInterfaceTypeNatGateway || !*i.RequesterManaged || i.Status != types.NetworkInterfaceStatusInUse || *i.Association.PublicIp != *eip.PublicIp {
		t.Errorf("its interface is %+v", i)
	}
	table := w.routeTable(vpc)
	route := func() error {
		_, err := w.CreateRoute(t.Context(), &sdk.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("0.0.0.0/0"), NatGatewayId: g.NatGatewayId})
		return err
	}
	if err := route(); err != nil {
		t.Fatal(err)
	}
	_, err = w.DeleteNetworkInterface(t.Context(), &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: a.NetworkInterfaceId})
	refused(t, err, "OperationNotPermitted")
	_, err = w.ReleaseAddress(t.Context(), &sdk.ReleaseAddressInput{AllocationId: eip.AllocationId})
	refused(t, err, "InvalidIPAddress.InUse")
	_, err = w.DetachInternetGateway(t.Context(), &sdk.DetachInternetGatewayInput{InternetGatewayId: &gateway, VpcId: &vpc})
	refused(t, err, "DependencyViolation")
	_, err = w.DeleteSubnet(t.Context(), &sdk.DeleteSubnetInput{SubnetId: &subnet})
	refused(t, err, "DependencyViolation")
	if _, err := w.DeleteNatGateway(t.Context(), &sdk.DeleteNatGatewayInput{NatGatewayId: g.NatGatewayId}); err != nil {
		t.Fatal(err)
	}
	if got := w.natGateway(*g.NatGatewayId).State; got != types.NatGatewayStateDeleting {
		t.Errorf("it is %s", got)
	}
	_, err = w.ReleaseAddress(t.Context(), &sdk.ReleaseAddressInput{AllocationId: eip.AllocationId})
	refused(t, err, "InvalidIPAddress.InUse")
}

func TestWhatANATGatewayIsToBeIsChecked(t *testing.T) {
	w := newWorld(t)
	subnet := w.subnetIn(w.vpc("10.7.0.0/16"), "10.7.1.0/24")
	for _, c := range []struct {
		in   sdk.CreateNatGatewayInput
		code string
	}{
		{sdk.CreateNatGatewayInput{SubnetId: &subnet}, "MissingParameter"},
		{sdk.CreateNatGatewayInput{SubnetId: &subnet, ConnectivityType: types.ConnectivityTypePrivate, AllocationId: aws.String("eipalloc-1")}, "InvalidParameterCombination"},
		{sdk.CreateNatGatewayInput{SubnetId: aws.String("subnet-00000000000000000"), ConnectivityType: types.ConnectivityTypePrivate}, "InvalidSubnetID.NotFound"},
		{sdk.CreateNatGatewayInput{SubnetId: &subnet, AllocationId: aws.String("eipalloc-00000000000000000")}, "InvalidAllocationID.NotFound"},
	} {
		_, err := w.CreateNatGateway(t.Context(), &c.in)
		refused(t, err, c.code)
	}
	_, err := w.DescribeNatGateways(t.Context(), &sdk.DescribeNatGatewaysInput{NatGatewayIds: []string{"nat-00000000000000000"}})
	refused(t, err, "NatGatewayNotFound")
	out, err := w.CreateNatGateway(t.Context(), &sdk.CreateNatGatewayInput{SubnetId: &subnet, ConnectivityType: types.ConnectivityTypePrivate, PrivateIpAddress: aws.String("10.7.1.77")})
	if err != nil {
		t.Fatal(err)
	}
	if a := out.NatGateway.NatGatewayAddresses[0]; *a.PrivateIp != "10.7.1.77" || a.PublicIp != nil {
		t.Errorf("its address is %+v", a)
	}
}
