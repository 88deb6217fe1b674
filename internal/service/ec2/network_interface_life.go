package ec2

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/nics"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerNetworkInterfaceLife(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateNetworkInterface, s.createNetworkInterface, awsapi.Honours("ClientToken", "Description", "Groups", "PrivateIpAddress",
		"PrivateIpAddresses", "SecondaryPrivateIpAddressCount", "SubnetId", "TagSpecifications", "Ipv6AddressCount", "Ipv6Addresses.Ipv6Address"))
	awsapi.Handle(r, ec2.ActionDeleteNetworkInterface, s.deleteNetworkInterface, awsapi.Honours("NetworkInterfaceId"))
}

// maxInterfaces bounds an account's network interfaces; it is EC2's default for a region.
const maxInterfaces = 5000

// maxInterfaceDescription is EC2's limit, in characters.
const maxInterfaceDescription = 255

func interfaceDescription(d *string) (string, error) {
	if len(deref(d)) > maxInterfaceDescription {
		return "", awsapi.InvalidParameterValue("A network interface's description has %d characters at most", maxInterfaceDescription)
	}
	return deref(d), nil
}

// ownInterface finds an interface that an account may change: its own, and no other resource's.
func ownInterface(r store.Reader, account cloud.AccountID, id string) (*cloud.Interface, error) {
	n, err := lookup(r, store.Interfaces, ownerOfInterface, kindInterface, account, id)
	if err != nil {
		return nil, err
	}
	if n.RequesterManaged {
		return nil, awsapi.Errorf("OperationNotPermitted", "The network interface '%s' is managed by another resource: %s.", n.ID, n.Description)
	}
	return n, nil
}

func addressesOf(list []ec2.InstanceIpv6Address) []string {
	var out []string
	for _, a := range list {
		out = append(out, deref(a.Ipv6Address))
	}
	return out
}

func (s *Service) createNetworkInterface(ctx context.Context, call *awsapi.Call, req *ec2.CreateNetworkInterfaceRequest) (*ec2.CreateNetworkInterfaceResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "network-interface")
	if err != nil {
		return nil, err
	}
	description, err := interfaceDescription(req.Description)
	if err != nil {
		return nil, err
	}
	addresses, err := addressRequest{req.PrivateIpAddress, req.PrivateIpAddresses, req.SecondaryPrivateIpAddressCount, addressesOf(req.Ipv6Addresses), req.Ipv6AddressCount}.parse()
	if err != nil {
		return nil, err
	}
	if deref(req.SubnetId) == "" {
		return nil, awsapi.MissingParameter("SubnetId")
	}
	id, hash := newID[cloud.InterfaceID](s), awsapi.RequestHash(req)
	made := id
	err = s.update(ctx, call, func(tx *store.Tx) error {
		made = id
		if token := deref(req.ClientToken); token != "" {
			done, err := replay(tx, call, "CreateNetworkInterface", token, hash)
			if err != nil {
				return err
			}
			if done != "" {
				made = cloud.InterfaceID(done)
				return nil
			}
			remember(tx, call, "CreateNetworkInterface", token, hash, string(id))
		}
		if len(store.ListBy(tx.View(), store.InterfacesByAccount, call.Account)) >= maxInterfaces {
			return awsapi.Errorf("NetworkInterfaceLimitExceeded", "The maximum number of network interfaces has been reached.")
		}
		subnet, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, call.Account, *req.SubnetId)
		if err != nil {
			return err
		}
		groups, err := guardedGroups(tx, call.Account, subnet.VPC, req.Groups, nil)
		if err != nil {
			return err
		}
		n := &cloud.Interface{ID: id, Account: call.Account, VPC: subnet.VPC, Subnet: subnet.ID, Zone: subnet.Zone, Description: description,
			InterfaceType: cloud.InterfaceOrdinary, Requester: call.UserID, Groups: groups, SourceDestCheck: true, Tags: tags["network-interface"], Created: call.Now}
		if err := addresses.assign(tx, n, subnet); err != nil {
			return err
		}
		n.MAC = macOf(n.PrivateIP, n.ID)
		store.Put(tx, store.Interfaces, n)
		return nil
	})
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	n, ok := store.Get(view, store.Interfaces, made)
	if !ok {
		return nil, kindInterface.notFound(string(made))
	}
	shape := newDescriber(view).elasticInterface(n)
	if made == id {
		shape.Status = new("pending") // what EC2 says in this answer, and only here
	}
	return &ec2.CreateNetworkInterfaceResult{NetworkInterface: &shape, ClientToken: req.ClientToken}, nil
}

// guardedGroups is groupsFor with the groups read guarded, so that none is deleted while the transaction commits; names
// are looked up in the view.
func guardedGroups(tx *store.Tx, account cloud.AccountID, vpc cloud.VPCID, ids, names []string) ([]cloud.SecurityGroupID, error) {
	groups, err := groupsFor(tx.View(), account, vpc, ids, names)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if _, ok := store.Get(tx, store.SecurityGroups, g); !ok {
			return nil, kindGroup.notFound(string(g))
		}
	}
	return groups, nil
}

func (s *Service) deleteNetworkInterface(ctx context.Context, call *awsapi.Call, req *ec2.DeleteNetworkInterfaceRequest) (*ec2.DeleteNetworkInterfaceResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		n, err := ownInterface(tx, call.Account, deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		if n.Instance != "" {
			return awsapi.InvalidParameterValue("Network interface '%s' is currently in use.", n.ID)
		}
		nics.Delete(tx, n)
		return nil
	})
	return &ec2.DeleteNetworkInterfaceResult{}, err
}
