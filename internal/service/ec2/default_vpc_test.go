package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestADeletedDefaultSubnetIsMadeOnceMoreInTheLowestFreeRange(t *testing.T) {
	w := newWorld(t)
	make := func() (*sdk.CreateDefaultSubnetOutput, error) {
		return w.CreateDefaultSubnet(t.Context(), &sdk.CreateDefaultSubnetInput{AvailabilityZone: aws.String("us-east-1a")})
	}
	_, err := make()
	refused(t, err, "DefaultSubnetAlreadyExistsInAvailabilityZone")
	old := w.subnet()
	if _, err := w.DeleteSubnet(t.Context(), &sdk.DeleteSubnetInput{SubnetId: aws.String(string(old.ID))}); err != nil {
		t.Fatal(err)
	}
	w.subnetIn(string(old.VPC), "172.31.3.0/24")
	out, err := make()
	if err != nil {
		t.Fatal(err)
	}
	if s := out.Subnet; *s.CidrBlock != "172.31.16.0/20" || !*s.DefaultForAz || !*s.MapPublicIpOnLaunch {
		t.Errorf("the subnet is %s, default %v, with public addresses %v", *s.CidrBlock, *s.DefaultForAz, *s.MapPublicIpOnLaunch)
	}
	_, err = w.CreateDefaultSubnet(t.Context(), &sdk.CreateDefaultSubnetInput{AvailabilityZone: aws.String("us-east-1z")})
	refused(t, err, "InvalidParameterValue", "us-east-1z")
}

func TestAnAccountWithoutADefaultVPCGetsOneAndNoSecond(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateDefaultVpc(t.Context(), &sdk.CreateDefaultVpcInput{})
	refused(t, err, "DefaultVpcAlreadyExists")
	_, err = w.stranger.CreateDefaultSubnet(t.Context(), &sdk.CreateDefaultSubnetInput{AvailabilityZone: aws.String("us-east-1a")})
	refused(t, err, "DefaultVpcDoesNotExist")

	out, err := w.stranger.CreateDefaultVpc(t.Context(), &sdk.CreateDefaultVpcInput{})
	if err != nil {
		t.Fatal(err)
	}
	if *out.Vpc.CidrBlock != "172.31.0.0/16" || !*out.Vpc.IsDefault {
		t.Errorf("the VPC is %s, default %v", *out.Vpc.CidrBlock, *out.Vpc.IsDefault)
	}
	id, view := cloud.VPCID(*out.Vpc.VpcId), w.store.View()
	subnets, gateways := store.ListBy(view, store.SubnetsByVPC, id), store.ListBy(view, store.InternetGatewaysByVPC, id)
	if len(subnets) != 1 || !subnets[0].DefaultForAZ || len(gateways) != 1 {
		t.Fatalf("it has %d subnets and %d gateways", len(subnets), len(gateways))
	}
	table := cloud.TableOf(store.ListBy(view, store.RouteTablesByVPC, id), subnets[0].ID)
	if last := table.Routes[len(table.Routes)-1]; last.Destination != cloud.AllIPv4 || last.Target != string(gateways[0].ID) {
		t.Errorf("its main table leads %s to %s", last.Destination, last.Target)
	}
	if o, ok := store.Get(view, store.DHCPOptions, cloud.DHCPOptionsID(*out.Vpc.DhcpOptionsId)); !ok || o.Account != strangerAccount || !o.Default {
		t.Errorf("its options are %+v", o)
	}
	_, err = w.stranger.CreateDefaultVpc(t.Context(), &sdk.CreateDefaultVpcInput{})
	refused(t, err, "DefaultVpcAlreadyExists")
}
