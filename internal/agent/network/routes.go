package network

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A VPC's namespace routes in two steps. The main table comes first: it has the addresses of the interfaces, and behind them
// each range of the VPC as a black hole, so that what is meant for the VPC never leaves it. What is meant for others follows the sender's
// subnet: the packet filter marks it with the subnet's number, and each number has a table.

// RouteKind is what a route leads to.
type RouteKind int

const (
	RouteBlackhole RouteKind = iota
	RouteInternet
	RouteEgressOnly // to the internet, for flows of IPv6 that begin in the VPC
	RouteInterface  // an interface here that doesn't check its packets' addresses; a black hole while there is none
	RoutePeering    // a peer VPC that is here too; a black hole while it isn't
)

// Route sends a destination to a target.
type Route struct {
	Destination netip.Prefix
	Kind        RouteKind
	Interface   cloud.InterfaceID
	Peering     cloud.PeeringID
}

const (
	// ruleFirst is the preference of the rules that lead to the subnets' tables, after that of the main table.
	ruleFirst = 33000
	// subnetNumbers is added to all numbers of subnets, which keeps them apart from the kernel's own tables.
	subnetNumbers = 1 << 30
)

// numberOf is a subnet's mark and table. It is drawn from the id, so that nothing has to be remembered.
func numberOf(id cloud.SubnetID) uint32 {
	sum := sha256.Sum256([]byte(id))
	return subnetNumbers | binary.BigEndian.Uint32(sum[:])&(subnetNumbers-1)
}

// rangeRoutes keeps what is meant for a VPC from leaving it.
func (v *vpc) rangeRoutes(old, spec VPC) error {
	for _, p := range spec.CIDRs {
		if err := v.nl.RouteReplace(blackhole(p, unix.RT_TABLE_MAIN)); err != nil {
			return fmt.Errorf("VPC %s: keep %s inside: %w", spec.ID, p, err)
		}
	}
	for _, p := range old.CIDRs {
		if !slices.Contains(spec.CIDRs, p) {
			if err := v.nl.RouteDel(blackhole(p, unix.RT_TABLE_MAIN)); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("VPC %s: let %s go: %w", spec.ID, p, err)
			}
		}
	}
	return nil
}

func blackhole(p netip.Prefix, table int) *netlink.Route {
	return &netlink.Route{Dst: prefixNet(p), Type: unix.RTN_BLACKHOLE, Table: table, Protocol: unix.RTPROT_STATIC}
}

func prefixNet(p netip.Prefix) *net.IPNet {
	return ipNet(p.Masked().Addr().AsSlice(), p.Bits(), p.Addr().BitLen())
}

// routeSubnets makes the tables of a VPC's subnets. The first time in a process it compares with what the kernel has.
func (n *Network) routeSubnets(v *vpc, spec VPC) error {
	v.routing.Lock()
	defer v.routing.Unlock()
	if v.routed == nil {
		for _, family := range n.families() {
			if err := v.forgetTables(spec, family); err != nil {
				return err
			}
		}
		v.routed = map[cloud.SubnetID][]netlink.Route{}
	}
	wanted := map[cloud.SubnetID]bool{}
	for _, s := range spec.Subnets {
		wanted[s.ID] = true
		if err := n.routeSubnet(v, spec, s, false); err != nil {
			return err
		}
	}
	for id := range v.routed {
		if wanted[id] {
			continue
		}
		if err := n.dropTable(v, id); err != nil {
			return err
		}
		delete(v.routed, id)
	}
	return nil
}

