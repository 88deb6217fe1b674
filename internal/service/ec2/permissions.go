package ec2

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// flatPermission is the older form of one permission, as members of the request itself.
type flatPermission struct {
	protocol, cidr, group *string
	from, to              *int64
}

// permissionsOf brings both forms of permissions into one list.
func permissionsOf(list []ec2.IpPermission, flat flatPermission) ([]ec2.IpPermission, error) {
	if flat == (flatPermission{}) {
		return list, nil
	}
	if len(list) > 0 {
		return nil, awsapi.InvalidCombination("The parameter 'ipPermissions' may not be used in combination with others that describe a permission")
	}
	p := ec2.IpPermission{IpProtocol: flat.protocol, FromPort: flat.from, ToPort: flat.to}
	if flat.cidr != nil {
		p.IpRanges = []ec2.IpRange{{CidrIp: flat.cidr}}
	}
	if flat.group != nil {
		p.UserIdGroupPairs = []ec2.UserIdGroupPair{{GroupName: flat.group}}
		if flat.protocol == nil {
			p.IpProtocol = new("-1") // a group alone means everything from it
		}
	}
	return []ec2.IpPermission{p}, nil
}

// rulesOf turns permissions into rules of a group, one for each range, prefix list and referenced group, without ids.
func rulesOf(r store.Reader, g *cloud.SecurityGroup, egress bool, list []ec2.IpPermission) ([]cloud.SecurityGroupRule, error) {
	if len(list) == 0 {
		return nil, awsapi.MissingParameter("IpPermissions")
	}
	var rules []cloud.SecurityGroupRule
	for _, p := range list {
		base, err := protocolAndPorts(p.IpProtocol, p.FromPort, p.ToPort)
		if err != nil {
			return nil, err
		}
		base.Egress = egress
		if len(p.IpRanges) == 0 && len(p.Ipv6Ranges) == 0 && len(p.PrefixListIds) == 0 && len(p.UserIdGroupPairs) == 0 {
			return nil, awsapi.InvalidParameterValue("A permission must name a range, a prefix list or a security group")
		}
		for _, x := range p.IpRanges {
			rule := base
			if rule.CIDR, err = parseCIDR(deref(x.CidrIp)); err != nil {
				return nil, err
			}
			if rule.Protocol == cloud.ProtocolICMPv6 {
				return nil, awsapi.InvalidParameterValue("The protocol icmpv6 can't be used with the IPv4 range %s", rule.CIDR)
			}
			if rule.Description, err = ruleDescription(x.Description); err != nil {
				return nil, err
			}
			rules = append(rules, rule)
		}
		for _, x := range p.Ipv6Ranges {
			rule := base
			if rule.CIDR, err = parseCIDR6(deref(x.CidrIpv6)); err != nil {
				return nil, err
			}
			if rule.Description, err = ruleDescription(x.Description); err != nil {
				return nil, err
			}
			rules = append(rules, rule)
		}
		for _, x := range p.PrefixListIds {
			rule := base
			l, err := ownPrefixList(r, g.Account, x.PrefixListId)
			if err != nil {
				return nil, err
			}
			if rule.Protocol == cloud.ProtocolICMPv6 && !l.IPv6 {
				return nil, awsapi.InvalidParameterValue("The protocol icmpv6 can't be used with the IPv4 prefix list %s", l.ID)
			}
			rule.PrefixList = l.ID
			if rule.Description, err = ruleDescription(x.Description); err != nil {
				return nil, err
			}
			rules = append(rules, rule)
		}
		for _, x := range p.UserIdGroupPairs {
			rule := base
			if rule.Group, rule.Peer, err = referencedGroup(r, g, x); err != nil {
				return nil, err
			}
			if rule.Description, err = ruleDescription(x.Description); err != nil {
				return nil, err
			}
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// parseCIDR reads an IPv4 range; host bits are cleared, as EC2 does.
func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return p, awsapi.InvalidParameterValue("CIDR block %s is malformed", s)
	}
	return p.Masked(), nil
}

const maxRuleDescription = 255

func ruleDescription(d *string) (string, error) {
	text := deref(d)
	if len(text) > maxRuleDescription {
		return "", awsapi.InvalidParameterValue("A rule's description has %d characters at most", maxRuleDescription)
	}
	for _, c := range text {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(" ._-:/()#,@[]+=&;{}!$*", c)) {
			return "", awsapi.InvalidParameterValue("Invalid rule description. Valid descriptions are strings less than 256 characters from the following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*")
		}
	}
	return text, nil
}

