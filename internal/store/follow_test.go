package store

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// forgetful is a backend that, once stopped, delivers nothing, and when it goes on no longer
// knows what it did not deliver.
type forgetful struct {
	*memory
	stop chan struct{} // gives twice: when it is asked to stop, and when it has
	goOn chan struct{}
}

func (f *forgetful) follow(ctx context.Context, after int64, apply func(delta) error) error {
	until, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- f.memory.follow(until, after, apply) }()
	select {
	case f.stop <- struct{}{}:
	case err := <-ended:
		return err
	}
	stop()
	<-ended
	f.stop <- struct{}{}
	select {
	case <-f.goOn:
	case <-ctx.Done():
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = nil
	return errTrimmed
}

func TestAStoreThatFellBehindCatchesUpAndItsWatchesMissNothing(t *testing.T) {
	f := &forgetful{newMemory(), make(chan struct{}), make(chan struct{})}
	s, err := open(t.Context(), f, silent)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	node := func(id cloud.NodeID, cpus int) func(*Tx) error {
		return func(tx *Tx) error { Put(tx, Nodes, &cloud.Node{ID: id, CPUs: cpus}); return nil }
	}
	for _, id := range []cloud.NodeID{"node-kept", "node-changed", "node-removed"} {
		if err := s.Update(t.Context(), node(id, 1)); err != nil {
			t.Fatal(err)
		}
	}
	_, sub := s.Watch()
	defer sub.Close()

	<-f.stop
	<-f.stop
	updated := make(chan error)
	go func() {
		updated <- s.Update(t.Context(), func(tx *Tx) error {
			Put(tx, Nodes, &cloud.Node{ID: "node-changed", CPUs: 2})
			Put(tx, Nodes, &cloud.Node{ID: "node-new", CPUs: 2})
			Delete(tx, Nodes, "node-removed")
			return nil
		})
	}()
	select {
	case err := <-updated:
		t.Fatalf("Update returned %v before its writes could be seen", err)
	case <-time.After(20 * time.Millisecond):
	}
	f.goOn <- struct{}{}
	if err := <-updated; err != nil {
		t.Fatal(err)
	}
	b, _ := sub.Take()
	got := ""
	for _, c := range ChangesOf(b, Nodes) {
		got += fmt.Sprintf("%s %v>%v; ", c.Key, c.Old != nil, c.New != nil)
	}
	if want := "node-changed true>true; node-new false>true; node-removed true>false; "; got != want {
		t.Errorf("changes after the gap: %s\nwant: %s", got, want)
	}
	// A list's guard holds across the gap.
	if err := s.Update(t.Context(), func(tx *Tx) error {
		if n := len(List(tx, Nodes)); n != 3 {
			t.Errorf("%d nodes, want 3", n)
		}
		Put(tx, Nodes, &cloud.Node{ID: "node-kept", CPUs: 3})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if lost := s.Stats().LostRaces; lost != 0 {
		t.Errorf("%d races were lost without a rival", lost)
	}
}

func TestAStoreStopsAtWhatItCannotRead(t *testing.T) {
	m := newMemory()
	s, err := open(t.Context(), m, silent)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	damaged := Nodes.schema.prefix + "node-1"
	if _, _, err := m.commit(t.Context(), nil, []write{{key: damaged, value: []byte("{")}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the store goes on")
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("Err: %v, want one that names %s", err, damaged)
	}
	if err := s.Update(t.Context(), func(tx *Tx) error { return nil }); err == nil {
		t.Error("Update goes on")
	}
	if _, err := open(t.Context(), m, silent); err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("open: %v, want an error that names %s", err, damaged)
	}
}

func TestKeysOfOtherVersionsAreLeftAlone(t *testing.T) {
	m := newMemory()
	for _, key := range []string{"other", root, root + "later-table/x", root + "later-table", "/nacre/v2/nodes/x"} {
		if _, _, err := m.commit(t.Context(), nil, []write{{key: key, value: []byte("?")}}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := open(t.Context(), m, silent)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.reload(t.Context()); err != nil {
		t.Error(err)
	}
	if len(m.keys) != 5 {
		t.Errorf("%d keys of 5", len(m.keys))
	}
}
