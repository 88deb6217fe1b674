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

// maxAddresses bounds an account's Elastic IPs.
const maxAddresses = 100

func (s *Service) registerAddresses(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionAllocateAddress, s.allocateAddress, awsapi.Honours("Address", "Domain", "NetworkBorderGroup", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionReleaseAddress, s.releaseAddress, awsapi.Honours("AllocationId", "PublicIp", "NetworkBorderGroup"))
	awsapi.Handle(r, ec2.ActionDescribeAddresses, s.describeAddresses, awsapi.Honours("AllocationIds", "Filters", "PublicIps"))
	s.registerAddressAssociations(r)
	s.registerAddressAttributes(r)
}

func borderGroup(call *awsapi.Call, group *string) error {
	if g := deref(group); g != "" && g != call.Region {
		return awsapi.InvalidParameterValue("The network border group '%s' does not exist in this region", g)
	}
	return nil
}

func (s *Service) allocateAddress(ctx context.Context, call *awsapi.Call, req *ec2.AllocateAddressRequest) (*ec2.AllocateAddressResult, error) {
	if d := deref(req.Domain); d != "" && d != "vpc" {
		return nil, awsapi.Unsupported("The domain '%s' is not supported by this cloud.", d)
	}
	if err := borderGroup(call, req.NetworkBorderGroup); err != nil {
		return nil, err
	}
	tags, err := tagsFor(req.TagSpecifications, "elastic-ip")
	if err != nil {
		return nil, err
	}
	var wanted netip.Addr
	if a := deref(req.Address); a != "" {
		if wanted, err = netip.ParseAddr(a); err != nil || !wanted.Is4() {
			return nil, awsapi.InvalidParameterValue("Value (%s) for parameter address is invalid. Invalid IPv4 address.", a)
		}
	}
	a := &cloud.Address{ID: newID[cloud.AllocationID](s), Account: call.Account, Tags: tags["elastic-ip"], Created: call.Now}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		if len(store.ListBy(tx.View(), store.AddressesByAccount, call.Account)) >= maxAddresses {
			return awsapi.Errorf("AddressLimitExceeded", "The maximum number of addresses has been reached.")
		}
		pool, err := publicPool(tx.View())
		if err != nil {
			return err
		}
		if a.PublicIP, err = claimPublic(tx, pool, a.ID, wanted); err != nil {
			return err
		}
		store.Put(tx, store.Addresses, a)
		return nil
	})
	return &ec2.AllocateAddressResult{AllocationId: text(a.ID), PublicIp: new(a.PublicIP.String()), Domain: new("vpc"), PublicIpv4Pool: new("amazon"), NetworkBorderGroup: &call.Region}, err
}

// findAddress finds an Elastic IP by its allocation or by its address.
func findAddress(r store.Reader, account cloud.AccountID, allocation, public string) (*cloud.Address, error) {
	if allocation != "" && public != "" {
		return nil, awsapi.InvalidCombination("You may specify public IP or allocation id, but not both in the same call")
	}
	if allocation != "" {
		return lookup(r, store.Addresses, ownerOfAddress, kindAllocation, account, allocation)
	}
	if public == "" {
		return nil, awsapi.MissingParameter("AllocationId")
	}
	for _, a := range store.ListBy(r, store.AddressesByAccount, account) {
		if a.PublicIP.String() == public {
			return a, nil
		}
	}
	return nil, awsapi.Errorf("InvalidAddress.NotFound", "Address '%s' not found.", public)
}

func (s *Service) releaseAddress(ctx context.Context, call *awsapi.Call, req *ec2.ReleaseAddressRequest) (*ec2.ReleaseAddressResult, error) {
	if err := borderGroup(call, req.NetworkBorderGroup); err != nil {
		return nil, err
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		a, err := findAddress(tx, call.Account, deref(req.AllocationId), deref(req.PublicIp))
		if err != nil {
			return err
		}
		if a.Interface != "" {
			return awsapi.Errorf("InvalidIPAddress.InUse", "Address %s is in use.", a.PublicIP)
		}
		store.Delete(tx, store.Addresses, a.ID)
		store.Delete(tx, store.Claims, store.PublicAddressClaim(a.PublicIP))
		return nil
	})
	return &ec2.ReleaseAddressResult{}, err
}

// privateOf is the private address that an Elastic IP stands for, "" when it stands for none.
func privateOf(a *cloud.Address) string {
	if a.Interface == "" {
		return ""
	}
	return a.PrivateIP.String()
}

func (s *Service) describeAddresses(_ context.Context, call *awsapi.Call, req *ec2.DescribeAddressesRequest) (*ec2.DescribeAddressesResult, error) {
	view := s.store.View()
	list := slices.Clone(store.ListBy(view, store.AddressesByAccount, call.Account))
	if len(req.AllocationIds)+len(req.PublicIps) > 0 {
		list = nil
		for _, id := range req.AllocationIds {
			a, err := findAddress(view, call.Account, id, "")
			if err != nil {
				return nil, err
			}
			list = append(list, a)
		}
		for _, ip := range req.PublicIps {
			a, err := findAddress(view, call.Account, "", ip)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	type A = *cloud.Address
	nic := func(f func(*cloud.Interface) string) func(A) []string {
		return one(func(a A) string {
			if n, ok := store.Get(view, store.Interfaces, a.Interface); ok {
				return f(n)
			}
			return ""
		})
	}
	pass, err := awsapi.FilterSet[A]{Tags: func(a A) map[string]string { return a.Tags }, Values: map[string]func(A) []string{
		"allocation-id": one(func(a A) string { return string(a.ID) }), "association-id": one(func(a A) string { return string(a.Association) }),
		"domain": func(A) []string { return []string{"vpc"} }, "instance-id": nic(func(n *cloud.Interface) string { return string(n.Instance) }),
		"network-border-group": func(A) []string { return []string{call.Region} }, "network-interface-id": one(func(a A) string { return string(a.Interface) }),
		"network-interface-owner-id": nic(func(n *cloud.Interface) string { return string(n.Account) }),
		"private-ip-address":         one(privateOf), "public-ip": one(func(a A) string { return a.PublicIP.String() }),
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeAddressesResult{Addresses: []ec2.Address{}}
	for _, a := range list {
		if !pass(a) {
			continue
		}
		shape := ec2.Address{AllocationId: text(a.ID), PublicIp: new(a.PublicIP.String()), Domain: new("vpc"), PublicIpv4Pool: new("amazon"),
			NetworkBorderGroup: &call.Region, AssociationId: text(a.Association), Tags: tagList(a.Tags)}
		if n, ok := store.Get(view, store.Interfaces, a.Interface); ok {
			shape.NetworkInterfaceId, shape.NetworkInterfaceOwnerId, shape.InstanceId = text(n.ID), text(n.Account), text(n.Instance)
			shape.PrivateIpAddress = new(privateOf(a))
		}
		out.Addresses = append(out.Addresses, shape)
	}
	return out, nil
}
