package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func testReadYourWrites(t *testing.T, s *store.Store) {
	before := s.View()
	update(t, s, func(tx *store.Tx) error {
		store.Put(tx, store.Instances, instance("i-1", "111111111111"))
		if _, ok := store.Get(tx, store.Instances, "i-1"); !ok {
			t.Error("the transaction doesn't see its own write")
		}
		if got := store.ListBy(tx, store.InstancesByAccount, "111111111111"); len(got) != 1 {
			t.Errorf("the transaction finds %d of its own writes by index, want 1", len(got))
		}
		return nil
	})
	if _, ok := store.Get(s.View(), store.Instances, "i-1"); !ok {
		t.Error("the view after Update doesn't show what it wrote")
	}
	if _, ok := store.Get(before, store.Instances, "i-1"); ok {
		t.Error("a view taken before Update shows what it wrote")
	}
	if s.View().Revision() <= before.Revision() {
		t.Errorf("revision went from %d to %d", before.Revision(), s.View().Revision())
	}
}

func testAtomicity(t *testing.T, s *store.Store) {
	failure := errors.New("thought better of it")
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		store.Put(tx, store.Instances, instance("i-1", "111111111111"))
		return failure
	})
	if err != failure {
		t.Errorf("Update returned %v, want the function's own error", err)
	}
	if got := store.List(s.View(), store.Instances); len(got) != 0 {
		t.Errorf("a failed transaction left %d objects", len(got))
	}

	// Writers move a pair of objects together; no view may show them apart.
	pair := func(n int) func(tx *store.Tx) error {
		return func(tx *store.Tx) error {
			for _, id := range []cloud.InstanceID{"i-a", "i-b"} {
				i := instance(id, "111111111111")
				i.Boot = n
				store.Put(tx, store.Instances, i)
			}
			return nil
		}
	}
	update(t, s, pair(0))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			v := s.View()
			a, _ := store.Get(v, store.Instances, "i-a")
			b, _ := store.Get(v, store.Instances, "i-b")
			if a.Boot != b.Boot {
				t.Errorf("one view shows boot %d and %d of objects that change together", a.Boot, b.Boot)
				return
			}
		}
	})
	for n := range 100 {
		update(t, s, pair(n))
	}
	close(stop)
	wg.Wait()
}

func testPartsAreTakenBack(t *testing.T, s *store.Store) {
	failure := errors.New("thought better of it")
	update(t, s, func(tx *store.Tx) error {
		store.Put(tx, store.Instances, instance("i-before", "111111111111"))
		store.Put(tx, store.Instances, instance("i-both", "111111111111"))
		err := tx.Try(func() error {
			store.Put(tx, store.Instances, instance("i-within", "111111111111"))
			store.Delete(tx, store.Instances, "i-both")
			return failure
		})
		if err != failure {
			t.Errorf("Try returned %v, want the function's own error", err)
		}
		if _, ok := store.Get(tx, store.Instances, "i-within"); ok {
			t.Error("the transaction still sees what was taken back")
		}
		return tx.Try(func() error {
			store.Put(tx, store.Instances, instance("i-after", "111111111111"))
			return nil
		})
	})
	for id, want := range map[cloud.InstanceID]bool{"i-before": true, "i-both": true, "i-within": false, "i-after": true} {
		if _, ok := store.Get(s.View(), store.Instances, id); ok != want {
			t.Errorf("%s is there: %v", id, ok)
		}
	}
}

func testPrivateCopies(t *testing.T, s *store.Store) {
	original := instance("i-1", "111111111111")
	original.Tags = cloud.Tags{"Name": "first"}
	original.Interfaces = []cloud.InterfaceID{"eni-1"}
	update(t, s, func(tx *store.Tx) error {
		store.Put(tx, store.Instances, original)
		original.Tags["Name"] = "changed after Put"
		got, _ := store.Get(tx, store.Instances, "i-1")
		if got.Tags["Name"] != "first" {
			t.Errorf("Put kept a reference: the transaction reads %q", got.Tags["Name"])
		}
		return nil
	})
	_ = s.Update(t.Context(), func(tx *store.Tx) error {
		i, _ := store.Get(tx, store.Instances, "i-1")
		i.Tags["Name"], i.Interfaces[0] = "changed and not put", "eni-2"
		for _, i := range store.List(tx, store.Instances) {
			i.Tags["Name"] = "changed in a list"
		}
		return nil
	})
	got, _ := store.Get(s.View(), store.Instances, "i-1")
	if got.Tags["Name"] != "first" || got.Interfaces[0] != "eni-1" {
		t.Errorf("what a transaction did to its copies shows in the store: %v %v", got.Tags, got.Interfaces)
	}
}

