package store_test

import (
	"testing"

	"github.com/nacre-cloud/nacre/internal/store"
	"github.com/nacre-cloud/nacre/internal/store/storetest"
)

func BenchmarkEtcd(b *testing.B) {
	storetest.Benchmark(b, func(b testing.TB) *store.Store { return openEtcd(b, config(b, b.TempDir())) })
}

func BenchmarkMemory(b *testing.B) {
	storetest.Benchmark(b, func(testing.TB) *store.Store { return store.OpenMemory() })
}
