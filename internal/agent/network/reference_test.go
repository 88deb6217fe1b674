package network

import (
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// What EC2's documentation says of a packet that an interface of a VPC sends, written from it and without a look at the packet
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

// reference is all that decides on a packet.
type reference struct {
	vpc     VPC
	ends    []end                     // interfaces of machines
	gates   map[cloud.InterfaceID]end // those that forward, which take far addresses as their own
	nat     end                       // a NAT gateway, the target of routes to natInterface
	public  map[netip.Addr]bool       // private addresses that have a public one, and all of IPv6
	outside netip.Addr                // a host in the internet
}

const natInterface = cloud.InterfaceID("eni-0000000000000nat1")

// leg is a part of a packet's way: from one subnet to another, or, without to, to the internet.
type leg struct {
	source, destination netip.Addr
	from, to            cloud.SubnetID
}

// follow tells where a flow's first packet ends, and under which source, "" when it arrives nowhere; and whether the answer comes back.
// Groups remember the flow; ACLs remember nothing.
func (r reference) follow(from end, to netip.Addr, p probe) (arrival string, answered bool) {
	legs, last, ok := r.way(from, to)
	if !ok || !groupsAllow(r.vpc, from, to, true, p) {
		return "", false
	}
	source := legs[len(legs)-1].source
	if last.addr != r.outside && !groupsAllow(r.vpc, last, source, false, p) {
		return "", false
	}
	answered = true
	for _, l := range legs {
		if l.from == l.to {
			continue // it meets no ACL
		}
		if !aclAllows(r.vpc, l.from, l.destination, true, p, false) || l.to != "" && !aclAllows(r.vpc, l.to, l.source, false, p, false) {
			return "", false
		}
		answered = answered && aclAllows(r.vpc, l.from, l.destination, false, p, true) && (l.to == "" || aclAllows(r.vpc, l.to, l.source, true, p, true))
	}
	return arrivalAt(last.addr, source), answered
}

func arrivalAt(at, source netip.Addr) string { return at.String() + " from " + source.String() }

// way is where routes lead a packet: within the VPC straight to its end, else by the longest prefix of the sender's subnet.
func (r reference) way(from end, to netip.Addr) (legs []leg, last end, ok bool) {
	for _, e := range r.ends {
		if e.addr == to {
			return []leg{{from.addr, to, from.subnet, e.subnet}}, e, true
		}
	}
	source, at := from.addr, from.subnet
	for {
		route, found := longest(r.vpc, at, to)
		switch {
		case !found || route.Kind == RouteBlackhole:
			return nil, end{}, false
		case route.Kind == RouteInternet || route.Kind == RouteEgressOnly:
			if to != r.outside || !r.public[source] {
				return nil, end{}, false
			}
			return append(legs, leg{source, to, at, ""}), end{addr: to}, true
		case route.Interface == natInterface:
			legs = append(legs, leg{source, to, at, r.nat.subnet})
			source, at = r.nat.addr, r.nat.subnet
		case to == r.outside:
			return nil, end{}, false // the gates don't forward it
		default:
			gate := r.gates[route.Interface]
			return append(legs, leg{source, to, at, gate.subnet}), gate, true
		}
	}
}

func longest(v VPC, subnet cloud.SubnetID, to netip.Addr) (best Route, found bool) {
	for _, s := range v.Subnets {
		for _, r := range s.Routes {
			if s.ID == subnet && r.Destination.Contains(to) && (!found || r.Destination.Bits() > best.Destination.Bits()) {
				best, found = r, true
			}
		}
	}
	return best, found
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
	if r.PrefixList != "" {
		return slices.ContainsFunc(v.PrefixLists[r.PrefixList], func(p netip.Prefix) bool { return p.Contains(peer) })
	}
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

// echoOf are the types of an echo's messages.
var echoOf = map[cloud.Protocol]struct{ request, reply int }{cloud.ProtocolICMP: {8, 0}, cloud.ProtocolICMPv6: {128, 129}}

// covers tells whether a rule is about a packet: the first one, which goes to the port that is asked, or the answer.
func covers(protocol cloud.Protocol, from, to int, p probe, answer bool) bool {
	if protocol == cloud.ProtocolAll {
		return true
	}
	if protocol != p.protocol {
		return false
	}
	if protocol == cloud.ProtocolICMP || protocol == cloud.ProtocolICMPv6 {
		kind := echoOf[protocol].request
		if answer {
			kind = echoOf[protocol].reply
		}
		return (from == -1 || from == kind) && (to == -1 || to == 0)
	}
	port := p.port
	if answer {
		port = p.from
	}
	return from <= port && port <= to
}
