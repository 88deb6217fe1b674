package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// peers are three VPCs of which neighbours are peered: 10.1.0.0/16, 10.2.0.0/16 and 10.3.0.0/16, each with routes to both others over the
// peerings it has.
func peers() (vpcs []VPC) {
	open := Group{ID: "sg-1", Rules: []cloud.SecurityGroupRule{{Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}, out()}}
	for n := 1; n <= 3; n++ {
		prefix := peerRange(n)
		vpcs = append(vpcs, VPC{ID: cloud.VPCID(fmt.Sprintf("vpc-%d", n)), CIDRs: []netip.Prefix{prefix}, Gateway: true, Groups: []Group{open},
			Subnets: []Subnet{{ID: cloud.SubnetID(fmt.Sprintf("subnet-vpc-%d", n)), CIDR: prefix, Routes: toInternet}}})
	}
	pair(&vpcs[0], &vpcs[1], "pcx-00000000000000012")
	pair(&vpcs[1], &vpcs[2], "pcx-00000000000000023")
	vpcs[0].Subnets[0].Routes = append(vpcs[0].Subnets[0].Routes, Route{Destination: peerRange(3), Kind: RoutePeering, Peering: "pcx-00000000000000012"})
	vpcs[2].Subnets[0].Routes = append(vpcs[2].Subnets[0].Routes, Route{Destination: peerRange(1), Kind: RoutePeering, Peering: "pcx-00000000000000023"})
	return vpcs
}

func peerRange(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
}

func pair(a, b *VPC, id cloud.PeeringID) {
	for _, side := range [][2]*VPC{{a, b}, {b, a}} {
		v, peer := side[0], side[1]
		v.Peerings = append(v.Peerings, Peering{ID: id, Peer: peer.ID, Ranges: peer.CIDRs})
		routes := append([]Route{}, v.Subnets[0].Routes...)
		v.Subnets[0].Routes = append(routes, Route{Destination: peer.CIDRs[0], Kind: RoutePeering, Peering: id})
	}
}

func (w *world) peerBox(n int, last byte) *box {
	b := w.unplugged(fmt.Sprintf("vpc-%d", n), last, "sg-1")
	b.i.PrivateIP = netip.AddrFrom4([4]byte{10, byte(n), 0, last})
	b.attach()
	b.serve(80)
	return b
}

func TestARuleNamesAPeersGroupAndNobodyWithItsAddresses(t *testing.T) {
	w := newWorld(t)
	vpcs := peers()
	rule := tcp(false, 80, "sg-far")
	rule.Peer = cloud.GroupPeer{Peering: "pcx-00000000000000012", VPC: "vpc-1"}
	member := netip.MustParseAddr("10.1.0.5")
	vpcs[1].Groups = []Group{{ID: "sg-1", Rules: []cloud.SecurityGroupRule{rule, out()}}, {ID: "sg-far", Members: []netip.Addr{member, netip.MustParseAddr("10.3.0.5")}}}
	for _, v := range vpcs {
		w.apply(v)
	}
	one, two, three, stranger := w.peerBox(1, 5), w.peerBox(2, 5), w.peerBox(3, 5), w.peerBox(1, 6)
	if got := one.ask(two.i.PrivateIP, 80); got == "" {
		t.Error("the peer's member does not get through")
	}
	if got := stranger.ask(two.i.PrivateIP, 80); got != "" {
		t.Errorf("who isn't a member gets through: %q", got)
	}
	if got := three.ask(two.i.PrivateIP, 80); got != "" {
		t.Errorf("a third VPC's machine with a member's address gets through: %q", got)
	}
	vpcs[1].Groups = vpcs[1].Groups[:1]
	w.apply(vpcs[1])
	if got := one.ask(two.i.PrivateIP, 80); got != "" {
		t.Errorf("a stale rule lets through: %q", got)
	}
}

