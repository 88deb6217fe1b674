package ec2

import (
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerSecurityGroupReferences(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionGetSecurityGroupsForVpc, s.getSecurityGroupsForVPC, awsapi.Honours("VpcId", "Filters", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionDescribeSecurityGroupReferences, s.describeSecurityGroupReferences, awsapi.Honours("GroupId"))
	awsapi.Handle(r, ec2.ActionDescribeStaleSecurityGroups, s.describeStaleSecurityGroups, awsapi.Honours("VpcId", "MaxResults", "NextToken"))
}

// getSecurityGroupsForVPC lists the groups that interfaces in a VPC may carry: those of the VPC.
func (s *Service) getSecurityGroupsForVPC(_ context.Context, call *awsapi.Call, req *ec2.GetSecurityGroupsForVpcRequest) (*ec2.GetSecurityGroupsForVpcResult, error) {
	view := s.store.View()
	vpc, err := lookup(view, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
	if err != nil {
		return nil, err
	}
	type G = *cloud.SecurityGroup
	pass, err := awsapi.FilterSet[G]{Tags: func(g G) map[string]string { return g.Tags }, Values: map[string]func(G) []string{
		"group-id": one(func(g G) string { return string(g.ID) }), "description": one(func(g G) string { return g.Description }),
		"group-name": one(func(g G) string { return g.Name }), "owner-id": one(func(g G) string { return string(g.Account) }),
		"primary-vpc-id": one(func(g G) string { return string(g.VPC) }),
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(slices.Clone(store.ListBy(view, store.SecurityGroupsByVPC, vpc.ID)), func(g G) bool { return !pass(g) })
	page, err := awsapi.Paginate(list, func(g G) string { return string(g.ID) }, req.MaxResults, req.NextToken, []any{vpc.ID, req.Filters})
	if err != nil {
		return nil, err
	}
	out := &ec2.GetSecurityGroupsForVpcResult{NextToken: page.Next, SecurityGroupForVpcs: []ec2.SecurityGroupForVpc{}}
	for _, g := range page.Items {
		out.SecurityGroupForVpcs = append(out.SecurityGroupForVpcs, ec2.SecurityGroupForVpc{GroupId: text(g.ID), GroupName: &g.Name, Description: &g.Description,
			OwnerId: text(g.Account), PrimaryVpcId: text(g.VPC), Tags: tagList(g.Tags)})
	}
	return out, nil
}

// describeSecurityGroupReferences lists the peered VPCs whose groups refer to groups. Rules refer to groups of their own VPC
// only, so there are none.
func (s *Service) describeSecurityGroupReferences(_ context.Context, call *awsapi.Call, req *ec2.DescribeSecurityGroupReferencesRequest) (*ec2.DescribeSecurityGroupReferencesResult, error) {
	if len(req.GroupId) == 0 {
		return nil, awsapi.MissingParameter("GroupId")
	}
	if _, err := lookupAll(s.store.View(), store.SecurityGroups, ownerOfGroup, kindGroup, call.Account, req.GroupId); err != nil {
		return nil, err
	}
	return &ec2.DescribeSecurityGroupReferencesResult{SecurityGroupReferenceSet: []ec2.SecurityGroupReference{}}, nil
}

// describeStaleSecurityGroups lists the groups of a VPC with rules that refer to what is gone: a group of a peered VPC, or the
// peering. Rules refer to groups of their own VPC only, which stay as long as they are referred to, so there are none.
func (s *Service) describeStaleSecurityGroups(_ context.Context, call *awsapi.Call, req *ec2.DescribeStaleSecurityGroupsRequest) (*ec2.DescribeStaleSecurityGroupsResult, error) {
	vpc, err := lookup(s.store.View(), store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
	if err != nil {
		return nil, err
	}
	page, err := awsapi.Paginate([]ec2.StaleSecurityGroup{}, func(g ec2.StaleSecurityGroup) string { return deref(g.GroupId) }, req.MaxResults, req.NextToken, vpc.ID)
	if err != nil {
		return nil, err
	}
	return &ec2.DescribeStaleSecurityGroupsResult{StaleSecurityGroupSet: page.Items}, nil
}
