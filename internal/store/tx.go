package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"
)

// Tx is a transaction while its function runs, by one goroutine. It can't be used afterwards.
type Tx struct {
	view   *View
	guards map[string]int64              // what was read: keys in etcd, and the revisions seen
	writes map[*schema]map[string]*draft // by table and key
	size   int                           // of all writes, in bytes
	err    error                         // the first write that could not be encoded
	ended  bool
	now    time.Time // see At
}

// draft is a write of a transaction; obj is nil for a removal.
type draft struct {
	obj  any
	data []byte
}

func newTx(v *View) *Tx {
	return &Tx{view: v, guards: map[string]int64{}, writes: map[*schema]map[string]*draft{}}
}

// run calls fn and returns its error, or that of a write.
func (tx *Tx) run(fn func(*Tx) error) error {
	defer func() { tx.ended = true }()
	if err := fn(tx); err != nil {
		return err
	}
	tx.meter()
	return tx.err
}

// View returns what the transaction started from, to read without being bound to it: the
// transaction commits even if what was read there has changed since. It is right for
// proposals that a guarded read or an Insert then proves, such as picking a free address
// among thousands. It doesn't show the transaction's own writes.
func (tx *Tx) View() *View {
	tx.mustRun()
	return tx.view
}

// Put writes an object under the key it tells, in the place of the one that is there. Like
// everything a transaction touches, the key is guarded: nobody else's write is
// overwritten unseen. What is done to obj afterwards doesn't count.
func Put[K ~string, T any](tx *Tx, t Table[K, T], obj *T) { tx.put(t.schema, obj) }

// Insert is Put for an object that must be new; it fails with ErrExists if its key is taken.
func Insert[K ~string, T any](tx *Tx, t Table[K, T], obj *T) error {
	key := t.schema.keyOf(obj)
	if _, taken := tx.peek(t.schema, key); taken {
		return fmt.Errorf("%s %q: %w", t.schema.name, key, ErrExists)
	}
	tx.put(t.schema, obj)
	return nil
}

// Delete removes the object under key and tells whether there was one.
func Delete[K ~string, T any](tx *Tx, t Table[K, T], key K) bool {
	if _, ok := tx.peek(t.schema, string(key)); !ok {
		return false
	}
	tx.set(t.schema, string(key), &draft{})
	return true
}

// Try runs a part of the transaction: when it fails, its writes are taken back, and the transaction goes on as if they
// had never been. What it read stays guarded, since the failure may stand on it.
func (tx *Tx) Try(fn func() error) error {
	tx.mustRun()
	writes := make(map[*schema]map[string]*draft, len(tx.writes))
	for s, drafts := range tx.writes {
		writes[s] = maps.Clone(drafts)
	}
	size, failed := tx.size, tx.err
	err := fn()
	if err != nil {
		tx.writes, tx.size, tx.err = writes, size, failed
	}
	return err
}

func (tx *Tx) mustRun() {
	if tx.ended {
		panic("store: transaction used after its function returned")
	}
}

// peek returns the object that the transaction sees under key, guarded, but not copied.
func (tx *Tx) peek(s *schema, key string) (any, bool) {
	tx.mustRun()
	if key == "" {
		return nil, false // "not attached" and the like; under it stands the table's marker, which is no object
	}
	if d, written := tx.writes[s][key]; written {
		return d.obj, d.obj != nil
	}
	r, ok := tx.view.row(s, key)
	if !ok {
		tx.guards[s.prefix+key] = 0
		return nil, false
	}
	tx.guards[s.prefix+key] = r.revision
	return r.obj, true
}

func (tx *Tx) get(s *schema, key string) (any, bool) {
	obj, ok := tx.peek(s, key)
	if !ok {
		return nil, false
	}
	return s.clone(obj), true
}

func (tx *Tx) list(s *schema) []any {
	return tx.overlay(s, tx.view.list(s), func(any) bool { return true })
}

func (tx *Tx) listBy(s *schema, index int, value string) []any {
	return tx.overlay(s, tx.view.listBy(s, index, value), func(obj any) bool {
		return slices.Contains(s.indexes[index](obj), value)
	})
}

// overlay returns copies of what was found in the view, corrected by the transaction's own
// writes, of which those that match belong to the result. It guards the whole table.
func (tx *Tx) overlay(s *schema, found []any, match func(any) bool) []any {
	tx.mustRun()
	tx.guards[s.marker()] = tx.view.tables[s.ordinal].revision
	written := tx.writes[s]
	out := make([]any, 0, len(found))
	for _, obj := range found {
		if _, replaced := written[s.keyOf(obj)]; !replaced {
			out = append(out, s.clone(obj))
		}
	}
	added := false
	for _, d := range written {
		if d.obj != nil && match(d.obj) {
			out, added = append(out, s.clone(d.obj)), true
		}
	}
	if added {
		sort.Slice(out, func(i, j int) bool { return s.keyOf(out[i]) < s.keyOf(out[j]) })
	}
	return out
}

func (tx *Tx) put(s *schema, obj any) {
	key := s.keyOf(obj)
	tx.peek(s, key)
	data, err := s.encode(obj)
	switch {
	case err != nil:
		tx.fail(fmt.Errorf("encode %s %q: %w", s.name, key, err))
	case key == "":
		tx.fail(fmt.Errorf("put into %s: the object has no key", s.name))
	default:
		tx.set(s, key, &draft{s.clone(obj), data})
	}
}

func (tx *Tx) set(s *schema, key string, d *draft) {
	if tx.writes[s] == nil {
		tx.writes[s] = map[string]*draft{}
	}
	if old := tx.writes[s][key]; old != nil {
		tx.size -= len(s.prefix) + len(key) + len(old.data)
	}
	tx.writes[s][key] = d
	tx.size += len(s.prefix) + len(key) + len(d.data)
}

func (tx *Tx) fail(err error) { tx.err = errors.Join(tx.err, err) }

// request returns the transaction as the backend takes it, in the order of keys, so that
// equal transactions make equal requests.
func (tx *Tx) request() ([]guard, []write) {
	var guards []guard
	for _, key := range slices.Sorted(maps.Keys(tx.guards)) {
		guards = append(guards, guard{key, tx.guards[key]})
	}
	var writes []write
	for _, s := range schemas {
		if len(tx.writes[s]) == 0 {
			continue
		}
		writes = append(writes, write{key: s.marker()})
		for _, key := range slices.Sorted(maps.Keys(tx.writes[s])) {
			d := tx.writes[s][key]
			writes = append(writes, write{key: s.prefix + key, value: d.data, remove: d.obj == nil})
		}
	}
	return guards, writes
}
