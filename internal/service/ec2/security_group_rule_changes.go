package ec2

import (
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerSecurityGroupRuleChanges(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionModifySecurityGroupRules, s.modifySecurityGroupRules, awsapi.Honours("GroupId", "SecurityGroupRules"))
	descriptions := append([]string{"GroupId", "GroupName", "SecurityGroupRuleDescriptions"}, permissionParameters...)
	awsapi.Handle(r, ec2.ActionUpdateSecurityGroupRuleDescriptionsIngress, s.updateIngressDescriptions, awsapi.Honours(descriptions...))
	awsapi.Handle(r, ec2.ActionUpdateSecurityGroupRuleDescriptionsEgress, s.updateEgressDescriptions, awsapi.Honours(descriptions...))
}

// ruleAt finds a rule of a group by its id.
func ruleAt(g *cloud.SecurityGroup, id string) (int, error) {
	if id == "" {
		return 0, awsapi.MissingParameter("SecurityGroupRuleId")
	}
	if !cloud.ValidID[cloud.SecurityGroupRuleID](id) {
		return 0, awsapi.Errorf("InvalidSecurityGroupRuleId.Malformed", "The security group rule ID '%s' is malformed", id)
	}
	at := slices.IndexFunc(g.Rules, func(r cloud.SecurityGroupRule) bool { return string(r.ID) == id })
	if at < 0 {
		return 0, awsapi.Errorf("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist", id)
	}
	return at, nil
}

// modifySecurityGroupRules puts what rules match anew, in one step: a rule keeps its id, direction and tags.
func (s *Service) modifySecurityGroupRules(ctx context.Context, call *awsapi.Call, req *ec2.ModifySecurityGroupRulesRequest) (*ec2.ModifySecurityGroupRulesResult, error) {
	if len(req.SecurityGroupRules) == 0 {
		return nil, awsapi.MissingParameter("SecurityGroupRule")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		g, err := namedGroup(tx, call.Account, deref(req.GroupId), "")
		if err != nil {
			return err
		}
		changed := map[int]bool{}
		for _, u := range req.SecurityGroupRules {
			at, err := ruleAt(g, deref(u.SecurityGroupRuleId))
			if err != nil {
				return err
			}
			if changed[at] {
				return awsapi.InvalidParameterValue("The security group rule '%s' may not be specified more than once", g.Rules[at].ID)
			}
			changed[at] = true
			if u.SecurityGroupRule == nil {
				return awsapi.MissingParameter("SecurityGroupRule")
			}
			rule, err := ruleOfRequest(tx, g, g.Rules[at].Egress, *u.SecurityGroupRule)
			if err != nil {
				return err
			}
			rule.ID, rule.Tags = g.Rules[at].ID, g.Rules[at].Tags
			g.Rules[at] = rule
		}
		// Two rules may trade places, so that sameness is judged when all changes are in.
		for n, rule := range g.Rules {
			if at := indexOfRule(g, rule); at != n {
				return duplicateRule(rule)
			}
		}
		if err := ruleLimit(tx, g); err != nil {
			return err
		}
		store.Put(tx, store.SecurityGroups, g)
		return nil
	})
	return &ec2.ModifySecurityGroupRulesResult{Return: new(true)}, err
}

