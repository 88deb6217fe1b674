package cloud

import (
	"net/netip"
	"time"
)

// SecurityGroup is a stateful filter that interfaces carry.
type SecurityGroup struct {
	ID          SecurityGroupID
	Account     AccountID
	VPC         VPCID
	Name        string
	Description string
	Rules       []SecurityGroupRule
	Tags        Tags
	Created     time.Time
}

// SecurityGroupRule lets in (or, with Egress, out) what matches it. Exactly one of CIDR, PrefixList and
// Group is set.
type SecurityGroupRule struct {
	ID          SecurityGroupRuleID
	Egress      bool
	Protocol    Protocol
	FromPort    int          // TCP and UDP: 0 to 65535; ICMP: the type, -1 for all; otherwise -1
	ToPort      int          // TCP and UDP: 0 to 65535; ICMP: the code, -1 for all; otherwise -1
	CIDR        netip.Prefix // of either family
	PrefixList  PrefixListID
	Group       SecurityGroupID
	Peer        GroupPeer // where Group is, when it is a peered VPC's
	Description string
	Tags        Tags
}

// GroupPeer says through which peering a rule names a group. The rule matches nobody once the peering isn't active any more.
type GroupPeer struct {
	Peering PeeringID
	VPC     VPCID
	Account AccountID
}

// SameFilter tells whether two rules match the same packets; EC2 calls the second one a duplicate.
func (r SecurityGroupRule) SameFilter(o SecurityGroupRule) bool {
	return r.Egress == o.Egress && r.Protocol == o.Protocol && r.FromPort == o.FromPort && r.ToPort == o.ToPort &&
		r.CIDR == o.CIDR && r.PrefixList == o.PrefixList && r.Group == o.Group
}

// Protocol is an IP protocol number, or ProtocolAll.
type Protocol int

const (
	ProtocolAll  Protocol = -1
	ProtocolICMP Protocol = 1
	ProtocolTCP  Protocol = 6
	ProtocolUDP  Protocol = 17
	// ProtocolICMPv6 is ICMP for IPv6.
	ProtocolICMPv6 Protocol = 58
)
