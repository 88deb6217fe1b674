package ec2

import (
	"cmp"
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

// describeSecurityGroupReferences lists the peered VPCs whose groups refer to groups.
func (s *Service) describeSecurityGroupReferences(_ context.Context, call *awsapi.Call, req *ec2.DescribeSecurityGroupReferencesRequest) (*ec2.DescribeSecurityGroupReferencesResult, error) {
	if len(req.GroupId) == 0 {
		return nil, awsapi.MissingParameter("GroupId")
	}
	view := s.store.View()
	groups, err := lookupAll(view, store.SecurityGroups, ownerOfGroup, kindGroup, call.Account, req.GroupId)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSecurityGroupReferencesResult{SecurityGroupReferenceSet: []ec2.SecurityGroupReference{}}
	for _, g := range groups {
		told := map[cloud.PeeringID]bool{}
		for _, other := range store.ListBy(view, store.SecurityGroupsByReference, g.ID) {
			for _, rule := range other.Rules {
				if rule.Group != g.ID || rule.Peer.Peering == "" || told[rule.Peer.Peering] {
					continue
				}
				told[rule.Peer.Peering] = true
				out.SecurityGroupReferenceSet = append(out.SecurityGroupReferenceSet, ec2.SecurityGroupReference{GroupId: text(g.ID), ReferencingVpcId: text(other.VPC),
					VpcPeeringConnectionId: text(rule.Peer.Peering)})
			}
		}
	}
	return out, nil
}

// describeStaleSecurityGroups lists the groups of a VPC with rules that refer to what is gone: a group of a peered VPC, or the
// peering.
func (s *Service) describeStaleSecurityGroups(_ context.Context, call *awsapi.Call, req *ec2.DescribeStaleSecurityGroupsRequest) (*ec2.DescribeStaleSecurityGroupsResult, error) {
	view := s.store.View()
	vpc, err := lookup(view, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
	if err != nil {
		return nil, err
	}
	list := []ec2.StaleSecurityGroup{}
	for _, g := range store.ListBy(view, store.SecurityGroupsByVPC, vpc.ID) {
		in, out := stalePermissions(view, g, false), stalePermissions(view, g, true)
		if len(in)+len(out) > 0 {
			list = append(list, ec2.StaleSecurityGroup{GroupId: text(g.ID), GroupName: &g.Name, Description: &g.Description, VpcId: text(g.VPC),
				StaleIpPermissions: in, StaleIpPermissionsEgress: out})
		}
	}
	page, err := awsapi.Paginate(list, func(g ec2.StaleSecurityGroup) string { return deref(g.GroupId) }, req.MaxResults, req.NextToken, vpc.ID)
	if err != nil {
		return nil, err
	}
	return &ec2.DescribeStaleSecurityGroupsResult{NextToken: page.Next, StaleSecurityGroupSet: page.Items}, nil
}

// referencedGroup finds the group that a rule of a group names: one of its own VPC, or of one that is peered with it, which is named by its
// id. What a rule of the group names already is found also when it is gone, so that the rule can be revoked.
func referencedGroup(r store.Reader, g *cloud.SecurityGroup, pair ec2.UserIdGroupPair) (cloud.SecurityGroupID, cloud.GroupPeer, error) {
	none := cloud.GroupPeer{}
	account := g.Account
	if id := deref(pair.UserId); id != "" {
		account = cloud.AccountID(id)
	}
	notFound := func() error {
		return awsapi.Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist", deref(pair.GroupId)+deref(pair.GroupName))
	}
	if deref(pair.GroupId) == "" {
		for _, other := range store.ListBy(r, store.SecurityGroupsByVPC, g.VPC) {
			if other.Name == deref(pair.GroupName) && account == g.Account {
				return other.ID, none, nil
			}
		}
		return "", none, notFound()
	}
	id := cloud.SecurityGroupID(*pair.GroupId)
	for _, rule := range g.Rules {
		if rule.Group == id && rule.Peer.Peering != "" && (deref(pair.VpcPeeringConnectionId) == "" || string(rule.Peer.Peering) == *pair.VpcPeeringConnectionId) {
			return id, rule.Peer, nil
		}
	}
	other, err := lookup(r, store.SecurityGroups, ownerOfGroup, kindGroup, account, *pair.GroupId)
	if err != nil {
		return "", none, err
	}
	if given := deref(pair.VpcId); given != "" && given != string(other.VPC) {
		return "", none, notFound()
	}
	if other.VPC == g.VPC {
		return other.ID, none, nil
	}
	for _, p := range store.ListBy(r, store.PeeringsByVPC, g.VPC) {
		_, there := p.Between(g.VPC)
		if given := deref(pair.VpcPeeringConnectionId); given != "" && given != string(p.ID) {
			continue
		}
		if p.Status == cloud.PeeringActive && there.VPC == other.VPC {
			return other.ID, cloud.GroupPeer{Peering: p.ID, VPC: other.VPC, Account: other.Account}, nil
		}
	}
	if account != g.Account { // a stranger's groups don't exist for who isn't peered with them
		return "", none, notFound()
	}
	return "", none, awsapi.Errorf("InvalidGroup.NotFound", "You have specified two resources that belong to different networks.")
}

// groupPair is a rule's group as permissions show it.
func groupPair(r store.Reader, g *cloud.SecurityGroup, rule cloud.SecurityGroupRule) ec2.UserIdGroupPair {
	pair := ec2.UserIdGroupPair{GroupId: text(rule.Group), UserId: text(cmp.Or(rule.Peer.Account, g.Account)), Description: optional(rule.Description)}
	if rule.Peer.Peering != "" {
		pair.VpcId, pair.VpcPeeringConnectionId, pair.PeeringStatus = text(rule.Peer.VPC), text(rule.Peer.Peering), text(cloud.PeeringDeleted)
		if p, ok := store.Get(r, store.Peerings, rule.Peer.Peering); ok {
			pair.PeeringStatus = text(p.Status)
		}
	}
	return pair
}

// stalePermissions are a group's rules of one direction that name what is gone.
func stalePermissions(r store.Reader, g *cloud.SecurityGroup, egress bool) []ec2.StaleIpPermission {
	list := []ec2.StaleIpPermission{}
	for _, rule := range g.Rules {
		if rule.Egress != egress || rule.Peer.Peering == "" {
			continue
		}
		p, ok := store.Get(r, store.Peerings, rule.Peer.Peering)
		if _, there := store.Get(r, store.SecurityGroups, rule.Group); ok && p.Status == cloud.PeeringActive && there {
			continue
		}
		pair := groupPair(r, g, rule)
		pair.Description = nil
		stale := ec2.StaleIpPermission{IpProtocol: new(protocolText(rule.Protocol)), IpRanges: []string{}, PrefixListIds: []string{}, UserIdGroupPairs: []ec2.UserIdGroupPair{pair}}
		if hasPorts(rule.Protocol) {
			stale.FromPort, stale.ToPort = new(int64(rule.FromPort)), new(int64(rule.ToPort))
		}
		list = append(list, stale)
	}
	return list
}
