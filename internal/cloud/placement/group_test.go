package placement_test

import (
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
)

// in is a request of one instance of a placement group.
func in(t *testing.T, name cloud.InstanceType, strategy cloud.PlacementStrategy, partition int) placement.Request {
	t.Helper()
	r := request(t, name)
	r.Zone = ""
	r.Group = &placement.Group{ID: "pg-1", Name: "g", Strategy: strategy, Partitions: 3, Partition: partition}
	return r
}

func three() []placement.Candidate {
	return []placement.Candidate{node("node-a", 8, 64<<10), node("node-b", 8, 64<<10), node("node-c", 8, 64<<10)}
}

func TestSpreadInstancesNeverShareAServer(t *testing.T) {
	servers, seen := three(), map[cloud.NodeID]bool{}
	for range 3 {
		res := placement.Take(servers, in(t, "t3.nano", cloud.PlaceSpread, 0))
		if res.Node == "" || seen[res.Node] {
			t.Fatalf("placed on %q, which has one of the group", res.Node)
		}
		seen[res.Node] = true
	}
	if res := placement.Place(servers, in(t, "t3.nano", cloud.PlaceSpread, 0)); res.Node != "" || !strings.Contains(res.Reason(), "spread placement group g") {
		t.Errorf("the fourth is on %q: %s", res.Node, res.Reason())
	}
	if res := placement.Place(servers, request(t, "t3.nano")); res.Node == "" {
		t.Error("an instance outside the group finds no server")
	}
}

func TestPartitionsNeverShareAServerAndFillEvenly(t *testing.T) {
	servers, of, filled := three(), map[cloud.NodeID]int{}, map[int]int{}
	for range 9 {
		res := placement.Take(servers, in(t, "t3.nano", cloud.PlacePartition, 0))
		if p, ok := of[res.Node]; res.Node == "" || ok && p != res.Partition {
			t.Fatalf("partition %d is on %s beside partition %d", res.Partition, res.Node, p)
		}
		of[res.Node] = res.Partition
		filled[res.Partition]++
	}
	if len(filled) != 3 || filled[1] != 3 {
		t.Errorf("filled %v", filled)
	}
	one := three()[:1]
	placement.Take(one, in(t, "t3.nano", cloud.PlacePartition, 2))
	if res := placement.Place(one, in(t, "t3.nano", cloud.PlacePartition, 1)); res.Node != "" {
		t.Error("another partition shares the only server")
	}
	if res := placement.Place(one, in(t, "t3.nano", cloud.PlacePartition, 0)); res.Node == "" || res.Partition != 2 {
		t.Errorf("any partition is %d on %q", res.Partition, res.Node)
	}
}

func TestAClusterStaysOnOneServerWhileItFitsAndInOneZoneAlways(t *testing.T) {
	servers := three()
	servers[1].Node.Zone = "us-east-1b"
	servers[2].Load.Add(request(t, "m5.large").Type) // fuller: chosen only for the cluster's sake
	first := in(t, "m5.large", cloud.PlaceCluster, 0)
	first.Zone = "us-east-1a"
	home := placement.Take(servers, first)
	for range 3 {
		if res := placement.Take(servers, in(t, "m5.large", cloud.PlaceCluster, 0)); res.Node != home.Node {
			t.Errorf("placed on %q, not with the others on %s", res.Node, home.Node)
		}
	}
	elsewhere := in(t, "m5.large", cloud.PlaceCluster, 0)
	elsewhere.Zone = "us-east-1b"
	if res := placement.Place(servers, elsewhere); res.Node != "" || !strings.Contains(res.Reason(), "another zone") {
		t.Errorf("placed on %q in another zone: %s", res.Node, res.Reason())
	}
}

func TestRoomOfASpreadGroupIsOneAServerAndLeavesTheCandidatesAlone(t *testing.T) {
	servers := three()
	for range 2 {
		if n, _ := placement.Room(servers, in(t, "t3.nano", cloud.PlaceSpread, 0), 10); n != 3 {
			t.Errorf("room for %d", n)
		}
	}
}
