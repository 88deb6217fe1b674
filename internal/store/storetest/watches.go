package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func testWatchShowsEachStep(t *testing.T, s *store.Store) {
	update(t, s, func(tx *store.Tx) error {
		store.Put(tx, store.Instances, instance("i-old", "111111111111"))
		return nil
	})
	start, sub := s.Watch(store.Instances)
	defer sub.Close()
	if got := len(store.List(start, store.Instances)); got != 1 {
		t.Fatalf("the watch starts from a view of %d instances, want 1", got)
	}
	steps := []struct {
		name     string
		do       func(*store.Tx)
		old, new bool
	}{
		{"insert", func(tx *store.Tx) { store.Put(tx, store.Instances, instance("i-1", "111111111111")) }, false, true},
		{"change", func(tx *store.Tx) { store.Put(tx, store.Instances, instance("i-1", "222222222222")) }, true, true},
		{"delete", func(tx *store.Tx) { store.Delete(tx, store.Instances, "i-1") }, true, false},
	}
	before := start.Revision()
	for _, step := range steps {
		update(t, s, func(tx *store.Tx) error {
			store.Put(tx, store.Nodes, &cloud.Node{ID: "node-1", Hostname: step.name}) // not watched
			step.do(tx)
			return nil
		})
		b := next(t, sub)
		if b.View.Revision() <= before {
			t.Errorf("%s: revision %d after %d", step.name, b.View.Revision(), before)
		}
		before = b.View.Revision()
		changes := store.ChangesOf(b, store.Instances)
		if len(changes) != 1 || len(b.Changes) != 1 {
			t.Fatalf("%s: %d changes, of instances %d; want 1", step.name, len(b.Changes), len(changes))
		}
		c := changes[0]
		if c.Key != "i-1" || (c.Old != nil) != step.old || (c.New != nil) != step.new {
			t.Errorf("%s: %+v", step.name, c)
		}
		if got, _ := store.Get(b.View, store.Instances, "i-1"); got != c.New {
			t.Errorf("%s: the batch's view shows %p, its change %p", step.name, got, c.New)
		}
	}
	update(t, s, func(tx *store.Tx) error {
		store.Put(tx, store.Nodes, &cloud.Node{ID: "node-1", Hostname: "unwatched"})
		return nil
	})
	if b, ok := sub.Take(); ok {
		t.Errorf("a table that isn't watched made a batch: %+v", b.Changes)
	}
}

func testSlowWatchMerges(t *testing.T, s *store.Store) {
	put := func(id cloud.InstanceID, boot int) {
		update(t, s, func(tx *store.Tx) error {
			i := instance(id, "111111111111")
			i.Boot = boot
			store.Put(tx, store.Instances, i)
			return nil
		})
	}
	remove := func(id cloud.InstanceID) {
		update(t, s, func(tx *store.Tx) error { store.Delete(tx, store.Instances, id); return nil })
	}
	put("i-kept", 0)
	put("i-removed", 0)
	put("i-replaced", 0)
	_, sub := s.Watch()
	defer sub.Close()
	for n := 1; n <= 50; n++ {
		put("i-kept", n)
	}
	put("i-passing", 1)
	remove("i-passing")
	remove("i-removed")
	remove("i-replaced")
	put("i-replaced", 7)

	b, ok := sub.Take()
	if !ok {
		t.Fatal("nothing is queued after Update has returned")
	}
	got := ""
	for _, c := range store.ChangesOf(b, store.Instances) {
		boots := func(i *cloud.Instance) string {
			if i == nil {
				return "none"
			}
			return fmt.Sprint(i.Boot)
		}
		got += fmt.Sprintf("%s %s>%s; ", c.Key, boots(c.Old), boots(c.New))
	}
	if want := "i-kept 0>50; i-removed 0>none; i-replaced 0>7; "; got != want {
		t.Errorf("merged changes: %s\nwant: %s", got, want)
	}
	if _, ok := sub.Take(); ok {
		t.Error("a second batch without a second change")
	}
}

// Whatever a subscriber's pace, applying its batches to what it started from must yield the
// store's contents, and every batch must fit on the one before.
func testWatchLosesNothing(t *testing.T, s *store.Store) {
	const writers, each, watchers = 8, 40, 4
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var watching, writing sync.WaitGroup
	done := make(chan struct{}) // closed when everything is written
	for w := range watchers {
		watching.Go(func() {
			view, sub := s.Watch(store.Instances)
			defer sub.Close()
			held := map[cloud.InstanceID]*cloud.Instance{}
			for _, i := range store.List(view, store.Instances) {
				held[i.ID] = i
			}
			revision := view.Revision()
			ended := false
			for {
				b, ok := sub.Take()
				if !ok {
					if ended {
						break
					}
					select {
					case <-sub.Ready():
					case <-done:
						ended = true
					case <-ctx.Done():
						t.Error("the watch did not end")
						return
					}
					continue
				}
				if b.View.Revision() <= revision {
					t.Errorf("revision %d came after %d", b.View.Revision(), revision)
				}
				revision = b.View.Revision()
				for _, c := range store.ChangesOf(b, store.Instances) {
					if held[c.Key] != c.Old {
						t.Errorf("%s: the batch at revision %d doesn't fit on what came before", c.Key, revision)
					}
					if c.New == nil {
						delete(held, c.Key)
					} else {
						held[c.Key] = c.New
					}
				}
				if shown := store.List(b.View, store.Instances); len(shown) != len(held) {
					t.Errorf("the view of revision %d has %d instances, its changes lead to %d", revision, len(shown), len(held))
				}
				time.Sleep(time.Duration(w) * time.Millisecond)
			}
			for _, i := range store.List(s.View(), store.Instances) {
				if held[i.ID] != i {
					t.Errorf("watcher %d missed a change of %s", w, i.ID)
				}
				delete(held, i.ID)
			}
			if len(held) != 0 {
				t.Errorf("watcher %d missed %d removals", w, len(held))
			}
		})
	}
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				id := cloud.InstanceID(fmt.Sprintf("i-%d", (w*n)%13))
				update(t, s, func(tx *store.Tx) error {
					if n%5 == 4 {
						store.Delete(tx, store.Instances, id)
						return nil
					}
					i := instance(id, "111111111111")
					i.Boot = w*each + n
					store.Put(tx, store.Instances, i)
					return nil
				})
			}
		})
	}
	writing.Wait()
	close(done)
	watching.Wait()
}

func testWatchEnds(t *testing.T, s *store.Store) {
	_, sub := s.Watch()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := sub.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next without a change: %v", err)
	}
	update(t, s, func(tx *store.Tx) error {
		store.Put(tx, store.Nodes, &cloud.Node{ID: "node-1"})
		return nil
	})
	sub.Close()
	sub.Close()
	if b, err := sub.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Next of a closed subscription: %+v, %v", b, err)
	}
}

func next(t testing.TB, sub *store.Subscription) store.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := sub.Next(ctx)
	if err != nil {
		t.Fatalf("wait for a change: %v", err)
	}
	return b
}
