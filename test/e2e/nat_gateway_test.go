package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// A private subnet's instance asks a server by its public address, again and again, and tells its console.
func TestAPrivateSubnetReachesOutThroughANATGatewayOnly(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key := c.KeyPair("k")
	server := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("web", 22, 8080)))
	listen(c.SSH(server, "root", key).WaitLogin(), 8080)
	subnet, err := c.EC2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: server.VpcId, CidrBlock: aws.String("172.31.240.0/24")})
	must(err)
	table, err := c.EC2.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: server.VpcId})
	must(err)
	_, err = c.EC2.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: table.RouteTable.RouteTableId, SubnetId: subnet.Subnet.SubnetId})
	must(err)
	script := fmt.Sprintf("#!/bin/sh\nn=0\nwhile true; do n=$((n+1)); echo \"try $n: $(nc -w 1 %s 8080 </dev/null)\"; sleep 1; done\n", *server.PublicIpAddress)
	private := c.Launch(cloudtest.WithUserData(base64.StdEncoding.EncodeToString([]byte(script))), func(in *ec2.RunInstancesInput) { in.SubnetId = subnet.Subnet.SubnetId })
	if private.PublicIpAddress != nil {
		t.Errorf("it has the public address %s", *private.PublicIpAddress)
	}
	// last is what the last try that is over was answered; no tries while the instance's node is not connected.
	last := func() (answer string, tries int) {
		out, err := c.EC2.GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: private.InstanceId})
		if err != nil {
			return "", 0
		}
		text, err := base64.StdEncoding.DecodeString(aws.ToString(out.Output))
		must(err)
		for _, line := range strings.Split(strings.ReplaceAll(string(text), "\r", ""), "\n") {
			if _, rest, ok := strings.Cut(line, "try "); ok {
				_, answer, _ = strings.Cut(rest, ": ")
				tries++
			}
		}
		return answer, tries
	}
	c.WaitFor(20*time.Second, "the instance to try", func() error {
		if answer, tries := last(); tries < 2 {
			return fmt.Errorf("it tried %d times", tries)
		} else if answer != "" {
			t.Errorf("without a way out it is answered %q", answer)
		}
		return nil
	})
	eip, err := c.EC2.AllocateAddress(ctx, &ec2.AllocateAddressInput{})
	must(err)
	made, err := c.EC2.CreateNatGateway(ctx, &ec2.CreateNatGatewayInput{SubnetId: server.SubnetId, AllocationId: eip.AllocationId})
	must(err)
	id := made.NatGateway.NatGatewayId
	is := func(want types.NatGatewayState) {
		t.Helper()
		c.WaitFor(20*time.Second, "the NAT gateway to be "+string(want), func() error {
			out, err := c.EC2.DescribeNatGateways(ctx, &ec2.DescribeNatGatewaysInput{NatGatewayIds: []string{*id}})
			must(err)
			if got := out.NatGateways[0].State; got != want {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
	is(types.NatGatewayStateAvailable)
	_, err = c.EC2.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: table.RouteTable.RouteTableId, DestinationCidrBlock: aws.String("0.0.0.0/0"), NatGatewayId: id})
	must(err)
	answered := func(what string, want bool) {
		t.Helper()
		c.WaitFor(20*time.Second, what, func() error {
			if answer, tries := last(); tries == 0 || strings.HasPrefix(answer, "ip-") != want {
				return fmt.Errorf("it is answered %q", answer)
			}
			return nil
		})
	}
	answered("the way out", true)
	// A manager that is killed takes nothing along.
	_, before := last()
	c.Kill()
	c.Up()
	c.WaitFor(20*time.Second, "new tries", func() error {
		if _, now := last(); now < before+3 {
			return fmt.Errorf("%d tries", now-before)
		}
		return nil
	})
	answered("the way out after a crash", true)
	_, err = c.EC2.DeleteNatGateway(ctx, &ec2.DeleteNatGatewayInput{NatGatewayId: id})
	must(err)
	is(types.NatGatewayStateDeleted)
	answered("the way out to end", false)
	_, err = c.EC2.ReleaseAddress(ctx, &ec2.ReleaseAddressInput{AllocationId: eip.AllocationId})
	must(err)
}
