package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// IPv6 is switched on link by link, where something has an address of it. Routers have one link-local address on all of their
// links; the ends of each link know each other, so that nobody is asked and nobody can lie. Nothing is translated within the
// cloud: the host routes each VPC's ranges to its uplink, and hides them behind its own address beyond itself.

// Addresses of the services that every VPC has, as on EC2, and of routers.
var (
	metadataAddr6 = netip.MustParseAddr("fd00:ec2::254")
	resolverAddr6 = netip.MustParseAddr("fd00:ec2::253")
	routerAddr6   = netip.MustParseAddr("fe80::1") // of a VPC
	outsideAddr6  = netip.MustParseAddr("fe80::2") // of who is at the other end of an uplink or of a peering's link
)

const (
	forwarding6   = "net/ipv6/conf/all/forwarding"
	settingsFile6 = "host-ipv6.json"
)

// IPv6 tells whether this server's kernel carries IPv6.
func (n *Network) IPv6() bool { return n.six }

// supportsIPv6 tries what VPCs need.
func supportsIPv6() bool {
	if _, err := os.Stat("/proc/sys/net/ipv6/conf"); err != nil {
		return false
	}
	ns, err := newNetNS()
	if err != nil {
		return false
	}
	defer ns.Close()
	return within(ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return h.RuleAdd(ruleFor("subnet-0", netlink.FAMILY_V6))
	}) == nil
}

// switchOn lets a link of the calling thread's namespace carry IPv6, without anything that the kernel would do by itself.
func switchOn(link string) error {
	at := "net/ipv6/conf/" + link + "/"
	for _, s := range [][2]string{{"accept_ra", "0"}, {"autoconf", "0"}, {"accept_dad", "0"}, {"disable_ipv6", "0"}} {
		if err := setting(at+s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// leaveOutIPv6 leaves IPv6 to the links that it is switched on for, in a namespace that is new. Said again, it would be taken from all.
func leaveOutIPv6() error {
	if !isOn("all") {
		return nil
	}
	return setting("net/ipv6/conf/all/disable_ipv6", "1")
}

func switchOff(link string) error { return setting("net/ipv6/conf/"+link+"/disable_ipv6", "1") }

func isOn(link string) bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link + "/disable_ipv6")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}

// addressIPv6 is an address as a link gets it. Nobody has it twice, so that nobody has to be asked.
func addressIPv6(a netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: ipNet(a.AsSlice(), bits, 128), Flags: unix.IFA_F_NODAD}
}

// routerEnd gives a router's end of a link its address.
func (v *vpc) routerEnd(link netlink.Link) error {
	if err := within(v.ns, func() error { return switchOn(link.Attrs().Name) }); err != nil {
		return err
	}
	return exists(v.nl.AddrAdd(link, addressIPv6(routerAddr6, 64)))
}

// serveIPv6 sets a VPC's own addresses, or takes them away.
func (v *vpc) serveIPv6(lo netlink.Link, spec VPC) error {
	if !spec.hasIPv6() {
		return within(v.ns, func() error {
			if !isOn("lo") {
				return nil
			}
			return switchOff("lo")
		})
	}
	if err := within(v.ns, func() error { return switchOn("lo") }); err != nil {
		return err
	}
	for _, a := range []netip.Addr{metadataAddr6, resolverAddr6} {
		if err := exists(v.nl.AddrAdd(lo, addressIPv6(a, 128))); err != nil {
			return fmt.Errorf("VPC %s: add its own address %s: %w", spec.ID, a, err)
		}
	}
	return nil
}

