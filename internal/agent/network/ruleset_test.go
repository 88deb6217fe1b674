package network

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// randomFilter is a VPC with groups that refer to each other, and interfaces that share addresses now and then.
func randomFilter(rnd *rand.Rand) (VPC, []Interface) {
	group := func(n int) cloud.SecurityGroupID { return cloud.SecurityGroupID(fmt.Sprintf("sg-%017x", n)) }
	v := VPC{ID: "vpc-1", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16")}, Gateway: rnd.IntN(4) > 0,
		Subnets: []Subnet{{ID: "subnet-1", CIDR: netip.MustParsePrefix("10.7.0.0/20"), Routes: toInternet}, {ID: "subnet-2", CIDR: netip.MustParsePrefix("10.7.16.0/20")}}}
	for n := range rnd.IntN(3) {
		ranges := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(20 + n), 0, 0}), 16), netip.MustParsePrefix("fd00:7::/56")}
		v.Peerings = append(v.Peerings, Peering{ID: cloud.PeeringID(fmt.Sprintf("pcx-%017x", n)), Peer: "vpc-2", Ranges: ranges[:1+rnd.IntN(2)]})
	}
	if rnd.IntN(3) > 0 {
		v.CIDRs = append(v.CIDRs, netip.MustParsePrefix("fd00:8::/56"))
		v.Subnets[1].Routes = append(v.Subnets[1].Routes, Route{Destination: netip.PrefixFrom(netip.IPv6Unspecified(), rnd.IntN(3)), Kind: RouteKind(rnd.IntN(5))})
		v.Subnets[0].Routes = append(slices.Clone(v.Subnets[0].Routes), Route{Destination: everything6, Kind: RouteKind(rnd.IntN(5))})
	}
	for n := range rnd.IntN(2) {
		v.NATGateways = append(v.NATGateways, NATGateway{ID: cloud.NATGatewayID(fmt.Sprintf("nat-%017x", n)), Interface: Interface{ID: cloud.InterfaceID(fmt.Sprintf("eni-%016xf", n)),
			Subnet: v.Subnets[rnd.IntN(2)].ID, PrivateIP: netip.AddrFrom4([4]byte{10, 7, 0, byte(250 + n)}), PublicIP: netip.AddrFrom4([4]byte{198, 18, 0, byte(250 + n)})}})
	}
	for n := range 2 {
		acl := ACL{ID: cloud.NetworkACLID(fmt.Sprintf("acl-%d", n))}
		for number := range rnd.IntN(4) {
			acl.Entries = append(acl.Entries, cloud.NetworkACLEntry{Number: 10 - number, Egress: rnd.IntN(2) == 0, Allow: rnd.IntN(2) == 0, FromPort: 8, ToPort: 80,
				Protocol: []cloud.Protocol{cloud.ProtocolAll, cloud.ProtocolTCP, cloud.ProtocolICMP, cloud.ProtocolICMPv6}[rnd.IntN(4)],
				Prefix:   []netip.Prefix{cloud.AllIPv4, cloud.AllIPv6, netip.MustParsePrefix("10.0.0.0/8")}[rnd.IntN(3)]})
		}
		v.ACLs = append(v.ACLs, acl)
	}
	if rnd.IntN(2) == 0 {
		v.Logged = []Logged{{}, {Subnet: "subnet-2"}, {Interface: "eni-00000000000000001"}}[:1+rnd.IntN(3)]
	}
	for n := range v.Subnets {
		v.Subnets[n].ACL = []cloud.NetworkACLID{"", "acl-0", "acl-1", "acl-unknown"}[rnd.IntN(4)]
	}
	v.PrefixLists = map[cloud.PrefixListID][]netip.Prefix{}
	for n := range 2 { // the third one is not known
		var list []netip.Prefix
		for range rnd.IntN(6) {
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rnd.IntN(3)), byte(rnd.IntN(3)), 0}), 8*rnd.IntN(5)).Masked(),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, byte(rnd.IntN(3))}), 16*rnd.IntN(9)).Masked())
		}
		v.PrefixLists[cloud.PrefixListID(fmt.Sprintf("pl-%d", n))] = list
	}
	for n := range 4 {
		if rnd.IntN(4) == 0 {
			continue
		}
		g := Group{ID: group(n)}
		for range rnd.IntN(4) {
			r := cloud.SecurityGroupRule{Egress: rnd.IntN(2) == 0, Protocol: []cloud.Protocol{cloud.ProtocolAll, cloud.ProtocolTCP, cloud.ProtocolUDP, cloud.ProtocolICMP, cloud.ProtocolICMPv6, 47}[rnd.IntN(6)], FromPort: -1, ToPort: -1}
			if r.Protocol == cloud.ProtocolTCP || r.Protocol == cloud.ProtocolUDP {
				r.FromPort = rnd.IntN(1000)
				r.ToPort = r.FromPort + rnd.IntN(100)
			}
			switch rnd.IntN(5) {
			case 0, 1:
				r.Group = group(rnd.IntN(5))
			case 4:
				r.PrefixList = cloud.PrefixListID(fmt.Sprintf("pl-%d", rnd.IntN(3)))
			case 2:
				r.CIDR = netip.PrefixFrom(netip.MustParseAddr("fd00:8::"), 8*rnd.IntN(9)).Masked()
			default:
				r.CIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rnd.IntN(3)), 0, 0}), 8*rnd.IntN(4)).Masked()
			}
			g.Rules = append(g.Rules, r)
		}
		for n := range rnd.IntN(5) {
			g.Members = append(g.Members, netip.AddrFrom4([4]byte{10, 7, byte(n), byte(rnd.IntN(3))}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 8, 15: byte(n)}))
		}
		v.Groups = append(v.Groups, g)
	}
	var list []Interface
	for n := range 6 {
		if rnd.IntN(3) == 0 {
			continue
		}
		i := Interface{ID: cloud.InterfaceID(fmt.Sprintf("eni-%017x", n)), Subnet: v.Subnets[rnd.IntN(2)].ID, PrivateIP: netip.AddrFrom4([4]byte{10, 7, 1, byte(n)}), SourceDestCheck: rnd.IntN(4) > 0}
		if rnd.IntN(2) == 0 {
			i.PublicIP = netip.AddrFrom4([4]byte{198, 18, 0, byte(rnd.IntN(4))})
		}
		for k := range rnd.IntN(3) {
			i.IPv6 = append(i.IPv6, netip.AddrFrom16([16]byte{0xfd, 0, 0, 8, 14: byte(k), 15: byte(n)}))
			i.Secondary = append(i.Secondary, Address{Private: netip.AddrFrom4([4]byte{10, 7, 2, byte(4*n + k)})})
			if rnd.IntN(2) == 0 {
				i.Secondary[k].Public = netip.AddrFrom4([4]byte{198, 18, 1, byte(rnd.IntN(4))})
			}
		}
		for g := range 4 {
			if rnd.IntN(3) == 0 {
				i.Groups = append(i.Groups, group(g))
			}
		}
		if len(i.Groups) == 0 {
			i.Groups = []cloud.SecurityGroupID{group(0)}
		}
		admit(&list, i)
	}
	return v, list
}

