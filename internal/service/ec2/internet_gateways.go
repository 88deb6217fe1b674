package ec2

import (
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerInternetGateways(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeInternetGateways, s.describeInternetGateways, awsapi.Honours("Filters", "InternetGatewayIds", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionCreateInternetGateway, s.createInternetGateway, awsapi.Honours("TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeleteInternetGateway, s.deleteInternetGateway, awsapi.Honours("InternetGatewayId"))
	awsapi.Handle(r, ec2.ActionAttachInternetGateway, s.attachInternetGateway, awsapi.Honours("InternetGatewayId", "VpcId"))
	awsapi.Handle(r, ec2.ActionDetachInternetGateway, s.detachInternetGateway, awsapi.Honours("InternetGatewayId", "VpcId"))
}

const maxInternetGateways = maxVPCs

func (s *Service) createInternetGateway(ctx context.Context, call *awsapi.Call, req *ec2.CreateInternetGatewayRequest) (*ec2.CreateInternetGatewayResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "internet-gateway")
	if err != nil {
		return nil, err
	}
	g := cloud.InternetGateway{ID: newID[cloud.InternetGatewayID](s), Account: call.Account, Tags: tags["internet-gateway"], Created: call.Now}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		if len(store.ListBy(tx, store.InternetGatewaysByAccount, call.Account)) >= maxInternetGateways {
			return awsapi.Errorf("InternetGatewayLimitExceeded", "The maximum number of internet gateways has been reached.")
		}
		store.Put(tx, store.InternetGateways, &g)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.CreateInternetGatewayResult{InternetGateway: new(internetGatewayShape(&g))}, nil
}

func (s *Service) deleteInternetGateway(ctx context.Context, call *awsapi.Call, req *ec2.DeleteInternetGatewayRequest) (*ec2.DeleteInternetGatewayResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		g, err := lookup(tx, store.InternetGateways, ownerOfGateway, kindGateway, call.Account, deref(req.InternetGatewayId))
		if err != nil {
			return err
		}
		if g.VPC != "" {
			return awsapi.Errorf("DependencyViolation", "The internetGateway '%s' has dependencies and cannot be deleted.", g.ID)
		}
		store.Delete(tx, store.InternetGateways, g.ID)
		return nil
	})
	return &ec2.DeleteInternetGatewayResult{}, err
}

func (s *Service) attachInternetGateway(ctx context.Context, call *awsapi.Call, req *ec2.AttachInternetGatewayRequest) (*ec2.AttachInternetGatewayResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		g, err := lookup(tx, store.InternetGateways, ownerOfGateway, kindGateway, call.Account, deref(req.InternetGatewayId))
		if err != nil {
			return err
		}
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		if g.VPC != "" {
			return awsapi.Errorf("Resource.AlreadyAssociated", "resource %s is already attached to network %s", g.ID, g.VPC)
		}
		if len(store.ListBy(tx, store.InternetGatewaysByVPC, vpc.ID)) > 0 {
			return awsapi.InvalidParameterValue("Network %s already has an internet gateway attached", vpc.ID)
		}
		g.VPC = vpc.ID
		store.Put(tx, store.InternetGateways, g)
		return nil
	})
	return &ec2.AttachInternetGatewayResult{}, err
}

func (s *Service) detachInternetGateway(ctx context.Context, call *awsapi.Call, req *ec2.DetachInternetGatewayRequest) (*ec2.DetachInternetGatewayResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		g, err := lookup(tx, store.InternetGateways, ownerOfGateway, kindGateway, call.Account, deref(req.InternetGatewayId))
		if err != nil {
			return err
		}
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		if g.VPC != vpc.ID {
			return awsapi.Errorf("Gateway.NotAttached", "resource %s is not attached to network %s", g.ID, vpc.ID)
		}
		if slices.ContainsFunc(store.ListBy(tx, store.InterfacesByVPC, vpc.ID), func(n *cloud.Interface) bool { return len(n.Publics) > 0 }) {
			return awsapi.Errorf("DependencyViolation", "Network %s has some mapped public address(es). Please unmap those public address(es) before detaching the gateway.", vpc.ID)
		}
		g.VPC = ""
		store.Put(tx, store.InternetGateways, g)
		return nil
	})
	return &ec2.DetachInternetGatewayResult{}, err
}

func (s *Service) describeInternetGateways(_ context.Context, call *awsapi.Call, req *ec2.DescribeInternetGatewaysRequest) (*ec2.DescribeInternetGatewaysResult, error) {
	type G = *cloud.InternetGateway
	l := listing[cloud.InternetGatewayID, cloud.InternetGateway]{store.InternetGateways, store.InternetGatewaysByAccount, ownerOfGateway, kindGateway,
		func(g G) cloud.InternetGatewayID { return g.ID }, awsapi.FilterSet[G]{Tags: func(g G) map[string]string { return g.Tags }, Values: map[string]func(G) []string{
			"attachment.state": one(func(g G) string {
				if g.VPC == "" {
					return ""
				}
				return "available"
			}),
			"attachment.vpc-id": one(func(g G) string { return string(g.VPC) }), "internet-gateway-id": one(func(g G) string { return string(g.ID) }),
			"owner-id": one(func(g G) string { return string(g.Account) }),
		}}}
	page, err := l.page(s.store.View(), call.Account, req.InternetGatewayIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInternetGatewaysResult{NextToken: page.Next, InternetGateways: []ec2.InternetGateway{}}
	for _, g := range page.Items {
		out.InternetGateways = append(out.InternetGateways, internetGatewayShape(g))
	}
	return out, nil
}

func internetGatewayShape(g *cloud.InternetGateway) ec2.InternetGateway {
	shape := ec2.InternetGateway{InternetGatewayId: text(g.ID), OwnerId: text(g.Account), Tags: tagList(g.Tags), Attachments: []ec2.InternetGatewayAttachment{}}
	if g.VPC != "" {
		shape.Attachments = append(shape.Attachments, ec2.InternetGatewayAttachment{VpcId: text(g.VPC), State: new("available")})
	}
	return shape
}
