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

// maxRules bounds a group's rules in one direction. EC2's default is 60; operators of their own servers get the most
// that EC2 grants.
const maxRules = 1000

// permissionParameters are what permissions are given by. A peering's status says nothing there: it is in EC2's answers, which
// clients hand back to revoke what they were told.
var permissionParameters = []string{"IpPermissions.IpProtocol", "IpPermissions.FromPort", "IpPermissions.ToPort", "IpPermissions.IpRanges", "IpPermissions.Ipv6Ranges", "IpPermissions.PrefixListIds",
	"IpPermissions.UserIdGroupPairs.GroupId", "IpPermissions.UserIdGroupPairs.GroupName", "IpPermissions.UserIdGroupPairs.UserId",
	"IpPermissions.UserIdGroupPairs.Description", "IpPermissions.UserIdGroupPairs.VpcId", "IpPermissions.UserIdGroupPairs.VpcPeeringConnectionId",
	"IpPermissions.UserIdGroupPairs.PeeringStatus"}

func (s *Service) registerSecurityGroupRules(r *awsapi.Registry) {
	flat := append([]string{"GroupId", "CidrIp", "IpProtocol", "FromPort", "ToPort"}, permissionParameters...)
	ingress := append([]string{"GroupName", "SourceSecurityGroupName"}, flat...)
	awsapi.Handle(r, ec2.ActionAuthorizeSecurityGroupIngress, s.authorizeIngress, awsapi.Honours(append(ingress, "TagSpecifications")...))
	awsapi.Handle(r, ec2.ActionAuthorizeSecurityGroupEgress, s.authorizeEgress, awsapi.Honours(append(flat, "TagSpecifications")...))
	awsapi.Handle(r, ec2.ActionRevokeSecurityGroupIngress, s.revokeIngress, awsapi.Honours(append(ingress, "SecurityGroupRuleIds")...))
	awsapi.Handle(r, ec2.ActionRevokeSecurityGroupEgress, s.revokeEgress, awsapi.Honours(append(flat, "SecurityGroupRuleIds")...))
	awsapi.Handle(r, ec2.ActionDescribeSecurityGroupRules, s.describeSecurityGroupRules, awsapi.Honours("Filters", "SecurityGroupRuleIds", "MaxResults", "NextToken"))
	s.registerSecurityGroupRuleChanges(r)
	s.registerSecurityGroupReferences(r)
}

func (s *Service) authorizeIngress(ctx context.Context, call *awsapi.Call, req *ec2.AuthorizeSecurityGroupIngressRequest) (*ec2.AuthorizeSecurityGroupIngressResult, error) {
	list, err := permissionsOf(req.IpPermissions, flatPermission{req.IpProtocol, req.CidrIp, req.SourceSecurityGroupName, req.FromPort, req.ToPort})
	if err != nil {
		return nil, err
	}
	rules, err := s.authorize(ctx, call, deref(req.GroupId), deref(req.GroupName), false, list, req.TagSpecifications)
	return &ec2.AuthorizeSecurityGroupIngressResult{Return: new(true), SecurityGroupRules: rules}, err
}

func (s *Service) authorizeEgress(ctx context.Context, call *awsapi.Call, req *ec2.AuthorizeSecurityGroupEgressRequest) (*ec2.AuthorizeSecurityGroupEgressResult, error) {
	list, err := permissionsOf(req.IpPermissions, flatPermission{req.IpProtocol, req.CidrIp, nil, req.FromPort, req.ToPort})
	if err != nil {
		return nil, err
	}
	rules, err := s.authorize(ctx, call, deref(req.GroupId), "", true, list, req.TagSpecifications)
	return &ec2.AuthorizeSecurityGroupEgressResult{Return: new(true), SecurityGroupRules: rules}, err
}

// authorize adds rules to a group, all or none.
func (s *Service) authorize(ctx context.Context, call *awsapi.Call, id, name string, egress bool, list []ec2.IpPermission, specs []ec2.TagSpecification) ([]ec2.SecurityGroupRule, error) {
	tags, err := tagsFor(specs, "security-group-rule")
	if err != nil {
		return nil, err
	}
	var shapes []ec2.SecurityGroupRule
	var ids []cloud.SecurityGroupRuleID // drawn once, also when the transaction runs again
	err = s.update(ctx, call, func(tx *store.Tx) error {
		shapes = []ec2.SecurityGroupRule{}
		g, err := namedGroup(tx, call.Account, id, name)
		if err != nil {
			return err
		}
		rules, err := rulesOf(tx, g, egress, list)
		if err != nil {
			return err
		}
		for n, rule := range rules {
			if indexOfRule(g, rule) >= 0 {
				return duplicateRule(rule)
			}
			if n == len(ids) {
				ids = append(ids, newID[cloud.SecurityGroupRuleID](s))
			}
			rule.ID, rule.Tags = ids[n], tags["security-group-rule"]
			g.Rules = append(g.Rules, rule)
			shapes = append(shapes, ruleShape(tx, g, rule))
		}
		if err := ruleLimit(tx, g); err != nil {
			return err
		}
		store.Put(tx, store.SecurityGroups, g)
		return nil
	})
	return shapes, err
}

func duplicateRule(rule cloud.SecurityGroupRule) error {
	return awsapi.Errorf("InvalidPermission.Duplicate", "the specified rule \"peer: %s, %s, from port: %d, to port: %d, ALLOW\" already exists",
		cmp.Or(string(rule.Group), string(rule.PrefixList), rule.CIDR.String()), protocolText(rule.Protocol), rule.FromPort, rule.ToPort)
}

