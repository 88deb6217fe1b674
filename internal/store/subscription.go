package store

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// Change is what became of one object between two views. Old is nil if there was none, New
// if there is none any more; otherwise they are pointers to the table's type, shared and not
// to be modified.
type Change struct {
	Table    string
	Key      string
	Old, New any
}

// Batch leads from the view before to View. Each object appears at most once, with what it
// was in the view before as Old; the order is by table and key and has no other meaning.
type Batch struct {
	View    *View
	Changes []Change
}

// ChangeOf is a Change with its table's types.
type ChangeOf[K ~string, T any] struct {
	Key      K
	Old, New *T
}

// ChangesOf picks the changes of one table out of a batch.
func ChangesOf[K ~string, T any](b Batch, t Table[K, T]) []ChangeOf[K, T] {
	var out []ChangeOf[K, T]
	for _, c := range b.Changes {
		if c.Table != t.schema.name {
			continue
		}
		typed := ChangeOf[K, T]{Key: K(c.Key)}
		typed.Old, _ = c.Old.(*T)
		typed.New, _ = c.New.(*T)
		out = append(out, typed)
	}
	return out
}

// Subscription is a queue of what changed, for one consumer. What is not fetched yet
// is merged, so the queue never holds more than each object once.
type Subscription struct {
	store  *Store
	tables map[string]bool // nil for all
	ready  chan struct{}   // holds a token while something may be queued
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	view    *View
	pending map[changeID]Change
}

type changeID struct{ table, key string }

// Watch returns the newest view, and a subscription to every change of the tables named (of
// all, if none is named) after exactly that view. The subscription must be closed.
func (s *Store) Watch(tables ...AnyTable) (*View, *Subscription) {
	sub := &Subscription{
		store:   s,
		ready:   make(chan struct{}, 1),
		closed:  make(chan struct{}),
		pending: map[changeID]Change{},
	}
	if len(tables) > 0 {
		sub.tables = map[string]bool{}
		for _, t := range tables {
			sub.tables[t.Name()] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscriptions[sub] = struct{}{}
	return s.View(), sub
}

// queue adds the changes that led to view. The store's lock is held, so that queues grow
// in the order of revisions.
func (sub *Subscription) queue(view *View, changes []Change) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	for _, c := range changes {
		if sub.tables != nil && !sub.tables[c.Table] {
			continue
		}
		id := changeID{c.Table, c.Key}
		if earlier, ok := sub.pending[id]; ok {
			c.Old = earlier.Old
		}
		if c.Old == nil && c.New == nil {
			delete(sub.pending, id) // came and went unseen
			continue
		}
		sub.pending[id] = c
	}
	sub.view = view
	if len(sub.pending) > 0 {
		select {
		case sub.ready <- struct{}{}:
		default:
		}
	}
}

// Ready receives when Take may have something, for use in a select.
func (sub *Subscription) Ready() <-chan struct{} { return sub.ready }

// Take returns what has changed since the last batch, if anything has, without waiting.
func (sub *Subscription) Take() (Batch, bool) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if len(sub.pending) == 0 {
		return Batch{}, false
	}
	b := Batch{View: sub.view, Changes: make([]Change, 0, len(sub.pending))}
	for _, c := range sub.pending {
		b.Changes = append(b.Changes, c)
	}
	clear(sub.pending)
	slices.SortFunc(b.Changes, func(x, y Change) int {
		return cmp.Or(cmp.Compare(x.Table, y.Table), cmp.Compare(x.Key, y.Key))
	})
	return b, true
}

// Next waits for something to have changed since the last batch. It fails when ctx ends, and
// when the store or the subscription has been closed and nothing is left.
func (sub *Subscription) Next(ctx context.Context) (Batch, error) {
	for {
		if b, ok := sub.Take(); ok {
			return b, nil
		}
		select {
		case <-sub.ready:
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-sub.closed:
			return Batch{}, ErrClosed
		case <-sub.store.done:
			if b, ok := sub.Take(); ok {
				return b, nil
			}
			return Batch{}, sub.store.err
		}
	}
}

// Close ends the subscription and forgets what is queued.
func (sub *Subscription) Close() {
	sub.once.Do(func() {
		sub.store.mu.Lock()
		delete(sub.store.subscriptions, sub)
		sub.store.mu.Unlock()
		sub.mu.Lock()
		clear(sub.pending)
		sub.mu.Unlock()
		close(sub.closed)
	})
}
