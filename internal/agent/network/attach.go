package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func (v *vpc) internet(id cloud.SubnetID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return internetOf(v.spec)[id]
}

func (v *vpc) subnet(id cloud.SubnetID) (Subnet, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.spec.Subnets {
		if s.ID == id {
			return s, true
		}
	}
	return Subnet{}, false
}

// Attach makes an interface and joins it to its machine, whose namespaces it returns; or brings one that is there up to date:
// its groups, its public address, its check of sources. It is Plug and then Admit, and may be repeated.
func (n *Network) Attach(ctx context.Context, i Interface) (Namespaces, error) {
	files, err := n.Plug(ctx, i)
	if err != nil {
		return files, err
	}
	return files, n.Admit(ctx, i)
}

// Plug makes an interface and joins it to its machine, whose namespaces it returns. Until it is admitted, the VPC drops every
// packet of it: a machine may be started meanwhile.
func (n *Network) Plug(_ context.Context, i Interface) (Namespaces, error) {
	fail := func(err error) (Namespaces, error) {
		return Namespaces{}, fmt.Errorf("interface %s: %w", i.ID, err)
	}
	v, err := n.known(i.VPC)
	if err != nil {
		return fail(err)
	}
	subnet, ok := v.subnet(i.Subnet)
	if !ok {
		return fail(fmt.Errorf("its subnet %s is not known on this node", i.Subnet))
	}
	var files Namespaces
	if i.Gateway {
		files, err = n.gatewayNamespace(i.Instance)
	} else {
		files, err = n.MachineNamespaces(i.Instance, i.IDBase)
	}
	if err != nil {
		return fail(err)
	}
	n.mu.Lock()
	old := n.interfaces[i.ID]
	n.mu.Unlock()
	if err := n.record(i); err != nil {
		return fail(err)
	}
	if err := n.plug(v, old, i, subnet, files); err != nil {
		return fail(err)
	}
	if err := v.unroute(old, i); err != nil {
		return fail(err)
	}
	if err := n.rerouteTo(v, i.ID); err != nil {
		return fail(err)
	}
	return files, nil
}

// Admit lets a plugged interface's packets through, as its groups say, and leads its public address to it.
func (n *Network) Admit(ctx context.Context, i Interface) error {
	v, err := n.known(i.VPC)
	if err != nil {
		return fmt.Errorf("interface %s: %w", i.ID, err)
	}
	var old Interface
	if err := v.commit(ctx, func(list *[]Interface) {
		if n := slices.IndexFunc(*list, func(o Interface) bool { return o.ID == i.ID }); n >= 0 {
			old = (*list)[n]
		}
		admit(list, i)
	}); err != nil {
		return fmt.Errorf("interface %s: %w", i.ID, err)
	}
	for _, a := range old.addresses() {
		if i.hasPublic(a.Public) {
			continue
		}
		if err := n.unpublish(old, a.Public); err != nil {
			return fmt.Errorf("interface %s: %w", i.ID, err)
		}
	}
	if v.internet(i.Subnet) {
		for _, a := range i.addresses() {
			if err := n.publish(i, a.Public); err != nil {
				return fmt.Errorf("interface %s: %w", i.ID, err)
			}
		}
	}
	return nil
}

// plug makes the link between a VPC's namespace and the machine's, with addresses and routes on both ends; or a tap, whose other end
// sets itself up.
func (n *Network) plug(v *vpc, old, i Interface, subnet Subnet, files Namespaces) error {
	mac, err := net.ParseMAC(i.MAC)
	if err != nil {
		return fmt.Errorf("its hardware address: %w", err)
	}
	name, routerMAC := linkOf(i.ID), macFor(linkOf(i.ID))
	if err := v.dropOtherKind(name, i.Tap); err != nil {
		return err
	}
	var ns *os.File // of the machine that a link leads into
	if i.Tap {
		err = n.makeTap(v, name, routerMAC)
	} else {
		if ns, err = os.Open(files.Net); err != nil {
			return fmt.Errorf("open its machine's namespace: %w", err)
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, n.mtu, routerMAC
		err = exists(v.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("eth%d", i.DeviceIndex), PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(ns.Fd())), PeerMTU: uint32(n.mtu)}))
	}
	if err != nil {
		return fmt.Errorf("make its link: %w", err)
	}
	link, err := v.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find its link: %w", err)
	}
	// The router answers for others at once; by default it waits a while, in favour of whom it answers for.
	six := len(i.IPv6) > 0
	err = within(v.ns, func() error {
		six = six || n.six && isOn(name) // it has had addresses
		return setting("net/ipv4/neigh/"+name+"/proxy_delay", "0")
	})
	if err = errors.Join(err, v.nl.LinkSetUp(link)); err != nil {
		return fmt.Errorf("set its link up: %w", err)
	}
	if !i.Tap {
		if err := configureInside(ns, i, subnet, routerMAC, goneFrom(old, i)); err != nil {
			return err
		}
	}
	// The way to the machine, and its hardware address: nobody is asked, so nobody can lie.
	for _, a := range i.addresses() {
		if err := errors.Join(v.nl.NeighSet(neighbour(link, a.Private, mac)), v.nl.RouteReplace(privateRoute(link, a.Private))); err != nil {
			return fmt.Errorf("route %s to it: %w", a.Private, err)
		}
	}
	if !six {
		return nil
	}
	return v.plugIPv6(link, i, mac)
}

