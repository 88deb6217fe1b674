package placement_test

import (
	"math/rand/v2"
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

// Whatever comes in whatever order, no server ever carries two of a spread group, or two partitions of one group, and no
// cluster is in two zones.
func TestRandomPlacementsKeepToTheirGroups(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		servers := make([]placement.Candidate, 1+rnd.IntN(6))
		for n := range servers {
			servers[n] = node("node-"+string(rune('a'+n)), 4+rnd.IntN(28), 16<<10)
			servers[n].Node.Zone = "us-east-1" + string(rune('a'+rnd.IntN(2)))
		}
		groups := []placement.Group{{ID: "pg-s", Strategy: cloud.PlaceSpread}, {ID: "pg-c", Strategy: cloud.PlaceCluster}, {ID: "pg-p", Strategy: cloud.PlacePartition, Partitions: 1 + rnd.IntN(4)}}
		type seat struct {
			group cloud.PlacementGroupID
			node  cloud.NodeID
		}
		held, partitions, zones := map[seat]int{}, map[seat]int{}, map[string]bool{}
		for range 40 {
			r := request(t, []cloud.InstanceType{"t3.nano", "m5.large", "c5.xlarge"}[rnd.IntN(3)])
			r.Zone = []string{"", "us-east-1a", "us-east-1b"}[rnd.IntN(3)]
			g := groups[rnd.IntN(len(groups))]
			if g.Strategy == cloud.PlacePartition {
				g.Partition = rnd.IntN(g.Partitions + 1)
			}
			r.Group = &g
			res := placement.Take(servers, r)
			if res.Node == "" {
				if res.Reason() == "" {
					t.Fatalf("seed %d: ruled out without a reason", seed)
				}
				continue
			}
			at := seat{g.ID, res.Node}
			switch {
			case g.Strategy == cloud.PlaceSpread && held[at] > 0:
				t.Fatalf("seed %d: %s has two of a spread group", seed, res.Node)
			case g.Strategy == cloud.PlacePartition && held[at] > 0 && partitions[at] != res.Partition:
				t.Fatalf("seed %d: %s has the partitions %d and %d", seed, res.Node, partitions[at], res.Partition)
			case g.Strategy == cloud.PlacePartition && (res.Partition < 1 || res.Partition > g.Partitions || g.Partition > 0 && res.Partition != g.Partition):
				t.Fatalf("seed %d: in partition %d of %d, asked for %d", seed, res.Partition, g.Partitions, g.Partition)
			}
			held[at]++
			partitions[at] = res.Partition
			for _, s := range servers {
				if s.Node.ID == res.Node && g.Strategy == cloud.PlaceCluster {
					zones[s.Node.Zone] = true
				}
			}
		}
		if len(zones) > 1 {
			t.Fatalf("seed %d: a cluster is in the zones %v", seed, zones)
		}
	}
}
