package control

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestANodeIsToldTheRangesOfPrefixLists(t *testing.T) {
	s := store.OpenMemory()
	t.Cleanup(func() { s.Close() })
	change := func(fn func(tx *store.Tx)) {
		t.Helper()
		if err := s.Update(t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	ranges := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	version := func(tx *store.Tx, number int64, list ...string) {
		v := cloud.PrefixListVersion{List: "pl-1", Number: number}
		for _, p := range ranges(list...) {
			v.Entries = append(v.Entries, cloud.PrefixListEntry{Prefix: p})
		}
		store.Put(tx, store.PrefixLists, &cloud.PrefixList{ID: "pl-1", Version: number, Oldest: 1})
		store.Put(tx, store.PrefixListVersions, &v)
	}
	table := &cloud.RouteTable{ID: "rtb-1", VPC: "vpc-1", Routes: []cloud.Route{
		{PrefixList: "pl-1", Target: "eni-1"}, {Destination: netip.MustParsePrefix("192.0.2.0/24"), Target: "eni-2"}}}
	change(func(tx *store.Tx) {
		store.Put(tx, store.VPCs, &cloud.VPC{ID: "vpc-1"})
		store.Put(tx, store.SecurityGroups, &cloud.SecurityGroup{ID: "sg-1", VPC: "vpc-1", Rules: []cloud.SecurityGroupRule{{PrefixList: "pl-1"}, {CIDR: cloud.AllIPv4}, {PrefixList: "pl-1", Egress: true}}})
		version(tx, 1, "192.0.2.0/24", "203.0.113.0/24")
	})
	told := func(lists []netip.Prefix, destinations ...string) {
		t.Helper()
		view := s.View()
		if got, want := vpcOf(view, "vpc-1", "node-1").PrefixLists, (map[cloud.PrefixListID][]netip.Prefix{"pl-1": lists}); !reflect.DeepEqual(got, want) {
			t.Errorf("the node is told the lists %v, want %v", got, want)
		}
		var want []agentrpc.Route
		for _, p := range ranges(destinations...) { // the interfaces are not there
			want = append(want, agentrpc.Route{Destination: p, Kind: agentrpc.RouteBlackhole})
		}
		if got := routesOf(view, &cloud.VPC{ID: "vpc-1"}, table); !reflect.DeepEqual(got, want) {
			t.Errorf("the node is told the routes %v, want %v", got, want)
		}
	}
	told(ranges("192.0.2.0/24", "203.0.113.0/24"), "192.0.2.0/24", "203.0.113.0/24")
	change(func(tx *store.Tx) { version(tx, 2, "198.51.100.0/24") })
	told(ranges("198.51.100.0/24"), "192.0.2.0/24", "198.51.100.0/24")
	change(func(tx *store.Tx) { version(tx, 3) })
	told(nil, "192.0.2.0/24")
}