func unknownRule() error {
	return awsapi.Errorf("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
}

// weightOf is what a rule or route counts for: one that names a prefix list for as many as the list has room for.
func weightOf(r store.Reader, id cloud.PrefixListID) int {
	if l, ok := store.Get(r, store.PrefixLists, id); ok {
		return l.MaxEntries
	}
	return 1
}

// ruleLimit refuses a group that has more rules in one direction than a group may.
func ruleLimit(r store.Reader, g *cloud.SecurityGroup) error {
	count := map[bool]int{}
	for _, rule := range g.Rules {
		count[rule.Egress] += weightOf(r, rule.PrefixList)
	}
	if max(count[false], count[true]) > maxRules {
		return awsapi.Errorf("RulesPerSecurityGroupLimitExceeded", "A security group has %d rules a direction at most.", maxRules)
	}
	return nil
}

func (s *Service) revokeIngress(ctx context.Context, call *awsapi.Call, req *ec2.RevokeSecurityGroupIngressRequest) (*ec2.RevokeSecurityGroupIngressResult, error) {
	list, err := permissionsOf(req.IpPermissions, flatPermission{req.IpProtocol, req.CidrIp, req.SourceSecurityGroupName, req.FromPort, req.ToPort})
	if err != nil {
		return nil, err
	}
	err = s.revoke(ctx, call, deref(req.GroupId), deref(req.GroupName), false, list, req.SecurityGroupRuleIds)
	return &ec2.RevokeSecurityGroupIngressResult{Return: new(true)}, err
}

func (s *Service) revokeEgress(ctx context.Context, call *awsapi.Call, req *ec2.RevokeSecurityGroupEgressRequest) (*ec2.RevokeSecurityGroupEgressResult, error) {
	list, err := permissionsOf(req.IpPermissions, flatPermission{req.IpProtocol, req.CidrIp, nil, req.FromPort, req.ToPort})
	if err != nil {
		return nil, err
	}
	err = s.revoke(ctx, call, deref(req.GroupId), "", true, list, req.SecurityGroupRuleIds)
	return &ec2.RevokeSecurityGroupEgressResult{Return: new(true)}, err
}

// revoke takes rules out of a group, by their ids or by what they match, all or none.
func (s *Service) revoke(ctx context.Context, call *awsapi.Call, id, name string, egress bool, list []ec2.IpPermission, ruleIDs []string) error {
	if len(list) > 0 && len(ruleIDs) > 0 {
		return awsapi.InvalidCombination("Rules are given by their ids or by what they match, not both")
	}
	return s.update(ctx, call, func(tx *store.Tx) error {
		g, err := namedGroup(tx, call.Account, id, name)
		if err != nil {
			return err
		}
		for _, rid := range ruleIDs {
			at, err := ruleAt(g, rid)
			if err != nil {
				return err
			}
			if g.Rules[at].Egress != egress {
				return awsapi.Errorf("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist", rid)
			}
			g.Rules = slices.Delete(g.Rules, at, at+1)
		}
		if len(ruleIDs) == 0 {
			rules, err := rulesOf(tx, g, egress, list)
			if err != nil {
				return err
			}
			for _, rule := range rules {
				at := indexOfRule(g, rule)
				if at < 0 {
					return unknownRule()
				}
				g.Rules = slices.Delete(g.Rules, at, at+1)
			}
		}
		store.Put(tx, store.SecurityGroups, g)
		return nil
	})
}

// groupRule is a rule with the group that it is of.
type groupRule struct {
	group *cloud.SecurityGroup
	rule  cloud.SecurityGroupRule
}

func (s *Service) describeSecurityGroupRules(_ context.Context, call *awsapi.Call, req *ec2.DescribeSecurityGroupRulesRequest) (*ec2.DescribeSecurityGroupRulesResult, error) {
	if err := pageBounds(req.MaxResults, 5, 1000, req.SecurityGroupRuleIds, "securityGroupRuleIds"); err != nil {
		return nil, err
	}
	var list []groupRule
	for _, g := range store.ListBy(s.store.View(), store.SecurityGroupsByAccount, call.Account) {
		for _, r := range g.Rules {
			list = append(list, groupRule{g, r})
		}
	}
	for _, id := range req.SecurityGroupRuleIds {
		if !cloud.ValidID[cloud.SecurityGroupRuleID](id) {
			return nil, awsapi.Errorf("InvalidSecurityGroupRuleId.Malformed", "Invalid id: \"%s\"", id)
		}
		if !slices.ContainsFunc(list, func(r groupRule) bool { return string(r.rule.ID) == id }) {
			return nil, awsapi.Errorf("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist", id)
		}
	}
	pass, err := awsapi.FilterSet[groupRule]{Tags: func(r groupRule) map[string]string { return r.rule.Tags }, Values: map[string]func(groupRule) []string{
		"group-id":               func(r groupRule) []string { return []string{string(r.group.ID)} },
		"security-group-rule-id": func(r groupRule) []string { return []string{string(r.rule.ID)} },
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(r groupRule) bool {
		return len(req.SecurityGroupRuleIds) > 0 && !slices.Contains(req.SecurityGroupRuleIds, string(r.rule.ID)) || !pass(r)
	})
	slices.SortFunc(list, func(a, b groupRule) int { return cmp.Compare(a.rule.ID, b.rule.ID) })
	page, err := awsapi.Paginate(list, func(r groupRule) string { return string(r.rule.ID) }, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSecurityGroupRulesResult{NextToken: page.Next, SecurityGroupRules: []ec2.SecurityGroupRule{}}
	for _, r := range page.Items {
		out.SecurityGroupRules = append(out.SecurityGroupRules, ruleShape(s.store.View(), r.group, r.rule))
	}
	return out, nil
}