// listedParts is what the kernel has: each chain in whole, each set, and each element, whose order says nothing.
func listedParts(t *testing.T, ns *os.File) map[string]bool {
	t.Helper()
	parts := map[string]bool{}
	for _, f := range []family{inet4, inet6} {
		var out bytes.Buffer
		cmd := exec.Command("nft", "-n", "list", "ruleset", f.word)
		cmd.Stdout = &out
		if err := within(ns, cmd.Start); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(out.String(), "\n\t}\n") {
			block = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(block), "table "+f.table+" {")) // the first one carries it
			head, elements, isSet := strings.Cut(block, "elements = {")
			head = f.word + " " + head
			parts[head] = true
			if isSet {
				for _, e := range strings.Split(strings.TrimRight(elements, "} \n\t"), ",") {
					parts[head+strings.TrimSpace(e)] = true
				}
			}
		}
	}
	return parts
}

func TestTransactionsLeadToTheFilterThatAFreshStartMakes(t *testing.T) {
	const rounds, steps = 5, 12
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range rounds {
		changed, err := newNetNS()
		if err != nil {
			t.Fatal(err)
		}
		defer changed.Close()
		held := &filter{v4: newRuleset(inet4)}
		if err := nft(t.Context(), changed, held.whole()); err != nil {
			t.Fatal(err)
		}
		for range steps {
			next := compile(randomFilter(rnd))
			if script := next.from(held); script != "" {
				if err := nft(t.Context(), changed, script); err != nil {
					t.Fatalf("%v\n%s", err, script)
				}
			}
			held = next
			if again := next.from(held); again != "" {
				t.Fatalf("a ruleset differs from itself:\n%s", again)
			}
		}
		fresh, err := newNetNS()
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		if err := nft(t.Context(), fresh, held.whole()); err != nil {
			t.Fatal(err)
		}
		have := listedParts(t, changed)
		for part := range listedParts(t, fresh) {
			if !have[part] {
				t.Errorf("the changed filter lacks:\n%s", part)
			}
			delete(have, part)
		}
		for part := range have {
			t.Errorf("the changed filter has too much:\n%s", part)
		}
	}
}

func TestAPublicAddressMovesBeforeItsFormerHolderIsTold(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-1", Group{ID: "sg-1", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "0.0.0.0/0"), out()}}))
	a, b := w.box("vpc-1", 10, true, "sg-1"), w.box("vpc-1", 11, true, "sg-1")
	b.i.PublicIP = a.i.PublicIP
	b.attach()
	b.serve(80)
	if got := fromHost(b.i.PublicIP, 80); !strings.HasSuffix(got, "to 10.7.0.11") {
		t.Errorf("the address does not lead to its new holder: %q", got)
	}
	a.i.PublicIP = netip.Addr{}
	a.attach()
	if got := fromHost(b.i.PublicIP, 80); !strings.HasSuffix(got, "to 10.7.0.11") {
		t.Errorf("the address is lost when its former holder is told: %q", got)
	}
}

func TestAFilterThatSomebodyElseChangedIsMadeAgain(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-1", Group{ID: "sg-1", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "0.0.0.0/0"), out()}}))
	a := w.box("vpc-1", 10, true, "sg-1")
	a.serve(80)
	v, err := w.n.known("vpc-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := nft(t.Context(), v.ns, "flush ruleset\n"); err != nil {
		t.Fatal(err)
	}
	w.box("vpc-1", 11, false, "sg-1")
	if got := fromHost(a.i.PublicIP, 80); got == "" {
		t.Error("the older interface is not let in again")
	}
}