// routeSubnet makes one subnet's table what its routes say. again says that the kernel may have less than is known.
func (n *Network) routeSubnet(v *vpc, spec VPC, s Subnet, again bool) error {
	table := int(numberOf(s.ID))
	next, err := n.kernelRoutes(v, spec, s, table)
	if err != nil {
		return err
	}
	had, known := v.routed[s.ID]
	if known && !again && reflect.DeepEqual(had, next) {
		return nil
	}
	if !known {
		for _, family := range n.families() {
			if err := exists(v.nl.RuleAdd(ruleFor(s.ID, family))); err != nil {
				return fmt.Errorf("subnet %s: lead to its routes: %w", s.ID, err)
			}
		}
	}
	for i := range next {
		if err := v.nl.RouteReplace(&next[i]); err != nil {
			return fmt.Errorf("subnet %s: route to %s: %w", s.ID, next[i].Dst, err)
		}
	}
	for i := range had {
		if slices.ContainsFunc(next, func(r netlink.Route) bool {
			return r.Dst.String() == had[i].Dst.String() && r.Priority == had[i].Priority
		}) {
			continue
		}
		if err := v.nl.RouteDel(&had[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("subnet %s: remove the route to %s: %w", s.ID, had[i].Dst, err)
		}
	}
	v.routed[s.ID] = next
	return nil
}

// lastMetric is that of a table's end, which any other route to everywhere comes before.
const lastMetric = 1 << 30

// kernelRoutes are a subnet's routes as the kernel takes them. What no route matches is dropped, as on EC2.
func (n *Network) kernelRoutes(v *vpc, spec VPC, s Subnet, table int) ([]netlink.Route, error) {
	var list []netlink.Route
	for _, everywhere := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if everywhere.Is4() || spec.hasIPv6() {
			end := blackhole(netip.PrefixFrom(everywhere, 0), table)
			end.Priority = lastMetric
			list = append(list, *end)
		}
	}
	for _, r := range s.Routes {
		six := r.Destination.Addr().Is6()
		if six && !spec.hasIPv6() {
			continue
		}
		outside := outsideAddr
		if six {
			outside = outsideAddr6
		}
		route := blackhole(r.Destination, table)
		switch r.Kind {
		case RouteInternet, RouteEgressOnly:
			if !spec.wayOut(r) {
				break
			}
			link, err := v.nl.LinkByName(uplink)
			if err != nil {
				return nil, fmt.Errorf("subnet %s: find the uplink: %w", s.ID, err)
			}
			route = through(link, outside, r.Destination, table)
		case RouteInterface:
			n.mu.Lock()
			target, ok := n.interfaces[r.Interface]
			n.mu.Unlock()
			if !ok || target.SourceDestCheck || six && len(target.IPv6) == 0 {
				break
			}
			link, err := v.nl.LinkByName(linkOf(r.Interface))
			if err != nil {
				break // it is not plugged in yet, or not any more
			}
			next := target.PrivateIP
			if six {
				next = target.IPv6[0]
			}
			route = through(link, next, r.Destination, table)
		case RoutePeering:
			link, err := v.nl.LinkByName(peeringLink(r.Peering))
			if err != nil {
				break // the peer is not here yet, or not any more
			}
			route = through(link, outside, r.Destination, table)
		}
		list = append(list, *route)
	}
	return list, nil
}

// through is a route over a link to a neighbour that the kernel knows already.
func through(link netlink.Link, neighbour netip.Addr, destination netip.Prefix, table int) *netlink.Route {
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefixNet(destination), Gw: neighbour.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: table, Protocol: unix.RTPROT_STATIC}
}

// families are those that the kernel routes.
func (n *Network) families() []int {
	if n.six {
		return []int{netlink.FAMILY_V4, netlink.FAMILY_V6}
	}
	return []int{netlink.FAMILY_V4}
}

func ruleFor(id cloud.SubnetID, family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Mark, r.Table = family, ruleFirst, numberOf(id), int(numberOf(id))
	return r
}

// forgetTables removes the tables of subnets that went while nobody looked, and empties the others.
func (v *vpc) forgetTables(spec VPC, family int) error {
	rules, err := v.nl.RuleList(family)
	if err != nil {
		return fmt.Errorf("VPC %s: list the ways to the subnets' routes: %w", spec.ID, err)
	}
	kept := map[int]bool{}
	for _, s := range spec.Subnets {
		kept[int(numberOf(s.ID))] = true
	}
	for _, r := range rules {
		if r.Priority != ruleFirst {
			continue
		}
		if !kept[r.Table] {
			if err := v.nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("VPC %s: remove the way to a former subnet's routes: %w", spec.ID, err)
			}
		}
	}
	routes, err := v.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("VPC %s: list its routes: %w", spec.ID, err)
	}
	wanted := map[string]bool{}
	for _, s := range spec.Subnets {
		for _, r := range s.Routes {
			wanted[fmt.Sprint(numberOf(s.ID), r.Destination.Masked())] = true
		}
	}
	for _, r := range routes {
		// A route that stays is replaced in place: no packet misses it meanwhile.
		if r.Table < subnetNumbers || r.Priority == lastMetric && kept[r.Table] || r.Dst != nil && wanted[fmt.Sprint(r.Table, r.Dst)] {
			continue
		}
		if err := v.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("VPC %s: remove a former route: %w", spec.ID, err)
		}
	}
	return nil
}

// dropTable removes a subnet's table.
func (n *Network) dropTable(v *vpc, id cloud.SubnetID) error {
	for _, family := range n.families() {
		if err := v.nl.RuleDel(ruleFor(id, family)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("subnet %s: remove the way to its routes: %w", id, err)
		}
	}
	for _, r := range v.routed[id] {
		if err := v.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("subnet %s: remove the route to %s: %w", id, r.Dst, err)
		}
	}
	return nil
}

// rerouteTo brings the routes that lead to an interface up to date: it came, went, or began to check addresses.
func (n *Network) rerouteTo(v *vpc, id cloud.InterfaceID) error {
	return n.reroute(v, func(r Route) bool { return r.Kind == RouteInterface && r.Interface == id })
}

// reroute brings the routes that match up to date, with all others of their subnets.
func (n *Network) reroute(v *vpc, match func(Route) bool) error {
	v.mu.Lock()
	spec := v.spec
	v.mu.Unlock()
	v.routing.Lock()
	defer v.routing.Unlock()
	if v.routed == nil {
		return nil // the first routing takes it along
	}
	for _, s := range spec.Subnets {
		if !slices.ContainsFunc(s.Routes, match) {
			continue
		}
		// The kernel drops routes with their link.
		if err := n.routeSubnet(v, spec, s, true); err != nil {
			return err
		}
	}
	return nil
}
