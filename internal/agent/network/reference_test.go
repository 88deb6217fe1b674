package network

import (
	"net/netip"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// What EC2's documentation says of a packet between two interfaces of a VPC, written from it and without a look at the packet
// filter. It is slow and plain on purpose: the packet filter is held against it.

// end is one side of a flow.
type end struct {
	addr   netip.Addr
	subnet cloud.SubnetID
	groups []cloud.SecurityGroupID
}

// probe is the first packet of a flow, and what its answer differs in.
type probe struct {
	protocol cloud.Protocol
	port     int // the port that is asked
	from     int // the port that asks
}

// arrives tells whether the first packet of a flow comes to its end.
func arrives(v VPC, from, to end, p probe) bool {
	return groupsAllow(v, from, to.addr, true, p) && groupsAllow(v, to, from.addr, false, p) && aclsAllow(v, from, to, p, false)
}

// answers tells whether the answer to it comes back. Groups remember the flow; ACLs remember nothing.
func answers(v VPC, from, to end, p probe) bool {
	return arrives(v, from, to, p) && aclsAllow(v, to, from, p, true)
}

// groupsAllow: any rule of any group is enough.
func groupsAllow(v VPC, who end, peer netip.Addr, egress bool, p probe) bool {
	for _, id := range who.groups {
		for _, g := range v.Groups {
			if g.ID != id {
				continue
			}
			for _, r := range g.Rules {
				if r.Egress == egress && covers(r.Protocol, r.FromPort, r.ToPort, p, false) && isPeer(v, r, peer) {
					return true
				}
			}
		}
	}
	return false
}

func isPeer(v VPC, r cloud.SecurityGroupRule, peer netip.Addr) bool {
	if r.Group == "" {
		return r.CIDR.Contains(peer)
	}
	for _, g := range v.Groups {
		if g.ID != r.Group {
			continue
		}
		for _, m := range g.Members {
			if m == peer {
				return true
			}
		}
	}
	return false
}

// aclsAllow: between subnets a packet meets the sender's ACL on its way out and the receiver's on its way in.
func aclsAllow(v VPC, from, to end, p probe, answer bool) bool {
	if from.subnet == to.subnet {
		return true
	}
	return aclAllows(v, from.subnet, to.addr, true, p, answer) && aclAllows(v, to.subnet, from.addr, false, p, answer)
}

// aclAllows: the lowest number that matches decides.
func aclAllows(v VPC, subnet cloud.SubnetID, peer netip.Addr, egress bool, p probe, answer bool) bool {
	var id cloud.NetworkACLID
	for _, s := range v.Subnets {
		if s.ID == subnet {
			id = s.ACL
		}
	}
	if id == "" {
		return true
	}
	var best *cloud.NetworkACLEntry
	for _, a := range v.ACLs {
		if a.ID != id {
			continue
		}
		for _, e := range a.Entries {
			if e.Egress == egress && e.Prefix.Contains(peer) && covers(e.Protocol, e.FromPort, e.ToPort, p, answer) && (best == nil || e.Number < best.Number) {
				best = &e
			}
		}
	}
	return best != nil && best.Allow
}

// covers tells whether a rule is about a packet: the first one, which goes to the port that is asked, or the answer.
func covers(protocol cloud.Protocol, from, to int, p probe, answer bool) bool {
	if protocol == cloud.ProtocolAll {
		return true
	}
	if protocol != p.protocol {
		return false
	}
	if protocol == cloud.ProtocolICMP {
		kind := 8 // an echo's request
		if answer {
			kind = 0
		}
		return (from == -1 || from == kind) && (to == -1 || to == 0)
	}
	port := p.port
	if answer {
		port = p.from
	}
	return from <= port && port <= to
}