// protocolAndPorts reads what a permission matches, in EC2's meanings.
func protocolAndPorts(protocol *string, from, to *int64) (cloud.SecurityGroupRule, error) {
	rule := cloud.SecurityGroupRule{FromPort: -1, ToPort: -1}
	var err error
	if rule.Protocol, err = parseProtocol(deref(protocol)); err != nil {
		return rule, err
	}
	switch rule.Protocol {
	case cloud.ProtocolTCP, cloud.ProtocolUDP:
		if from == nil || to == nil {
			return rule, awsapi.InvalidParameterValue("Invalid value for portRange. Must specify both from and to ports with TCP/UDP.")
		}
		if *from == -1 && *to == -1 { // how some clients say all ports
			rule.FromPort, rule.ToPort = 0, 65535
			return rule, nil
		}
		if *from < 0 || *from > 65535 || *to < 0 || *to > 65535 {
			return rule, awsapi.InvalidParameterValue("Invalid value '%d-%d' for port range. Ports are from 0 to 65535.", *from, *to)
		}
		if *from > *to {
			return rule, awsapi.InvalidParameterValue("Invalid TCP/UDP port range (%d:%d)", *from, *to)
		}
		rule.FromPort, rule.ToPort = int(*from), int(*to)
	case cloud.ProtocolICMPv6:
		if from == nil && to == nil {
			return rule, nil
		}
		err = icmpTypes(&rule, from, to)
	case cloud.ProtocolICMP:
		err = icmpTypes(&rule, from, to)
	}
	return rule, err
}

// icmpTypes reads ports as ICMP's type and code.
func icmpTypes(rule *cloud.SecurityGroupRule, from, to *int64) error {
	if from == nil || to == nil {
		return awsapi.InvalidParameterValue("ICMP needs a type (FromPort) and a code (ToPort); -1 means all")
	}
	if *from < -1 || *from > 255 || *to < -1 || *to > 255 || *from == -1 && *to != -1 {
		return awsapi.InvalidParameterValue("ICMP type (%d) and code (%d) are from -1 to 255, and all types have all codes", *from, *to)
	}
	rule.FromPort, rule.ToPort = int(*from), int(*to)
	return nil
}

