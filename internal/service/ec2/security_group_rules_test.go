package ec2_test

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// allowTCP lets a range into a port of a group, and returns the rule's id.
func (w *world) allowTCP(group, cidr string, port int32) string {
	w.t.Helper()
	out, err := w.AuthorizeSecurityGroupIngress(w.t.Context(), &sdk.AuthorizeSecurityGroupIngressInput{GroupId: &group,
		IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port, IpRanges: []types.IpRange{{CidrIp: &cidr}}}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.SecurityGroupRules[0].SecurityGroupRuleId
}

// rule describes one.
func (w *world) rule(id string) types.SecurityGroupRule {
	w.t.Helper()
	out, err := w.DescribeSecurityGroupRules(w.t.Context(), &sdk.DescribeSecurityGroupRulesInput{SecurityGroupRuleIds: []string{id}})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.SecurityGroupRules[0]
}

func modifyRules(group string, updates ...types.SecurityGroupRuleUpdate) *sdk.ModifySecurityGroupRulesInput {
	return &sdk.ModifySecurityGroupRulesInput{GroupId: &group, SecurityGroupRules: updates}
}

func toTCP(id, cidr string, port int32, description string) types.SecurityGroupRuleUpdate {
	return types.SecurityGroupRuleUpdate{SecurityGroupRuleId: &id, SecurityGroupRule: &types.SecurityGroupRuleRequest{IpProtocol: aws.String("tcp"),
		FromPort: &port, ToPort: &port, CidrIpv4: &cidr, Description: &description}}
}

func TestAModifiedRuleKeepsItsIDAndTags(t *testing.T) {
	w := newWorld(t)
	g := w.group("web")
	id := w.allowTCP(g, "10.0.0.0/8", 80)
	if _, err := w.CreateTags(t.Context(), &sdk.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: aws.String("tier"), Value: aws.String("web")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ModifySecurityGroupRules(t.Context(), modifyRules(g, toTCP(id, "192.168.0.0/16", 443, "from the office"))); err != nil {
		t.Fatal(err)
	}
	r := w.rule(id)
	if *r.CidrIpv4 != "192.168.0.0/16" || *r.FromPort != 443 || *r.ToPort != 443 || *r.Description != "from the office" || *r.IsEgress || len(r.Tags) != 1 {
		t.Errorf("the rule is %+v", r)
	}
}

func TestRulesMayTradePlacesInOneCall(t *testing.T) {
	w := newWorld(t)
	g := w.group("web")
	a, b := w.allowTCP(g, "10.0.0.0/8", 80), w.allowTCP(g, "10.0.0.0/8", 81)
	if _, err := w.ModifySecurityGroupRules(t.Context(), modifyRules(g, toTCP(a, "10.0.0.0/8", 81, ""), toTCP(b, "10.0.0.0/8", 80, ""))); err != nil {
		t.Fatal(err)
	}
	if *w.rule(a).FromPort != 81 || *w.rule(b).FromPort != 80 {
		t.Error("the rules did not trade places")
	}
}

func TestRulesAreModifiedAllOrNone(t *testing.T) {
	w := newWorld(t)
	g, other := w.group("web"), w.group("other")
	a, b, foreign := w.allowTCP(g, "10.0.0.0/8", 80), w.allowTCP(g, "10.0.0.0/8", 81), w.allowTCP(other, "10.0.0.0/8", 82)
	w.unchanged(func() {
		for _, c := range []struct {
			in   *sdk.ModifySecurityGroupRulesInput
			code string
		}{
			{modifyRules(g, toTCP(a, "10.0.0.0/8", 90, ""), toTCP(b, "10.0.0.0/8", 90, "")), "InvalidPermission.Duplicate"},
			{modifyRules(g, toTCP(a, "10.0.0.0/8", 90, ""), toTCP(foreign, "10.0.0.0/8", 91, "")), "InvalidSecurityGroupRuleId.NotFound"},
			{modifyRules(g, toTCP("sgr-x", "10.0.0.0/8", 90, "")), "InvalidSecurityGroupRuleId.Malformed"},
			{modifyRules(g, toTCP(a, "10.0.0.0/8", 90, ""), toTCP(a, "10.0.0.0/8", 91, "")), "InvalidParameterValue"},
			{modifyRules(g, toTCP(a, "10.0.0.0/8", 70000, "")), "InvalidParameterValue"},
			{modifyRules(g, types.SecurityGroupRuleUpdate{SecurityGroupRuleId: &a, SecurityGroupRule: &types.SecurityGroupRuleRequest{IpProtocol: aws.String("-1")}}), "MissingParameter"},
			{modifyRules(g, types.SecurityGroupRuleUpdate{SecurityGroupRuleId: &a, SecurityGroupRule: &types.SecurityGroupRuleRequest{IpProtocol: aws.String("-1"),
				CidrIpv4: aws.String("10.0.0.0/8"), ReferencedGroupId: &g}}), "InvalidParameterCombination"},
		} {
			_, err := w.ModifySecurityGroupRules(t.Context(), c.in)
			refused(t, err, c.code)
		}
	})
}

func TestDescriptionsOfRulesAreUpdatedByMatchAndByID(t *testing.T) {
	w := newWorld(t)
	g := w.group("web")
	id := w.allowTCP(g, "10.0.0.0/8", 80)
	if _, err := w.UpdateSecurityGroupRuleDescriptionsIngress(t.Context(), &sdk.UpdateSecurityGroupRuleDescriptionsIngressInput{GroupId: &g, IpPermissions: []types.IpPermission{{
		IpProtocol: aws.String("tcp"), FromPort: aws.Int32(80), ToPort: aws.Int32(80), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8"), Description: aws.String("inside")}}}}}); err != nil {
		t.Fatal(err)
	}
	if got := aws.ToString(w.rule(id).Description); got != "inside" {
		t.Errorf("by its match, the description is %q", got)
	}
	if _, err := w.UpdateSecurityGroupRuleDescriptionsIngress(t.Context(), &sdk.UpdateSecurityGroupRuleDescriptionsIngressInput{GroupId: &g,
		SecurityGroupRuleDescriptions: []types.SecurityGroupRuleDescription{{SecurityGroupRuleId: &id}}}); err != nil {
		t.Fatal(err)
	}
	if r := w.rule(id); r.Description != nil {
		t.Errorf("a description that is left out stays: %q", *r.Description)
	}
	_, err := w.UpdateSecurityGroupRuleDescriptionsEgress(t.Context(), &sdk.UpdateSecurityGroupRuleDescriptionsEgressInput{GroupId: &g,
		SecurityGroupRuleDescriptions: []types.SecurityGroupRuleDescription{{SecurityGroupRuleId: &id, Description: aws.String("x")}}})
	refused(t, err, "InvalidSecurityGroupRuleId.NotFound")
	_, err = w.UpdateSecurityGroupRuleDescriptionsIngress(t.Context(), &sdk.UpdateSecurityGroupRuleDescriptionsIngressInput{GroupId: &g, IpPermissions: []types.IpPermission{{
		IpProtocol: aws.String("udp"), FromPort: aws.Int32(80), ToPort: aws.Int32(80), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}}}})
	refused(t, err, "InvalidPermission.NotFound")
}

func TestTheGroupsForAVPCAreItsOwn(t *testing.T) {
	w := newWorld(t)
	g := w.group("web")
	vpc := string(w.subnet().VPC)
	out, err := w.GetSecurityGroupsForVpc(t.Context(), &sdk.GetSecurityGroupsForVpcInput{VpcId: &vpc})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.SecurityGroupForVpcs) != 2 || !slices.ContainsFunc(out.SecurityGroupForVpcs, func(x types.SecurityGroupForVpc) bool { return *x.GroupId == g && *x.PrimaryVpcId == vpc }) {
		t.Errorf("listed %+v", out.SecurityGroupForVpcs)
	}
	_, err = w.stranger.GetSecurityGroupsForVpc(t.Context(), &sdk.GetSecurityGroupsForVpcInput{VpcId: &vpc})
	refused(t, err, "InvalidVpcID.NotFound")
}

func TestIPv6RangesAreRulesOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	g := w.group("web")
	port := aws.Int32(443)
	in := &sdk.AuthorizeSecurityGroupIngressInput{GroupId: &g, IpPermissions: []types.IpPermission{
		{IpProtocol: aws.String("tcp"), FromPort: port, ToPort: port, IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}},
			Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0"), Description: aws.String("the world")}}},
		{IpProtocol: aws.String("icmpv6"), FromPort: aws.Int32(128), ToPort: aws.Int32(-1), Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("fd00::1/8")}}}}}
	out, err := w.AuthorizeSecurityGroupIngress(t.Context(), in)
	if err != nil || len(out.SecurityGroupRules) != 3 {
		t.Fatal(out, err)
	}
	if r := w.rule(*out.SecurityGroupRules[2].SecurityGroupRuleId); aws.ToString(r.CidrIpv6) != "fd00::/8" || *r.IpProtocol != "icmpv6" || r.CidrIpv4 != nil {
		t.Errorf("the third rule is %+v", r)
	}
	groups, err := w.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{Filters: filterList("ip-permission.ipv6-cidr", "fd00::/8")})
	if err != nil || len(groups.SecurityGroups) != 1 {
		t.Fatal(groups, err)
	}
	for _, p := range groups.SecurityGroups[0].IpPermissions {
		if *p.IpProtocol == "tcp" && (len(p.IpRanges) != 1 || len(p.Ipv6Ranges) != 1 || *p.Ipv6Ranges[0].Description != "the world") {
			t.Errorf("both families are shown as %+v", p)
		}
	}
	_, err = w.AuthorizeSecurityGroupIngress(t.Context(), in)
	refused(t, err, "InvalidPermission.Duplicate")
	_, err = w.AuthorizeSecurityGroupIngress(t.Context(), &sdk.AuthorizeSecurityGroupIngressInput{GroupId: &g, IpPermissions: []types.IpPermission{
		{IpProtocol: aws.String("icmpv6"), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}}}})
	refused(t, err, "InvalidParameterValue")
	if _, err := w.RevokeSecurityGroupIngress(t.Context(), &sdk.RevokeSecurityGroupIngressInput{GroupId: &g, IpPermissions: in.IpPermissions}); err != nil {
		t.Fatal(err)
	}
}

