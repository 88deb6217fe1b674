package ec2

import (
	"context"
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/nics"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerPrivateAddresses(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionAssignPrivateIpAddresses, s.assignPrivateIPs, awsapi.Honours("AllowReassignment", "NetworkInterfaceId", "PrivateIpAddresses", "SecondaryPrivateIpAddressCount"))
	awsapi.Handle(r, ec2.ActionUnassignPrivateIpAddresses, s.unassignPrivateIPs, awsapi.Honours("NetworkInterfaceId", "PrivateIpAddresses"))
	awsapi.Handle(r, ec2.ActionAssignIpv6Addresses, s.assignIPv6s, awsapi.Honours("NetworkInterfaceId", "Ipv6Addresses", "Ipv6AddressCount"))
	awsapi.Handle(r, ec2.ActionUnassignIpv6Addresses, s.unassignIPv6s, awsapi.Honours("NetworkInterfaceId", "Ipv6Addresses"))
}

// interfaceAndSubnet finds what an assignment is about.
func interfaceAndSubnet(tx *store.Tx, account cloud.AccountID, id string) (*cloud.Interface, *cloud.Subnet, error) {
	n, err := ownInterface(tx, account, id)
	if err != nil {
		return nil, nil, err
	}
	subnet, ok := store.Get(tx, store.Subnets, n.Subnet)
	if !ok {
		return nil, nil, kindSubnet.notFound(string(n.Subnet))
	}
	return n, subnet, nil
}

func (s *Service) assignPrivateIPs(ctx context.Context, call *awsapi.Call, req *ec2.AssignPrivateIpAddressesRequest) (*ec2.AssignPrivateIpAddressesResult, error) {
	var list []netip.Addr
	for _, text := range req.PrivateIpAddresses {
		addr, err := parseIPv4(text)
		if err != nil {
			return nil, err
		}
		list = append(list, addr)
	}
	count, err := addressCount("secondaryPrivateIpAddressCount", req.SecondaryPrivateIpAddressCount)
	switch {
	case err != nil:
		return nil, err
	case count == 0 && len(list) == 0:
		return nil, awsapi.MissingParameter("PrivateIpAddress or SecondaryPrivateIpAddressCount")
	case count > 0 && len(list) > 0:
		return nil, awsapi.InvalidCombination("Secondary private addresses are given by their number or one by one, not both")
	}
	out := &ec2.AssignPrivateIpAddressesResult{NetworkInterfaceId: req.NetworkInterfaceId}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		out.AssignedPrivateIpAddresses, out.AssignedIpv4Prefixes = []ec2.AssignedPrivateIpAddress{}, []ec2.Ipv4PrefixSpecification{}
		n, subnet, err := interfaceAndSubnet(tx, call.Account, deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		before := len(n.Secondary)
		var fresh []netip.Addr
		for _, addr := range list {
			if n.Owns(addr) { // EC2 answers a repeated assignment as the first one
				continue
			}
			if deref(req.AllowReassignment) {
				if err := takeOver(tx, call.Account, subnet, addr); err != nil {
					return err
				}
			}
			fresh = append(fresh, addr)
		}
		if err := assignSecondary(tx, n, subnet, fresh, count); err != nil {
			return err
		}
		if err := fitsItsInstance(tx, n); err != nil {
			return err
		}
		for _, addr := range append(slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return slices.Contains(fresh, a) }), n.Secondary[before:]...) {
			out.AssignedPrivateIpAddresses = append(out.AssignedPrivateIpAddresses, ec2.AssignedPrivateIpAddress{PrivateIpAddress: new(addr.String())})
		}
		store.Put(tx, store.Interfaces, n)
		return nil
	})
	return out, err
}

