package ec2

import (
	"context"
	"net/netip"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerNATGateways(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateNatGateway, s.createNATGateway, awsapi.Honours("AllocationId", "ClientToken", "ConnectivityType", "PrivateIpAddress", "SubnetId", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeleteNatGateway, s.deleteNATGateway, awsapi.Honours("NatGatewayId"))
	awsapi.Handle(r, ec2.ActionDescribeNatGateways, s.describeNATGateways, awsapi.Honours("Filter", "MaxResults", "NatGatewayIds", "NextToken"))
}

// maxNATGateways bounds an account's NAT gateways in one zone; it is EC2's default.
const maxNATGateways = 5

func ownerOfNAT(g *cloud.NATGateway) cloud.AccountID { return g.Account }

func (s *Service) createNATGateway(ctx context.Context, call *awsapi.Call, req *ec2.CreateNatGatewayRequest) (*ec2.CreateNatGatewayResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "natgateway")
	if err != nil {
		return nil, err
	}
	private := deref(req.ConnectivityType) == "private"
	switch {
	case deref(req.SubnetId) == "":
		return nil, awsapi.MissingParameter("SubnetId")
	case private && req.AllocationId != nil:
		return nil, awsapi.InvalidCombination("AllocationId cannot be specified for a private NAT gateway")
	case !private && deref(req.AllocationId) == "":
		return nil, awsapi.MissingParameter("AllocationId")
	}
	addresses, err := addressRequest{private: req.PrivateIpAddress}.parse()
	if err != nil {
		return nil, err
	}
	id, nic, association := newID[cloud.NATGatewayID](s), newID[cloud.InterfaceID](s), newID[cloud.AssociationID](s)
	hash, made := awsapi.RequestHash(req), id
	err = s.update(ctx, call, func(tx *store.Tx) error {
		made = id
		if token := deref(req.ClientToken); token != "" {
			done, err := replay(tx, call, "CreateNatGateway", token, hash)
			if err != nil {
				return err
			}
			if done != "" {
				made = cloud.NATGatewayID(done)
				return nil
			}
			remember(tx, call, "CreateNatGateway", token, hash, string(id))
		}
		subnet, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, call.Account, *req.SubnetId)
		if err != nil {
			return err
		}
		if natGatewaysIn(tx, call.Account, subnet.Zone) >= maxNATGateways {
			return awsapi.Errorf("NatGatewayLimitExceeded", "The maximum number of NAT gateways has been reached.")
		}
		g := &cloud.NATGateway{ID: id, Account: call.Account, VPC: subnet.VPC, Subnet: subnet.ID, Private: private, State: cloud.NATPending, Tags: tags["natgateway"], Created: call.Now}
		n := &cloud.Interface{ID: nic, Account: call.Account, VPC: subnet.VPC, Subnet: subnet.ID, Zone: subnet.Zone, Description: "Interface for NAT Gateway " + string(id),
			InterfaceType: cloud.InterfaceNAT, Requester: call.UserID, RequesterManaged: true, Created: call.Now}
		if !private {
			a, err := lookup(tx, store.Addresses, ownerOfAddress, kindAllocation, call.Account, *req.AllocationId)
			if err != nil {
				return err
			}
			// These two show only in the gateway's state, as with EC2.
			switch {
			case a.Interface != "":
				g.FailureCode, g.Failure = "Resource.AlreadyAssociated", "Elastic IP address ["+string(a.ID)+"] is already associated"
			case len(store.ListBy(tx, store.InternetGatewaysByVPC, subnet.VPC)) == 0:
				g.FailureCode, g.Failure = "Gateway.NotAttached", "Network "+string(subnet.VPC)+" has no Internet gateway attached"
			}
			g.Address = cloud.PublicAddress{Public: a.PublicIP, Allocation: a.ID}
			if g.FailureCode != "" {
				g.State, g.Deleted = cloud.NATFailed, call.Now
				store.Put(tx, store.NATGateways, g)
				return nil
			}
			if err := addresses.assign(tx, n, subnet); err != nil {
				return err
			}
			g.Address.Private = n.PrivateIP
			n.Publish(g.Address)
			a.Interface, a.PrivateIP, a.Association = n.ID, n.PrivateIP, association
			store.Put(tx, store.Addresses, a)
		} else if err := addresses.assign(tx, n, subnet); err != nil {
			return err
		}
		g.Address.Private, g.Interface = n.PrivateIP, n.ID
		n.MAC = macOf(n.PrivateIP, n.ID)
		store.Put(tx, store.Interfaces, n)
		store.Put(tx, store.NATGateways, g)
		return nil
	})
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	g, ok := store.Get(view, store.NATGateways, made)
	if !ok {
		return nil, kindNAT.notFound(string(made))
	}
	shape := natGatewayShape(view, g)
	return &ec2.CreateNatGatewayResult{ClientToken: req.ClientToken, NatGateway: &shape}, nil
}

