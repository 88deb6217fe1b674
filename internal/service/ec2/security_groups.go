package ec2

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerSecurityGroups(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateSecurityGroup, s.createSecurityGroup, awsapi.Honours("Description", "GroupName", "VpcId", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeleteSecurityGroup, s.deleteSecurityGroup, awsapi.Honours("GroupId", "GroupName"))
	awsapi.Handle(r, ec2.ActionDescribeSecurityGroups, s.describeSecurityGroups, awsapi.Honours("Filters", "GroupIds", "GroupNames", "MaxResults", "NextToken"))
	s.registerSecurityGroupRules(r)
}

var groupNameForm = regexp.MustCompile(`^[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}$`)

const maxGroupsPerVPC = 2500

func (s *Service) createSecurityGroup(ctx context.Context, call *awsapi.Call, req *ec2.CreateSecurityGroupRequest) (*ec2.CreateSecurityGroupResult, error) {
	name, description := deref(req.GroupName), deref(req.Description)
	switch {
	case !groupNameForm.MatchString(name):
		return nil, awsapi.InvalidParameterValue("Invalid security group name '%s': 1 to 255 characters from a-z, A-Z, 0-9, spaces, and ._-:/()#,@[]+=&;{}!$*", name)
	case strings.HasPrefix(name, "sg-"):
		return nil, awsapi.InvalidParameterValue("Invalid security group name '%s': it cannot start with 'sg-'", name)
	case name == "default":
		return nil, awsapi.Errorf("InvalidParameterValue", "Cannot use reserved security group name: default")
	case !groupNameForm.MatchString(description):
		return nil, awsapi.InvalidParameterValue("Invalid security group description: 1 to 255 characters from a-z, A-Z, 0-9, spaces, and ._-:/()#,@[]+=&;{}!$*")
	}
	tags, err := tagsFor(req.TagSpecifications, "security-group")
	if err != nil {
		return nil, err
	}
	g := &cloud.SecurityGroup{ID: newID[cloud.SecurityGroupID](s), Account: call.Account, Name: name, Description: description, Tags: tags["security-group"], Created: call.Now}
	outID, out6ID := newID[cloud.SecurityGroupRuleID](s), newID[cloud.SecurityGroupRuleID](s)
	err = s.update(ctx, call, func(tx *store.Tx) error {
		var vpc *cloud.VPC
		var err error
		if id := deref(req.VpcId); id != "" {
			vpc, err = lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, id)
		} else {
			vpc, err = defaultVPC(tx, call.Account)
		}
		if err != nil {
			return err
		}
		if len(store.ListBy(tx.View(), store.SecurityGroupsByVPC, vpc.ID)) >= maxGroupsPerVPC {
			return awsapi.Errorf("SecurityGroupLimitExceeded", "The VPC %s has %d security groups, which is the most.", vpc.ID, maxGroupsPerVPC)
		}
		err = store.Insert(tx, store.Claims, &store.Claim{Key: store.NameClaim("security-group", vpc.ID, name), Owner: string(g.ID)})
		if errors.Is(err, store.ErrExists) {
			return awsapi.Errorf("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", name, vpc.ID)
		}
		if err != nil {
			return err
		}
		g.VPC, g.Rules = vpc.ID, everythingOut(vpcHasIPv6(tx, vpc.ID), outID, out6ID)
		store.Put(tx, store.SecurityGroups, g)
		return nil
	})
	return &ec2.CreateSecurityGroupResult{GroupId: text(g.ID), Tags: tagList(g.Tags)}, err
}

// everythingOut are the rules that a new group has: all may leave, also by IPv6 where the VPC has it.
func everythingOut(ipv6 bool, id, id6 cloud.SecurityGroupRuleID) []cloud.SecurityGroupRule {
	rule := cloud.SecurityGroupRule{ID: id, Egress: true, Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: cloud.AllIPv4}
	if !ipv6 {
		return []cloud.SecurityGroupRule{rule}
	}
	rule6 := rule
	rule6.ID, rule6.CIDR = id6, cloud.AllIPv6
	return []cloud.SecurityGroupRule{rule, rule6}
}

// namedGroup finds the group that a call means: by its id, or by its name in the default VPC.
func namedGroup(r store.Reader, account cloud.AccountID, id, name string) (*cloud.SecurityGroup, error) {
	if id != "" && name != "" {
		return nil, awsapi.InvalidCombination("The parameters GroupId and GroupName cannot be used together")
	}
	if id != "" {
		return lookup(r, store.SecurityGroups, ownerOfGroup, kindGroup, account, id)
	}
	if name == "" {
		return nil, awsapi.MissingParameter("GroupId")
	}
	vpc, err := defaultVPC(r, account)
	if err != nil {
		return nil, err
	}
	for _, g := range store.ListBy(r, store.SecurityGroupsByVPC, vpc.ID) {
		if g.Name == name {
			return g, nil
		}
	}
	return nil, awsapi.Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist in default VPC '%s'", name, vpc.ID)
}

