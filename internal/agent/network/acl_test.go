package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func entry(number int, egress, allow bool, protocol cloud.Protocol, from, to int, prefix string) cloud.NetworkACLEntry {
	return cloud.NetworkACLEntry{Number: number, Egress: egress, Allow: allow, Protocol: protocol, FromPort: from, ToPort: to, Prefix: netip.MustParsePrefix(prefix)}
}

func TestAnACLThatLetsAllPassCostsNothing(t *testing.T) {
	v := vpcOf("vpc-a", Group{ID: "sg-all"})
	i := []Interface{{ID: "eni-1", Subnet: v.Subnets[0].ID, PrivateIP: netip.MustParseAddr("10.7.0.5"), Groups: []cloud.SecurityGroupID{"sg-all"}}}
	plain := compile(v, i)
	v.ACLs = []ACL{{ID: "acl-1", Entries: []cloud.NetworkACLEntry{entry(200, false, false, cloud.ProtocolAll, -1, -1, "0.0.0.0/0"),
		entry(100, false, true, cloud.ProtocolAll, -1, -1, "0.0.0.0/0"), entry(100, true, true, cloud.ProtocolAll, -1, -1, "0.0.0.0/0")}}}
	v.Subnets[0].ACL = "acl-1"
	if script := compile(v, i).from(plain); script != "" {
		t.Errorf("it adds\n%s", script)
	}
}

// Two subnets: in a the servers, in b the clients.
func TestACLsJudgeEachPacketInTheOrderOfTheirEntries(t *testing.T) {
	w := newWorld(t)
	v := vpcOf("vpc-a", Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{{Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}, out()}})
	v.Subnets = append(v.Subnets, Subnet{ID: "subnet-b", CIDR: netip.MustParsePrefix("10.7.16.0/20")})
	set := func(subnet int, entries ...cloud.NetworkACLEntry) {
		t.Helper()
		id := cloud.NetworkACLID("acl-" + string(v.Subnets[subnet].ID))
		v.Subnets[subnet].ACL = id
		v.ACLs = append(slices.DeleteFunc(slices.Clone(v.ACLs), func(a ACL) bool { return a.ID == id }), ACL{id, entries})
		w.apply(v)
	}
	w.apply(v)
	server, neighbour := w.box("vpc-a", 5, true, "sg-all"), w.box("vpc-a", 6, false, "sg-all")
	client := w.box("vpc-a", 7, false, "sg-all")
	client.i.PrivateIP, client.i.Subnet = netip.MustParseAddr("10.7.16.7"), "subnet-b"
	if err := w.n.Detach(t.Context(), client.i.Instance, client.i.ID); err != nil {
		t.Fatal(err)
	}
	client.attach()
	server.serve(80)
	server.serve(81)
	reached := func(want ...string) {
		t.Helper()
		var got []string
		for _, c := range []struct {
			name string
			from *box
			port int
		}{{"client:80", client, 80}, {"client:81", client, 81}, {"neighbour:80", neighbour, 80}} {
			if c.from.ask(server.i.PrivateIP, c.port) != "" {
				got = append(got, c.name)
			}
		}
		if strings.HasSuffix(fromHost(server.i.PublicIP, 80), "to 10.7.0.5") {
			got = append(got, "world:80")
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("reached by %q, want %q", got, want)
		}
	}
	all := func(egress bool) cloud.NetworkACLEntry {
		return entry(32000, egress, true, cloud.ProtocolAll, -1, -1, "0.0.0.0/0")
	}
	reached("client:80", "client:81", "neighbour:80", "world:80")
	set(0, all(true), all(false))
	reached("client:80", "client:81", "neighbour:80", "world:80")
	// The lower number wins, in whatever order they are told.
	set(0, all(true), all(false), entry(100, false, false, cloud.ProtocolTCP, 81, 81, "10.7.0.0/16"), entry(99, false, true, cloud.ProtocolTCP, 81, 81, "10.7.16.8/32"))
	reached("client:80", "neighbour:80", "world:80")
	// Answers need an entry of their own: nothing is remembered.
	set(0, entry(100, false, true, cloud.ProtocolTCP, 80, 80, "0.0.0.0/0"))
	reached("neighbour:80")
	set(0, entry(100, false, true, cloud.ProtocolTCP, 80, 80, "0.0.0.0/0"), entry(100, true, true, cloud.ProtocolTCP, 1024, 65535, "10.7.16.0/20"))
	reached("client:80", "neighbour:80")
	// The other subnet's ACL has its say too, in both directions.
	set(1, entry(100, true, true, cloud.ProtocolTCP, 80, 80, "10.7.0.0/16"))
	reached("neighbour:80")
	set(1, entry(100, true, true, cloud.ProtocolTCP, 80, 80, "10.7.0.0/16"), entry(100, false, true, cloud.ProtocolTCP, 1024, 65535, "10.7.0.5/32"))
	reached("client:80", "neighbour:80")
	// An ACL without entries lets nothing pass, save within the subnet.
	set(0)
	reached("neighbour:80")
	v.ACLs, v.Subnets[0].ACL, v.Subnets[1].ACL = nil, "", ""
	w.apply(v)
	reached("client:80", "client:81", "neighbour:80", "world:80")
}