func TestPeeredVPCsReachEachOtherAndNobodyBehind(t *testing.T) {
	w := newWorld(t)
	vpcs := peers()
	for _, v := range vpcs {
		w.apply(v)
	}
	one, two, three := w.peerBox(1, 5), w.peerBox(2, 5), w.peerBox(3, 5)
	for _, pair := range [][2]*box{{one, two}, {two, one}, {two, three}, {three, two}} {
		if got, want := pair[0].ask(pair[1].i.PrivateIP, 80), pair[0].i.PrivateIP.String()+" to "+pair[1].i.PrivateIP.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, pair := range [][2]*box{{one, three}, {three, one}} {
		if got := pair[0].ask(pair[1].i.PrivateIP, 80); got != "" {
			t.Errorf("through the VPC between them: %q", got)
		}
	}
	// A peer is not a way to the internet, nor to the other VPC's own services.
	outside := w.outside(80)
	vpcs[0].Subnets[0].Routes = []Route{{Destination: everything, Kind: RoutePeering, Peering: vpcs[0].Peerings[0].ID}}
	w.apply(vpcs[0])
	if got := one.ask(outside, 80); got != "" {
		t.Errorf("the internet is reached over a peering: %q", got)
	}
	if got := one.ask(two.i.PrivateIP, 80); got == "" {
		t.Error("by a wider route the peer is not reached")
	}
	names, err := w.n.ListenVPC("vpc-2", "tcp4", "10.2.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer names.Close()
	if c, err := w.n.DialInstance(t.Context(), two.i.Instance, "tcp4", "10.2.0.2:53"); err != nil {
		t.Errorf("the resolver of its own VPC: %v", err)
	} else {
		c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if c, err := w.n.DialInstance(ctx, one.i.Instance, "tcp4", "10.2.0.2:53"); err == nil {
		c.Close()
		t.Error("the resolver of the peer is reached")
	}
}

// countFrom is how many of one packet that a box sends under a source arrive at another.
func countFrom(t *testing.T, at, from *box, source string) (n int) {
	t.Helper()
	var listener net.PacketConn
	if err := at.w.n.inside(at.i.Instance, func() (err error) { listener, err = net.ListenPacket("udp4", ":9"); return err }); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	from.inside("ip", "addr", "replace", source+"/32", "dev", "eth0")
	err := from.w.n.inside(from.i.Instance, func() error {
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}).Dial("udp4", netip.AddrPortFrom(at.i.PrivateIP, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("x"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	for {
		if _, _, err := listener.ReadFrom(make([]byte, 8)); err != nil {
			return n
		}
		n++
	}
}

func TestBothSidesOfAPeeringNeedARouteAndTheReceiversGroupsHold(t *testing.T) {
	w := newWorld(t)
	vpcs := peers()
	back := vpcs[1].Subnets[0].Routes
	vpcs[1].Subnets[0].Routes = toInternet
	for _, v := range vpcs {
		w.apply(v)
	}
	one, two := w.peerBox(1, 5), w.peerBox(2, 5)
	if got := one.ask(two.i.PrivateIP, 80); got != "" {
		t.Errorf("without a route back: %q", got)
	}
	vpcs[1].Subnets[0].Routes = back
	w.apply(vpcs[1])
	if got := one.ask(two.i.PrivateIP, 80); got == "" {
		t.Error("with a route back it is not reached")
	}
	// A rule may name a group of the peer.
	vpcs[1].Groups = []Group{{ID: "sg-1", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "sg-peer"), out()}}, {ID: "sg-peer", Members: []netip.Addr{netip.MustParseAddr("10.1.0.6")}}}
	w.apply(vpcs[1])
	if got := one.ask(two.i.PrivateIP, 80); got != "" {
		t.Errorf("against the receiver's groups: %q", got)
	}
	if got := w.peerBox(1, 6).ask(two.i.PrivateIP, 80); got == "" {
		t.Error("a member of the peer's group is not let in")
	}
}

func TestWhatComesOverAPeeringHasASourceInThePeersRanges(t *testing.T) {
	w := newWorld(t)
	vpcs := peers()
	for _, v := range vpcs {
		w.apply(v)
	}
	forger, two := w.peerBox(1, 5), w.peerBox(2, 5)
	// It may use any source in its own VPC, and pretends to be one of the peer's, and of a third VPC.
	forger.i.SourceDestCheck = false
	forger.attach()
	for _, source := range []string{"10.2.0.77", "10.3.0.5", "203.0.113.9"} {
		if got := countFrom(t, two, forger, source); got != 0 {
			t.Errorf("%d packets from %s arrived over the peering", got, source)
		}
	}
	if got := countFrom(t, two, forger, "10.1.0.99"); got != 1 {
		t.Errorf("%d packets from the peer's range arrived", got)
	}
}

func TestAPeeringOutlivesTheManagerAndGoesWhenItIsNamedNoMore(t *testing.T) {
	w := newWorld(t)
	vpcs := peers()
	for _, v := range vpcs {
		w.apply(v)
	}
	one, two, three := w.peerBox(1, 5), w.peerBox(2, 5), w.peerBox(3, 5)
	if err := w.n.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if got := one.ask(two.i.PrivateIP, 80); got == "" {
		t.Error("after the manager's end the peer is not reached")
	}
	// Meanwhile the first peering was deleted. Its routes stay, as black holes.
	vpcs[0].Peerings, vpcs[1].Peerings = nil, vpcs[1].Peerings[1:]
	for _, v := range vpcs {
		w.apply(v)
	}
	if got := one.ask(two.i.PrivateIP, 80); got != "" {
		t.Errorf("over a deleted peering: %q", got)
	}
	if got := three.ask(two.i.PrivateIP, 80); got == "" {
		t.Error("the other peering is gone too")
	}
	// The peer leaves the node, and comes back.
	if err := w.n.RemoveInstance(t.Context(), two.i.Instance); err != nil {
		t.Fatal(err)
	}
	if err := w.n.RemoveVPC(t.Context(), "vpc-2"); err != nil {
		t.Fatal(err)
	}
	if got := three.ask(two.i.PrivateIP, 80); got != "" {
		t.Errorf("a VPC that is not here answers %q", got)
	}
	w.apply(vpcs[1])
	two.attach()
	two.serve(80)
	if got := three.ask(two.i.PrivateIP, 80); got == "" {
		t.Error("the VPC that came back is not reached")
	}
}