func (s *Service) deleteSecurityGroup(ctx context.Context, call *awsapi.Call, req *ec2.DeleteSecurityGroupRequest) (*ec2.DeleteSecurityGroupResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		g, err := namedGroup(tx, call.Account, deref(req.GroupId), deref(req.GroupName))
		if err != nil {
			return err
		}
		if g.Name == "default" {
			return awsapi.Errorf("CannotDelete", "the specified group: \"%s\" name: \"default\" cannot be deleted by a user", g.ID)
		}
		if len(store.ListBy(tx, store.InterfacesByGroup, g.ID)) > 0 {
			return awsapi.Errorf("DependencyViolation", "resource %s has a dependent object", g.ID)
		}
		for _, other := range store.ListBy(tx, store.SecurityGroupsByReference, g.ID) {
			if other.ID != g.ID && other.VPC == g.VPC { // a peer's rules become stale
				return awsapi.Errorf("DependencyViolation", "resource %s has a dependent object", g.ID)
			}
		}
		store.Delete(tx, store.SecurityGroups, g.ID)
		store.Delete(tx, store.Claims, store.NameClaim("security-group", g.VPC, g.Name))
		return nil
	})
	return &ec2.DeleteSecurityGroupResult{}, err
}

func (s *Service) describeSecurityGroups(_ context.Context, call *awsapi.Call, req *ec2.DescribeSecurityGroupsRequest) (*ec2.DescribeSecurityGroupsResult, error) {
	view := s.store.View()
	ids := slices.Clone(req.GroupIds)
	for _, name := range req.GroupNames {
		g, err := namedGroup(view, call.Account, "", name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, string(g.ID))
	}
	l := listing[cloud.SecurityGroupID, cloud.SecurityGroup]{store.SecurityGroups, store.SecurityGroupsByAccount, ownerOfGroup, kindGroup,
		func(g *cloud.SecurityGroup) cloud.SecurityGroupID { return g.ID }, groupFilters(view)}
	page, err := l.page(view, call.Account, ids, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSecurityGroupsResult{NextToken: page.Next, SecurityGroups: []ec2.SecurityGroup{}}
	for _, g := range page.Items {
		out.SecurityGroups = append(out.SecurityGroups, ec2.SecurityGroup{GroupId: text(g.ID), GroupName: &g.Name, Description: &g.Description, OwnerId: text(g.Account),
			VpcId: text(g.VPC), Tags: tagList(g.Tags), IpPermissions: permissionShapes(view, g, false), IpPermissionsEgress: permissionShapes(view, g, true)})
	}
	return out, nil
}

// groupFilters are the documented filters of DescribeSecurityGroups.
func groupFilters(view *store.View) awsapi.FilterSet[*cloud.SecurityGroup] {
	type G = *cloud.SecurityGroup
	values := map[string]func(G) []string{
		"description": one(func(g G) string { return g.Description }), "group-id": one(func(g G) string { return string(g.ID) }),
		"group-name": one(func(g G) string { return g.Name }), "owner-id": one(func(g G) string { return string(g.Account) }),
		"vpc-id": one(func(g G) string { return string(g.VPC) }),
	}
	for prefix, egress := range map[string]bool{"ip-permission.": false, "egress.ip-permission.": true} {
		rules := func(f func(G, cloud.SecurityGroupRule) string) func(G) []string {
			return func(g G) (out []string) {
				for _, r := range g.Rules {
					if r.Egress != egress {
						continue
					}
					if v := f(g, r); v != "" {
						out = append(out, v)
					}
				}
				return out
			}
		}
		values[prefix+"cidr"] = rules(func(_ G, r cloud.SecurityGroupRule) string {
			if r.CIDR.IsValid() && r.CIDR.Addr().Is4() {
				return r.CIDR.String()
			}
			return ""
		})
		values[prefix+"ipv6-cidr"] = rules(func(_ G, r cloud.SecurityGroupRule) string {
			if r.CIDR.IsValid() && r.CIDR.Addr().Is6() {
				return r.CIDR.String()
			}
			return ""
		})
		values[prefix+"from-port"] = rules(func(_ G, r cloud.SecurityGroupRule) string { return strconv.Itoa(r.FromPort) })
		values[prefix+"to-port"] = rules(func(_ G, r cloud.SecurityGroupRule) string { return strconv.Itoa(r.ToPort) })
		values[prefix+"group-id"] = rules(func(_ G, r cloud.SecurityGroupRule) string { return string(r.Group) })
		values[prefix+"group-name"] = rules(func(_ G, r cloud.SecurityGroupRule) string {
			if other, ok := store.Get(view, store.SecurityGroups, r.Group); ok {
				return other.Name
			}
			return ""
		})
		values[prefix+"user-id"] = rules(func(g G, r cloud.SecurityGroupRule) string {
			if r.Group == "" {
				return ""
			}
			return string(cmp.Or(r.Peer.Account, g.Account))
		})
		values[prefix+"protocol"] = rules(func(_ G, r cloud.SecurityGroupRule) string { return protocolText(r.Protocol) })
		values[prefix+"prefix-list-id"] = rules(func(_ G, r cloud.SecurityGroupRule) string { return string(r.PrefixList) })
	}
	return awsapi.FilterSet[G]{Tags: func(g G) map[string]string { return g.Tags }, Values: values}
}