// ruleOfRequest reads the form in which ModifySecurityGroupRules gives a rule: whole, with one peer.
func ruleOfRequest(r store.Reader, g *cloud.SecurityGroup, egress bool, q ec2.SecurityGroupRuleRequest) (cloud.SecurityGroupRule, error) {
	peers := 0
	p := ec2.IpPermission{IpProtocol: q.IpProtocol, FromPort: q.FromPort, ToPort: q.ToPort}
	if q.CidrIpv4 != nil {
		peers++
		p.IpRanges = []ec2.IpRange{{CidrIp: q.CidrIpv4, Description: q.Description}}
	}
	if q.CidrIpv6 != nil {
		peers++
		p.Ipv6Ranges = []ec2.Ipv6Range{{CidrIpv6: q.CidrIpv6, Description: q.Description}}
	}
	if q.PrefixListId != nil {
		peers++
		p.PrefixListIds = []ec2.PrefixListId{{PrefixListId: q.PrefixListId, Description: q.Description}}
	}
	if q.ReferencedGroupId != nil {
		peers++
		p.UserIdGroupPairs = []ec2.UserIdGroupPair{{GroupId: q.ReferencedGroupId, Description: q.Description}}
	}
	switch {
	case peers == 0:
		return cloud.SecurityGroupRule{}, awsapi.MissingParameter("CidrIpv4, CidrIpv6, PrefixListId or ReferencedGroupId")
	case peers > 1:
		return cloud.SecurityGroupRule{}, awsapi.InvalidCombination("Only one of CidrIpv4, CidrIpv6, PrefixListId and ReferencedGroupId may be specified")
	}
	rules, err := rulesOf(r, g, egress, []ec2.IpPermission{p})
	if err != nil {
		return cloud.SecurityGroupRule{}, err
	}
	return rules[0], nil
}

func (s *Service) updateIngressDescriptions(ctx context.Context, call *awsapi.Call, req *ec2.UpdateSecurityGroupRuleDescriptionsIngressRequest) (*ec2.UpdateSecurityGroupRuleDescriptionsIngressResult, error) {
	err := s.updateDescriptions(ctx, call, deref(req.GroupId), deref(req.GroupName), false, req.IpPermissions, req.SecurityGroupRuleDescriptions)
	return &ec2.UpdateSecurityGroupRuleDescriptionsIngressResult{Return: new(true)}, err
}

func (s *Service) updateEgressDescriptions(ctx context.Context, call *awsapi.Call, req *ec2.UpdateSecurityGroupRuleDescriptionsEgressRequest) (*ec2.UpdateSecurityGroupRuleDescriptionsEgressResult, error) {
	err := s.updateDescriptions(ctx, call, deref(req.GroupId), deref(req.GroupName), true, req.IpPermissions, req.SecurityGroupRuleDescriptions)
	return &ec2.UpdateSecurityGroupRuleDescriptionsEgressResult{Return: new(true)}, err
}

// updateDescriptions gives rules other descriptions, or none where none is given; the rules are found by what they match or
// by their ids.
func (s *Service) updateDescriptions(ctx context.Context, call *awsapi.Call, id, name string, egress bool, list []ec2.IpPermission, descriptions []ec2.SecurityGroupRuleDescription) error {
	switch {
	case len(list) > 0 && len(descriptions) > 0:
		return awsapi.InvalidCombination("The parameters IpPermissions and SecurityGroupRuleDescriptions may not be used together")
	case len(list) == 0 && len(descriptions) == 0:
		return awsapi.MissingParameter("IpPermissions or SecurityGroupRuleDescriptions")
	}
	return s.update(ctx, call, func(tx *store.Tx) error {
		g, err := namedGroup(tx, call.Account, id, name)
		if err != nil {
			return err
		}
		for _, d := range descriptions {
			at, err := ruleAt(g, deref(d.SecurityGroupRuleId))
			if err != nil {
				return err
			}
			if g.Rules[at].Egress != egress {
				return awsapi.Errorf("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist", g.Rules[at].ID)
			}
			if g.Rules[at].Description, err = ruleDescription(d.Description); err != nil {
				return err
			}
		}
		if len(descriptions) == 0 {
			rules, err := rulesOf(tx, g, egress, list)
			if err != nil {
				return err
			}
			for _, rule := range rules {
				at := indexOfRule(g, rule)
				if at < 0 {
					return unknownRule()
				}
				g.Rules[at].Description = rule.Description
			}
		}
		store.Put(tx, store.SecurityGroups, g)
		return nil
	})
}
