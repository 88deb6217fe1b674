package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// natIn is a NAT gateway in a subnet of twoTiers.
func (w *world) natIn(subnet cloud.SubnetID, addr string, public byte) NATGateway {
	i := Interface{ID: "eni-0000000000000nat1", VPC: "vpc-t", Subnet: subnet, MAC: "0a:00:0a:07:00:fe", PrivateIP: netip.MustParseAddr(addr)}
	if public != 0 {
		base := w.cfg.PublicPool.Addr().As4()
		i.PublicIP = netip.AddrFrom4([4]byte{base[0], base[1], base[2], public})
	}
	return NATGateway{ID: "nat-00000000000000001", Interface: i}
}

func throughNAT(g NATGateway) Route {
	return Route{Destination: everything, Kind: RouteInterface, Interface: g.Interface.ID}
}

func TestAPrivateSubnetReachesTheWorldThroughANATGatewayAndIsNotReached(t *testing.T) {
	w := newWorld(t)
	g := w.natIn("subnet-vpc-t", "10.7.0.200", 200)
	v := twoTiers(throughNAT(g))
	w.apply(v)
	outside := w.outside(80)
	a, b := w.box("vpc-t", 5, true, "sg-1"), w.privateBox(6)
	a.serve(80)
	b.serve(80)
	if got := b.ask(outside, 80); got != "" {
		t.Errorf("before there is a gateway the outside is reached: %q", got)
	}
	v.NATGateways = []NATGateway{g}
	w.apply(v)
	if got := b.ask(outside, 80); got == "" {
		t.Error("the outside is not reached")
	}
	if got := b.ask(a.i.PublicIP, 80); got != g.Interface.PublicIP.String()+" to 10.7.0.5" {
		t.Errorf("a public address of the same VPC sees %q", got)
	}
	if got := b.ask(a.i.PrivateIP, 80); got != "10.7.16.6 to 10.7.0.5" {
		t.Errorf("within the VPC addresses are translated: %q", got)
	}
	for _, own := range []netip.Addr{g.Interface.PublicIP, b.i.PrivateIP} {
		if got := fromHost(own, 80); got != "" {
			t.Errorf("from outside %s answers %q", own, got)
		}
	}
	if got := a.ask(g.Interface.PrivateIP, 80); got != "" {
		t.Errorf("the gateway itself answers %q", got)
	}
	// The sender's groups hold on the way.
	v.Groups[0].Rules = []cloud.SecurityGroupRule{tcp(false, 80, "0.0.0.0/0"), tcp(true, 443, "0.0.0.0/0")}
	w.apply(v)
	if got := b.ask(outside, 80); got != "" {
		t.Errorf("against the rules of its group it reaches %q", got)
	}
	v.Groups[0].Rules = []cloud.SecurityGroupRule{tcp(false, 80, "0.0.0.0/0"), out()}
	w.apply(v)
	// A manager that is started again keeps it, sweep and all.
	if err := w.n.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.apply(v)
	keep := Keep{VPCs: map[cloud.VPCID]bool{"vpc-t": true}, Instances: map[cloud.InstanceID]bool{a.i.Instance: true, b.i.Instance: true}}
	if err := w.n.Sweep(t.Context(), keep); err != nil {
		t.Fatal(err)
	}
	if got := b.ask(outside, 80); got == "" {
		t.Error("after the manager's end the outside is not reached")
	}
	v.NATGateways = nil
	w.apply(v)
	if got := b.ask(outside, 80); got != "" {
		t.Errorf("without the gateway it reaches %q", got)
	}
	if pinned(w.n.namespaceFiles(cloud.InstanceID(g.ID)).Net) {
		t.Error("the gateway's namespace is left")
	}
}

func TestANATGatewayIsUnderTheACLOfItsSubnet(t *testing.T) {
	w := newWorld(t)
	g := w.natIn("subnet-vpc-t", "10.7.0.200", 200)
	v := twoTiers(throughNAT(g))
	v.NATGateways = []NATGateway{g}
	v.ACLs = []ACL{{ID: "acl-1"}}
	v.Subnets[0].ACL = "acl-1"
	w.apply(v)
	outside, b := w.outside(80), w.privateBox(6)
	if got := b.ask(outside, 80); got != "" {
		t.Errorf("through an ACL that lets nothing pass: %q", got)
	}
	v.ACLs = []ACL{{ID: "acl-1", Entries: []cloud.NetworkACLEntry{entry(1, false, true, cloud.ProtocolTCP, 0, 65535, "0.0.0.0/0"), entry(1, true, true, cloud.ProtocolTCP, 0, 65535, "0.0.0.0/0")}}}
	w.apply(v)
	if got := b.ask(outside, 80); got == "" {
		t.Error("through an ACL that lets it pass the outside is not reached")
	}
}

func TestAPrivateNATGatewayHidesItsClientsBehindItsOwnAddress(t *testing.T) {
	w := newWorld(t)
	g := w.natIn("subnet-vpc-t", "10.7.0.200", 0)
	elsewhere := netip.MustParsePrefix("192.0.2.0/24")
	v := twoTiers(throughNAT(g))
	w.apply(v)
	gate, b := w.unplugged("vpc-t", 5, "sg-1"), w.privateBox(6)
	gate.i.SourceDestCheck = false
	gate.attach()
	far := elsewhere.Addr().Next()
	gate.inside("ip", "addr", "add", far.String()+"/32", "dev", "lo")
	gate.serve(80)
	v.NATGateways = []NATGateway{g}
	v.Subnets[0].Routes = append([]Route{{Destination: elsewhere, Kind: RouteInterface, Interface: gate.i.ID}}, toInternet...)
	w.apply(v)
	if got := b.ask(far, 80); !strings.HasPrefix(got, g.Interface.PrivateIP.String()+" to") {
		t.Errorf("the far end sees %q", got)
	}
	if got := b.ask(w.outside(80), 80); got != "" {
		t.Errorf("without a public address it reaches the internet: %q", got)
	}
}
