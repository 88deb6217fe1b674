package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Addresses of the services that every VPC has, and of the two ends of its uplink.
var (
	metadataAddr = netip.MustParseAddr("169.254.169.254")
	resolverAddr = netip.MustParseAddr("169.254.169.253")
	outsideAddr  = netip.MustParseAddr("169.254.0.1")
)

// vpc is one VPC's namespace and what its filter holds.
type vpc struct {
	ns *os.File
	nl *netlink.Handle

	routing sync.Mutex                         // over changes of the subnets' tables
	routed  map[cloud.SubnetID][]netlink.Route // what they have; nil when that isn't known

	translating map[cloud.NATGatewayID]bool // NAT gateways that this process has set up; only OpenVPC touches it

	joined []Peering // those whose links may be here; nil when that isn't known; only OpenVPC touches it

	mu         sync.Mutex
	spec       VPC         // as last told
	interfaces []Interface // those that the packet filter lets in, in the order of their last change
	wait       []*change   // what the next transaction takes along
	busy       bool

	// Only the running transaction touches what follows.
	held              *filter // what the kernel has, nil when that isn't known
	forward, forward6 bool    // forwarding is on
}

func (v *vpc) close() {
	v.nl.Close()
	v.ns.Close()
}

// vpcSettings make a VPC's namespace a router that answers for everyone and believes nobody. It begins to forward with its
// first packet filter, not before.
var vpcSettings = [][2]string{
	{"net/ipv4/conf/all/rp_filter", "0"}, {"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/conf/default/proxy_arp", "1"},
	{"net/ipv4/conf/all/send_redirects", "0"}, {"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv4/conf/all/accept_redirects", "0"}, {"net/ipv4/conf/default/accept_redirects", "0"},
}

// ApplyVPC makes a VPC as told: its namespace, its way out, and its groups. It is OpenVPC and then FilterVPC.
func (n *Network) ApplyVPC(ctx context.Context, spec VPC) error {
	if err := n.OpenVPC(spec); err != nil {
		return err
	}
	return n.FilterVPC(ctx, spec.ID)
}

// OpenVPC makes a VPC's namespace and its way out. Interfaces can be plugged into it then; what changed in its groups
// takes hold with the next transaction of the VPC, at the latest that of FilterVPC.
func (n *Network) OpenVPC(spec VPC) error {
	v, err := n.openVPC(spec.ID)
	if err != nil {
		return err
	}
	v.mu.Lock()
	old := v.spec
	v.mu.Unlock()
	if spec.hasIPv6() && !n.six {
		return fmt.Errorf("VPC %s: it has ranges of IPv6, which this server's kernel doesn't carry", spec.ID)
	}
	if err := n.route(v, spec); err != nil {
		return err
	}
	if err := v.rangeRoutes(old, spec); err != nil {
		return err
	}
	v.mu.Lock()
	v.spec = spec
	v.mu.Unlock()
	if err := n.joinPeers(v, spec); err != nil {
		return err
	}
	if err := n.openNATGateways(context.Background(), v, spec); err != nil {
		return err
	}
	if err := n.routeSubnets(v, spec); err != nil {
		return err
	}
	return n.republish(old, spec)
}

// republish leads the public addresses of a VPC's interfaces to it, or not any more, where their subnets' way to the internet
// has changed.
func (n *Network) republish(old, spec VPC) error {
	before, now := internetOf(old), internetOf(spec)
	if maps.Equal(before, now) {
		return nil
	}
	n.mu.Lock()
	var here []Interface
	for _, i := range n.interfaces {
		if i.VPC == spec.ID && before[i.Subnet] != now[i.Subnet] {
			here = append(here, i)
		}
	}
	n.mu.Unlock()
	for _, i := range here {
		for _, a := range i.addresses() {
			do := n.unpublish
			if now[i.Subnet] {
				do = n.publish
			}
			if err := do(i, a.Public); err != nil {
				return fmt.Errorf("interface %s: %w", i.ID, err)
			}
		}
	}
	return nil
}

// FilterVPC returns when the packet filter is as the last OpenVPC said. All that changed takes hold in one transaction.
func (n *Network) FilterVPC(ctx context.Context, id cloud.VPCID) error {
	v, err := n.known(id)
	if err != nil {
		return err
	}
	if err := v.commit(ctx, func(*[]Interface) {}); err != nil {
		return fmt.Errorf("VPC %s: %w", id, err)
	}
	return nil
}

// openVPC returns a VPC's namespace, made or adopted with the interfaces that are in it.
func (n *Network) openVPC(id cloud.VPCID) (*vpc, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if v := n.vpcs[id]; v != nil {
		return v, nil
	}
	path := n.vpcFile(id)
	if !pinned(path) {
		ns, err := newNetNS()
		if err != nil {
			return nil, fmt.Errorf("VPC %s: %w", id, err)
		}
		err = pin(ns, path)
		ns.Close()
		if err != nil {
			return nil, fmt.Errorf("VPC %s: %w", id, err)
		}
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("VPC %s: %w", id, err)
	}
	err = within(ns, func() error {
		for _, s := range vpcSettings {
			if err := setting(s[0], s[1]); err != nil {
				return err
			}
		}
		return leaveOutIPv6()
	})
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("VPC %s: %w", id, err)
	}
	nl, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("VPC %s: %w", id, err)
	}
	v := &vpc{ns: ns, nl: nl, translating: map[cloud.NATGatewayID]bool{}}
	for _, i := range n.interfaces {
		if i.VPC == id && !i.Gateway {
			v.interfaces = append(v.interfaces, i)
		}
	}
	n.vpcs[id] = v
	return v, nil
}

