package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// The packet filter of a VPC. A packet that an interface sends meets, in this order: the check of its source; the
// translation of a public destination; the network ACLs of both subnets; the rules of the sender's groups; the rules of
// the receiver's groups, or the way out; the translation of its source on the way out. Flows that the groups let in are
// let through by them from then on; the ACLs judge every packet.
//
// Groups are chains, and sets of their members' addresses. Interfaces with the same groups share a pair of chains that call
// them; maps lead from an interface to its pair, so that the way is short however many interfaces there are, and one
// more of them is only a few elements.

func compileIPv4(spec VPC, interfaces []Interface) *ruleset {
	r := newRuleset(inet4)
	countFlows(r, spec)
	frameIPv4(r, spec, addACLs(r, spec))
	for _, g := range spec.Groups {
		addGroup(r, g, spec.PrefixLists)
	}
	if len(spec.NATGateways) > 0 {
		machines := interfaces
		interfaces = nil
		for _, g := range spec.NATGateways {
			interfaces = append(interfaces, g.attached())
		}
		interfaces = append(interfaces, machines...)
	}
	internet := internetOf(spec)
	// Nobody has a public address twice: who got it last has it.
	holder := map[netip.Addr]cloud.InterfaceID{}
	for _, i := range interfaces {
		for _, a := range i.addresses() {
			holder[a.Public] = i.ID
		}
	}
	for _, i := range interfaces {
		addInterface(r, i)
		underACL(r, i)
		logInterface(r, spec, i)
		for _, a := range i.addresses() {
			addAddress(r, i, a, a.Public.IsValid() && internet[i.Subnet] && holder[a.Public] == i.ID)
		}
	}
	return r
}

// frame is what both families have, and what peerings add to it.
func frame(r *ruleset, v VPC) (sources, between, toPeers, own []string) {
	r.set("map", "out", "type ifname : verdict")
	r.set("map", "in", "type ifname : verdict")
	r.set("map", "own", "type ifname . "+r.address+" : mark")
	r.set("set", "unchecked", "type ifname")
	r.set("set", "senders", "type "+r.address)
	r.set("map", "subnets", "type ifname : mark")
	return peeringRules(r.family, v)
}

// honest begins the check of sources, on which all depends that is told apart by them: an interface sends with its own addresses. The one
// look-up marks the packet with its subnet's number too, by which it is routed.
func honest(f family, others ...string) []string {
	return append(append([]string{"meta mark set iifname . " + f.word + " saddr map @own accept"}, others...),
		"iifname @unchecked meta mark set iifname map @subnets accept")
}

// forwarded begins the chain of what is forwarded.
func forwarded(acls bool, between []string) []string {
	rules := []string{"ct state vmap { established : accept, related : accept, invalid : drop }"}
	if acls {
		rules = []string{"ct state invalid drop", "iifname vmap @leaving", "oifname vmap @entering", "ct state established,related accept"}
	}
	return append(rules, between...)
}

// arriving leads what senders may send to where it goes.
func arriving(r *ruleset, toPeers []string) []string {
	return append(append([]string{"oifname vmap @in"}, toPeers...), `oifname "uplink" `+r.word+" saddr @senders accept", "drop")
}

const (
	asksDHCP = "udp sport 68 udp dport 67 "
	// dhcpRate is how often an interface may ask by DHCP, so that none of them keeps the others from being answered.
	dhcpRate = "5/second burst 20 packets"
	// askedFor is how long it is remembered that one asked: longer than it takes until its burst is there again.
	askedFor = "10s"
	// maxAsking bounds the memory for that, which the kernel takes at once, 16 KiB; interfaces beyond are not held to the rate.
	maxAsking = 1024
)

// frameIPv4 is what every VPC has.
func frameIPv4(r *ruleset, v VPC, acls bool) {
	r.set("map", "public", "type ipv4_addr : ipv4_addr")
	r.set("map", "private", "type ipv4_addr : ipv4_addr")
	sources, between, toPeers, own := frame(r, v)
	r.set("set", "dhcp", fmt.Sprintf("type ifname; flags dynamic,timeout; timeout %s; size %d", askedFor, maxAsking))
	r.chain("spoof", "type filter hook prerouting priority raw; policy drop", append(honest(inet4,
		`iifname { "lo", "uplink" } accept`,
		"ip saddr 0.0.0.0 ip daddr 255.255.255.255 "+asksDHCP+"meta mark set iifname map @subnets accept"), sources...)...)
	r.chain("translate", "type nat hook prerouting priority dstnat; policy accept",
		`iifname "uplink" dnat to ip daddr map @public`,
		"ip saddr @senders dnat to ip daddr map @public")
	r.chain("forward", "type filter hook forward priority filter; policy drop", append(forwarded(acls, between),
		"iifname vmap @out",
		`iifname "uplink" goto arriving`)...)
	r.chain("arriving", "", arriving(r, toPeers)...)
	r.chain("input", "type filter hook input priority filter; policy drop", append(own,
		// Packets with a mark are those of interfaces that are let in.
		"meta mark != 0 "+asksDHCP+"update @dhcp { iifname limit rate over "+dhcpRate+" } drop",
		"meta mark != 0 "+asksDHCP+"accept",
		"ct state established,related accept",
		`iifname "lo" accept`,
		fmt.Sprintf("ip daddr %s tcp dport 80 accept", metadataAddr),
		fmt.Sprintf("ip daddr { %s, %s } meta l4proto { tcp, udp } th dport 53 accept", resolverAddr, v.resolver()),
		r.service)...)
	r.chain("leave", "type nat hook postrouting priority srcnat; policy accept",
		`oifname "uplink" snat to ip saddr map @private`,
		"ct status dnat ip saddr @senders snat to ip saddr map @private")
}

