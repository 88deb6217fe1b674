package ec2

import (
	"context"
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	maxIPv6RangesPerVPC = 5  // EC2's default
	ipv6VPCBits         = 56 // what a VPC gets
	ipv6SubnetBits      = 64
)

// carriesIPv6 tells whether any server's network carries IPv6. While none does, no VPC gets a range: its addresses would
// lead nowhere.
func carriesIPv6(tx *store.Tx) bool {
	return slices.ContainsFunc(store.List(tx.View(), store.Nodes), func(n *cloud.Node) bool { return n.IPv6 })
}

// addIPv6Range gives a VPC a free /56 of the region's pool, and with it what EC2 adds: the local routes, the entries of the
// default ACL, and the rule by which groups that may send everything by IPv4 may do so by IPv6.
func (s *Service) addIPv6Range(tx *store.Tx, vpc *cloud.VPC) (cloud.VPCRange, error) {
	none := cloud.VPCRange{}
	if !carriesIPv6(tx) {
		return none, awsapi.Unsupported("No server of this cloud carries IPv6.")
	}
	if len(vpc.IPv6) >= maxIPv6RangesPerVPC {
		return none, awsapi.Errorf("CidrLimitExceeded", "This network '%s' has met its maximum number of allowed CIDRs: %d", vpc.ID, maxIPv6RangesPerVPC)
	}
	region, ok := store.Region(tx)
	if !ok || !region.IPv6Pool.IsValid() {
		return none, awsapi.Errorf("InternalError", "The region has no pool of IPv6 ranges.")
	}
	pool := region.IPv6Pool
	room := uint32(1) << (ipv6VPCBits - pool.Bits())
	added := cloud.VPCRange{ID: newID[cloud.VPCRangeID](s)}
	n, ok := claimFree(tx, room, start(string(added.ID), room), added.ID, func(n uint32) store.ClaimKey { return store.IPv6RangeClaim(ipv6RangeAt(pool, n)) })
	if !ok {
		return none, awsapi.Errorf("InsufficientAddressCapacity", "The IPv6 pool %s is used up.", pool)
	}
	added.Prefix = ipv6RangeAt(pool, n)
	for _, t := range store.ListBy(tx, store.RouteTablesByVPC, vpc.ID) {
		t.Routes = slices.Insert(t.Routes, locals(t), cloud.Route{Destination: added.Prefix, Target: cloud.LocalTarget})
		store.Put(tx, store.RouteTables, t)
	}
	if len(vpc.IPv6) == 0 {
		for _, a := range store.ListBy(tx, store.NetworkACLsByVPC, vpc.ID) {
			if a.Default {
				a.AllowAll(cloud.AllIPv6)
				store.Put(tx, store.NetworkACLs, a)
			}
		}
		for _, g := range store.ListBy(tx, store.SecurityGroupsByVPC, vpc.ID) {
			if untouchedOut(g) {
				g.Rules = append(g.Rules, everythingOut(true, "", newID[cloud.SecurityGroupRuleID](s))[1])
				store.Put(tx, store.SecurityGroups, g)
			}
		}
	}
	vpc.IPv6 = append(vpc.IPv6, added)
	store.Put(tx, store.VPCs, vpc)
	return added, nil
}

func (s *Service) associateIPv6Range(ctx context.Context, call *awsapi.Call, req *ec2.AssociateVpcCidrBlockRequest) (*ec2.AssociateVpcCidrBlockResult, error) {
	var added cloud.VPCRange
	err := s.update(ctx, call, func(tx *store.Tx) error {
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		added, err = s.addIPv6Range(tx, vpc)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &ec2.AssociateVpcCidrBlockResult{VpcId: req.VpcId, Ipv6CidrBlockAssociation: new(ipv6RangeShape(added, call.Region, "associating"))}, nil
}

// untouchedOut tells whether a group's rules for what leaves are those that it was made with in a VPC without IPv6.
func untouchedOut(g *cloud.SecurityGroup) bool {
	out := 0
	for _, r := range g.Rules {
		if !r.Egress {
			continue
		}
		if out++; r.Protocol != cloud.ProtocolAll || r.CIDR != cloud.AllIPv4 {
			return false
		}
	}
	return out == 1
}

// ipv6RangeAt is the n-th /56 of a pool.
func ipv6RangeAt(pool netip.Prefix, n uint32) netip.Prefix {
	b := pool.Masked().Addr().As16()
	for i := range 4 { // the number ends with the range's last bit
		b[ipv6VPCBits/8-1-i] |= byte(n >> (8 * i))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), ipv6VPCBits)
}

// dropIPv6Range takes a VPC's n-th IPv6 range away, which no subnet may be in.
func dropIPv6Range(tx *store.Tx, vpc *cloud.VPC, n int) (cloud.VPCRange, error) {
	gone := vpc.IPv6[n]
	for _, subnet := range store.ListBy(tx, store.SubnetsByVPC, vpc.ID) {
		if subnet.IPv6.IsValid() && gone.Prefix.Overlaps(subnet.IPv6) {
			return gone, awsapi.Errorf("DependencyViolation", "The vpc CIDR block with association ID %s has dependencies and cannot be disassociated.", gone.ID)
		}
	}
	for _, t := range store.ListBy(tx, store.RouteTablesByVPC, vpc.ID) {
		t.Routes = slices.DeleteFunc(t.Routes, func(r cloud.Route) bool { return r.Target == cloud.LocalTarget && r.Destination == gone.Prefix })
		store.Put(tx, store.RouteTables, t)
	}
	store.Delete(tx, store.Claims, store.IPv6RangeClaim(gone.Prefix))
	vpc.IPv6 = slices.Delete(vpc.IPv6, n, n+1)
	store.Put(tx, store.VPCs, vpc)
	return gone, nil
}

func ipv6RangeShape(r cloud.VPCRange, region, state string) ec2.VpcIpv6CidrBlockAssociation {
	return ec2.VpcIpv6CidrBlockAssociation{AssociationId: text(r.ID), Ipv6CidrBlock: new(r.Prefix.String()), Ipv6CidrBlockState: &ec2.VpcCidrBlockState{State: &state},
		Ipv6Pool: new("Amazon"), NetworkBorderGroup: &region}
}