func testNoUpdateIsLost(t *testing.T, s *store.Store) {
	const workers, each = 16, 25
	update(t, s, func(tx *store.Tx) error {
		store.Put(tx, store.Instances, instance("i-1", "111111111111"))
		return nil
	})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				err := s.Update(t.Context(), func(tx *store.Tx) error {
					i, _ := store.Get(tx, store.Instances, "i-1")
					i.Boot++
					store.Put(tx, store.Instances, i)
					return nil
				})
				if err != nil {
					t.Errorf("increment: %v", err)
				}
			}
		})
	}
	wg.Wait()
	got, _ := store.Get(s.View(), store.Instances, "i-1")
	if got.Boot != workers*each {
		t.Errorf("%d increments came to %d", workers*each, got.Boot)
	}
}

// A Put of an object that the transaction never read must not overwrite what came after
// the transaction's view.
func testBlindPutIsGuarded(t *testing.T, s *store.Store) {
	runs := 0
	update(t, s, func(tx *store.Tx) error {
		runs++
		if runs == 1 {
			update(t, s, func(tx *store.Tx) error {
				store.Put(tx, store.Instances, instance("i-1", "222222222222"))
				return nil
			})
		}
		store.Put(tx, store.Instances, instance("i-1", "111111111111"))
		return nil
	})
	if runs != 2 {
		t.Errorf("the transaction ran %d times, want again after the rival's write", runs)
	}
}

func testClaimsAreUnique(t *testing.T, s *store.Store) {
	const claimants, addresses = 100, 50
	var mu sync.Mutex
	won := map[store.ClaimKey]string{}
	refused := 0
	var wg sync.WaitGroup
	for c := range claimants {
		wg.Go(func() {
			owner := fmt.Sprintf("eni-%03d", c)
			var got store.ClaimKey
			err := s.Update(t.Context(), func(tx *store.Tx) error {
				for a := range addresses {
					got = store.AddressClaim("subnet-1", netip.AddrFrom4([4]byte{10, 0, 0, byte(a)}))
					err := store.Insert(tx, store.Claims, &store.Claim{Key: got, Owner: owner})
					if !errors.Is(err, store.ErrExists) {
						return err
					}
				}
				return errors.New("none left")
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused++
				return
			}
			if other := won[got]; other != "" {
				t.Errorf("%s was given to %s and to %s", got, other, owner)
			}
			won[got] = owner
		})
	}
	wg.Wait()
	if len(won) != addresses || refused != claimants-addresses {
		t.Errorf("%d claims granted and %d refused, want %d and %d", len(won), refused, addresses, claimants-addresses)
	}
	for key, owner := range won {
		if c, _ := store.Get(s.View(), store.Claims, key); c == nil || c.Owner != owner {
			t.Errorf("the store says %v of %s, which was granted to %s", c, key, owner)
		}
	}
}

// Each transaction writes only if a list shows it room, and all write different keys: only
// the guard on the list itself can keep them from overbooking.
func testPhantomsAreCaught(t *testing.T, s *store.Store) {
	const workers, room = 16, 5
	for _, way := range []struct {
		name string
		list func(store.Reader) int
	}{
		{"List", func(r store.Reader) int { return len(store.List(r, store.Instances)) }},
		{"ListBy", func(r store.Reader) int { return len(store.ListBy(r, store.InstancesByNode, "node-1")) }},
	} {
		full := errors.New("no room")
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				err := s.Update(t.Context(), func(tx *store.Tx) error {
					if way.list(tx) >= room {
						return full
					}
					i := instance(cloud.InstanceID(fmt.Sprintf("i-%02d", w)), "111111111111")
					i.Node = "node-1"
					store.Put(tx, store.Instances, i)
					return nil
				})
				if err != nil && err != full {
					t.Errorf("%s: %v", way.name, err)
				}
			})
		}
		wg.Wait()
		if got := way.list(s.View()); got != room {
			t.Errorf("guarded by %s, %d transactions found room for %d", way.name, got, room)
		}
		empty(t, s)
	}
}