func chainsOf(id cloud.SecurityGroupID) (in, out, members string) {
	return "in-" + string(id), "out-" + string(id), "of-" + string(id)
}

// declareGroup lets a group be referred to: without members and rules when nothing else is known of it.
func declareGroup(r *ruleset, id cloud.SecurityGroupID) {
	in, out, members := chainsOf(id)
	if _, ok := r.sets[members]; !ok {
		r.set("set", members, "type "+r.address)
		r.chain(in, "")
		r.chain(out, "")
	}
}

// addGroup adds a group's rules and members.
func addGroup(r *ruleset, g Group, lists map[cloud.PrefixListID][]netip.Prefix) {
	declareGroup(r, g.ID)
	in, out, members := chainsOf(g.ID)
	for _, a := range g.Members {
		if r.has(a) {
			r.element(members, a.String(), "")
		}
	}
	rules := map[bool][]string{}
	for _, rule := range g.Rules {
		peer, verdict := "saddr", "accept"
		if rule.Egress {
			peer, verdict = "daddr", "goto arriving"
		}
		if rule.Group != "" {
			declareGroup(r, rule.Group)
		}
		if match, some := r.peerMatch(rule, peer, lists); some {
			rules[rule.Egress] = append(rules[rule.Egress], match+r.protocolMatch(rule)+verdict)
		}
	}
	r.chain(in, "", rules[false]...)
	r.chain(out, "", rules[true]...)
}

// peerMatch matches the peers that a rule is about; some is false when there are none of this family.
func (f family) peerMatch(r cloud.SecurityGroupRule, side string, lists map[cloud.PrefixListID][]netip.Prefix) (match string, some bool) {
	side = f.word + " " + side + " "
	if r.Group != "" {
		_, _, members := chainsOf(r.Group)
		if r.Peer.Peering == "" {
			return side + "@" + members + " ", true
		}
		// A third VPC may have the same addresses as the peer.
		way := "iifname"
		if r.Egress {
			way = "oifname"
		}
		return fmt.Sprintf("%s %q %s@%s ", way, peeringLink(r.Peer.Peering), side, members), true
	}
	ranges := []netip.Prefix{r.CIDR}
	if r.PrefixList != "" {
		ranges = lists[r.PrefixList]
	}
	ranges = outermost(ranges)
	list := f.of(ranges)
	switch {
	case len(list) == 0:
		return "", false
	case slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return f.has(p.Addr()) && p.Bits() == 0 }):
		return "", true
	case len(list) == 1:
		return side + list[0] + " ", true
	}
	return side + setOf(list) + " ", true
}

// outermost are the ranges that lie within no other one, in order: the packet filter's sets take none twice.
func outermost(ranges []netip.Prefix) (list []netip.Prefix) {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, netip.Prefix.Compare)
	for _, p := range ranges {
		if n := len(list); n == 0 || !list[n-1].Contains(p.Addr()) {
			list = append(list, p)
		}
	}
	return list
}

func (f family) protocolMatch(r cloud.SecurityGroupRule) string {
	switch r.Protocol {
	case cloud.ProtocolAll:
		return ""
	case cloud.ProtocolTCP, cloud.ProtocolUDP:
		name := map[cloud.Protocol]string{cloud.ProtocolTCP: "tcp", cloud.ProtocolUDP: "udp"}[r.Protocol]
		return fmt.Sprintf("%s dport %d-%d ", name, r.FromPort, r.ToPort)
	case cloud.ProtocolICMP, cloud.ProtocolICMPv6:
		name := map[cloud.Protocol]string{cloud.ProtocolICMP: "icmp", cloud.ProtocolICMPv6: "icmpv6"}[r.Protocol]
		s := fmt.Sprintf("meta l4proto %d ", r.Protocol)
		if f.six != (r.Protocol == cloud.ProtocolICMPv6) {
			return s // the other family's, whose types are not to be found here
		}
		if r.FromPort >= 0 {
			s += fmt.Sprintf("%s type %d ", name, r.FromPort)
		}
		if r.ToPort >= 0 {
			s += fmt.Sprintf("%s code %d ", name, r.ToPort)
		}
		return s
	}
	return fmt.Sprintf("meta l4proto %d ", r.Protocol)
}