// takeOver takes a secondary address away from the interface of the same account that has it.
func takeOver(tx *store.Tx, account cloud.AccountID, subnet *cloud.Subnet, addr netip.Addr) error {
	claim, ok := store.Get(tx, store.Claims, store.AddressClaim(subnet.ID, addr))
	if !ok {
		return nil
	}
	other, ok := store.Get(tx, store.Interfaces, cloud.InterfaceID(claim.Owner))
	if !ok || other.Account != account || other.RequesterManaged || !slices.Contains(other.Secondary, addr) {
		return awsapi.Errorf("InvalidIPAddress.InUse", "Address %s is in use and can't be reassigned.", addr)
	}
	nics.Unassign(tx, other, addr)
	store.Put(tx, store.Interfaces, other)
	return nil
}

func (s *Service) unassignPrivateIPs(ctx context.Context, call *awsapi.Call, req *ec2.UnassignPrivateIpAddressesRequest) (*ec2.UnassignPrivateIpAddressesResult, error) {
	if len(req.PrivateIpAddresses) == 0 {
		return nil, awsapi.MissingParameter("PrivateIpAddress")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		n, err := ownInterface(tx, call.Account, deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		for _, text := range req.PrivateIpAddresses {
			addr, err := parseIPv4(text)
			switch {
			case err != nil:
				return err
			case addr == n.PrivateIP:
				return awsapi.InvalidParameterValue("The primary private address %s cannot be unassigned.", addr)
			case !n.Owns(addr):
				return awsapi.InvalidParameterValue("Some of the specified addresses are not assigned to interface %s", n.ID)
			}
			nics.Unassign(tx, n, addr)
		}
		store.Put(tx, store.Interfaces, n)
		return nil
	})
	return &ec2.UnassignPrivateIpAddressesResult{}, err
}

func (s *Service) assignIPv6s(ctx context.Context, call *awsapi.Call, req *ec2.AssignIpv6AddressesRequest) (*ec2.AssignIpv6AddressesResult, error) {
	list, count, err := parseIPv6Request(req.Ipv6Addresses, req.Ipv6AddressCount)
	switch {
	case err != nil:
		return nil, err
	case count == 0 && len(list) == 0:
		return nil, awsapi.MissingParameter("Ipv6Addresses or Ipv6AddressCount")
	}
	out := &ec2.AssignIpv6AddressesResult{NetworkInterfaceId: req.NetworkInterfaceId}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		out.AssignedIpv6Addresses, out.AssignedIpv6Prefixes = []string{}, []string{}
		n, subnet, err := interfaceAndSubnet(tx, call.Account, deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		before := len(n.IPv6)
		fresh := slices.DeleteFunc(slices.Clone(list), n.Owns)
		if err := assignIPv6(tx, n, subnet, fresh, count); err != nil {
			return err
		}
		if err := fitsItsInstance(tx, n); err != nil {
			return err
		}
		for _, addr := range append(slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return slices.Contains(fresh, a) }), n.IPv6[before:]...) {
			out.AssignedIpv6Addresses = append(out.AssignedIpv6Addresses, addr.String())
		}
		store.Put(tx, store.Interfaces, n)
		return nil
	})
	return out, err
}

func (s *Service) unassignIPv6s(ctx context.Context, call *awsapi.Call, req *ec2.UnassignIpv6AddressesRequest) (*ec2.UnassignIpv6AddressesResult, error) {
	if len(req.Ipv6Addresses) == 0 {
		return nil, awsapi.MissingParameter("Ipv6Addresses")
	}
	out := &ec2.UnassignIpv6AddressesResult{NetworkInterfaceId: req.NetworkInterfaceId}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		out.UnassignedIpv6Addresses, out.UnassignedIpv6Prefixes = []string{}, []string{}
		n, err := ownInterface(tx, call.Account, deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		for _, text := range req.Ipv6Addresses {
			addr, err := parseIPv6(text)
			if err != nil {
				return err
			}
			if !n.Owns(addr) {
				return awsapi.InvalidParameterValue("Some of the specified addresses are not assigned to interface %s", n.ID)
			}
			nics.Unassign(tx, n, addr)
			out.UnassignedIpv6Addresses = append(out.UnassignedIpv6Addresses, addr.String())
		}
		store.Put(tx, store.Interfaces, n)
		return nil
	})
	return out, err
}