// natGatewaysIn counts an account's NAT gateways in a zone that aren't over.
func natGatewaysIn(r store.Reader, account cloud.AccountID, zone string) (n int) {
	for _, g := range store.ListBy(r, store.NATGatewaysByAccount, account) {
		if subnet, ok := store.Get(r, store.Subnets, g.Subnet); ok && subnet.Zone == zone && g.Deleted.IsZero() {
			n++
		}
	}
	return n
}

func (s *Service) deleteNATGateway(ctx context.Context, call *awsapi.Call, req *ec2.DeleteNatGatewayRequest) (*ec2.DeleteNatGatewayResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		g, err := lookup(tx, store.NATGateways, ownerOfNAT, kindNAT, call.Account, deref(req.NatGatewayId))
		if err != nil {
			return err
		}
		if g.State == cloud.NATDeleted || g.State == cloud.NATDeleting {
			return nil
		}
		if g.State == cloud.NATFailed {
			g.State = cloud.NATDeleted // nothing of it is anywhere
		} else {
			g.State = cloud.NATDeleting
		}
		store.Put(tx, store.NATGateways, g)
		return nil
	})
	return &ec2.DeleteNatGatewayResult{NatGatewayId: req.NatGatewayId}, err
}

func (s *Service) describeNATGateways(_ context.Context, call *awsapi.Call, req *ec2.DescribeNatGatewaysRequest) (*ec2.DescribeNatGatewaysResult, error) {
	type G = *cloud.NATGateway
	l := listing[cloud.NATGatewayID, cloud.NATGateway]{store.NATGateways, store.NATGatewaysByAccount, ownerOfNAT, kindNAT,
		func(g G) cloud.NATGatewayID { return g.ID }, awsapi.FilterSet[G]{Tags: func(g G) map[string]string { return g.Tags }, Values: map[string]func(G) []string{
			"nat-gateway-id": one(func(g G) string { return string(g.ID) }), "state": one(func(g G) string { return string(g.State) }),
			"subnet-id": one(func(g G) string { return string(g.Subnet) }), "vpc-id": one(func(g G) string { return string(g.VPC) }),
		}}}
	view := s.store.View()
	page, err := l.page(view, call.Account, req.NatGatewayIds, req.Filter, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeNatGatewaysResult{NextToken: page.Next, NatGateways: []ec2.NatGateway{}}
	for _, g := range page.Items {
		out.NatGateways = append(out.NatGateways, natGatewayShape(view, g))
	}
	return out, nil
}

func natGatewayShape(r store.Reader, g *cloud.NATGateway) ec2.NatGateway {
	shape := ec2.NatGateway{NatGatewayId: text(g.ID), VpcId: text(g.VPC), SubnetId: text(g.Subnet), State: text(g.State), CreateTime: &g.Created,
		ConnectivityType: new("public"), FailureCode: optional(g.FailureCode), FailureMessage: optional(g.Failure), Tags: tagList(g.Tags)}
	if g.Private {
		shape.ConnectivityType = new("private")
	}
	if !g.Deleted.IsZero() {
		shape.DeleteTime = &g.Deleted
	}
	status := "succeeded"
	if g.State == cloud.NATFailed {
		status = "failed"
	}
	address := ec2.NatGatewayAddress{NetworkInterfaceId: optional(string(g.Interface)), PrivateIp: addressText(g.Address.Private), PublicIp: addressText(g.Address.Public),
		AllocationId: optional(string(g.Address.Allocation)), IsPrimary: new(true), Status: &status, FailureMessage: optional(g.Failure)}
	if a, ok := store.Get(r, store.Addresses, g.Address.Allocation); ok && a.Interface == g.Interface && g.Interface != "" {
		address.AssociationId = text(a.Association)
	}
	shape.NatGatewayAddresses = []ec2.NatGatewayAddress{address}
	return shape
}

// addressText is nil for no address.
func addressText(a netip.Addr) *string {
	if !a.IsValid() {
		return nil
	}
	return new(a.String())
}
