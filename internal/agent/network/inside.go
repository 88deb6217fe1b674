package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The machine's end of a link. On EC2 a guest sets up what is beyond its first interface's primary address by itself; a container
// may not, so it is done for it: all addresses are there, and what leaves with one of another interface leaves by that one.

// tableInside is the table and the preference of an interface's own routes. The first one's are the machine's main ones.
func tableInside(index int) int { return 1000 + index }

// insideSettings let everybody inside ping, and leave IPv6 out but for links that get an address of it.
func insideSettings() error {
	return errors.Join(leaveOutIPv6(), setting("net/ipv4/ping_group_range", "0 2147483647"))
}

// configureInside brings the machine's end of a link up to date, whose other end has the hardware address peer. It had the addresses in gone.
func configureInside(ns *os.File, i Interface, subnet Subnet, peer net.HardwareAddr, gone []netip.Addr) error {
	name := fmt.Sprintf("eth%d", i.DeviceIndex)
	err := within(ns, func() error {
		if err := insideSettings(); err != nil {
			return err
		}
		if len(i.IPv6) > 0 {
			return errors.Join(switchOn("lo"), switchOn(name))
		}
		if !isOn(name) {
			return nil
		}
		return switchOff(name)
	})
	if err != nil {
		return fmt.Errorf("set its machine's network up: %w", err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("reach its machine's namespace: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find its machine's loopback: %w", err)
	}
	eth, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find its machine's end: %w", err)
	}
	wanted := []*netlink.Addr{{IPNet: ipNet(i.PrivateIP.AsSlice(), subnet.CIDR.Bits(), 32)}}
	for _, a := range i.Secondary {
		wanted = append(wanted, addressOf(a.Private))
	}
	for _, a := range i.IPv6 {
		wanted = append(wanted, addressIPv6(a, 128))
	}
	for _, a := range wanted {
		if err := exists(h.AddrAdd(eth, a)); err != nil {
			return fmt.Errorf("give it the address %s: %w", a.IPNet, err)
		}
	}
	for _, ip := range gone {
		a := addressOf(ip)
		if ip.Is6() {
			a = addressIPv6(ip, 128)
		}
		if err := h.AddrDel(eth, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("take the address %s from it: %w", ip, err)
		}
	}
	if err := errors.Join(h.LinkSetUp(lo), h.LinkSetUp(eth)); err != nil {
		return fmt.Errorf("set its machine's links up: %w", err)
	}
	return routeInside(h, eth, i, subnet, peer)
}

// routeInside leads what a machine sends with an interface's addresses over it, to the subnet's router, whose hardware address is known.
func routeInside(h *netlink.Handle, eth netlink.Link, i Interface, subnet Subnet, peer net.HardwareAddr) error {
	gateway := subnet.CIDR.Masked().Addr().Next()
	known := h.NeighSet(neighbour(eth, gateway, peer))
	if len(i.IPv6) > 0 {
		known = errors.Join(known, h.NeighSet(neighbour(eth, routerAddr6, peer)))
	}
	if known != nil {
		return fmt.Errorf("tell it of its router: %w", known)
	}
	table := unix.RT_TABLE_MAIN
	if i.DeviceIndex > 0 {
		table = tableInside(i.DeviceIndex)
	}
	ways := []*netlink.Route{through(eth, gateway, netip.PrefixFrom(netip.IPv4Unspecified(), 0), table)}
	if len(i.IPv6) > 0 {
		ways = append(ways, through(eth, routerAddr6, netip.PrefixFrom(netip.IPv6Unspecified(), 0), table))
	}
	for _, way := range ways {
		if err := h.RouteReplace(way); err != nil {
			return fmt.Errorf("route from it: %w", err)
		}
	}
	if i.DeviceIndex == 0 {
		return nil
	}
	var sources []netip.Addr
	for _, a := range i.addresses() {
		sources = append(sources, a.Private)
	}
	return setSources(h, tableInside(i.DeviceIndex), append(sources, i.IPv6...))
}

// setSources leads packets of these sources, and of no others, to a table.
func setSources(h *netlink.Handle, table int, sources []netip.Addr) error {
	has, err := h.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list its machine's ways: %w", err)
	}
	for _, r := range has {
		if r.Table != table || r.Src == nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Src.IP); ok && slices.Contains(sources, a.Unmap()) {
			continue
		}
		if err := h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("take a former way from it: %w", err)
		}
	}
	for _, a := range sources {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Src = netlink.FAMILY_V4, table, table, prefixNet(netip.PrefixFrom(a, a.BitLen()))
		if a.Is6() {
			r.Family = netlink.FAMILY_V6
		}
		if err := exists(h.RuleAdd(r)); err != nil {
			return fmt.Errorf("lead what it sends as %s: %w", a, err)
		}
	}
	return nil
}

// forgetInside takes away what of an interface stays with its machine when the link goes.
func (n *Network) forgetInside(i Interface) error {
	if i.DeviceIndex == 0 || i.Gateway || i.Tap {
		return nil
	}
	ns, err := os.Open(n.namespaceFiles(i.Instance).Net)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open its machine's namespace: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("reach its machine's namespace: %w", err)
	}
	defer h.Close()
	return setSources(h, tableInside(i.DeviceIndex), nil)
}