// Two transactions that each remove one of two objects, as long as another is left.
func testRemovalsAreCaughtByLists(t *testing.T, s *store.Store) {
	ids := []cloud.InstanceID{"i-a", "i-b"}
	for range 20 {
		update(t, s, func(tx *store.Tx) error {
			for _, id := range ids {
				store.Put(tx, store.Instances, instance(id, "111111111111"))
			}
			return nil
		})
		var wg sync.WaitGroup
		for _, id := range ids {
			wg.Go(func() {
				err := s.Update(t.Context(), func(tx *store.Tx) error {
					if len(store.List(tx, store.Instances)) > 1 {
						store.Delete(tx, store.Instances, id)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := len(store.List(s.View(), store.Instances)); got != 1 {
			t.Fatalf("%d objects left, want 1", got)
		}
	}
}

// A transaction that reads all of a busy table loses every ordinary race.
func testLongTransactionsGetThrough(t *testing.T, s *store.Store) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			id := cloud.InstanceID(fmt.Sprintf("i-%d", w))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				i := instance(id, "111111111111")
				i.Boot = n
				update(t, s, func(tx *store.Tx) error {
					store.Put(tx, store.Instances, i)
					return nil
				})
			}
		})
	}
	runs := 0
	update(t, s, func(tx *store.Tx) error {
		runs++
		store.List(tx, store.Instances)
		time.Sleep(5 * time.Millisecond)
		store.Put(tx, store.Nodes, &cloud.Node{ID: "node-1"})
		return nil
	})
	close(stop)
	wg.Wait()
	if runs > 10 {
		t.Errorf("the transaction had to run %d times", runs)
	}
}

func testDeleteAndInsert(t *testing.T, s *store.Store) {
	claim := &store.Claim{Key: store.NameClaim("keypair", cloud.AccountID("111111111111"), "a/b"), Owner: "key-1"}
	update(t, s, func(tx *store.Tx) error { return store.Insert(tx, store.Claims, claim) })
	err := s.Update(t.Context(), func(tx *store.Tx) error { return store.Insert(tx, store.Claims, claim) })
	if !errors.Is(err, store.ErrExists) {
		t.Errorf("second Insert: %v, want ErrExists", err)
	}
	update(t, s, func(tx *store.Tx) error {
		if !store.Delete(tx, store.Claims, claim.Key) {
			t.Error("Delete says that there was nothing")
		}
		if store.Delete(tx, store.Claims, claim.Key) {
			t.Error("the second Delete says that there was something")
		}
		if _, ok := store.Get(tx, store.Claims, claim.Key); ok {
			t.Error("the transaction still sees what it deleted")
		}
		return store.Insert(tx, store.Claims, &store.Claim{Key: claim.Key, Owner: "key-2"})
	})
	got, _ := store.Get(s.View(), store.Claims, claim.Key)
	if got == nil || got.Owner != "key-2" {
		t.Errorf("after delete and insert in one transaction: %+v", got)
	}
	update(t, s, func(tx *store.Tx) error { store.Delete(tx, store.Claims, claim.Key); return nil })
	if got := store.ListBy(s.View(), store.ClaimsByOwner, "key-2"); len(got) != 0 {
		t.Errorf("an index still has a deleted object: %+v", got)
	}
}

func testLimits(t *testing.T, s *store.Store) {
	i := instance("i-1", "111111111111")
	i.UserData = make([]byte, store.MaxTxnBytes)
	err := s.Update(t.Context(), func(tx *store.Tx) error { store.Put(tx, store.Instances, i); return nil })
	if !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("a transaction over the limit: %v, want ErrTooLarge", err)
	}
	// A launch of 1,000 instances, with what belongs to them, is one transaction.
	update(t, s, func(tx *store.Tx) error {
		for n := range 1000 {
			id := cloud.InstanceID(fmt.Sprintf("i-%04d", n))
			i := instance(id, "111111111111")
			i.UserData = make([]byte, 4096)
			store.Put(tx, store.Instances, i)
			store.Put(tx, store.Interfaces, &cloud.Interface{ID: cloud.InterfaceID(fmt.Sprintf("eni-%04d", n)), Instance: id})
			for c := range 3 {
				key := store.ClaimKey(store.JoinKey("test", fmt.Sprint(n), fmt.Sprint(c)))
				if err := store.Insert(tx, store.Claims, &store.Claim{Key: key, Owner: string(id)}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if got := len(store.List(s.View(), store.Claims)); got != 3000 {
		t.Errorf("%d claims of 3000", got)
	}
	if err := s.Update(t.Context(), func(tx *store.Tx) error {
		store.Put(tx, store.Instances, instance("", "111111111111"))
		return nil
	}); err == nil {
		t.Error("an object without a key was taken")
	}
}

func testCancellation(t *testing.T, s *store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Update(ctx, func(tx *store.Tx) error {
		store.Put(tx, store.Instances, instance("i-1", "111111111111"))
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Update with an ended context: %v", err)
	}
	if len(store.List(s.View(), store.Instances)) != 0 {
		t.Error("Update with an ended context wrote")
	}
}

func testClose(t *testing.T, s *store.Store) {
	_, sub := s.Watch()
	defer sub.Close()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		store.Put(tx, store.Instances, instance("i-1", "111111111111"))
		return nil
	})
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("Update of a closed store: %v, want ErrClosed", err)
	}
	if _, err := sub.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Next of a closed store: %v, want ErrClosed", err)
	}
	if !errors.Is(s.Err(), store.ErrClosed) {
		t.Errorf("Err of a closed store: %v, want ErrClosed", s.Err())
	}
}
