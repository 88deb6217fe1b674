package store_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
	"github.com/nacre-cloud/nacre/internal/store/storetest"
)

func config(t testing.TB, dir string) store.EtcdConfig {
	return store.EtcdConfig{DataDir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func openEtcd(t testing.TB, cfg store.EtcdConfig) *store.Store {
	t.Helper()
	s, err := store.OpenEtcd(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return s
}

func putNode(t testing.TB, s *store.Store, id cloud.NodeID) {
	t.Helper()
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		store.Put(tx, store.Nodes, &cloud.Node{ID: id})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEtcdKeepsTheStoresPromises(t *testing.T) {
	storetest.Run(t, func(t testing.TB) *store.Store { return openEtcd(t, config(t, t.TempDir())) })
}

func TestEtcdGoesOnWhereItStopped(t *testing.T) {
	dir := t.TempDir()
	var revision int64
	for start := range 3 {
		s := openEtcd(t, config(t, dir))
		if got := len(store.List(s.View(), store.Nodes)); got != start*10 {
			t.Errorf("start %d finds %d nodes, want %d", start, got, start*10)
		}
		if s.View().Revision() < revision {
			t.Errorf("start %d begins at revision %d, the one before ended at %d", start, s.View().Revision(), revision)
		}
		for n := range 10 {
			putNode(t, s, cloud.NodeID(fmt.Sprintf("node-%d-%d", start, n)))
			if s.View().Revision() <= revision {
				t.Fatalf("a write of start %d has revision %d, not above %d", start, s.View().Revision(), revision)
			}
			revision = s.View().Revision()
		}
		// What was read before a restart guards transactions after it.
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			n, _ := store.Get(tx, store.Nodes, "node-0-0")
			n.CPUs++
			store.Put(tx, store.Nodes, n)
			if len(store.List(tx, store.Nodes)) != (start+1)*10 {
				return errors.New("the list is wrong")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := store.Get(s.View(), store.Nodes, "node-0-0"); n.CPUs != start+1 {
			t.Errorf("start %d counts %d", start, n.CPUs)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEtcdRefusesADirectoryInUseAtOnce(t *testing.T) {
	dir := t.TempDir()
	openEtcd(t, config(t, dir))
	begin := time.Now()
	_, err := store.OpenEtcd(t.Context(), config(t, dir))
	if err == nil || !strings.Contains(err.Error(), "another process uses") || !strings.Contains(err.Error(), dir) {
		t.Errorf("the second opening of %s: %v", dir, err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v to say so", took)
	}
}

func TestEtcdStoresRunSideBySide(t *testing.T) {
	a, b := openEtcd(t, config(t, t.TempDir())), openEtcd(t, config(t, t.TempDir()))
	putNode(t, a, "node-a")
	putNode(t, b, "node-b")
	for _, c := range []struct {
		s        *store.Store
		has, not cloud.NodeID
	}{{a, "node-a", "node-b"}, {b, "node-b", "node-a"}} {
		if _, ok := store.Get(c.s.View(), store.Nodes, c.has); !ok {
			t.Errorf("a store lacks its own %s", c.has)
		}
		if _, ok := store.Get(c.s.View(), store.Nodes, c.not); ok {
			t.Errorf("a store has another's %s", c.not)
		}
	}
}

func TestEtcdNamesTheDirectoryOfDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	s := openEtcd(t, config(t, dir))
	putNode(t, s, "node-1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "etcd/member/wal/*.wal"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("find the write-ahead log: %v %v", logs, err)
	}
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 20; i < 400; i++ {
			data[i] ^= 0xff
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// In a process of its own, as etcd leaves work behind that such an end does not wait for.
	opening := exec.CommandContext(t.Context(), os.Args[0])
	opening.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := opening.CombinedOutput()
	if err == nil || opening.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "open the store in "+dir+": start etcd:") {
		t.Errorf("open with a damaged log: %v, %s", err, out)
	}
}

func TestEtcdGoesOnAfterItsQuotaWasRaised(t *testing.T) {
	cfg := config(t, t.TempDir())
	cfg.QuotaBytes = 4 << 20
	s := openEtcd(t, cfg)
	var full error
	for n := 0; n < 100 && full == nil; n++ {
		full = s.Update(t.Context(), func(tx *store.Tx) error {
			store.Put(tx, store.Instances, &cloud.Instance{ID: cloud.InstanceID(fmt.Sprintf("i-%d", n)), UserData: make([]byte, 256<<10)})
			return nil
		})
	}
	if !errors.Is(full, store.ErrFull) {
		t.Fatalf("writing beyond the quota: %v, want ErrFull", full)
	}
	kept := len(store.List(s.View(), store.Instances))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.QuotaBytes = 64 << 20
	s = openEtcd(t, cfg)
	// etcd may have applied the very write at which it noticed that it is full.
	if got := len(store.List(s.View(), store.Instances)); got != kept && got != kept+1 {
		t.Errorf("%d instances after the restart, %d before", got, kept)
	}
	putNode(t, s, "node-1")
}
