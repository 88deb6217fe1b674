package network

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// twoTiers is a VPC with a subnet that leads to the internet and one that doesn't, whose boxes are 10.7.0.x and 10.7.16.x.
func twoTiers(private ...Route) VPC {
	v := vpcOf("vpc-t", Group{ID: "sg-1", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "0.0.0.0/0"), out()}})
	v.Subnets = append(v.Subnets, Subnet{ID: "subnet-private", CIDR: netip.MustParsePrefix("10.7.16.0/20"), Routes: private})
	return v
}

func (w *world) privateBox(last byte) *box {
	b := w.unplugged("vpc-t", last, "sg-1")
	b.i.Subnet, b.i.PrivateIP = "subnet-private", netip.AddrFrom4([4]byte{10, 7, 16, last})
	b.attach()
	return b
}

func TestEachSubnetHasItsOwnWayOut(t *testing.T) {
	w := newWorld(t)
	w.apply(twoTiers())
	outside := w.outside(80)
	a, b := w.box("vpc-t", 5, true, "sg-1"), w.privateBox(6)
	b.serve(80)
	if got := a.ask(b.i.PrivateIP, 80); !strings.HasSuffix(got, "to 10.7.16.6") {
		t.Errorf("from one subnet to the other: %q", got)
	}
	if got := a.ask(outside, 80); got == "" {
		t.Error("the public subnet does not reach the outside")
	}
	if got := b.ask(outside, 80); got != "" {
		t.Errorf("the private subnet reaches the outside: %q", got)
	}
	// The subnet gets a route, and loses it again; an address of its own comes and goes with it.
	base := w.cfg.PublicPool.Addr().As4()
	b.i.PublicIP = netip.AddrFrom4([4]byte{base[0], base[1], base[2], 77})
	b.attach()
	if got := fromHost(b.i.PublicIP, 80); got != "" {
		t.Errorf("a public address in a private subnet answers: %q", got)
	}
	w.apply(twoTiers(toInternet...))
	if got := b.ask(outside, 80); got == "" {
		t.Error("with a route to the internet it does not reach the outside")
	}
	if got := fromHost(b.i.PublicIP, 80); got == "" {
		t.Error("with a route to the internet its public address does not answer")
	}
	w.apply(twoTiers(Route{Destination: everything, Kind: RouteBlackhole}))
	if got := b.ask(outside, 80); got != "" {
		t.Errorf("past a black hole it reaches the outside: %q", got)
	}
	if got := fromHost(b.i.PublicIP, 80); got != "" {
		t.Errorf("without its route the public address still answers: %q", got)
	}
	if got := a.ask(outside, 80); got == "" {
		t.Error("the public subnet lost its way")
	}
}

func TestRoutesOutliveTheManagerAndFollowWhatChangedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.apply(twoTiers(toInternet...))
	outside := w.outside(80)
	a := w.box("vpc-t", 5, true, "sg-1")
	if err := w.n.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if got := a.ask(outside, 80); got == "" {
		t.Error("after the manager's end it does not reach the outside")
	}
	v := twoTiers()
	v.Subnets = v.Subnets[:1]
	w.apply(v)
	if got := a.ask(outside, 80); got == "" {
		t.Error("with the next manager it does not reach the outside")
	}
	handle, err := w.n.known("vpc-t")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := handle.nl.RuleList(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.Table == int(numberOf("subnet-private")) {
			t.Error("the way to a former subnet's routes is left")
		}
	}
}

func TestARouteToAnInterfaceNeedsOneThatForwards(t *testing.T) {
	w := newWorld(t)
	elsewhere := netip.MustParsePrefix("192.0.2.0/24")
	v := twoTiers()
	w.apply(v)
	gate, b := w.box("vpc-t", 5, false, "sg-1"), w.privateBox(6)
	v.Subnets[1].Routes = []Route{{Destination: elsewhere, Kind: RouteInterface, Interface: gate.i.ID}}
	w.apply(v)
	far := elsewhere.Addr().Next()
	gate.inside("ip", "addr", "add", far.String()+"/32", "dev", "lo")
	gate.serve(80)
	if got := b.ask(far, 80); got != "" {
		t.Errorf("an interface that checks addresses forwards: %q", got)
	}
	gate.i.SourceDestCheck = false
	gate.attach()
	if got := b.ask(far, 80); got == "" {
		t.Error("the route does not lead to the interface")
	}
	if err := w.n.Detach(t.Context(), gate.i.Instance, gate.i.ID); err != nil {
		t.Fatal(err)
	}
	if got := b.ask(far, 80); got != "" {
		t.Errorf("a route to an interface that went leads to %q", got)
	}
	gate.attach()
	gate.inside("ip", "addr", "replace", far.String()+"/32", "dev", "lo")
	if got := b.ask(far, 80); got == "" {
		t.Error("the route does not lead to the interface that came back")
	}
}

