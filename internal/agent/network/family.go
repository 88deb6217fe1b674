package network

import (
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// family is a version of IP as the packet filter knows it. Each has a table of its own: what one of them has to look at costs the
// packets of the other nothing.
type family struct {
	six     bool
	table   string // a VPC's, alone in its namespace
	word    string // stands before saddr and daddr
	address string // the type of its addresses in sets
	service string // what an echo's request is called
}

var (
	inet4 = family{table: "ip nacre", word: "ip", address: "ipv4_addr", service: "icmp type echo-request accept"}
	inet6 = family{six: true, table: "ip6 nacre", word: "ip6", address: "ipv6_addr", service: "icmpv6 type echo-request accept"}
)

func (f family) has(a netip.Addr) bool { return a.Is6() == f.six }

// of are the ranges of a family, as the packet filter takes them.
func (f family) of(ranges []netip.Prefix) (list []string) {
	for _, r := range ranges {
		if f.has(r.Addr()) {
			list = append(list, r.Masked().String())
		}
	}
	return list
}

// filter is a VPC's packet filter: a table for IPv4 and, where the VPC has ranges of IPv6, one for that.
type filter struct{ v4, v6 *ruleset }

// compile makes the filter of a VPC with the interfaces that are let in, in the order of their last change. It is pure.
func compile(spec VPC, interfaces []Interface) *filter {
	f := &filter{v4: compileIPv4(spec, interfaces)}
	if spec.hasIPv6() {
		f.v6 = compileIPv6(spec, interfaces)
	}
	return f
}

const noIPv6 = "add table ip6 nacre\ndelete table ip6 nacre\n"

// whole is the transaction that makes the filter from nothing, whatever there was.
func (f *filter) whole() string {
	if f.v6 == nil {
		return f.v4.whole() + noIPv6
	}
	return f.v4.whole() + f.v6.whole()
}

// from is the transaction that leads from old to f, "" when they are equal.
func (f *filter) from(old *filter) string {
	script := f.v4.from(old.v4)
	switch {
	case f.v6 == nil && old.v6 == nil:
		return script
	case f.v6 == nil:
		return script + noIPv6
	case old.v6 == nil:
		return script + f.v6.whole()
	}
	return script + f.v6.from(old.v6)
}

func (v VPC) hasIPv6() bool {
	return slices.ContainsFunc(v.CIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// uplinked tells whether anything of a VPC leads out of it.
func (v VPC) uplinked() bool {
	return v.Gateway || slices.ContainsFunc(v.Subnets, func(s Subnet) bool {
		return slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Kind == RouteEgressOnly })
	})
}

// wayOut tells whether a route leads out of the VPC.
func (v VPC) wayOut(r Route) bool {
	return r.Kind == RouteInternet && v.Gateway || r.Kind == RouteEgressOnly && r.Destination.Addr().Is6()
}

func entranceChain(id cloud.SubnetID) string { return "open-" + string(id) }

// compileIPv6 differs from IPv4 in the ways in and out: nothing is translated. What comes from the uplink reaches an interface
// where the routes of its subnet lead back through the internet gateway; where they lead through an egress-only one, only answers do.
func compileIPv6(spec VPC, interfaces []Interface) *ruleset {
	r := newRuleset(inet6)
	countFlows(r, spec)
	frameIPv6(r, spec, addACLs(r, spec))
	for _, g := range spec.Groups {
		addGroup(r, g, spec.PrefixLists)
	}
	out := map[cloud.SubnetID]bool{}
	for _, s := range spec.Subnets {
		addEntrance(r, spec, s)
		out[s.ID] = slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Destination.Addr().Is6() && spec.wayOut(r) })
	}
	for _, i := range interfaces {
		if len(i.IPv6) == 0 {
			continue
		}
		addInterface(r, i)
		underACL(r, i)
		logInterface(r, spec, i)
		if chain := entranceChain(i.Subnet); len(r.chains[chain].rules) > 0 {
			r.element("entrance", quoted(i.ID), "jump "+chain)
		}
		for _, a := range i.IPv6 {
			addOwn(r, i, a)
			if out[i.Subnet] {
				r.element("senders", a.String(), "")
			}
		}
	}
	return r
}

// frameIPv6 is what every VPC with IPv6 has.
func frameIPv6(r *ruleset, v VPC, acls bool) {
	r.set("map", "entrance", "type ifname : verdict")
	sources, between, toPeers, own := frame(r, v)
	r.chain("spoof", "type filter hook prerouting priority raw; policy drop", append(honest(inet6,
		`iifname "lo" accept`,
		`iifname "uplink" ip6 saddr != `+setOf(r.of(v.CIDRs))+" accept",
		"ip6 saddr fe80::/10 "+neighbours), sources...)...)
	r.chain("forward", "type filter hook forward priority filter; policy drop", append(forwarded(acls, between),
		"iifname vmap @out",
		`iifname "uplink" oifname vmap @entrance`)...)
	r.chain("arriving", "", arriving(r, toPeers)...)
	r.chain("input", "type filter hook input priority filter; policy drop", append(own,
		"ct state established,related accept",
		`iifname "lo" accept`,
		`iifname "uplink" drop`,
		neighbours,
		"ip6 daddr "+metadataAddr6.String()+" tcp dport 80 accept",
		"ip6 daddr "+resolverAddr6.String()+" meta l4proto { tcp, udp } th dport 53 accept",
		r.service)...)
}

// neighbours lets the questions and answers pass that a machine and its router ask each other, and nobody forwards.
const neighbours = "ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept"

// addEntrance says from where flows may begin that come to a subnet from outside of the VPC: where its longest route to the source
// leads through the internet gateway.
func addEntrance(r *ruleset, v VPC, s Subnet) {
	var routes []Route
	open := false
	for _, route := range s.Routes {
		if route.Destination.Addr().Is6() {
			routes = append(routes, route)
			open = open || route.Kind == RouteInternet && v.Gateway
		}
	}
	if !open {
		return
	}
	slices.SortStableFunc(routes, func(a, b Route) int { return b.Destination.Bits() - a.Destination.Bits() })
	rules := make([]string, len(routes))
	for n, route := range routes {
		verdict := "drop"
		if route.Kind == RouteInternet {
			verdict = "goto arriving"
		}
		if route.Destination.Bits() > 0 {
			rules[n] = "ip6 saddr " + route.Destination.Masked().String() + " "
		}
		rules[n] += verdict
	}
	r.chain(entranceChain(s.ID), "", rules...)
}
