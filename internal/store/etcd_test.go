package store_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/store"
	"github.com/nacre-cloud/nacre/internal/store/storetest"
)

func openEtcd(t testing.TB, dir string) *store.Store {
	t.Helper()
	begin := time.Now()
	s, err := store.OpenEtcd(t.Context(), store.EtcdConfig{DataDir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("open in %v", time.Since(begin))
	return s
}

func TestEtcdKeepsTheStoresPromises(t *testing.T) {
	storetest.Run(t, func(t testing.TB) *store.Store { return openEtcd(t, t.TempDir()) })
}