func (n *Network) known(id cloud.VPCID) (*vpc, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if v := n.vpcs[id]; v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("VPC %s has not been applied on this node", id)
}

func addressOf(a netip.Addr) *netlink.Addr { return &netlink.Addr{IPNet: ipNet(a.AsSlice(), 32, 32)} }

// exists lets a netlink call be repeated.
func exists(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// route sets a VPC's own addresses and its way out.
func (n *Network) route(v *vpc, spec VPC) error {
	lo, err := v.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("VPC %s: %w", spec.ID, err)
	}
	if err := v.nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("VPC %s: %w", spec.ID, err)
	}
	own := []netip.Addr{metadataAddr, resolverAddr, spec.resolver()}
	for _, s := range spec.Subnets {
		own = append(own, s.CIDR.Masked().Addr().Next())
	}
	for _, a := range own {
		if err := exists(v.nl.AddrAdd(lo, addressOf(a))); err != nil {
			return fmt.Errorf("VPC %s: add its own address %s: %w", spec.ID, a, err)
		}
	}
	has, err := v.nl.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("VPC %s: list its own addresses: %w", spec.ID, err)
	}
	for _, a := range has {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || ip.IsLoopback() || slices.Contains(own, ip) {
			continue
		}
		if err := v.nl.AddrDel(lo, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("VPC %s: remove its former address %s: %w", spec.ID, ip, err)
		}
	}
	if n.six {
		if err := v.serveIPv6(lo, spec); err != nil {
			return err
		}
	}
	if !spec.uplinked() {
		return n.closeGateway(spec.ID)
	}
	return n.openGateway(v, spec)
}

// openGateway joins a VPC to the host: a pair of links whose ends know each other, so that nothing on them is ever asked for.
func (n *Network) openGateway(v *vpc, spec VPC) error {
	id := spec.ID
	name := n.hostUplink(id)
	hostMAC, vpcMAC := macFor(name), macFor(name+"/vpc")
	if _, err := n.host.LinkByName(name); err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, n.mtu, hostMAC
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: uplink, PeerHardwareAddr: vpcMAC, PeerNamespace: netlink.NsFd(int(v.ns.Fd())), PeerMTU: uint32(n.mtu)}
		if err := exists(n.host.LinkAdd(pair)); err != nil {
			return fmt.Errorf("VPC %s: make its uplink: %w", id, err)
		}
	}
	outside, err := n.host.LinkByName(name)
	if err != nil {
		return fmt.Errorf("VPC %s: find its uplink: %w", id, err)
	}
	inside, err := v.nl.LinkByName(uplink)
	if err != nil {
		return fmt.Errorf("VPC %s: find its end of the uplink: %w", id, err)
	}
	err = within(v.ns, func() error { return setting("net/ipv4/conf/"+uplink+"/proxy_arp", "0") })
	if err = errors.Join(err, n.host.LinkSetUp(outside), v.nl.LinkSetUp(inside), v.nl.NeighSet(neighbour(inside, outsideAddr, hostMAC))); err != nil {
		return fmt.Errorf("VPC %s: set its uplink up: %w", id, err)
	}
	if !n.six {
		return nil
	}
	return n.uplinkIPv6(v, spec, outside, inside)
}

func neighbour(link netlink.Link, ip netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: nl.GetIPFamily(ip.AsSlice()), State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac}
}

func (n *Network) closeGateway(id cloud.VPCID) error {
	link, err := n.host.LinkByName(n.hostUplink(id))
	if err != nil {
		return nil // there is none
	}
	if err := n.host.LinkDel(link); err != nil {
		return fmt.Errorf("VPC %s: remove its uplink: %w", id, err)
	}
	return nil
}

// RemoveVPC takes a VPC off this node, with everything in its namespace.
func (n *Network) RemoveVPC(ctx context.Context, id cloud.VPCID) error {
	if err := n.closeNATGateways(ctx, id, func(cloud.InstanceID) bool { return false }); err != nil {
		return err
	}
	n.mu.Lock()
	v := n.vpcs[id]
	delete(n.vpcs, id)
	n.mu.Unlock()
	if v != nil {
		v.close()
	}
	return errors.Join(n.closeGateway(id), unpin(n.vpcFile(id)))
}

// listVPCs lists the VPCs whose namespaces are on this host.
func (n *Network) listVPCs() ([]cloud.VPCID, error) {
	names, err := listFiles(filepath.Join(n.cfg.RunDir, "vpc"), "")
	ids := make([]cloud.VPCID, len(names))
	for i, name := range names {
		ids[i] = cloud.VPCID(name)
	}
	return ids, err
}
