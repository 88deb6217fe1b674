package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

var everything6 = netip.MustParsePrefix("::/0")

// range6 is the nth /56 of the world's pool.
func (w *world) range6(n byte) netip.Prefix {
	a := w.cfg.IPv6Pool.Addr().As16()
	a[6] = n
	return netip.PrefixFrom(netip.AddrFrom16(a), 56)
}

// dual is a VPC with both families, whose subnet leads all IPv6 by routes of a kind.
func (w *world) dual(id string, number byte, kind RouteKind, groups ...Group) VPC {
	v := vpcOf(id, groups...)
	v.CIDRs = append(v.CIDRs, w.range6(number))
	v.Subnets[0].CIDR6 = netip.PrefixFrom(w.range6(number).Addr(), 64)
	v.Subnets[0].Routes = []Route{toInternet[0], {Destination: everything6, Kind: kind}}
	return v
}

// address6 is the address of IPv6 that a box of a dual VPC has beside its private one.
func (w *world) address6(number, last byte) netip.Addr {
	a := w.range6(number).Addr().As16()
	a[15] = last
	return netip.AddrFrom16(a)
}

func (w *world) dualBox(vpc string, number, last byte, groups ...cloud.SecurityGroupID) *box {
	b := w.unplugged(vpc, last, groups...)
	b.i.IPv6 = []netip.Addr{w.address6(number, last)}
	b.attach()
	return b
}

func all6(egress bool) cloud.SecurityGroupRule {
	return cloud.SecurityGroupRule{Egress: egress, Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything6}
}

func (b *box) pings(a netip.Addr) bool {
	cmd := exec.Command("ping", "-c", "1", "-W", "1", a.String())
	err := b.w.n.inside(b.i.Instance, cmd.Start)
	return err == nil && cmd.Wait() == nil
}

func TestGroupsDecideWhoReachesWhomOverIPv6(t *testing.T) {
	w := newWorld(t)
	web := Group{ID: "sg-web", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "sg-client"), tcp(false, 81, w.address6(1, 7).String()+"/128"), tcp(false, 82, "0.0.0.0/0"),
		{Protocol: cloud.ProtocolICMPv6, FromPort: 128, ToPort: 0, CIDR: w.range6(1)}},
		Members: []netip.Addr{netip.MustParseAddr("10.7.0.5"), w.address6(1, 5)}}
	client := Group{ID: "sg-client", Rules: []cloud.SecurityGroupRule{all6(true)}, Members: []netip.Addr{netip.MustParseAddr("10.7.0.6"), w.address6(1, 6)}}
	other := Group{ID: "sg-other", Rules: []cloud.SecurityGroupRule{out()}}
	w.apply(w.dual("vpc-a", 1, RouteInternet, web, client, other))
	server, friend, peer, old := w.dualBox("vpc-a", 1, 5, "sg-web"), w.dualBox("vpc-a", 1, 6, "sg-client"), w.dualBox("vpc-a", 1, 7, "sg-client"), w.dualBox("vpc-a", 1, 8, "sg-other")
	for port := 80; port < 84; port++ {
		server.serve(port)
	}
	for _, c := range []struct {
		from *box
		port int
		want bool
	}{{friend, 80, true}, {friend, 81, false}, {friend, 82, false}, {peer, 81, true}, {peer, 83, false}, {old, 80, false}} {
		if got := c.from.ask(server.i.IPv6[0], c.port); (got != "") != c.want {
			t.Errorf("from %s to port %d: %q", c.from.i.IPv6, c.port, got)
		}
	}
	if !friend.pings(server.i.IPv6[0]) {
		t.Error("an echo that a rule lets in is not answered")
	}
	if server.pings(friend.i.IPv6[0]) {
		t.Error("a group without a rule for IPv6 lets its member send")
	}
	if got := old.ask(server.i.PrivateIP, 82); got == "" {
		t.Error("IPv4 does not pass beside IPv6")
	}
}

