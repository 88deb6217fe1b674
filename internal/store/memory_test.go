package store_test

import (
	"testing"

	"github.com/nacre-cloud/nacre/internal/store"
	"github.com/nacre-cloud/nacre/internal/store/storetest"
)

func TestMemoryKeepsTheStoresPromises(t *testing.T) {
	storetest.Run(t, func(testing.TB) *store.Store { return store.OpenMemory() })
}
