package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// model is what the store should hold: instances by id.
type model map[cloud.InstanceID]*cloud.Instance

func (m model) list(match func(*cloud.Instance) bool) []*cloud.Instance {
	var out []*cloud.Instance
	for _, id := range slices.Sorted(maps.Keys(m)) {
		if match(m[id]) {
			out = append(out, m[id])
		}
	}
	return out
}

// check compares all that a reader shows with the model.
func (m model) check(r store.Reader) error {
	all := func(*cloud.Instance) bool { return true }
	if got, want := store.List(r, store.Instances), m.list(all); !same(got, want) {
		return fmt.Errorf("store.List: %s, want %s", names(got), names(want))
	}
	for n := range modelIDs {
		id := modelID(n)
		got, ok := store.Get(r, store.Instances, id)
		if want, there := m[id]; ok != there || ok && !reflect.DeepEqual(got, want) {
			return fmt.Errorf("store.Get %s: %+v, want %+v", id, got, want)
		}
	}
	for n := range modelNodes {
		node := modelNode(n)
		got := store.ListBy(r, store.InstancesByNode, node)
		want := m.list(func(i *cloud.Instance) bool { return node != "" && i.Node == node })
		if !same(got, want) {
			return fmt.Errorf("store.ListBy node %q: %s, want %s", node, names(got), names(want))
		}
	}
	return nil
}

func same(a, b []*cloud.Instance) bool {
	return slices.EqualFunc(a, b, func(x, y *cloud.Instance) bool { return reflect.DeepEqual(x, y) })
}

func names(list []*cloud.Instance) string {
	var out []string
	for _, i := range list {
		out = append(out, fmt.Sprintf("%s@%s#%d", i.ID, i.Node, i.Boot))
	}
	return fmt.Sprint(out)
}

const modelIDs, modelNodes = 12, 4

func modelID(n int) cloud.InstanceID { return cloud.InstanceID(fmt.Sprintf("i-%02d", n)) }

// modelNode is one of a few nodes, the first of them none.
func modelNode(n int) cloud.NodeID {
	if n == 0 {
		return ""
	}
	return cloud.NodeID(fmt.Sprintf("node-%d", n))
}

// testAgainstModel does random transactions to the store and to a map, and compares what the
// transaction sees in the middle, what the view shows after, and that old views stay.
func testAgainstModel(t *testing.T, s *store.Store) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	abort := errors.New("abort")
	held := model{}
	type moment struct {
		view *store.View
		held model
	}
	var moments []moment
	for step := range 150 {
		next := maps.Clone(held)
		failing := rnd.IntN(5) == 0
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			for range rnd.IntN(6) {
				id := modelID(rnd.IntN(modelIDs))
				i := &cloud.Instance{ID: id, Node: modelNode(rnd.IntN(modelNodes)), Boot: rnd.IntN(1000)}
				_, there := next[id]
				switch rnd.IntN(4) {
				case 0:
					if store.Delete(tx, store.Instances, id) != there {
						return fmt.Errorf("store.Delete of %s disagrees with %v", id, there)
					}
					delete(next, id)
				case 1:
					if err := store.Insert(tx, store.Instances, i); (err != nil) != there {
						return fmt.Errorf("store.Insert of %s, there %v: %w", id, there, err)
					}
					if !there {
						next[id] = i
					}
				case 2:
					store.Put(tx, store.Instances, i)
					next[id] = i
				case 3:
					if err := next.check(tx); err != nil {
						return fmt.Errorf("in the transaction: %w", err)
					}
				}
			}
			if failing {
				return abort
			}
			return next.check(tx)
		})
		switch {
		case failing && err == abort:
		case err != nil:
			t.Fatalf("seed %d, step %d: %v", seed, step, err)
		default:
			held = next
		}
		v := s.View()
		if err := held.check(v); err != nil {
			t.Fatalf("seed %d, after step %d: %v", seed, step, err)
		}
		moments = append(moments, moment{v, held})
	}
	for step, m := range moments {
		if err := m.held.check(m.view); err != nil {
			t.Fatalf("seed %d: the view of step %d has changed: %v", seed, step, err)
		}
	}
}

// testIndexes checks indexes with several values an object.
func testIndexes(t *testing.T, s *store.Store) {
	groups := func(ids ...cloud.SecurityGroupID) *cloud.Interface {
		return &cloud.Interface{ID: "eni-1", Groups: ids}
	}
	for _, step := range []struct {
		eni  *cloud.Interface
		find map[cloud.SecurityGroupID]int
	}{
		{groups("sg-1", "sg-2", "sg-1"), map[cloud.SecurityGroupID]int{"sg-1": 1, "sg-2": 1, "sg-3": 0, "sg-": 0, "": 0}},
		{groups("sg-2", "sg-3"), map[cloud.SecurityGroupID]int{"sg-1": 0, "sg-2": 1, "sg-3": 1}},
		{groups(), map[cloud.SecurityGroupID]int{"sg-1": 0, "sg-2": 0, "sg-3": 0, "": 0}},
	} {
		check := func(r store.Reader) {
			for group, want := range step.find {
				if got := len(store.ListBy(r, store.InterfacesByGroup, group)); got != want {
					t.Errorf("with groups %v, %d interfaces carry %q, want %d", step.eni.Groups, got, group, want)
				}
			}
		}
		update(t, s, func(tx *store.Tx) error {
			store.Put(tx, store.Interfaces, step.eni)
			check(tx)
			return nil
		})
		check(s.View())
	}
}