func TestTheInternetGatewayLeadsInAndAnEgressOnlyOneDoesNot(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{all6(false), all6(true)}}
	w.apply(w.dual("vpc-a", 1, RouteInternet, all))
	w.apply(w.dual("vpc-b", 2, RouteEgressOnly, all))
	w.apply(w.dual("vpc-c", 3, RouteBlackhole, all))
	open, out, shut := w.dualBox("vpc-a", 1, 5, "sg-all"), w.dualBox("vpc-b", 2, 5, "sg-all"), w.dualBox("vpc-c", 3, 5, "sg-all")
	for _, b := range []*box{open, out, shut} {
		b.serve(80)
	}
	for _, c := range []struct {
		what string
		got  string
		want bool
	}{
		{"the host to the open VPC", fromHost(open.i.IPv6[0], 80), true},
		{"the host to the egress-only VPC", fromHost(out.i.IPv6[0], 80), false},
		{"the host to the shut VPC", fromHost(shut.i.IPv6[0], 80), false},
		{"the egress-only VPC to the open one", out.ask(open.i.IPv6[0], 80), true},
		{"the open VPC to the egress-only one", open.ask(out.i.IPv6[0], 80), false},
		{"the shut VPC to the open one", shut.ask(open.i.IPv6[0], 80), false},
	} {
		if (c.got != "") != c.want {
			t.Errorf("from %s: %q", c.what, c.got)
		}
	}
	outside := w.outside6(80)
	for b, want := range map[*box]bool{open: true, out: true, shut: false} {
		if got := b.ask(outside, 80); (got != "") != want {
			t.Errorf("from %s to the outside: %q", b.i.VPC, got)
		}
	}
	// A longer route through the egress-only gateway closes the internet gateway for those it is about.
	v := w.dual("vpc-a", 1, RouteInternet, all)
	v.Subnets[0].Routes = append(v.Subnets[0].Routes, Route{Destination: w.range6(2), Kind: RouteEgressOnly})
	w.apply(v)
	if got := out.ask(open.i.IPv6[0], 80); got != "" {
		t.Errorf("against the longest route: %q", got)
	}
	if got := fromHost(open.i.IPv6[0], 80); got == "" {
		t.Error("the other route is shut too")
	}
	// Without ranges nothing of it is left.
	w.apply(vpcOf("vpc-a", all))
	if got := fromHost(open.i.IPv6[0], 80); got != "" {
		t.Errorf("without its range the address answers %q", got)
	}
}

func TestAnAddressOfIPv6ComesAndGoesWithItsInterfaceRunning(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{all6(false), all6(true)}}
	w.apply(w.dual("vpc-a", 1, RouteInternet, all))
	a, b := w.dualBox("vpc-a", 1, 5, "sg-all"), w.dualBox("vpc-a", 1, 6, "sg-all")
	a.serve(80)
	second := w.address6(1, 77)
	a.i.IPv6 = append(a.i.IPv6, second)
	a.attach()
	if got := b.ask(second, 80); got == "" {
		t.Error("the second address does not answer")
	}
	a.i.IPv6 = a.i.IPv6[1:]
	a.attach()
	if got := b.ask(w.address6(1, 5), 80); got != "" {
		t.Errorf("an address that was taken away answers %q", got)
	}
	if got := b.ask(second, 80); got == "" {
		t.Error("the other address went with it")
	}
	a.i.IPv6 = nil
	a.attach()
	if got := b.ask(second, 80); got != "" {
		t.Errorf("the last address answers %q after it was taken away", got)
	}
	a.i.IPv6 = []netip.Addr{second}
	a.attach()
	if got := b.ask(second, 80); got == "" {
		t.Error("an address that came back does not answer")
	}
	// The next manager finds it as it is.
	if err := w.n.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if got := b.ask(second, 80); got == "" {
		t.Error("it does not outlive the manager")
	}
	w.apply(w.dual("vpc-a", 1, RouteInternet, all))
	a.attach()
	if got := b.ask(second, 80); got == "" {
		t.Error("the next manager breaks it")
	}
}