func parseProtocol(s string) (cloud.Protocol, error) {
	switch strings.ToLower(s) {
	case "tcp":
		return cloud.ProtocolTCP, nil
	case "udp":
		return cloud.ProtocolUDP, nil
	case "icmp":
		return cloud.ProtocolICMP, nil
	case "-1", "all":
		return cloud.ProtocolAll, nil
	case "":
		return 0, awsapi.MissingParameter("IpProtocol")
	case "icmpv6":
		return cloud.ProtocolICMPv6, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 255 {
		return 0, awsapi.InvalidParameterValue("Invalid value '%s' for IP protocol. Unknown protocol.", s)
	}
	return cloud.Protocol(n), nil
}

func protocolText(p cloud.Protocol) string {
	switch p {
	case cloud.ProtocolTCP:
		return "tcp"
	case cloud.ProtocolUDP:
		return "udp"
	case cloud.ProtocolICMP:
		return "icmp"
	case cloud.ProtocolICMPv6:
		return "icmpv6"
	}
	return strconv.Itoa(int(p))
}

// hasPorts tells whether EC2 shows ports of a rule in a group's permissions.
func hasPorts(p cloud.Protocol) bool {
	return p == cloud.ProtocolTCP || p == cloud.ProtocolUDP || p == cloud.ProtocolICMP || p == cloud.ProtocolICMPv6
}

// permissionShapes groups one direction's rules by what they match, as DescribeSecurityGroups shows them.
func permissionShapes(r store.Reader, g *cloud.SecurityGroup, egress bool) []ec2.IpPermission {
	type match struct {
		p        cloud.Protocol
		from, to int
	}
	var order []match
	grouped := map[match]*ec2.IpPermission{}
	for _, rule := range g.Rules {
		if rule.Egress != egress {
			continue
		}
		m := match{rule.Protocol, rule.FromPort, rule.ToPort}
		p := grouped[m]
		if p == nil {
			p = &ec2.IpPermission{IpProtocol: new(protocolText(rule.Protocol)), IpRanges: []ec2.IpRange{}, UserIdGroupPairs: []ec2.UserIdGroupPair{},
				Ipv6Ranges: []ec2.Ipv6Range{}, PrefixListIds: []ec2.PrefixListId{}}
			if hasPorts(rule.Protocol) {
				p.FromPort, p.ToPort = new(int64(rule.FromPort)), new(int64(rule.ToPort))
			}
			grouped[m] = p
			order = append(order, m)
		}
		switch {
		case rule.Group != "":
			p.UserIdGroupPairs = append(p.UserIdGroupPairs, groupPair(r, g, rule))
		case rule.PrefixList != "":
			p.PrefixListIds = append(p.PrefixListIds, ec2.PrefixListId{PrefixListId: text(rule.PrefixList), Description: optional(rule.Description)})
		case rule.CIDR.Addr().Is6():
			p.Ipv6Ranges = append(p.Ipv6Ranges, ec2.Ipv6Range{CidrIpv6: new(rule.CIDR.String()), Description: optional(rule.Description)})
		default:
			p.IpRanges = append(p.IpRanges, ec2.IpRange{CidrIp: new(rule.CIDR.String()), Description: optional(rule.Description)})
		}
	}
	out := make([]ec2.IpPermission, 0, len(order))
	for _, m := range order {
		out = append(out, *grouped[m])
	}
	return out
}

func ruleShape(r store.Reader, g *cloud.SecurityGroup, rule cloud.SecurityGroupRule) ec2.SecurityGroupRule {
	out := ec2.SecurityGroupRule{SecurityGroupRuleId: text(rule.ID), GroupId: text(g.ID), GroupOwnerId: text(g.Account), IsEgress: &rule.Egress,
		IpProtocol: new(protocolText(rule.Protocol)), FromPort: new(int64(rule.FromPort)), ToPort: new(int64(rule.ToPort)), Description: optional(rule.Description), Tags: tagList(rule.Tags)}
	switch {
	case rule.Group != "":
		pair := groupPair(r, g, rule)
		out.ReferencedGroupInfo = &ec2.ReferencedSecurityGroup{GroupId: pair.GroupId, UserId: pair.UserId, VpcId: pair.VpcId,
			VpcPeeringConnectionId: pair.VpcPeeringConnectionId, PeeringStatus: pair.PeeringStatus}
	case rule.PrefixList != "":
		out.PrefixListId = text(rule.PrefixList)
	case rule.CIDR.Addr().Is6():
		out.CidrIpv6 = new(rule.CIDR.String())
	default:
		out.CidrIpv4 = new(rule.CIDR.String())
	}
	return out
}

// indexOfRule finds the rule of a group that matches the same packets, -1 when there is none.
func indexOfRule(g *cloud.SecurityGroup, rule cloud.SecurityGroupRule) int {
	return slices.IndexFunc(g.Rules, func(r cloud.SecurityGroupRule) bool { return r.SameFilter(rule) })
}
