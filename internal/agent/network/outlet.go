package network

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// outletPool is what outlets have their addresses from. They are seen on this host only, and translated to the host's own on the way out.
var outletPool = netip.MustParsePrefix("169.254.64.0/18")

// outletPrefix begins the host's ends of outlets.
func (n *Network) outletPrefix() string { return "nb" + n.cfg.CloudID + "-" }

// OutletResolver is where a namespace with an outlet finds its DNS server: inside, so that no packet to it leaves.
const OutletResolver = "127.0.0.53"

// Outlet is a way to the world for a namespace that is in no VPC, such as that of an image's build. Nobody can reach it, and it reaches neither the
// host, nor link-local addresses, nor other outlets. It goes with its namespace, whoever ends that.
type Outlet struct {
	Packets net.PacketConn // at OutletResolver, for its DNS server
	Conns   net.Listener
	link    netlink.Link
	host    *netlink.Handle
}

// Close takes the outlet away.
func (o *Outlet) Close() error {
	var err error
	for _, c := range []io.Closer{o.Packets, o.Conns} {
		if cerr := c.Close(); !errors.Is(cerr, net.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	// It may have gone with its namespace.
	if derr := o.host.LinkDel(o.link); derr != nil {
		if _, ok := errors.AsType[netlink.LinkNotFoundError](derr); !ok && !errors.Is(derr, unix.ENODEV) {
			err = errors.Join(err, derr)
		}
	}
	return err
}

// Loopback sets a namespace's own loopback up.
func Loopback(ns *os.File) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("set a loopback up: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set a loopback up: %w", err)
	}
	return nil
}

// OpenOutlet gives a namespace, whose loopback is up, an outlet.
func (n *Network) OpenOutlet(ctx context.Context, ns *os.File) (o *Outlet, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a way to the world: %w", err)
		}
	}()
	inside, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	name := n.outletPrefix() + hex.EncodeToString(id[:3])
	hostMAC, ownMAC := macFor(name), macFor(name+"/own")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, n.mtu, hostMAC
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: ownMAC, PeerNamespace: netlink.NsFd(int(ns.Fd())), PeerMTU: uint32(n.mtu)}
	if err := n.host.LinkAdd(pair); err != nil {
		return nil, err
	}
	outer, err := n.host.LinkByName(name)
	if err != nil {
		return nil, err
	}
	o = &Outlet{link: outer, host: n.host}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.host.LinkDel(outer))
		}
	}()
	if n.six { // no address of IPv6, not even the link's own, which would lead to the host
		if err := setting("net/ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
			return nil, err
		}
	}
	if err := n.host.LinkSetUp(outer); err != nil {
		return nil, err
	}
	addr, err := n.outletAddress(outer, binary.BigEndian.Uint32(id), ownMAC)
	if err != nil {
		return nil, err
	}
	inner, err := inside.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	err = errors.Join(inside.AddrAdd(inner, addressOf(addr)), inside.LinkSetUp(inner))
	err = errors.Join(err, inside.NeighSet(neighbour(inner, outsideAddr, hostMAC)))
	if err == nil {
		err = inside.RouteAdd(&netlink.Route{LinkIndex: inner.Attrs().Index, Gw: outsideAddr.AsSlice(), Src: addr.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	}
	if err != nil {
		return nil, err
	}
	err = within(ns, func() (err error) {
		listen := &net.ListenConfig{KeepAlive: -1}
		if o.Packets, err = listen.ListenPacket(ctx, "udp4", net.JoinHostPort(OutletResolver, "53")); err != nil {
			return err
		}
		if o.Conns, err = listen.Listen(ctx, "tcp4", net.JoinHostPort(OutletResolver, "53")); err != nil {
			return errors.Join(err, o.Packets.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

// outletAddress takes an address that no other outlet on this host has, of whatever cloud: the kernel's routes say which are taken.
func (n *Network) outletAddress(outer netlink.Link, from uint32, mac net.HardwareAddr) (netip.Addr, error) {
	base := binary.BigEndian.Uint32(outletPool.Addr().AsSlice())
	for try := range uint32(100) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base+1+(from+try*61)%(1<<14-2))
		addr := netip.AddrFrom4(b)
		err := n.host.RouteAdd(&netlink.Route{LinkIndex: outer.Attrs().Index, Dst: ipNet(addr.AsSlice(), 32, 32), Scope: netlink.SCOPE_LINK})
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err == nil {
			err = n.host.NeighSet(neighbour(outer, addr, mac))
		}
		return addr, err
	}
	return netip.Addr{}, errors.New("all addresses for it are taken")
}
