package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// A VPC of both families, with a subnet that the internet reaches and one that only reaches it.
func TestInstancesSpeakIPv6AsTheirRoutesAndGroupsSay(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	made, err := c.EC2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.1.0.0/16"), AmazonProvidedIpv6CidrBlock: aws.Bool(true)})
	must(err)
	vpc := made.Vpc.VpcId
	block := netipPrefix(t, *made.Vpc.Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlock)
	gateway, err := c.EC2.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
	must(err)
	_, err = c.EC2.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: gateway.InternetGateway.InternetGatewayId, VpcId: vpc})
	must(err)
	egress, err := c.EC2.CreateEgressOnlyInternetGateway(ctx, &ec2.CreateEgressOnlyInternetGatewayInput{VpcId: vpc})
	must(err)
	subnet := func(number byte, route *ec2.CreateRouteInput) *string {
		t.Helper()
		b := block.Addr().As16()
		b[7] += number
		in, err := c.EC2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: vpc, CidrBlock: aws.String(fmt.Sprintf("10.1.%d.0/24", number)), Ipv6CidrBlock: aws.String(net.IP(b[:]).String() + "/64")})
		must(err)
		table, err := c.EC2.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: vpc})
		must(err)
		_, err = c.EC2.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: table.RouteTable.RouteTableId, SubnetId: in.Subnet.SubnetId})
		must(err)
		route.RouteTableId, route.DestinationIpv6CidrBlock = table.RouteTable.RouteTableId, aws.String("::/0")
		_, err = c.EC2.CreateRoute(ctx, route)
		must(err)
		return in.Subnet.SubnetId
	}
	open := subnet(1, &ec2.CreateRouteInput{GatewayId: gateway.InternetGateway.InternetGatewayId})
	shut := subnet(2, &ec2.CreateRouteInput{EgressOnlyInternetGatewayId: egress.EgressOnlyInternetGateway.EgressOnlyInternetGatewayId})
	group, err := c.EC2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("six"), Description: aws.String("six"), VpcId: vpc})
	must(err)
	_, err = c.EC2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group.GroupId,
		IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0")}}}}})
	must(err)
	key := c.KeyPair("k")
	launch := func(subnet *string) (types.Instance, *cloudtest.Machine) {
		t.Helper()
		i := c.Launch(cloudtest.WithKey("k"), func(in *ec2.RunInstancesInput) {
			in.SubnetId, in.SecurityGroupIds, in.SecurityGroups, in.Ipv6AddressCount = subnet, []string{*group.GroupId}, nil, aws.Int32(1)
			in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpProtocolIpv6: "enabled"}
		})
		if i.PublicIpAddress != nil || i.Ipv6Address == nil {
			t.Fatalf("it has the addresses %v and %v", aws.ToString(i.PublicIpAddress), aws.ToString(i.Ipv6Address))
		}
		m := c.SSH(types.Instance{InstanceId: i.InstanceId, PublicIpAddress: i.Ipv6Address}, "root", key)
		return i, m
	}
	server, front := launch(open)
	hidden, _ := launch(shut)
	front.WaitLogin()
	told := front.Run("wget -q -O - http://[fd00:ec2::254]/latest/meta-data/ipv6")
	if told != *server.Ipv6Address {
		t.Errorf("the metadata service tells the address %q, the API %s", told, *server.Ipv6Address)
	}
	if out := front.Run("nslookup ip-10-1-1-5.ec2.internal fd00:ec2::253"); !strings.Contains(out, "10.1.1.5") {
		t.Errorf("the resolver answers\n%s", out)
	}
	direct := func(address string) error {
		conn, err := net.DialTimeout("tcp6", net.JoinHostPort(address, "22"), time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	if direct(*hidden.Ipv6Address) == nil {
		t.Error("what is behind an egress-only gateway answers the outside")
	}
	if out := front.Run("nc -w 2 " + *hidden.Ipv6Address + " 22 </dev/null"); !strings.Contains(out, "SSH") {
		t.Errorf("its neighbour does not reach it: %q", out)
	}
	// A machine outlives its manager, and so does its address.
	c.Kill()
	if err := direct(*server.Ipv6Address); err != nil && !strings.Contains(err.Error(), "refused") {
		t.Errorf("without a manager: %v", err)
	}
	c.Up()
	front.WaitLogin()
	// An address comes and goes while the instance runs.
	nic := server.NetworkInterfaces[0].NetworkInterfaceId
	more, err := c.EC2.AssignIpv6Addresses(ctx, &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: nic, Ipv6AddressCount: aws.Int32(1)})
	must(err)
	second := more.AssignedIpv6Addresses[0]
	c.WaitFor(10*time.Second, "the second address to answer", func() error { return direct(second) })
	_, err = c.EC2.UnassignIpv6Addresses(ctx, &ec2.UnassignIpv6AddressesInput{NetworkInterfaceId: nic, Ipv6Addresses: []string{second}})
	must(err)
	c.WaitFor(10*time.Second, "the second address to be gone", func() error {
		if direct(second) == nil {
			return fmt.Errorf("%s answers", second)
		}
		return nil
	})
	if err := direct(*server.Ipv6Address); err != nil {
		t.Errorf("the first address went with it: %v", err)
	}
	// The group's rule for IPv6 is what lets in.
	_, err = c.EC2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: group.GroupId,
		IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0")}}}}})
	must(err)
	c.WaitFor(10*time.Second, "the group to close", func() error {
		if direct(*server.Ipv6Address) == nil {
			return fmt.Errorf("it answers")
		}
		return nil
	})
}

func netipPrefix(t *testing.T, s string) netip.Prefix {
	t.Helper()
	p, err := netip.ParsePrefix(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
