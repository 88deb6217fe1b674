package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// guest is the other end of a tap: as much of a network stack as a conversation needs.
type guest struct {
	*box
	mac net.HardwareAddr
	tap *os.File
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
)

var broadcastMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// guest plugs a tap and opens it.
func (w *world) guest(vpc string, last byte, groups ...cloud.SecurityGroupID) *guest {
	w.t.Helper()
	b := w.unplugged(vpc, last, groups...)
	b.i.Tap = true
	if _, err := w.n.Attach(w.t.Context(), b.i); err != nil {
		w.t.Fatal(err)
	}
	g := &guest{box: b}
	g.mac, _ = net.ParseMAC(b.i.MAC)
	g.open()
	return g
}

func (g *guest) open() {
	g.w.t.Helper()
	tap, err := g.w.n.OpenTap(g.i.ID)
	if err != nil {
		g.w.t.Fatal(err)
	}
	g.tap = tap
	g.w.t.Cleanup(func() { tap.Close() })
	v, err := g.w.n.known(g.i.VPC)
	if err != nil {
		g.w.t.Fatal(err)
	}
	g.w.carries(v, linkOf(g.i.ID))
}

func (g *guest) send(to net.HardwareAddr, kind uint16, payload []byte) {
	g.w.t.Helper()
	frame := append(make([]byte, vnetHeader), to...)
	frame = append(frame, g.mac...)
	frame = binary.BigEndian.AppendUint16(frame, kind)
	if _, err := g.tap.Write(append(frame, payload...)); err != nil {
		g.w.t.Fatal(err)
	}
}

// receive returns what the first frame carries that take wants, nil when none comes in time.
func (g *guest) receive(within time.Duration, take func(kind uint16, payload []byte) bool) []byte {
	g.w.t.Helper()
	if err := g.tap.SetReadDeadline(time.Now().Add(within)); err != nil {
		g.w.t.Fatal(err)
	}
	for {
		buf := make([]byte, 65536)
		n, err := g.tap.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			g.w.t.Fatal(err)
		}
		frame := buf[vnetHeader:n]
		if to := net.HardwareAddr(frame[:6]); !bytes.Equal(to, g.mac) && !bytes.Equal(to, broadcastMAC) {
			continue // IPv6's, which nobody asked for
		}
		if kind := binary.BigEndian.Uint16(frame[12:]); take(kind, frame[14:]) {
			return frame[14:]
		}
	}
}

// whoHas asks by ARP for an address; sender is zero when the guest has none yet.
func (g *guest) whoHas(target, sender netip.Addr) net.HardwareAddr {
	g.w.t.Helper()
	q := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, g.mac...)
	q = append(q, sender.AsSlice()...)
	q = append(q, make([]byte, 6)...)
	g.send(broadcastMAC, etherARP, append(q, target.AsSlice()...))
	a := g.receive(500*time.Millisecond, func(kind uint16, p []byte) bool {
		return kind == etherARP && p[7] == 2 && bytes.Equal(p[14:18], target.AsSlice())
	})
	if a == nil {
		return nil
	}
	return a[8:14]
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (g *guest) sendIP(to net.HardwareAddr, source, target netip.Addr, protocol int, payload []byte) {
	g.w.t.Helper()
	h := ipv4.Header{Version: 4, Len: 20, TotalLen: 20 + len(payload), TTL: 64, Protocol: protocol, Src: source.AsSlice(), Dst: target.AsSlice()}
	b, err := h.Marshal()
	if err != nil {
		g.w.t.Fatal(err)
	}
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	g.send(to, etherIPv4, append(b, payload...))
}

// receiveIP returns the payload of the first packet that take wants, nil when none comes in time.
func (g *guest) receiveIP(within time.Duration, take func(h *ipv4.Header, payload []byte) bool) []byte {
	g.w.t.Helper()
	p := g.receive(within, func(kind uint16, p []byte) bool {
		h, err := ipv4.ParseHeader(p)
		return kind == etherIPv4 && err == nil && take(h, p[20:h.TotalLen])
	})
	if p == nil {
		return nil
	}
	return p[20:binary.BigEndian.Uint16(p[2:])]
}

// echo pings an address by way of the router, and tells whether the answer came.
func (g *guest) echo(target netip.Addr) bool {
	g.w.t.Helper()
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 7, Seq: 1, Data: []byte("tap")}}
	b, err := m.Marshal(nil)
	if err != nil {
		g.w.t.Fatal(err)
	}
	g.sendIP(macFor(linkOf(g.i.ID)), g.i.PrivateIP, target, unix.IPPROTO_ICMP, b)
	return g.receiveIP(time.Second, func(h *ipv4.Header, p []byte) bool {
		reply, err := icmp.ParseMessage(unix.IPPROTO_ICMP, p)
		return h.Protocol == unix.IPPROTO_ICMP && err == nil && reply.Type == ipv4.ICMPTypeEchoReply && h.Src.Equal(target.AsSlice())
	}) != nil
}

