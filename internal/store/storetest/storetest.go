// Package storetest is the conformance suite of internal/store: what a Store promises,
// whatever it stands on. Each backend runs all of it, on the real thing.
package storetest

import (
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Run tests the stores that open returns: each must be empty and is closed by the suite.
func Run(t *testing.T, open func(testing.TB) *store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *store.Store)
	}{
		{"Update shows its writes to every later view", testReadYourWrites},
		{"Update writes all or nothing", testAtomicity},
		{"A part of an update can be taken back", testPartsAreTakenBack},
		{"a transaction's objects are its own copies", testPrivateCopies},
		{"no update is lost", testNoUpdateIsLost},
		{"a put never overwrites what it has not seen", testBlindPutIsGuarded},
		{"a claim has one owner", testClaimsAreUnique},
		{"a list is guarded against additions", testPhantomsAreCaught},
		{"a list is guarded against removals", testRemovalsAreCaughtByLists},
		{"a transaction that keeps losing gets through", testLongTransactionsGetThrough},
		{"delete and insert", testDeleteAndInsert},
		{"limits", testLimits},
		{"an ended context stops Update", testCancellation},
		{"every index finds what a search would find", testIndexes},
		{"the store behaves as a map", testAgainstModel},
		{"a watch shows each step", testWatchShowsEachStep},
		{"a slow watch merges", testSlowWatchMerges},
		{"a watch loses nothing", testWatchLosesNothing},
		{"a watch ends", testWatchEnds},
		{"Close ends everything", testClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close the store: %v", err)
				}
			})
			c.test(t, s)
		})
	}
}

func instance(id cloud.InstanceID, account cloud.AccountID) *cloud.Instance {
	return &cloud.Instance{ID: id, Account: account, Type: "t3.micro", State: cloud.StatePending}
}

func update(t testing.TB, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Errorf("update the store: %v", err)
	}
}

// empty removes all instances.
func empty(t testing.TB, s *store.Store) {
	t.Helper()
	update(t, s, func(tx *store.Tx) error {
		for _, i := range store.List(tx, store.Instances) {
			store.Delete(tx, store.Instances, i.ID)
		}
		return nil
	})
}