func privateRoute(link netlink.Link, ip netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefixNet(netip.PrefixFrom(ip, ip.BitLen())), Scope: netlink.SCOPE_LINK}
}

// goneFrom are the addresses that an interface had and has no more. When no IPv6 is left its link carries none, and its addresses go with that.
func goneFrom(old, now Interface) (list []netip.Addr) {
	if old.ID == "" {
		return nil
	}
	for _, a := range old.addresses() {
		if !now.hasPrivate(a.Private) {
			list = append(list, a.Private)
		}
	}
	for _, a := range old.IPv6 {
		if len(now.IPv6) > 0 && !slices.Contains(now.IPv6, a) {
			list = append(list, a)
		}
	}
	return list
}

// unroute takes the ways to the addresses away that an interface had and has no more.
func (v *vpc) unroute(old, now Interface) error {
	if old.ID == "" {
		return nil
	}
	link, err := v.nl.LinkByName(linkOf(now.ID))
	if err != nil {
		return fmt.Errorf("find its link: %w", err)
	}
	for _, a := range goneFrom(old, now) {
		// By now the route may lead to another interface; then this link has none, which is right.
		if err := v.nl.RouteDel(privateRoute(link, a)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the route to %s: %w", a, err)
		}
		if err := v.nl.NeighDel(neighbour(link, a, nil)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget the neighbour %s: %w", a, err)
		}
	}
	return nil
}

// publish leads an interface's public address from the host to its VPC.
func (n *Network) publish(i Interface, public netip.Addr) error {
	if !public.IsValid() {
		return nil
	}
	name := n.hostUplink(i.VPC)
	link, err := n.host.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the uplink of %s: %w", i.VPC, err)
	}
	err = errors.Join(n.host.NeighSet(neighbour(link, public, macFor(name+"/vpc"))), n.host.RouteReplace(publicRoute(link, public)))
	if err != nil {
		return fmt.Errorf("route its public address %s: %w", public, err)
	}
	return nil
}

func publicRoute(link netlink.Link, ip netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(ip.AsSlice(), 32, 32), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC}
}

// unpublish takes the way to a public address away, unless it leads to another VPC by now.
func (n *Network) unpublish(i Interface, public netip.Addr) error {
	if !public.IsValid() {
		return nil
	}
	n.mu.Lock()
	for _, other := range n.interfaces {
		if other.ID != i.ID && other.hasPublic(public) {
			n.mu.Unlock()
			return nil
		}
	}
	n.mu.Unlock()
	link, err := n.host.LinkByName(n.hostUplink(i.VPC))
	if err != nil {
		return nil // it went with its uplink
	}
	err = n.host.RouteDel(publicRoute(link, public))
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route to %s: %w", public, err)
	}
	if err := n.host.NeighDel(neighbour(link, public, macFor(n.hostUplink(i.VPC)+"/vpc"))); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget the neighbour %s: %w", public, err)
	}
	return nil
}

// Detach takes an interface away from an instance. That it isn't there, or is another's by now, is no error.
func (n *Network) Detach(ctx context.Context, instance cloud.InstanceID, id cloud.InterfaceID) error {
	n.mu.Lock()
	i, ok := n.interfaces[id]
	v := n.vpcs[i.VPC]
	n.mu.Unlock()
	if !ok || i.Instance != instance {
		return nil
	}
	for _, a := range i.addresses() {
		if err := n.unpublish(i, a.Public); err != nil {
			return fmt.Errorf("interface %s: %w", id, err)
		}
	}
	if v != nil {
		if err := v.commit(ctx, func(list *[]Interface) { dismiss(list, id) }); err != nil {
			return fmt.Errorf("interface %s: %w", id, err)
		}
		if link, err := v.nl.LinkByName(linkOf(id)); err == nil {
			if err := v.nl.LinkDel(link); err != nil {
				return fmt.Errorf("interface %s: remove its link: %w", id, err)
			}
		}
	}
	if err := n.forgetInside(i); err != nil {
		return fmt.Errorf("interface %s: %w", id, err)
	}
	n.mu.Lock()
	delete(n.interfaces, id)
	n.mu.Unlock()
	if v != nil {
		if err := n.rerouteTo(v, id); err != nil {
			return fmt.Errorf("interface %s: %w", id, err)
		}
	}
	if err := os.Remove(n.recordFile(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("interface %s: forget it: %w", id, err)
	}
	return nil
}

// RemoveInstance detaches all of a machine's interfaces and lets its namespaces go.
func (n *Network) RemoveInstance(ctx context.Context, id cloud.InstanceID) error {
	n.mu.Lock()
	var own []cloud.InterfaceID
	for _, i := range n.interfaces {
		if i.Instance == id {
			own = append(own, i.ID)
		}
	}
	n.mu.Unlock()
	for _, i := range own {
		if err := n.Detach(ctx, id, i); err != nil {
			return err
		}
	}
	return n.dropNamespaces(id)
}
