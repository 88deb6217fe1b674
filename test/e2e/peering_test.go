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

// An instance of one VPC asks one of another, again and again, and tells its console.
func TestInstancesOfPeeredVPCsReachEachOtherByTheirRoutes(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	network := func(block string) (vpc, subnet, table, group *string) {
		t.Helper()
		made, err := c.EC2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String(block + "/16")})
		must(err)
		vpc = made.Vpc.VpcId
		in, err := c.EC2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: vpc, CidrBlock: aws.String(block + "/24")})
		must(err)
		tables, err := c.EC2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: []types.Filter{{Name: aws.String("vpc-id"), Values: []string{*vpc}}}})
		must(err)
		g, err := c.EC2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("g"), VpcId: vpc})
		must(err)
		_, err = c.EC2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: g.GroupId,
			IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(8080), ToPort: aws.Int32(8080), IpRanges: []types.IpRange{{CidrIp: aws.String("10.1.0.0/16")}}}}})
		must(err)
		return vpc, in.Subnet.SubnetId, tables.RouteTables[0].RouteTableId, g.GroupId
	}
	launch := func(subnet, group *string, script string) types.Instance {
		t.Helper()
		return c.Launch(cloudtest.WithUserData(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\n"+script+"\n"))), func(in *ec2.RunInstancesInput) {
			in.SubnetId, in.SecurityGroupIds, in.SecurityGroups = subnet, []string{*group}, nil
		})
	}
	a, subnetA, tableA, groupA := network("10.1.0.0")
	b, subnetB, tableB, groupB := network("10.2.0.0")
	server := launch(subnetB, groupB, "while true; do echo here | nc -l -p 8080; done")
	asker := launch(subnetA, groupA, fmt.Sprintf("n=0\nwhile true; do n=$((n+1)); echo \"try $n: $(nc -w 1 %s 8080 </dev/null)\"; sleep 1; done", *server.PrivateIpAddress))
	last := func() (answer string, tries int) {
		out, err := c.EC2.GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: asker.InstanceId})
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
	// answered waits until the tries of the last seconds end as they should.
	answered := func(what, want string) {
		t.Helper()
		_, from := last()
		c.WaitFor(30*time.Second, what, func() error {
			if answer, tries := last(); tries < from+3 || answer != want {
				return fmt.Errorf("try %d was answered %q", tries, answer)
			}
			return nil
		})
	}
	answered("tries without a peering", "")
	asked, err := c.EC2.CreateVpcPeeringConnection(ctx, &ec2.CreateVpcPeeringConnectionInput{VpcId: a, PeerVpcId: b})
	must(err)
	id := asked.VpcPeeringConnection.VpcPeeringConnectionId
	_, err = c.EC2.AcceptVpcPeeringConnection(ctx, &ec2.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: id})
	must(err)
	for table, block := range map[*string]string{tableA: "10.2.0.0/16", tableB: "10.1.0.0/16"} {
		_, err := c.EC2.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: table, DestinationCidrBlock: &block, VpcPeeringConnectionId: id})
		must(err)
	}
	answered("the peer to answer", "here")
	// The same by the group of who asks, instead of its range.
	byRange := []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(8080), ToPort: aws.Int32(8080), IpRanges: []types.IpRange{{CidrIp: aws.String("10.1.0.0/16")}}}}
	_, err = c.EC2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: groupB, IpPermissions: byRange})
	must(err)
	answered("the group to let nobody in", "")
	_, err = c.EC2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: groupB, IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"),
		FromPort: aws.Int32(8080), ToPort: aws.Int32(8080), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: groupA}}}}})
	must(err)
	answered("the peer's group to be let in", "here")
	_, err = c.EC2.DeleteVpcPeeringConnection(ctx, &ec2.DeleteVpcPeeringConnectionInput{VpcPeeringConnectionId: id})
	must(err)
	answered("the peer to be out of reach", "")
}
