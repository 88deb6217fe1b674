package control

import (
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestPeeringsEndInTheirTime(t *testing.T) {
	s := store.OpenMemory()
	t.Cleanup(func() { s.Close() })
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	put := func(id cloud.PeeringID, p cloud.Peering) {
		p.ID = id
		if err := s.Update(t.Context(), func(tx *store.Tx) error { store.Put(tx, store.Peerings, &p); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	put("pcx-1", cloud.Peering{Status: cloud.PeeringPending, Expires: now.Add(time.Minute)})
	put("pcx-2", cloud.Peering{Status: cloud.PeeringPending, Expires: now.Add(-time.Minute)})
	put("pcx-3", cloud.Peering{Status: cloud.PeeringActive, Expires: now.Add(-time.Hour)})
	put("pcx-4", cloud.Peering{Status: cloud.PeeringDeleted, Ended: now.Add(-time.Hour)})
	put("pcx-5", cloud.Peering{Status: cloud.PeeringRejected, Ended: now.Add(-PeeringsFor - time.Minute)})
	r := &Reconcilers{Store: s, Now: func() time.Time { return now }}
	want := func(list map[cloud.PeeringID]cloud.PeeringStatus) {
		t.Helper()
		if err := r.clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		have := store.List(s.View(), store.Peerings)
		if len(have) != len(list) {
			t.Errorf("%d are left, want %d", len(have), len(list))
		}
		for _, p := range have {
			if list[p.ID] != p.Status {
				t.Errorf("%s is %s, want %q", p.ID, p.Status, list[p.ID])
			}
		}
	}
	want(map[cloud.PeeringID]cloud.PeeringStatus{"pcx-1": cloud.PeeringPending, "pcx-2": cloud.PeeringExpired, "pcx-3": cloud.PeeringActive, "pcx-4": cloud.PeeringDeleted})
	now = now.Add(PeeringsFor)
	want(map[cloud.PeeringID]cloud.PeeringStatus{"pcx-1": cloud.PeeringExpired, "pcx-3": cloud.PeeringActive})
}