func TestNobodySendsWithAnAddressOfIPv6ThatIsNotHis(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{all6(false), all6(true)}}
	w.apply(w.dual("vpc-a", 1, RouteInternet, all))
	a, b := w.dualBox("vpc-a", 1, 5, "sg-all"), w.dualBox("vpc-a", 1, 6, "sg-all")
	b.serve(80)
	foreign := w.address6(1, 99)
	a.inside("ip", "-6", "addr", "add", foreign.String()+"/128", "dev", "eth0", "nodad")
	dial := func(from netip.Addr) error {
		return w.n.inside(a.i.Instance, func() error {
			c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: 500 * time.Millisecond}).DialContext(t.Context(), "tcp6", netip.AddrPortFrom(b.i.IPv6[0], 80).String())
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	if dial(a.i.IPv6[0]) != nil {
		t.Error("its own address is refused")
	}
	if dial(foreign) == nil {
		t.Error("a foreign address is let pass")
	}
	// A neighbour's answers change nobody's way.
	a.inside("ip", "-6", "addr", "add", b.i.IPv6[0].String()+"/128", "dev", "eth0", "nodad")
	c := w.dualBox("vpc-a", 1, 7, "sg-all")
	if got := c.ask(b.i.IPv6[0], 80); !strings.HasSuffix(got, "to 10.7.0.6") {
		t.Errorf("who takes an address gets its packets: %q", got)
	}
}

func TestPeersReachEachOtherOverIPv6AndNothingBeyond(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{all6(false), all6(true)}}
	a, b := w.dual("vpc-a", 1, RouteBlackhole, all), w.dual("vpc-b", 2, RouteBlackhole, all)
	for v, other := range map[*VPC]VPC{&a: b, &b: a} {
		v.CIDRs[0] = netip.MustParsePrefix("10.7.0.0/16")
		v.Peerings = []Peering{{ID: "pcx-00000000000000001", Peer: other.ID, Ranges: other.CIDRs[1:]}}
		v.Subnets[0].Routes = append(v.Subnets[0].Routes, Route{Destination: other.CIDRs[1], Kind: RoutePeering, Peering: "pcx-00000000000000001"})
	}
	w.apply(a)
	w.apply(b)
	one, two := w.dualBox("vpc-a", 1, 5, "sg-all"), w.dualBox("vpc-b", 2, 6, "sg-all")
	two.serve(80)
	if got := one.ask(two.i.IPv6[0], 80); got == "" {
		t.Error("the peer does not answer")
	}
	a.Peerings = nil
	w.apply(a)
	if got := one.ask(two.i.IPv6[0], 80); got != "" {
		t.Errorf("without the peering: %q", got)
	}
}

// outside6 is a host beyond the node, which answers on a port.
func (w *world) outside6(port int) netip.Addr {
	w.t.Helper()
	number := outsides.Add(1)
	addr, near := netip.MustParseAddr(fmt.Sprintf("2001:db8:77::%x", number)), netip.MustParseAddr(fmt.Sprintf("2001:db8:78::%x", number))
	eth, here, listen := w.beyond()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	must(netlink.AddrAdd(here, addressIPv6(near, 128)))
	must(netlink.RouteReplace(privateRoute(here, addr)))
	must(eth.AddrAdd(eth.link, addressIPv6(addr, 128)))
	must(eth.RouteReplace(privateRoute(eth.link, near)))
	must(eth.RouteReplace(&netlink.Route{LinkIndex: eth.link.Attrs().Index, Dst: prefixNet(everything6), Gw: near.AsSlice()}))
	listen("tcp6", port, addr)
	// The links' own addresses are tried for duplicates first, before which no packet passes.
	for begin := time.Now(); fromHostWithin(addr, port, 100*time.Millisecond) == ""; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			w.t.Fatal("the outside does not answer the host")
		}
	}
	return addr
}

func fromHostWithin(address netip.Addr, port int, limit time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(address, uint16(port)).String())
	return firstAnswer(c, err)
}
