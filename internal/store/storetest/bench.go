package storetest

import (
	"fmt"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Benchmark measures the stores that open returns, each empty.
func Benchmark(b *testing.B, open func(testing.TB) *store.Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.B, *store.Store)
	}{
		{"Update of one instance", benchUpdate},
		{"Update from 64 writers", benchParallelUpdate},
		{"launch of 100 instances", benchLaunch},
		{"Get among 1000", func(b *testing.B, s *store.Store) {
			launch(b, s, 0, 1000)
			for b.Loop() {
				if _, ok := store.Get(s.View(), store.Instances, "i-000500"); !ok {
					b.Fatal("it is gone")
				}
			}
		}},
		{"List of 1000", func(b *testing.B, s *store.Store) {
			launch(b, s, 0, 1000)
			for b.Loop() {
				if got := len(store.List(s.View(), store.Instances)); got != 1000 {
					b.Fatal(got)
				}
			}
		}},
		{"ListBy of 1000", func(b *testing.B, s *store.Store) {
			launch(b, s, 0, 1000)
			for b.Loop() {
				if got := len(store.ListBy(s.View(), store.InstancesByAccount, "111111111111")); got != 1000 {
					b.Fatal(got)
				}
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := open(b)
			b.Cleanup(func() {
				if err := s.Close(); err != nil {
					b.Errorf("close the store: %v", err)
				}
			})
			b.ReportAllocs()
			c.run(b, s)
		})
	}
}

func benchUpdate(b *testing.B, s *store.Store) {
	launch(b, s, 0, 1)
	for b.Loop() {
		boot(b, s, 0)
	}
}

func benchParallelUpdate(b *testing.B, s *store.Store) {
	const writers = 64
	launch(b, s, 0, writers)
	b.ResetTimer()
	ids := make(chan int, writers)
	for n := range writers {
		ids <- n
	}
	b.SetParallelism(writers / 2)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := <-ids
			boot(b, s, n)
			ids <- n
		}
	})
}

func benchLaunch(b *testing.B, s *store.Store) {
	for n := 0; b.Loop(); n++ {
		launch(b, s, n*100, 100)
	}
}

func boot(b *testing.B, s *store.Store, n int) {
	update(b, s, func(tx *store.Tx) error {
		i, _ := store.Get(tx, store.Instances, cloud.InstanceID(fmt.Sprintf("i-%06d", n)))
		i.Boot++
		store.Put(tx, store.Instances, i)
		return nil
	})
}

// launch writes instances as RunInstances would: each with an interface and its claims.
func launch(b *testing.B, s *store.Store, from, count int) {
	update(b, s, func(tx *store.Tx) error {
		for n := from; n < from+count; n++ {
			i := instance(cloud.InstanceID(fmt.Sprintf("i-%06d", n)), "111111111111")
			eni := cloud.InterfaceID(fmt.Sprintf("eni-%06d", n))
			i.Interfaces = []cloud.InterfaceID{eni}
			i.Tags = cloud.Tags{"Name": "web", "Stage": "test"}
			store.Put(tx, store.Instances, i)
			store.Put(tx, store.Interfaces, &cloud.Interface{
				ID: eni, Account: i.Account, Instance: i.ID, VPC: "vpc-1", Subnet: "subnet-1",
				Groups: []cloud.SecurityGroupID{"sg-1"},
			})
			for _, kind := range []string{"ip", "public"} {
				key := store.ClaimKey(store.JoinKey(kind, string(eni)))
				if err := store.Insert(tx, store.Claims, &store.Claim{Key: key, Owner: string(eni)}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
