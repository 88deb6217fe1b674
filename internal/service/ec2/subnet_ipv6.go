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

func (s *Service) registerSubnetIPv6(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionAssociateSubnetCidrBlock, s.associateSubnetRange, awsapi.Honours("SubnetId", "Ipv6CidrBlock"))
	awsapi.Handle(r, ec2.ActionDisassociateSubnetCidrBlock, s.disassociateSubnetRange, awsapi.Honours("AssociationId"))
}

// subnetIPv6Of parses a subnet's IPv6 range.
func subnetIPv6Of(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
		return p, awsapi.InvalidParameterValue("Value (%s) for parameter ipv6CidrBlock is invalid. This is not a valid IPv6 CIDR block.", text)
	}
	if p.Bits() != ipv6SubnetBits {
		return p, awsapi.Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid.", text)
	}
	return p.Masked(), nil
}

// giveSubnetIPv6 puts an IPv6 range around a subnet, where nothing may be in its way. The caller writes the subnet.
func giveSubnetIPv6(r store.Reader, vpc *cloud.VPC, subnet *cloud.Subnet, p netip.Prefix, id cloud.SubnetRangeID) error {
	if !slices.ContainsFunc(vpc.IPv6, func(r cloud.VPCRange) bool { return r.Prefix.Contains(p.Addr()) }) {
		return awsapi.Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid.", p)
	}
	for _, o := range store.ListBy(r, store.SubnetsByVPC, vpc.ID) {
		if o.ID != subnet.ID && o.IPv6 == p {
			return awsapi.Errorf("InvalidSubnet.Conflict", "The CIDR '%s' conflicts with another subnet", p)
		}
	}
	subnet.IPv6, subnet.IPv6Range = p, id
	return nil
}

func (s *Service) associateSubnetRange(ctx context.Context, call *awsapi.Call, req *ec2.AssociateSubnetCidrBlockRequest) (*ec2.AssociateSubnetCidrBlockResult, error) {
	if req.Ipv6CidrBlock == nil {
		return nil, awsapi.MissingParameter("ipv6CidrBlock")
	}
	p, err := subnetIPv6Of(*req.Ipv6CidrBlock)
	if err != nil {
		return nil, err
	}
	id := newID[cloud.SubnetRangeID](s)
	err = s.update(ctx, call, func(tx *store.Tx) error {
		subnet, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, call.Account, deref(req.SubnetId))
		if err != nil {
			return err
		}
		if subnet.IPv6.IsValid() {
			return awsapi.InvalidParameterValue("The subnet %s has an IPv6 CIDR block already, %s.", subnet.ID, subnet.IPv6)
		}
		vpc, ok := store.Get(tx, store.VPCs, subnet.VPC)
		if !ok {
			return kindVPC.notFound(string(subnet.VPC))
		}
		if err := giveSubnetIPv6(tx, vpc, subnet, p, id); err != nil {
			return err
		}
		store.Put(tx, store.Subnets, subnet)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.AssociateSubnetCidrBlockResult{SubnetId: req.SubnetId, Ipv6CidrBlockAssociation: new(subnetRangeShape(id, p, "associating"))}, nil
}

func (s *Service) disassociateSubnetRange(ctx context.Context, call *awsapi.Call, req *ec2.DisassociateSubnetCidrBlockRequest) (*ec2.DisassociateSubnetCidrBlockResult, error) {
	id := deref(req.AssociationId)
	if !cloud.ValidID[cloud.SubnetRangeID](id) {
		return nil, awsapi.Malformed("InvalidAssociationID.Malformed", id)
	}
	var of cloud.SubnetID
	var gone netip.Prefix
	err := s.update(ctx, call, func(tx *store.Tx) error {
		for _, subnet := range store.ListBy(tx, store.SubnetsByAccount, call.Account) {
			if string(subnet.IPv6Range) != id {
				continue
			}
			if slices.ContainsFunc(store.ListBy(tx, store.InterfacesBySubnet, subnet.ID), func(n *cloud.Interface) bool { return len(n.IPv6) > 0 }) {
				return awsapi.Errorf("DependencyViolation", "The subnet CIDR block with association ID %s has dependencies and cannot be disassociated.", id)
			}
			of, gone = subnet.ID, subnet.IPv6
			dropReservations(tx, of, gone)
			subnet.IPv6, subnet.IPv6Range, subnet.AssignIPv6OnCreation = netip.Prefix{}, "", false
			store.Put(tx, store.Subnets, subnet)
			return nil
		}
		return awsapi.Errorf("InvalidSubnetCidrBlockAssociationID.NotFound", "The subnet CIDR block association ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	return &ec2.DisassociateSubnetCidrBlockResult{SubnetId: text(of), Ipv6CidrBlockAssociation: new(subnetRangeShape(cloud.SubnetRangeID(id), gone, "disassociating"))}, nil
}

func subnetRangeShape(id cloud.SubnetRangeID, p netip.Prefix, state string) ec2.SubnetIpv6CidrBlockAssociation {
	return ec2.SubnetIpv6CidrBlockAssociation{AssociationId: text(id), Ipv6CidrBlock: new(p.String()), Ipv6CidrBlockState: &ec2.SubnetCidrBlockState{State: &state}}
}
