package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const (
	storyRuns   = 5
	storySubnet = 24
	storyTables = 8
	storyGroups = 40
	storyNICs   = 14
)

// story builds a network as infrastructure tools do, one call after the other, and takes it down again.
type story struct {
	c         *testCloud
	ctx       context.Context
	calls     int
	resources int
	undo      []func() error
	err       error
}

// made notes one resource and how it is deleted.
func (s *story) made(err error, undo func() error) {
	s.calls++
	if s.err = errors.Join(s.err, err); err == nil {
		s.resources++
		s.undo = append(s.undo, undo)
	}
}

func (s *story) call(err error) {
	s.calls++
	s.err = errors.Join(s.err, err)
}

// networkStory measures the application of a network of 200 resources, and its end.
func networkStory(c *testCloud) ([]row, error) {
	var up, down []time.Duration
	var rates []float64
	resources := 0
	for range storyRuns {
		s := &story{c: c, ctx: context.Background()}
		begin := time.Now()
		s.apply()
		took, calls := time.Since(begin), s.calls
		begin = time.Now()
		slices.Reverse(s.undo)
		for _, undo := range s.undo {
			s.err = errors.Join(s.err, undo())
		}
		if s.err != nil {
			return nil, s.err
		}
		up, down, rates, resources = append(up, took), append(down, time.Since(begin)), append(rates, float64(calls)/took.Seconds()), s.resources
	}
	name := fmt.Sprintf("a network of %d resources", resources)
	return []row{
		{Name: name + ", applied", Unit: "ms", Ours: median(up), Runs: storyRuns},
		{Name: name + ", calls a second", Unit: "1/s", Ours: middle(rates), Runs: storyRuns},
		{Name: name + ", taken down", Unit: "ms", Ours: median(down), Runs: storyRuns},
	}, nil
}

func (s *story) apply() {
	api, ctx := s.c.ec2, s.ctx
	vpc, err := api.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.40.0.0/16")})
	if err != nil {
		s.err = err
		return
	}
	id := vpc.Vpc.VpcId
	s.made(nil, func() error { _, err := api.DeleteVpc(ctx, &ec2.DeleteVpcInput{VpcId: id}); return err })
	gw, err := api.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
	if err != nil {
		s.err = err
		return
	}
	igw := gw.InternetGateway.InternetGatewayId
	s.made(nil, func() error {
		_, err := api.DeleteInternetGateway(ctx, &ec2.DeleteInternetGatewayInput{InternetGatewayId: igw})
		return err
	})
	_, err = api.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: igw, VpcId: id})
	s.made(err, func() error {
		_, err := api.DetachInternetGateway(ctx, &ec2.DetachInternetGatewayInput{InternetGatewayId: igw, VpcId: id})
		return err
	})
	subnets := s.subnets(id)
	s.tables(id, igw, subnets)
	groups := s.groups(id)
	s.interfaces(subnets, groups)
}

func (s *story) subnets(vpc *string) (ids []*string) {
	for n := range storySubnet {
		out, err := s.c.ec2.CreateSubnet(s.ctx, &ec2.CreateSubnetInput{VpcId: vpc, CidrBlock: aws.String(fmt.Sprintf("10.40.%d.0/24", n)),
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSubnet, Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String(fmt.Sprint("tier-", n))}}}}})
		if err != nil {
			s.call(err)
			return ids
		}
		id := out.Subnet.SubnetId
		ids = append(ids, id)
		s.made(nil, func() error {
			_, err := s.c.ec2.DeleteSubnet(s.ctx, &ec2.DeleteSubnetInput{SubnetId: id})
			return err
		})
	}
	return ids
}

func (s *story) tables(vpc, igw *string, subnets []*string) {
	for n := range storyTables {
		out, err := s.c.ec2.CreateRouteTable(s.ctx, &ec2.CreateRouteTableInput{VpcId: vpc})
		if err != nil {
			s.call(err)
			return
		}
		table := out.RouteTable.RouteTableId
		s.made(nil, func() error {
			_, err := s.c.ec2.DeleteRouteTable(s.ctx, &ec2.DeleteRouteTableInput{RouteTableId: table})
			return err
		})
		_, err = s.c.ec2.CreateRoute(s.ctx, &ec2.CreateRouteInput{RouteTableId: table, DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: igw})
		s.made(err, func() error { return nil }) // goes with its table
		for k, subnet := range subnets {
			if k%storyTables != n {
				continue
			}
			a, err := s.c.ec2.AssociateRouteTable(s.ctx, &ec2.AssociateRouteTableInput{RouteTableId: table, SubnetId: subnet})
			if err != nil {
				s.call(err)
				return
			}
			s.made(nil, func() error {
				_, err := s.c.ec2.DisassociateRouteTable(s.ctx, &ec2.DisassociateRouteTableInput{AssociationId: a.AssociationId})
				return err
			})
		}
	}
}

// groups makes groups that let each the one before in, and everybody on a port.
func (s *story) groups(vpc *string) (ids []string) {
	for n := range storyGroups {
		name := aws.String(fmt.Sprint("tier-", n))
		out, err := s.c.ec2.CreateSecurityGroup(s.ctx, &ec2.CreateSecurityGroupInput{GroupName: name, Description: name, VpcId: vpc})
		if err != nil {
			s.call(err)
			return ids
		}
		id := out.GroupId
		ids = append(ids, *id)
		s.made(nil, func() error {
			_, err := s.c.ec2.DeleteSecurityGroup(s.ctx, &ec2.DeleteSecurityGroupInput{GroupId: id})
			return err
		})
		allow := func(p types.IpPermission) {
			p.IpProtocol, p.FromPort, p.ToPort = aws.String("tcp"), aws.Int32(int32(8000+n)), aws.Int32(int32(8000+n))
			_, err := s.c.ec2.AuthorizeSecurityGroupIngress(s.ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: id, IpPermissions: []types.IpPermission{p}})
			s.made(err, func() error { return nil }) // goes with its group
		}
		allow(types.IpPermission{IpRanges: []types.IpRange{{CidrIp: aws.String("10.40.0.0/16")}}})
		if n > 0 {
			allow(types.IpPermission{UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: aws.String(ids[n-1])}}})
		}
	}
	return ids
}

func (s *story) interfaces(subnets []*string, groups []string) {
	if s.err != nil {
		return
	}
	for n := range storyNICs {
		out, err := s.c.ec2.CreateNetworkInterface(s.ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: subnets[n%len(subnets)], Groups: groups[n%len(groups) : n%len(groups)+1]})
		if err != nil {
			s.call(err)
			return
		}
		id := out.NetworkInterface.NetworkInterfaceId
		s.made(nil, func() error {
			_, err := s.c.ec2.DeleteNetworkInterface(s.ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: id})
			return err
		})
	}
}
