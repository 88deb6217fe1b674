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
	awsapi.Handle(r, ec2.ActionAssociateAddress, s.associateAddress, awsapi.Honours("AllocationId", "PublicIp", "AllowReassociation", "InstanceId", "NetworkInterfaceId", "PrivateIpAddress"))
	awsapi.Handle(r, ec2.ActionDisassociateAddress, s.disassociateAddress, awsapi.Honours("AssociationId", "PublicIp"))
	awsapi.Handle(r, ec2.ActionReleaseAddress, s.releaseAddress, awsapi.Honours("AllocationId", "PublicIp", "NetworkBorderGroup"))
	awsapi.Handle(r, ec2.ActionDescribeAddresses, s.describeAddresses, awsapi.Honours("AllocationIds", "Filters", "PublicIps"))
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

func (s *Service) associateAddress(ctx context.Context, call *awsapi.Call, req *ec2.AssociateAddressRequest) (*ec2.AssociateAddressResult, error) {
	association := newID[cloud.AssociationID](s)
	err := s.update(ctx, call, func(tx *store.Tx) error {
		a, err := findAddress(tx, call.Account, deref(req.AllocationId), deref(req.PublicIp))
		if err != nil {
			return err
		}
		n, err := associationTarget(tx, call.Account, deref(req.InstanceId), deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		if p := deref(req.PrivateIpAddress); p != "" && p != n.PrivateIP.String() {
			return awsapi.InvalidParameterValue("The private address %s is not assigned to interface %s", p, n.ID)
		}
		if a.Interface == n.ID {
			association = a.Association
			return nil
		}
		// EC2 moves an address by default; only an explicit "no" keeps it where it is.
		if a.Interface != "" && req.AllowReassociation != nil && !*req.AllowReassociation {
			return awsapi.Errorf("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", a.ID, a.Association)
		}
		if old, ok := store.Get(tx, store.Interfaces, a.Interface); ok {
			old.PublicIP, old.Allocation = netip.Addr{}, ""
			store.Put(tx, store.Interfaces, old)
		}
		if n.Allocation != "" {
			if other, ok := store.Get(tx, store.Addresses, n.Allocation); ok {
				other.Interface, other.Association = "", ""
				store.Put(tx, store.Addresses, other)
			}
		} else if n.PublicIP.IsValid() {
			store.Delete(tx, store.Claims, store.PublicAddressClaim(n.PublicIP))
		}
		n.PublicIP, n.Allocation = a.PublicIP, a.ID
		a.Interface, a.Association = n.ID, association
		store.Put(tx, store.Interfaces, n)
		store.Put(tx, store.Addresses, a)
		return nil
	})
	return &ec2.AssociateAddressResult{AssociationId: text(association)}, err
}

// associationTarget finds the interface that an address is to lead to.
func associationTarget(tx *store.Tx, account cloud.AccountID, instance, nic string) (*cloud.Interface, error) {
	switch {
	case instance != "" && nic != "":
		return nil, awsapi.InvalidCombination("You may specify either instance ID or network interface ID, but not both")
	case nic != "":
		return lookup(tx, store.Interfaces, ownerOfInterface, kindInterface, account, nic)
	case instance == "":
		return nil, awsapi.MissingParameter("InstanceId")
	}
	i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, account, instance)
	if err != nil {
		return nil, err
	}
	if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
		return nil, awsapi.Errorf("IncorrectInstanceState", "The instance '%s' is not in a valid state for this operation.", i.ID)
	}
	n, ok := store.Get(tx, store.Interfaces, i.Interfaces[0])
	if !ok {
		return nil, kindInterface.notFound(string(i.Interfaces[0]))
	}
	return n, nil
}

func (s *Service) disassociateAddress(ctx context.Context, call *awsapi.Call, req *ec2.DisassociateAddressRequest) (*ec2.DisassociateAddressResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		var a *cloud.Address
		if id := deref(req.AssociationId); id != "" {
			if !cloud.ValidID[cloud.AssociationID](id) {
				return awsapi.Malformed("InvalidAssociationID.Malformed", id)
			}
			for _, x := range store.ListBy(tx, store.AddressesByAccount, call.Account) {
				if string(x.Association) == id {
					a = x
				}
			}
			if a == nil {
				return awsapi.Errorf("InvalidAssociationID.NotFound", "The association ID '%s' does not exist", id)
			}
		} else {
			var err error
			if a, err = findAddress(tx, call.Account, "", deref(req.PublicIp)); err != nil {
				return err
			}
		}
		if n, ok := store.Get(tx, store.Interfaces, a.Interface); ok {
			n.PublicIP, n.Allocation = netip.Addr{}, ""
			store.Put(tx, store.Interfaces, n)
		}
		a.Interface, a.Association = "", ""
		store.Put(tx, store.Addresses, a)
		return nil
	})
	return &ec2.DisassociateAddressResult{}, err
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
		"private-ip-address":         nic(func(n *cloud.Interface) string { return n.PrivateIP.String() }), "public-ip": one(func(a A) string { return a.PublicIP.String() }),
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
			shape.PrivateIpAddress = new(n.PrivateIP.String())
		}
		out.Addresses = append(out.Addresses, shape)
	}
	return out, nil
}
