package store

import (
	"sync/atomic"
	"time"
)

// Stats are totals since the store was opened.
type Stats struct {
	Revision   int64         // of the newest view
	Commits    int64         // transactions that wrote
	LostRaces  int64         // runs of a transaction's function that came to nothing
	CommitTime time.Duration // that the commits took in the backend, all together
	Slowest    time.Duration // commit
}

type counters struct {
	commits, lost, nanos, slowest atomic.Int64
}

func (c *counters) note(took time.Duration) {
	c.commits.Add(1)
	c.nanos.Add(int64(took))
	for {
		slowest := c.slowest.Load()
		if int64(took) <= slowest || c.slowest.CompareAndSwap(slowest, int64(took)) {
			return
		}
	}
}

// Stats returns the store's totals.
func (s *Store) Stats() Stats {
	return Stats{
		Revision:   s.View().revision,
		Commits:    s.counters.commits.Load(),
		LostRaces:  s.counters.lost.Load(),
		CommitTime: time.Duration(s.counters.nanos.Load()),
		Slowest:    time.Duration(s.counters.slowest.Load()),
	}
}
