package control

import (
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// group makes a placement group and puts instances that wait for a node into it.
func (w *world) group(strategy cloud.PlacementStrategy, partitions int, members ...cloud.InstanceID) {
	w.t.Helper()
	g := cloud.PlacementGroup{ID: cloud.NewID[cloud.PlacementGroupID](w.rand), Name: "g", Strategy: strategy, Partitions: partitions}
	w.update(func(tx *store.Tx) {
		store.Put(tx, store.PlacementGroups, &g)
		for _, id := range members {
			i, _ := store.Get(tx, store.Instances, id)
			i.PlacementGroup, i.GroupName = g.ID, g.Name
			store.Put(tx, store.Instances, i)
		}
	})
}

func (w *world) addNode() {
	w.t.Helper()
	n := w.node
	n.ID = cloud.NewID[cloud.NodeID](w.rand)
	w.update(func(tx *store.Tx) { store.Put(tx, store.Nodes, &n) })
}

func TestTheSchedulerSpreadsAndGivesUpWhatFindsNoServer(t *testing.T) {
	w := newWorld(t)
	w.addNode()
	a, b, c := w.launch("t3.nano", 10), w.launch("t3.nano", 11), w.launch("t3.nano", 12)
	w.group(cloud.PlaceSpread, 0, a, b, c)
	w.reconcile()
	placed := map[cloud.NodeID]bool{}
	given := 0
	for _, id := range []cloud.InstanceID{a, b, c} {
		i := w.instance(id)
		if i.Node == "" {
			given++
			if !strings.Contains(i.StateReason.Message, "spread placement group g") {
				t.Errorf("given up because of %q", i.StateReason.Message)
			}
		}
		placed[i.Node] = true
	}
	if given != 1 || len(placed) != 3 { // two nodes, and none
		t.Errorf("%d were given up, the others are on %v", given, placed)
	}
}

func TestTheSchedulerNotesThePartition(t *testing.T) {
	w := newWorld(t)
	w.addNode()
	a, b := w.launch("t3.nano", 10), w.launch("t3.nano", 11)
	w.group(cloud.PlacePartition, 2, a, b)
	w.reconcile()
	if x, y := w.instance(a), w.instance(b); x.Partition+y.Partition != 3 || x.Node == y.Node {
		t.Errorf("partition %d is on %s, partition %d on %s", x.Partition, x.Node, y.Partition, y.Node)
	}
}

func TestAFleetIsForgottenAfterItsInstances(t *testing.T) {
	w := newWorld(t)
	id := w.launch("t3.nano", 10)
	w.update(func(tx *store.Tx) {
		for _, f := range []cloud.Fleet{{ID: "fleet-1", Groups: []cloud.FleetGroup{{Instances: []cloud.InstanceID{id}}}, Created: start}, {ID: "fleet-2", Created: start}, {ID: "fleet-3", Created: start.Add(FleetsFor)}} {
			store.Put(tx, store.Fleets, &f)
		}
	})
	r := Reconcilers{Store: w.store, Now: func() time.Time { return start.Add(FleetsFor + time.Minute) }}
	left := func() (ids string) {
		if err := r.clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, f := range store.List(w.store.View(), store.Fleets) {
			ids += string(f.ID) + " "
		}
		return ids
	}
	if got := left(); got != "fleet-1 fleet-3 " {
		t.Errorf("%s are left", got)
	}
	w.update(func(tx *store.Tx) { store.Delete(tx, store.Instances, id) })
	if got := left(); got != "fleet-3 " {
		t.Errorf("%s are left", got)
	}
}