// addInterface lets an interface in.
func addInterface(r *ruleset, i Interface) {
	link := quoted(i.ID)
	if i.Gateway {
		r.element("out", link, "goto arriving")
		r.element("in", link, "accept")
	} else {
		from, to := pairFor(r, i.Groups)
		r.element("out", link, "jump "+from)
		r.element("in", link, "jump "+to)
	}
	r.element("subnets", link, markOf(i.Subnet))
	if !i.SourceDestCheck {
		r.element("unchecked", link, "")
	}
}

func quoted(id cloud.InterfaceID) string { return fmt.Sprintf("%q", linkOf(id)) }

// addOwn lets an interface send with an address.
func addOwn(r *ruleset, i Interface, a netip.Addr) {
	r.element("own", fmt.Sprintf("%s . %s", quoted(i.ID), a), markOf(i.Subnet))
}

func markOf(id cloud.SubnetID) string { return fmt.Sprintf("0x%08x", numberOf(id)) }

// addAddress lets an interface use an address; public says that the public one leads to it.
func addAddress(r *ruleset, i Interface, a Address, public bool) {
	addOwn(r, i, a.Private)
	if public {
		r.element("senders", a.Private.String(), "")
		r.element("public", a.Public.String(), a.Private.String())
		r.element("private", a.Private.String(), a.Public.String())
	}
}

// pairFor returns the chains of the interfaces that carry these groups.
func pairFor(r *ruleset, groups []cloud.SecurityGroupID) (from, to string) {
	sorted := slices.Sorted(slices.Values(groups))
	names := make([]string, len(sorted))
	for n, g := range sorted {
		names[n] = string(g)
	}
	name := strings.Join(names, "_")
	from, to = "from-"+name, "to-"+name
	if _, ok := r.chains[from]; ok {
		return from, to
	}
	var outs, ins []string
	for _, g := range sorted {
		declareGroup(r, g)
		in, out, _ := chainsOf(g)
		outs, ins = append(outs, "jump "+out), append(ins, "jump "+in)
	}
	r.chain(from, "", append(outs, r.refuseOut)...)
	r.chain(to, "", append(ins, r.refuseIn)...)
	return from, to
}

// internetOf are the subnets whose packets may leave.
func internetOf(v VPC) map[cloud.SubnetID]bool {
	m := map[cloud.SubnetID]bool{}
	for _, s := range v.Subnets {
		m[s.ID] = v.Gateway && slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Kind == RouteInternet && r.Destination.Addr().Is4() })
	}
	return m
}

// hostTable is the cloud's filter on the host for a family: what comes from a VPC's uplink carries a source of the pool, reaches no address
// of the host's own, and leaves translated to the host's. What comes from an outlet is for the world alone, and nothing begins a
// conversation with one.
func (n *Network) hostTable(f family, pool netip.Prefix) string {
	outlets := "iifname OUTS drop"
	translated := ""
	if f.word == inet4.word {
		outlets = "iifname OUTS ip saddr != OPOOL drop\n\t\tiifname OUTS ip daddr { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 } drop"
		translated = "ip saddr OPOOL oifname != OUTS masquerade"
	}
	outs, opool := fmt.Sprintf("%q", n.outletPrefix()+"*"), outletPool.String()
	return strings.NewReplacer("OUTLETS", strings.NewReplacer("OPOOL", opool, "OUTS", outs).Replace(outlets), "TRANSLATED", strings.NewReplacer("OPOOL", opool, "OUTS", outs).Replace(translated),
		"OUTS", outs, "TABLE", f.word+" nacre-"+n.cfg.CloudID, "POOL", pool.Masked().String(), "UPS", fmt.Sprintf("%q", n.hostPrefix()+"*"), "IP", f.word).Replace(`
add table TABLE
delete table TABLE
table TABLE {
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname UPS IP saddr != POOL drop
		oifname UPS IP daddr != POOL drop
		OUTLETS
		oifname OUTS ct state != { established, related } drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname UPS ct state established,related accept
		iifname UPS drop
		iifname OUTS drop
	}
	chain leave {
		type nat hook postrouting priority srcnat; policy accept;
		IP saddr POOL oifname != UPS masquerade
		TRANSLATED
	}
}
`)
}
