package network

import (
	"net/netip"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestFlowsOfLoggedInterfacesAreCountedByTheirVerdict(t *testing.T) {
	w := newWorld(t)
	v := vpcOf("vpc-a", Group{ID: "sg-web", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "10.7.0.0/16"), out(),
		{Protocol: cloud.ProtocolICMP, FromPort: -1, ToPort: -1, CIDR: everything}}}, Group{ID: "sg-mute"})
	w.apply(v)
	server, client, mute := w.box("vpc-a", 5, false, "sg-web"), w.box("vpc-a", 6, false, "sg-web"), w.box("vpc-a", 7, false, "sg-mute")
	server.serve(80)
	v.Logged = []Logged{{Interface: server.i.ID}, {Interface: mute.i.ID}}
	w.apply(v)
	if client.ask(server.i.PrivateIP, 80) == "" {
		t.Fatal("the server is not reached")
	}
	client.ask(server.i.PrivateIP, 81)
	mute.ask(server.i.PrivateIP, 80)
	server.run("ping", "-c", "2", client.i.PrivateIP.String())
	flows, err := w.n.Flows(t.Context(), "vpc-a")
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		at       cloud.InterfaceID
		accepted bool
		from, to netip.Addr
		port     uint16 // the well-known one
		answer   bool
	}
	got := map[seen]uint64{}
	pings := uint64(0)
	for _, f := range flows {
		if f.Protocol == 1 {
			pings += f.Packets
			continue
		}
		if f.Protocol != 6 || f.Packets == 0 || f.Bytes < 40*f.Packets {
			t.Errorf("counted %+v", f)
		}
		s := seen{f.Interface, f.Accepted, f.Source, f.Destination, f.TargetPort, false}
		if f.FromPort < 100 {
			s.port, s.answer = f.FromPort, true
		}
		got[s] += f.Packets
	}
	a, b, c := server.i.PrivateIP, client.i.PrivateIP, mute.i.PrivateIP
	for _, want := range []seen{{server.i.ID, true, b, a, 80, false}, {server.i.ID, true, a, b, 80, true}, {server.i.ID, false, b, a, 81, false}, {mute.i.ID, false, c, a, 80, false}} {
		if got[want] == 0 {
			t.Errorf("%+v is not counted", want)
		}
		delete(got, want)
	}
	if len(got) > 0 {
		t.Errorf("counted besides: %+v", got)
	}
	if pings != 4 {
		t.Errorf("%d packets of two pings and their answers are counted", pings)
	}
	// Changing groups keeps the counts.
	before := len(flows)
	v.Groups = append(v.Groups, Group{ID: "sg-new"})
	w.apply(v)
	if flows, err := w.n.Flows(t.Context(), "vpc-a"); err != nil || len(flows) != before {
		t.Errorf("%d flows, then %d, %v", before, len(flows), err)
	}
}

func FuzzFlowListings(f *testing.F) {
	f.Add([]byte(`{"nftables": [{"metainfo": {}}, {"set": {"elem": [{"elem": {"val": {"concat": ["e1", "10.0.0.1", "10.0.0.2", 80, 443]}, "counter": {"packets": 7, "bytes": 99}}}]}}]}`), uint8(6))
	f.Add([]byte(`{"nftables": [{"set": {"elem": [{"elem": {"val": {"concat": ["e1", "10.0.0.1", "10.0.0.2", 1]}}}]}}]}`), uint8(0))
	f.Fuzz(func(t *testing.T, listing []byte, protocol uint8) {
		flows, err := parseFlows(listing, protocol, true, map[string]cloud.InterfaceID{"e1": "eni-1"})
		if err != nil && len(flows) > 0 {
			t.Error("flows and an error")
		}
	})
}