// uplinkIPv6 leads a VPC's ranges of IPv6 over its uplink, and no others.
func (n *Network) uplinkIPv6(v *vpc, spec VPC, outside, inside netlink.Link) error {
	name := outside.Attrs().Name
	if spec.hasIPv6() {
		if err := n.prepareHostIPv6(); err != nil {
			return err
		}
		err := errors.Join(switchOn(name), within(v.ns, func() error { return switchOn(uplink) }))
		if err == nil {
			err = errors.Join(v.nl.NeighSet(neighbour(inside, outsideAddr6, macFor(name))), n.host.NeighSet(neighbour(outside, routerAddr6, macFor(name+"/vpc"))))
		}
		if err != nil {
			return fmt.Errorf("VPC %s: let IPv6 over its uplink: %w", spec.ID, err)
		}
	} else if !isOn(name) {
		return nil
	}
	var next []netlink.Route
	for _, p := range spec.CIDRs {
		if p.Addr().Is6() {
			next = append(next, *through(outside, routerAddr6, p, unix.RT_TABLE_MAIN))
		}
	}
	had, err := n.host.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{LinkIndex: outside.Attrs().Index, Protocol: unix.RTPROT_STATIC, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("VPC %s: list the routes to it: %w", spec.ID, err)
	}
	for i := range next {
		if err := n.host.RouteReplace(&next[i]); err != nil {
			return fmt.Errorf("VPC %s: route %s to it: %w", spec.ID, next[i].Dst, err)
		}
	}
	for i := range had {
		if slices.ContainsFunc(next, func(r netlink.Route) bool { return r.Dst.String() == had[i].Dst.String() }) {
			continue
		}
		if err := n.host.RouteDel(&had[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("VPC %s: remove the route of %s to it: %w", spec.ID, had[i].Dst, err)
		}
	}
	return nil
}

// plugIPv6 brings the router's end of an interface's link up to date.
func (v *vpc) plugIPv6(link netlink.Link, i Interface, mac net.HardwareAddr) error {
	if len(i.IPv6) == 0 {
		return within(v.ns, func() error { return switchOff(link.Attrs().Name) })
	}
	if err := v.routerEnd(link); err != nil {
		return fmt.Errorf("let IPv6 over its link: %w", err)
	}
	for _, a := range i.IPv6 {
		if err := errors.Join(v.nl.NeighSet(neighbour(link, a, mac)), v.nl.RouteReplace(privateRoute(link, a))); err != nil {
			return fmt.Errorf("route %s to it: %w", a, err)
		}
	}
	return nil
}

// hostIPv6 is what the host had before IPv6 of this cloud's changed it.
type hostIPv6 struct {
	Forwarding string
	// Advertised are the links that took routers' advertisements. A host that forwards takes them only when it is told so twice.
	Advertised []string
}

// prepareHostIPv6 makes the host a router of IPv6. It waits until a VPC needs that.
func (n *Network) prepareHostIPv6() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.host6 {
		return nil
	}
	path := filepath.Join(n.cfg.StateDir, settingsFile6)
	if _, err := os.Stat(path); err != nil {
		b, err := os.ReadFile(filepath.Join("/proc/sys", forwarding6))
		if err != nil {
			return fmt.Errorf("read the host's settings: %w", err)
		}
		was := hostIPv6{Forwarding: strings.TrimSpace(string(b))}
		links, err := n.host.LinkList()
		if err != nil {
			return fmt.Errorf("list the host's links: %w", err)
		}
		for _, l := range links {
			if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + l.Attrs().Name + "/accept_ra"); err == nil && strings.TrimSpace(string(b)) == "1" {
				was.Advertised = append(was.Advertised, l.Attrs().Name)
			}
		}
		if b, err = json.Marshal(was); err != nil {
			return fmt.Errorf("remember the host's settings: %w", err)
		}
		if err := renameio.WriteFile(path, b, 0o600); err != nil {
			return fmt.Errorf("remember the host's settings: %w", err)
		}
	}
	was, err := n.formerIPv6()
	if err != nil {
		return err
	}
	if was.Forwarding == "0" {
		for _, link := range was.Advertised {
			if err := setting("net/ipv6/conf/"+link+"/accept_ra", "2"); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	if err := setting(forwarding6, "1"); err != nil {
		return err
	}
	n.host6 = true
	return nil
}

func (n *Network) formerIPv6() (was hostIPv6, err error) {
	b, err := os.ReadFile(filepath.Join(n.cfg.StateDir, settingsFile6))
	if err == nil {
		err = json.Unmarshal(b, &was)
	}
	if err != nil {
		return was, fmt.Errorf("read the host's former settings: %w", err)
	}
	return was, nil
}

// restoreIPv6 puts the host's settings back, if this cloud changed them.
func (n *Network) restoreIPv6(others bool) error {
	was, err := n.formerIPv6()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !others {
		if err := setting(forwarding6, was.Forwarding); err != nil {
			return err
		}
		for _, link := range was.Advertised {
			if err := setting("net/ipv6/conf/"+link+"/accept_ra", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return os.Remove(filepath.Join(n.cfg.StateDir, settingsFile6))
}
