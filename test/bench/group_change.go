package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const (
	groupMembers = 200
	groupChanges = 9
	probeLimit   = 5 * time.Second
)

// groupChange measures how long it takes from the call that adds a rule to a group until the last of 200 interfaces that
// carry it enforces the rule. A neighbour tries them one after the other: where the rule holds, the connection is refused
// by the instance at once, and before, the packet is dropped.
func groupChange(c *testCloud) (rows []row, err error) {
	if err := c.bake(); err != nil {
		return nil, err
	}
	ctx := context.Background()
	group := func(name string) (string, error) {
		g, err := c.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: &name, Description: &name})
		if err != nil {
			return "", err
		}
		return *g.GroupId, nil
	}
	crowd, err := group("bench-crowd")
	if err != nil {
		return nil, err
	}
	visitor, err := group("bench-visitor")
	if err != nil {
		return nil, err
	}
	ids, _, err := c.launchWith(groupMembers, crowd)
	defer func() { err = errors.Join(err, c.terminate(ids)) }()
	if err != nil {
		return nil, err
	}
	from, _, err := c.launchWith(1, visitor)
	defer func() { err = errors.Join(err, c.terminate(from)) }()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	pages := ec2.NewDescribeInstancesPaginator(c.ec2, &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: aws.String("instance.group-id"), Values: []string{crowd}}}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				addr, err := netip.ParseAddr(*i.PrivateIpAddress)
				if err != nil {
					return nil, err
				}
				addrs = append(addrs, addr)
			}
		}
	}
	if len(addrs) != groupMembers {
		return nil, fmt.Errorf("%d instances carry the group", len(addrs))
	}
	var times []time.Duration
	for n := range groupChanges {
		port := uint16(7000 + n)
		begin := time.Now()
		_, err := c.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &crowd, IpPermissions: []types.IpPermission{{
			IpProtocol: aws.String("tcp"), FromPort: aws.Int32(int32(port)), ToPort: aws.Int32(int32(port)), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &visitor}}}}})
		if err != nil {
			return nil, err
		}
		err = inside(c.netFile(from[0]), func() error {
			for _, addr := range addrs {
				if err := refused(netip.AddrPortFrom(addr, port), begin.Add(probeLimit)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		times = append(times, time.Since(begin))
	}
	return []row{row{Name: "a group's change, until the last of 200 enforces it", Unit: "ms", Ours: median(times), Runs: groupChanges}.atMost(100)}, nil
}

// refused tries until a connection is refused by who has the address.
func refused(to netip.AddrPort, deadline time.Time) error {
	for {
		conn, err := net.DialTimeout("tcp4", to.String(), 2*time.Millisecond)
		if err == nil {
			conn.Close()
			return fmt.Errorf("somebody listens at %s", to)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not enforce the rule: %w", to, err)
		}
	}
}
