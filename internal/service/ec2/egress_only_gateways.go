package ec2

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerEgressOnlyGateways(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeEgressOnlyInternetGateways, s.describeEgressOnlyGateways, awsapi.Honours("EgressOnlyInternetGatewayIds", "Filters", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionCreateEgressOnlyInternetGateway, s.createEgressOnlyGateway, awsapi.Honours("VpcId", "TagSpecifications", "ClientToken"))
	awsapi.Handle(r, ec2.ActionDeleteEgressOnlyInternetGateway, s.deleteEgressOnlyGateway, awsapi.Honours("EgressOnlyInternetGatewayId"))
}

var kindEgressGateway = resourceKind{"InvalidEgressOnlyInternetGatewayId", "egressOnlyInternetGateway"}

func ownerOfEgressGateway(g *cloud.EgressOnlyGateway) cloud.AccountID { return g.Account }

func (s *Service) createEgressOnlyGateway(ctx context.Context, call *awsapi.Call, req *ec2.CreateEgressOnlyInternetGatewayRequest) (*ec2.CreateEgressOnlyInternetGatewayResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "egress-only-internet-gateway")
	if err != nil {
		return nil, err
	}
	id, hash := newID[cloud.EgressGatewayID](s), awsapi.RequestHash(req)
	made := id
	err = s.update(ctx, call, func(tx *store.Tx) error {
		made = id
		done, err := once(tx, call, "CreateEgressOnlyInternetGateway", deref(req.ClientToken), hash, string(id))
		if err != nil || done != "" {
			made = cloud.EgressGatewayID(done)
			return err
		}
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		if len(store.ListBy(tx, store.EgressOnlyGatewaysByAccount, call.Account)) >= maxInternetGateways {
			return awsapi.Errorf("InternetGatewayLimitExceeded", "The maximum number of egress-only internet gateways has been reached.")
		}
		store.Put(tx, store.EgressOnlyGateways, &cloud.EgressOnlyGateway{ID: id, Account: call.Account, VPC: vpc.ID, Tags: tags["egress-only-internet-gateway"], Created: call.Now})
		return nil
	})
	if err != nil {
		return nil, err
	}
	g, ok := store.Get(s.store.View(), store.EgressOnlyGateways, made)
	if !ok {
		return nil, kindEgressGateway.notFound(string(made))
	}
	return &ec2.CreateEgressOnlyInternetGatewayResult{ClientToken: req.ClientToken, EgressOnlyInternetGateway: new(egressGatewayShape(g))}, nil
}

func (s *Service) deleteEgressOnlyGateway(ctx context.Context, call *awsapi.Call, req *ec2.DeleteEgressOnlyInternetGatewayRequest) (*ec2.DeleteEgressOnlyInternetGatewayResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		g, err := lookup(tx, store.EgressOnlyGateways, ownerOfEgressGateway, kindEgressGateway, call.Account, deref(req.EgressOnlyInternetGatewayId))
		if err != nil {
			return err
		}
		store.Delete(tx, store.EgressOnlyGateways, g.ID) // routes to it turn into black holes, as on EC2
		return nil
	})
	return &ec2.DeleteEgressOnlyInternetGatewayResult{ReturnCode: new(err == nil)}, err
}

func (s *Service) describeEgressOnlyGateways(_ context.Context, call *awsapi.Call, req *ec2.DescribeEgressOnlyInternetGatewaysRequest) (*ec2.DescribeEgressOnlyInternetGatewaysResult, error) {
	type G = *cloud.EgressOnlyGateway
	l := listing[cloud.EgressGatewayID, cloud.EgressOnlyGateway]{store.EgressOnlyGateways, store.EgressOnlyGatewaysByAccount, ownerOfEgressGateway, kindEgressGateway,
		func(g G) cloud.EgressGatewayID { return g.ID }, awsapi.FilterSet[G]{Tags: func(g G) map[string]string { return g.Tags }, Values: map[string]func(G) []string{}}}
	page, err := l.page(s.store.View(), call.Account, req.EgressOnlyInternetGatewayIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeEgressOnlyInternetGatewaysResult{NextToken: page.Next, EgressOnlyInternetGateways: []ec2.EgressOnlyInternetGateway{}}
	for _, g := range page.Items {
		out.EgressOnlyInternetGateways = append(out.EgressOnlyInternetGateways, egressGatewayShape(g))
	}
	return out, nil
}

func egressGatewayShape(g *cloud.EgressOnlyGateway) ec2.EgressOnlyInternetGateway {
	return ec2.EgressOnlyInternetGateway{EgressOnlyInternetGatewayId: text(g.ID), Tags: tagList(g.Tags),
		Attachments: []ec2.InternetGatewayAttachment{{VpcId: text(g.VPC), State: new("attached")}}}
}
