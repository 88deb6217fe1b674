package ec2

import (
	"context"
	"net/netip"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/nics"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerAddressAssociations(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionAssociateAddress, s.associateAddress, awsapi.Honours("AllocationId", "PublicIp", "AllowReassociation", "InstanceId", "NetworkInterfaceId", "PrivateIpAddress"))
	awsapi.Handle(r, ec2.ActionDisassociateAddress, s.disassociateAddress, awsapi.Honours("AssociationId", "PublicIp"))
}

func (s *Service) associateAddress(ctx context.Context, call *awsapi.Call, req *ec2.AssociateAddressRequest) (*ec2.AssociateAddressResult, error) {
	fresh := newID[cloud.AssociationID](s)
	var association cloud.AssociationID
	err := s.update(ctx, call, func(tx *store.Tx) error {
		association = fresh
		a, err := findAddress(tx, call.Account, deref(req.AllocationId), deref(req.PublicIp))
		if err != nil {
			return err
		}
		n, err := associationTarget(tx, call.Account, deref(req.InstanceId), deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		private := n.PrivateIP
		if p := deref(req.PrivateIpAddress); p != "" {
			private, err = netip.ParseAddr(p)
			if err != nil || !private.Is4() || !n.Owns(private) {
				return awsapi.InvalidParameterValue("The private address %s is not assigned to interface %s", p, n.ID)
			}
		}
		if a.Interface == n.ID && a.PrivateIP == private {
			association = a.Association
			return nil
		}
		// EC2 moves an address by default; only an explicit "no" keeps it where it is.
		if a.Interface != "" && req.AllowReassociation != nil && !*req.AllowReassociation {
			return awsapi.Errorf("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", a.ID, a.Association)
		}
		if a.Interface != "" {
			if err := mayDissociate(tx, a); err != nil {
				return err
			}
		}
		if err := hasInternetGateway(tx, n.VPC); err != nil {
			return err
		}
		if a.Interface == n.ID {
			n.Unpublish(a.PrivateIP)
		} else if old, ok := store.Get(tx, store.Interfaces, a.Interface); ok {
			old.Unpublish(a.PrivateIP)
			store.Put(tx, store.Interfaces, old)
		}
		nics.Unpublish(tx, n, private)
		n.Publish(cloud.PublicAddress{Private: private, Public: a.PublicIP, Allocation: a.ID})
		a.Interface, a.PrivateIP, a.Association = n.ID, private, association
		store.Put(tx, store.Interfaces, n)
		store.Put(tx, store.Addresses, a)
		return nil
	})
	return &ec2.AssociateAddressResult{AssociationId: text(association)}, err
}

// hasInternetGateway refuses public addresses in a VPC that has no way out.
func hasInternetGateway(tx *store.Tx, vpc cloud.VPCID) error {
	if len(store.ListBy(tx, store.InternetGatewaysByVPC, vpc)) == 0 {
		return awsapi.Errorf("Gateway.NotAttached", "Network %s is not attached to any internet gateway", vpc)
	}
	return nil
}

// mayDissociate refuses to take an address away from an interface that another resource owns.
func mayDissociate(tx *store.Tx, a *cloud.Address) error {
	if n, ok := store.Get(tx, store.Interfaces, a.Interface); ok && n.RequesterManaged {
		return awsapi.Errorf("OperationNotPermitted", "The address %s is used by an interface that another resource manages: %s.", a.PublicIP, n.Description)
	}
	return nil
}

// soleInterface is the interface that a call means which names an instance only.
func soleInterface(tx *store.Tx, i *cloud.Instance) (*cloud.Interface, error) {
	if len(i.Interfaces) > 1 {
		return nil, awsapi.Errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. Please specify an interface ID for the operation instead.", i.ID)
	}
	if len(i.Interfaces) == 0 {
		return nil, kindInterface.notFound("")
	}
	n, ok := store.Get(tx, store.Interfaces, i.Interfaces[0])
	if !ok {
		return nil, kindInterface.notFound(string(i.Interfaces[0]))
	}
	return n, nil
}

// associationTarget finds the interface that an address is to lead to. EC2's documentation forbids to name both, but EC2 lets the instance
// decide then: Terraform names the new instance with the interface of the one that it replaced.
func associationTarget(tx *store.Tx, account cloud.AccountID, instance, nic string) (*cloud.Interface, error) {
	switch {
	case instance == "" && nic == "":
		return nil, awsapi.MissingParameter("InstanceId")
	case instance == "":
		return ownInterface(tx, account, nic)
	}
	i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, account, instance)
	if err != nil {
		return nil, err
	}
	if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
		return nil, awsapi.Errorf("IncorrectInstanceState", "The instance '%s' is not in a valid state for this operation.", i.ID)
	}
	return soleInterface(tx, i)
}

func (s *Service) disassociateAddress(ctx context.Context, call *awsapi.Call, req *ec2.DisassociateAddressRequest) (*ec2.DisassociateAddressResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		a, err := associatedAddress(tx, call.Account, deref(req.AssociationId), deref(req.PublicIp))
		if err != nil {
			return err
		}
		if err := mayDissociate(tx, a); err != nil {
			return err
		}
		if n, ok := store.Get(tx, store.Interfaces, a.Interface); ok {
			nics.Unpublish(tx, n, a.PrivateIP)
			store.Put(tx, store.Interfaces, n)
		}
		return nil
	})
	return &ec2.DisassociateAddressResult{}, err
}

// associatedAddress finds an Elastic IP by its association or, for callers of old, by the address itself.
func associatedAddress(tx *store.Tx, account cloud.AccountID, association, public string) (*cloud.Address, error) {
	if association != "" && public != "" {
		return nil, awsapi.InvalidCombination("You may specify public IP or association id, but not both in the same call")
	}
	if association == "" {
		if public == "" {
			return nil, awsapi.MissingParameter("AssociationId")
		}
		return findAddress(tx, account, "", public)
	}
	if !cloud.ValidID[cloud.AssociationID](association) {
		return nil, awsapi.Malformed("InvalidAssociationID.Malformed", association)
	}
	for _, a := range store.ListBy(tx, store.AddressesByAccount, account) {
		if string(a.Association) == association {
			return a, nil
		}
	}
	return nil, awsapi.Errorf("InvalidAssociationID.NotFound", "The association ID '%s' does not exist", association)
}
