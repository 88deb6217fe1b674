package ec2

import (
	"errors"
	"fmt"
	"math/rand"
	"net/netip"
	"sync"
	"testing"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// allocator is what the two allocators of addresses have in common.
type allocator struct {
	name   string
	free   int // addresses that it may lend
	full   string
	lends  func(netip.Addr) bool
	claim  func(tx *store.Tx, owner cloud.InterfaceID, wanted netip.Addr) (netip.Addr, error)
	key    func(netip.Addr) store.ClaimKey
	barred []string
}

func allocators() []allocator {
	subnet := &cloud.Subnet{ID: "subnet-0123456789abcdef0", CIDR: netip.MustParsePrefix("10.1.2.64/27")}
	pool := netip.MustParsePrefix("198.18.7.32/27")
	return []allocator{{
		name: "private", free: 32 - 5, full: "InsufficientFreeAddressesInSubnet", lends: subnet.CIDR.Contains,
		claim: func(tx *store.Tx, owner cloud.InterfaceID, wanted netip.Addr) (netip.Addr, error) {
			return claimPrivate(tx, subnet, owner, wanted)
		},
		key:    func(a netip.Addr) store.ClaimKey { return store.AddressClaim(subnet.ID, a) },
		barred: []string{"10.1.2.64", "10.1.2.65", "10.1.2.66", "10.1.2.67", "10.1.2.95", "10.1.2.63", "10.1.2.96"},
	}, {
		name: "public", free: 32 - 2, full: "InsufficientAddressCapacity", lends: pool.Contains,
		claim: func(tx *store.Tx, owner cloud.InterfaceID, wanted netip.Addr) (netip.Addr, error) {
			return claimPublic(tx, pool, owner, wanted)
		},
		key:    store.PublicAddressClaim,
		barred: []string{"198.18.7.32", "198.18.7.63", "198.18.7.31", "198.18.7.64"},
	}}
}

// user lends and gives back addresses at random, and knows what it holds.
type user struct {
	t    *testing.T
	s    *store.Store
	a    allocator
	rand *rand.Rand
	held map[netip.Addr]cloud.InterfaceID
}

func (u *user) take(n int) error {
	got := map[netip.Addr]cloud.InterfaceID{}
	err := u.s.Update(u.t.Context(), func(tx *store.Tx) error {
		clear(got)
		for range n {
			owner := cloud.NewID[cloud.InterfaceID](u.rand)
			at, err := u.a.claim(tx, owner, netip.Addr{})
			if err != nil {
				return err
			}
			if _, twice := got[at]; twice {
				return fmt.Errorf("%s twice in one transaction", at)
			}
			got[at] = owner
		}
		return nil
	})
	if err != nil {
		return err
	}
	for at, owner := range got {
		if _, twice := u.held[at]; twice {
			u.t.Errorf("%s: %s was given twice", u.a.name, at)
		}
		if !u.a.lends(at) {
			u.t.Errorf("%s: %s is none of it", u.a.name, at)
		}
		u.held[at] = owner
	}
	return nil
}

func (u *user) giveBack() {
	for at := range u.held {
		err := u.s.Update(u.t.Context(), func(tx *store.Tx) error {
			if c, ok := store.Get(tx, store.Claims, u.a.key(at)); !ok || c.Owner != string(u.held[at]) {
				return fmt.Errorf("%s is claimed by %v", at, c)
			}
			store.Delete(tx, store.Claims, u.a.key(at))
			return nil
		})
		if err != nil {
			u.t.Error(err)
		}
		delete(u.held, at)
		return
	}
}

func TestNoAddressIsEverGivenTwice(t *testing.T) {
	for _, a := range allocators() {
		t.Run(a.name, func(t *testing.T) {
			s := store.OpenMemory()
			defer s.Close()
			users := make([]*user, 4)
			var wg sync.WaitGroup
			for n := range users {
				users[n] = &user{t: t, s: s, a: a, rand: rand.New(rand.NewSource(int64(n))), held: map[netip.Addr]cloud.InterfaceID{}}
				wg.Go(func() {
					u := users[n]
					for range 300 {
						if u.rand.Intn(2) == 0 {
							u.giveBack()
							continue
						}
						var refusal *awsapi.Error
						if err := u.take(1 + u.rand.Intn(4)); err != nil && (!errors.As(err, &refusal) || refusal.Code != a.full) {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			owners := map[netip.Addr]cloud.InterfaceID{}
			for _, u := range users {
				for at, owner := range u.held {
					if other, twice := owners[at]; twice {
						t.Errorf("%s has %s, and so has %s", owner, at, other)
					}
					owners[at] = owner
				}
			}
			if claims := len(store.List(s.View(), store.Claims)); claims != len(owners) {
				t.Errorf("%d addresses are held, and %d claimed", len(owners), claims)
			}
		})
	}
}

func TestEveryAddressButTheReservedOnesCanBeHad(t *testing.T) {
	for _, a := range allocators() {
		t.Run(a.name, func(t *testing.T) {
			s := store.OpenMemory()
			defer s.Close()
			u := &user{t: t, s: s, a: a, rand: rand.New(rand.NewSource(1)), held: map[netip.Addr]cloud.InterfaceID{}}
			if err := u.take(a.free); err != nil {
				t.Fatal(err)
			}
			before := s.View().Revision()
			var refusal *awsapi.Error
			if err := u.take(1); !errors.As(err, &refusal) || refusal.Code != a.full || s.View().Revision() != before {
				t.Errorf("one more is answered %v", err)
			}
			for _, at := range a.barred {
				if _, held := u.held[netip.MustParseAddr(at)]; held {
					t.Errorf("%s was lent", at)
				}
				err := s.Update(t.Context(), func(tx *store.Tx) error {
					_, err := a.claim(tx, "eni-0123456789abcdef0", netip.MustParseAddr(at))
					return err
				})
				if err == nil {
					t.Errorf("%s was lent on demand", at)
				}
			}
			u.giveBack()
			if err := u.take(1); err != nil {
				t.Errorf("what was given back can't be had: %v", err)
			}
		})
	}
}
