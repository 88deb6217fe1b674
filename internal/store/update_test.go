package store

import (
	"context"
	"errors"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// rigged is a backend with outcomes of its own for commits.
type rigged struct {
	*memory
	outcome func() (int64, bool, error)
}

func (r *rigged) commit(context.Context, []guard, []write) (int64, bool, error) { return r.outcome() }

func openRigged(t *testing.T, outcome func() (int64, bool, error)) *Store {
	t.Helper()
	s, err := open(t.Context(), &rigged{newMemory(), outcome}, silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func putNode(tx *Tx) error {
	Put(tx, Nodes, &cloud.Node{ID: "node-1"})
	return nil
}

func TestUpdateGivesUpAgainstEndlessRivals(t *testing.T) {
	s := openRigged(t, func() (int64, bool, error) { return 1, false, nil })
	for range 2 { // the second finds the gate open again
		if err := s.Update(t.Context(), putNode); !errors.Is(err, ErrContended) {
			t.Errorf("Update: %v, want ErrContended", err)
		}
	}
}

func TestUpdateStopsTryingWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := openRigged(t, func() (int64, bool, error) {
		cancel()
		return 2, false, nil // a revision that never becomes visible
	})
	if err := s.Update(ctx, putNode); !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %v, want the context's error", err)
	}
}

func TestUpdateSaysWhenItsOutcomeIsUnknown(t *testing.T) {
	s := openRigged(t, func() (int64, bool, error) { return 0, false, ErrUncertain })
	if err := s.Update(t.Context(), putNode); !errors.Is(err, ErrUncertain) {
		t.Errorf("Update: %v, want ErrUncertain", err)
	}
}

func TestAPanicInATransactionLeavesTheStoreUsable(t *testing.T) {
	s := OpenMemory()
	defer s.Close()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = s.Update(t.Context(), func(*Tx) error { panic("a bug") })
	}()
	if err := s.Update(t.Context(), putNode); err != nil {
		t.Error(err)
	}
}

func TestATransactionIsRefusedAfterItsEnd(t *testing.T) {
	s := OpenMemory()
	defer s.Close()
	var kept *Tx
	if err := s.Update(t.Context(), func(tx *Tx) error { kept = tx; return nil }); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a transaction works after its function has returned")
		}
	}()
	Get(kept, Nodes, "node-1")
}