func TestNoGroupIsStaleOrReferredToOverAPeering(t *testing.T) {
	w := newWorld(t)
	g, vpc := w.group("web"), string(w.subnet().VPC)
	refs, err := w.DescribeSecurityGroupReferences(t.Context(), &sdk.DescribeSecurityGroupReferencesInput{GroupId: []string{g}})
	if err != nil || len(refs.SecurityGroupReferenceSet) != 0 {
		t.Error(refs, err)
	}
	_, err = w.stranger.DescribeSecurityGroupReferences(t.Context(), &sdk.DescribeSecurityGroupReferencesInput{GroupId: []string{g}})
	refused(t, err, "InvalidGroup.NotFound")
	stale, err := w.DescribeStaleSecurityGroups(t.Context(), &sdk.DescribeStaleSecurityGroupsInput{VpcId: &vpc})
	if err != nil || len(stale.StaleSecurityGroupSet) != 0 {
		t.Error(stale, err)
	}
	_, err = w.stranger.DescribeStaleSecurityGroups(t.Context(), &sdk.DescribeStaleSecurityGroupsInput{VpcId: &vpc})
	refused(t, err, "InvalidVpcID.NotFound")
}

func TestASmallerTypeMustCarryTheInterfaces(t *testing.T) {
	w := newWorld(t)
	vm := w.running(w.inSubnet, ofType("t3.small"))
	for n := range 2 {
		if _, err := w.attach(*w.nic().NetworkInterfaceId, vm, int32(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.StopInstances(t.Context(), &sdk.StopInstancesInput{InstanceIds: []string{vm}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	_, err := w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &vm, InstanceType: &types.AttributeValue{Value: aws.String("t3.micro")}})
	refused(t, err, "AttachmentLimitExceeded")
	if _, err := w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &vm, InstanceType: &types.AttributeValue{Value: aws.String("t3.medium")}}); err != nil {
		t.Error(err)
	}
}
