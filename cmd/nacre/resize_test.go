package main

import (
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// server answers a running instance's next change of size as its server would.
func (c *testCloud) server(id string, failure string) {
	c.t.Helper()
	_, sub := c.store.Watch()
	c.t.Cleanup(sub.Close)
	go func() {
		for {
			batch, err := sub.Next(c.t.Context())
			if err != nil {
				return
			}
			if i, _ := store.Get(batch.View, store.Instances, cloud.InstanceID(id)); i.Before == nil {
				continue
			}
			_ = c.store.Update(c.t.Context(), func(tx *store.Tx) error {
				i, _ := store.Get(tx, store.Instances, cloud.InstanceID(id))
				i.Resized(failure)
				store.Put(tx, store.Instances, i)
				return nil
			})
			if failure != "" {
				return
			}
		}
	}()
}

func (c *testCloud) running(id string) {
	c.t.Helper()
	c.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, cloud.InstanceID(id))
		i.State, i.Node = cloud.StateRunning, store.List(tx, store.Nodes)[0].ID
		store.Put(tx, store.Instances, i)
	})
}

func TestResizeWaitsForTheServerAndSaysWhatItRefused(t *testing.T) {
	c := newTestCloud(t)
	c.image("", "plain")
	i, _ := c.launched("plain")
	c.running(i.ID)
	c.server(i.ID, "")
	record := func() *cloud.Instance {
		r, _ := store.Get(c.store.View(), store.Instances, cloud.InstanceID(i.ID))
		return r
	}
	if _, _, err := c.nacre("resize", i.ID, "--cpus", "4", "--memory", "3GiB"); err != nil {
		t.Fatal(err)
	}
	if r := record(); r.CPUs != 4 || r.MemoryMiB != 3072 || r.Before != nil {
		t.Errorf("it is %+v", r)
	}
	if _, _, err := c.nacre("resize", i.ID, "--type", "t3.large"); err != nil {
		t.Fatal(err)
	}
	if r := record(); r.Type != "t3.large" || r.CPUs != 0 || r.MemoryMiB != 0 {
		t.Errorf("it is %+v", r)
	}
	for _, wrong := range [][]string{{}, {"--type", "t3.small", "--cpus", "2"}, {"--memory", "much"}, {"--memory", "3Gi"}, {"--cpus", "5000"}} {
		if _, _, err := c.nacre(append([]string{"resize", i.ID}, wrong...)...); err == nil {
			t.Errorf("%v is taken", wrong)
		}
	}
}

func TestAResizeThatFailsLeavesTheInstanceAndSaysWhy(t *testing.T) {
	c := newTestCloud(t)
	c.image("", "plain")
	i, _ := c.launched("plain")
	c.running(i.ID)
	c.server(i.ID, "its processes hold 700 MiB")
	if _, _, err := c.nacre("resize", i.ID, "--memory", "128"); err == nil || !strings.Contains(err.Error(), "its processes hold 700 MiB") {
		t.Errorf("it says %v", err)
	}
	if r, _ := store.Get(c.store.View(), store.Instances, cloud.InstanceID(i.ID)); r.MemoryMiB != 0 {
		t.Errorf("it has %d MiB", r.MemoryMiB)
	}
}

func FuzzMebibytes(f *testing.F) {
	for _, s := range []string{"512", "2GiB", "0", "1T", "-1", "9223372036854775807TiB", "GiB", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := mebibytes("--memory", s); err == nil && n < 0 {
			t.Errorf("%q is %d MiB", s, n)
		}
	})
}