func TestWhatIsMeantForTheVPCNeverLeavesIt(t *testing.T) {
	w := newWorld(t)
	v := twoTiers()
	v.CIDRs = append(v.CIDRs, netip.MustParsePrefix("10.9.0.0/24"))
	w.apply(v)
	a := w.box("vpc-t", 5, true, "sg-1")
	for _, unused := range []string{"10.7.99.1", "10.9.0.7"} {
		w.outsideAt(netip.MustParseAddr(unused), 80)
		if got := a.ask(netip.MustParseAddr(unused), 80); got != "" {
			t.Errorf("%s is answered by %q", unused, got)
		}
	}
}

var outsides atomic.Int32

// outside is a host beyond the node, which answers on a port.
func (w *world) outside(port int) netip.Addr {
	w.t.Helper()
	addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(outsides.Add(1))})
	w.outsideAt(addr, port)
	return addr
}

func (w *world) outsideAt(addr netip.Addr, port int) {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	eth, here, listen := w.beyond()
	near := &net.IPNet{IP: net.IPv4(169, 254, 77, byte(outsides.Load())), Mask: net.CIDRMask(32, 32)}
	must(netlink.AddrAdd(here, &netlink.Addr{IPNet: near}))
	must(eth.AddrAdd(eth.link, addressOf(addr)))
	must(eth.RouteReplace(&netlink.Route{LinkIndex: eth.link.Attrs().Index, Dst: near, Scope: netlink.SCOPE_LINK}))
	must(eth.RouteReplace(&netlink.Route{LinkIndex: eth.link.Attrs().Index, Dst: ipNet(net.IPv4zero.To4(), 0, 32), Gw: near.IP}))
	must(netlink.RouteReplace(&netlink.Route{LinkIndex: here.Attrs().Index, Dst: ipNet(addr.AsSlice(), 32, 32), Scope: netlink.SCOPE_LINK}))
	listen("tcp4", port, addr)
}

// farEnd is the other end of a link of the host's.
type farEnd struct {
	*netlink.Handle
	link netlink.Link
}

// beyond is a namespace at the end of a link of the host's, and what lets something answer in it.
func (w *world) beyond() (eth farEnd, here netlink.Link, listen func(network string, port int, addr netip.Addr)) {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	ns, err := newNetNS()
	must(err)
	w.t.Cleanup(func() { ns.Close() })
	eth.Handle, err = netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	must(err)
	w.t.Cleanup(eth.Close)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("no%s-%d", w.cfg.CloudID, outsides.Add(1))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd()))}))
	here, err = netlink.LinkByName(attrs.Name)
	must(err)
	w.t.Cleanup(func() { netlink.LinkDel(here) })
	eth.link, err = eth.LinkByName("eth0")
	must(err)
	lo, err := eth.LinkByName("lo")
	must(err)
	must(eth.LinkSetUp(lo))
	must(eth.LinkSetUp(eth.link))
	must(netlink.LinkSetUp(here))
	return eth, here, func(network string, port int, addr netip.Addr) {
		w.t.Helper()
		var l net.Listener
		must(within(ns, func() (err error) {
			l, err = net.Listen(network, fmt.Sprintf(":%d", port))
			return err
		}))
		w.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "outside to %s\n", addr)
				c.Close()
			}
		}()
	}
}

// inside runs a command in the box's network namespace.
func (b *box) inside(args ...string) {
	b.w.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := b.w.n.inside(b.i.Instance, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		b.w.t.Fatalf("%v: %v: %s", args, err, out.String())
	}
}