// answerEcho answers the next ping.
func (g *guest) answerEcho(within time.Duration) bool {
	g.w.t.Helper()
	var from netip.Addr
	p := g.receiveIP(within, func(h *ipv4.Header, p []byte) bool {
		from, _ = netip.AddrFromSlice(h.Src.To4())
		return h.Protocol == unix.IPPROTO_ICMP && p[0] == byte(ipv4.ICMPTypeEcho) && h.Dst.Equal(g.i.PrivateIP.AsSlice())
	})
	if p == nil {
		return false
	}
	m, err := icmp.ParseMessage(unix.IPPROTO_ICMP, p)
	if err != nil {
		g.w.t.Fatal(err)
	}
	m.Type = ipv4.ICMPTypeEchoReply
	b, err := m.Marshal(nil)
	if err != nil {
		g.w.t.Fatal(err)
	}
	g.sendIP(macFor(linkOf(g.i.ID)), g.i.PrivateIP, from, unix.IPPROTO_ICMP, b)
	return true
}

// pinged tells whether a box reaches the guest with a ping, and whether the guest saw it.
func (g *guest) pinged(by *box) (answered, seen bool) {
	done := make(chan bool)
	go func() { done <- by.pings(g.i.PrivateIP) }()
	seen = g.answerEcho(800 * time.Millisecond)
	return <-done, seen
}

func friends(id string, members ...string) Group {
	g := Group{ID: cloud.SecurityGroupID(id), Rules: []cloud.SecurityGroupRule{out(), {Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, Group: cloud.SecurityGroupID(id)}}}
	for _, m := range members {
		g.Members = append(g.Members, netip.MustParseAddr(m))
	}
	return g
}

func TestATapIsALinkLikeAContainers(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", friends("sg-a", "10.7.0.5", "10.7.0.6", "10.7.0.7"), Group{ID: "sg-shut", Rules: []cloud.SecurityGroupRule{out()}}))
	g, other, c, shut := w.guest("vpc-a", 5, "sg-a"), w.guest("vpc-a", 7, "sg-a"), w.box("vpc-a", 6, false, "sg-a"), w.guest("vpc-a", 8, "sg-shut")

	t.Run("its router answers ARP for everyone but itself", func(t *testing.T) {
		router := macFor(linkOf(g.i.ID))
		for _, target := range []string{"10.7.0.1", "10.7.0.6", "10.7.0.7", "169.254.169.254"} {
			if got := g.whoHas(netip.MustParseAddr(target), g.i.PrivateIP); !bytes.Equal(got, router) {
				t.Errorf("%s is at %s, not at the router's %s", target, got, router)
			}
		}
		if got := g.whoHas(g.i.PrivateIP, netip.IPv4Unspecified()); got != nil {
			t.Errorf("a guest that looks whether its address is free is told that %s has it", got)
		}
	})
	t.Run("packets go between it, containers and the VPC's services", func(t *testing.T) {
		for _, target := range []netip.Addr{c.i.PrivateIP, metadataAddr, netip.MustParseAddr("10.7.0.1")} {
			if !g.echo(target) {
				t.Errorf("%s does not answer it", target)
			}
		}
		if answered, _ := g.pinged(c); !answered {
			t.Error("a container does not reach it")
		}
		go other.answerEcho(time.Second)
		if !g.echo(other.i.PrivateIP) {
			t.Error("another tap does not answer it")
		}
	})
	t.Run("its groups hold", func(t *testing.T) {
		if answered, seen := shut.pinged(c); answered || seen {
			t.Error("a ping reached a guest whose groups let none in")
		}
		if shut.echo(c.i.PrivateIP) {
			t.Error("a ping from without the group was answered")
		}
	})
	t.Run("it sends with its own address only", func(t *testing.T) {
		g.i.PrivateIP = netip.MustParseAddr("10.7.0.99")
		defer func() { g.i.PrivateIP = netip.MustParseAddr("10.7.0.5") }()
		if g.echo(metadataAddr) {
			t.Error("a ping with a stranger's source was answered")
		}
	})
	t.Run("it has one reader at a time", func(t *testing.T) {
		if _, err := w.n.OpenTap(g.i.ID); !errors.Is(err, unix.EBUSY) {
			t.Errorf("a second reader: %v", err)
		}
		if _, err := w.n.OpenTap(c.i.ID); err == nil {
			t.Error("a container's interface was opened as a tap")
		}
	})
}

func TestATapOutlivesTheManagerAndItsReader(t *testing.T) {
	w := newWorld(t)
	spec := vpcOf("vpc-a", friends("sg-a", "10.7.0.5"))
	w.apply(spec)
	g := w.guest("vpc-a", 5, "sg-a")
	if err := w.n.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.apply(spec)
	if !g.echo(metadataAddr) {
		t.Fatal("with another manager, nobody answers")
	}
	if _, err := w.n.Attach(t.Context(), g.i); err != nil {
		t.Fatal(err)
	}
	if !g.echo(metadataAddr) {
		t.Fatal("plugged once more beneath its reader, nobody answers")
	}
	// A reader that asks for offloads and longer headers, and dies.
	raw, err := g.tap.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		err = errors.Join(unix.IoctlSetPointerInt(int(fd), unix.TUNSETVNETHDRSZ, 12), unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, unix.TUN_F_CSUM))
	})
	if err := errors.Join(err, g.tap.Close()); err != nil {
		t.Fatal(err)
	}
	g.open()
	if !g.echo(metadataAddr) {
		t.Error("to the next reader, nobody answers")
	}
}

