package store

import (
	"fmt"

	"github.com/google/btree"
)

// Reader is what objects are read from: a *View or a *Tx.
//
// A View's objects are shared and must not be modified. A Tx's are copies for the caller
// alone, and include the transaction's own writes.
type Reader interface {
	get(s *schema, key string) (any, bool)
	list(s *schema) []any
	listBy(s *schema, index int, value string) []any
}

// Get returns the object under key, and whether there is one.
func Get[K ~string, T any](r Reader, t Table[K, T], key K) (*T, bool) {
	obj, ok := r.get(t.schema, string(key))
	if !ok {
		return nil, false
	}
	return obj.(*T), true
}

// List returns all objects of a table in the order of their keys.
func List[K ~string, T any](r Reader, t Table[K, T]) []*T {
	return typed[T](r.list(t.schema))
}

// ListBy returns the objects that an index has under value, in the order of their keys.
func ListBy[K, I ~string, T any](r Reader, ix Index[K, I, T], value I) []*T {
	return typed[T](r.listBy(ix.schema, ix.ordinal, string(value)))
}

func typed[T any](objs []any) []*T {
	out := make([]*T, len(objs))
	for i, obj := range objs {
		out[i] = obj.(*T)
	}
	return out
}

// View is everything in the store at one revision. It never changes, may be kept and read
// by any number of goroutines, and costs memory only for what has changed since.
type View struct {
	revision int64
	tables   []tableView // by schema.ordinal
}

// Revision numbers the view: of two views of a store, also over restarts, the one with
// the higher revision is the later one.
func (v *View) Revision() int64 { return v.revision }

// Each calls fn with every object, table by table and in the order of their keys: for tools and tests that compare whole
// stores. Objects are the view's own and must not be changed.
func (v *View) Each(fn func(table, key string, obj any)) {
	for i, s := range schemas {
		v.tables[i].rows.Ascend(func(r *row) bool {
			fn(s.name, r.key, r.obj)
			return true
		})
	}
}

// tableView is one table at one revision. The trees are copied on write.
type tableView struct {
	rows     *btree.BTreeG[*row]
	indexes  []*btree.BTreeG[posting]
	revision int64 // of the table's marker: when anything in the table last changed
}

type row struct {
	key      string
	obj      any
	revision int64 // when it was last written
}

// posting is an index's entry: the row is found by value.
type posting struct {
	value string
	row   *row
}

// treeDegree is a balance: wider nodes read faster, narrower ones copy faster.
const treeDegree = 32

func newView() *View {
	v := &View{tables: make([]tableView, len(schemas))}
	for i, s := range schemas {
		v.tables[i].rows = btree.NewG(treeDegree, func(a, b *row) bool { return a.key < b.key })
		for range s.indexes {
			v.tables[i].indexes = append(v.tables[i].indexes, btree.NewG(treeDegree, func(a, b posting) bool {
				if a.value != b.value {
					return a.value < b.value
				}
				return a.row.key < b.row.key
			}))
		}
	}
	return v
}

func (v *View) row(s *schema, key string) (*row, bool) {
	return v.tables[s.ordinal].rows.Get(&row{key: key})
}

func (v *View) get(s *schema, key string) (any, bool) {
	if r, ok := v.row(s, key); ok {
		return r.obj, true
	}
	return nil, false
}

func (v *View) list(s *schema) []any {
	rows := v.tables[s.ordinal].rows
	out := make([]any, 0, rows.Len())
	rows.Ascend(func(r *row) bool {
		out = append(out, r.obj)
		return true
	})
	return out
}

func (v *View) listBy(s *schema, index int, value string) []any {
	var out []any
	from := posting{value: value, row: &row{}}
	v.tables[s.ordinal].indexes[index].AscendGreaterOrEqual(from, func(p posting) bool {
		if p.value != value {
			return false
		}
		out = append(out, p.row.obj)
		return true
	})
	return out
}

// apply returns the view after a delta, and what differs between the two. The receiver
// stays as it is. A view must be given only one successor, and by one goroutine at a
// time, because cloning a tree marks the original.
func (v *View) apply(d delta) (*View, []Change, error) {
	next := &View{revision: d.revision, tables: append([]tableView(nil), v.tables...)}
	owned := make([]bool, len(next.tables))
	var changes []Change
	for _, e := range d.events {
		s, key, ok := splitStored(e.key)
		if !ok {
			continue
		}
		t := &next.tables[s.ordinal]
		if !owned[s.ordinal] {
			owned[s.ordinal] = true
			t.rows = t.rows.Clone()
			t.indexes = append([]*btree.BTreeG[posting](nil), t.indexes...)
			for i := range t.indexes {
				t.indexes[i] = t.indexes[i].Clone()
			}
		}
		if key == "" {
			t.revision = e.revision
			continue
		}
		change := Change{Table: s.name, Key: key}
		var fresh *row
		if !e.deleted {
			obj, err := s.decode(e.value)
			if err != nil {
				return nil, nil, fmt.Errorf("decode %s of revision %d: %w", e.key, e.revision, err)
			}
			fresh = &row{key, obj, e.revision}
			change.New = obj
		}
		if old := t.replace(s, key, fresh); old != nil {
			change.Old = old.obj
		}
		if change.Old != nil || change.New != nil {
			changes = append(changes, change)
		}
	}
	return next, changes, nil
}

// replace puts fresh in the place of the row under key, or removes that if fresh is nil.
func (t *tableView) replace(s *schema, key string, fresh *row) (old *row) {
	if fresh != nil {
		old, _ = t.rows.ReplaceOrInsert(fresh)
	} else {
		old, _ = t.rows.Delete(&row{key: key})
	}
	for i, values := range s.indexes {
		if old != nil {
			for _, value := range values(old.obj) {
				t.indexes[i].Delete(posting{value, old})
			}
		}
		if fresh != nil {
			for _, value := range values(fresh.obj) {
				t.indexes[i].ReplaceOrInsert(posting{value, fresh})
			}
		}
	}
	return old
}

// deltaTo returns what leads from v to the complete contents that events lists.
func (v *View) deltaTo(all delta) delta {
	out := delta{revision: all.revision}
	present := make(map[string]bool, len(all.events))
	for _, e := range all.events {
		present[e.key] = true
		s, key, ok := splitStored(e.key)
		if !ok {
			continue
		}
		if r, found := v.row(s, key); found && r.revision == e.revision {
			continue
		}
		out.events = append(out.events, e)
	}
	for _, s := range schemas {
		v.tables[s.ordinal].rows.Ascend(func(r *row) bool {
			if stored := s.prefix + r.key; !present[stored] {
				out.events = append(out.events, event{key: stored, deleted: true, revision: all.revision})
			}
			return true
		})
	}
	return out
}