func TestATapGoesWithItsInterface(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", friends("sg-a")))
	v, err := w.n.known("vpc-a")
	if err != nil {
		t.Fatal(err)
	}
	there := func(g *guest) bool { _, err := v.nl.LinkByName(linkOf(g.i.ID)); return err == nil }
	detached, swept := w.guest("vpc-a", 5, "sg-a"), w.guest("vpc-a", 6, "sg-a")
	if err := w.n.Detach(t.Context(), detached.i.Instance, detached.i.ID); err != nil {
		t.Fatal(err)
	}
	if there(detached) {
		t.Error("the link of a detached tap is still there")
	}
	if _, err := w.n.OpenTap(detached.i.ID); err == nil || there(detached) {
		t.Errorf("a detached tap was opened: %v", err)
	}
	if err := w.n.Sweep(t.Context(), Keep{VPCs: map[cloud.VPCID]bool{"vpc-a": true}}); err != nil {
		t.Fatal(err)
	}
	if there(swept) {
		t.Error("the link of a swept tap is still there")
	}
}

func TestAnInterfaceMovesBetweenAContainerAndAVirtualMachine(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", friends("sg-a", "10.7.0.5")))
	g := w.guest("vpc-a", 5, "sg-a")
	asLink := g.i
	asLink.Tap = false
	b := &box{w, asLink}
	b.attach()
	if !b.pings(metadataAddr) {
		t.Error("as a container's link it reaches nothing")
	}
	if _, err := w.n.Attach(t.Context(), g.i); err != nil {
		t.Fatal(err)
	}
	g.open()
	if !g.echo(metadataAddr) {
		t.Error("as a tap it reaches nothing")
	}
	if v, _ := w.n.known("vpc-a"); v != nil {
		if link, err := v.nl.LinkByName(linkOf(g.i.ID)); err != nil || link.Attrs().MTU != w.n.MTU() {
			t.Errorf("its link: %v, %v", link, err)
		} else if _, ok := link.(*netlink.Tuntap); !ok {
			t.Errorf("its link is a %s", link.Type())
		}
	}
}

func TestATapCarriesIPv6(t *testing.T) {
	w := newWorld(t)
	if !w.n.IPv6() {
		t.Skip("this kernel doesn't carry IPv6")
	}
	group := friends("sg-a", "10.7.0.5")
	group.Rules = append(group.Rules, all6(true))
	w.apply(w.dual("vpc-a", 1, RouteInternet, group))
	b := w.unplugged("vpc-a", 5, "sg-a")
	b.i.Tap, b.i.IPv6 = true, []netip.Addr{w.address6(1, 5)}
	if _, err := w.n.Attach(t.Context(), b.i); err != nil {
		t.Fatal(err)
	}
	g := &guest{box: b}
	g.mac, _ = net.ParseMAC(b.i.MAC)
	g.open()
	source, target := b.i.IPv6[0], metadataAddr6
	m := icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: 7, Seq: 1, Data: []byte("tap")}}
	echo, err := m.Marshal(icmp.IPv6PseudoHeader(source.AsSlice(), target.AsSlice()))
	if err != nil {
		t.Fatal(err)
	}
	packet := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(echo)))
	packet = append(append(append(packet, unix.IPPROTO_ICMPV6, 64), source.AsSlice()...), target.AsSlice()...)
	g.send(macFor(linkOf(b.i.ID)), 0x86dd, append(packet, echo...))
	if g.receive(time.Second, func(kind uint16, p []byte) bool {
		return kind == 0x86dd && p[6] == unix.IPPROTO_ICMPV6 && bytes.Equal(p[8:24], target.AsSlice()) && p[40] == byte(ipv6.ICMPTypeEchoReply)
	}) == nil {
		t.Error("the metadata service's address does not answer it")
	}
}

func TestASpareTapIsNowhereOnTheHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes a network namespace")
	}
	tap, err := OpenSpareTap()
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	if _, err := net.InterfaceByName("spare"); err == nil {
		t.Error("the host has it among its links")
	}
	length, err := unix.IoctlGetInt(int(tap.Fd()), unix.TUNGETVNETHDRSZ)
	if err != nil || length != vnetHeader {
		t.Errorf("its frames begin with %d bytes, not as those of other taps: %v", length, err)
	}
	// Nobody has put it up: what is sent into it is refused, not lost on the way to somebody.
	if _, err := tap.Write(make([]byte, vnetHeader+60)); !errors.Is(err, unix.EIO) {
		t.Errorf("a frame into it: %v", err)
	}
}
