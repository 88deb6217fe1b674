package image

import (
	"context"
	"sync"
	"time"
)

// collectDelay gathers removals, so that many machines ending together are collected once.
const collectDelay = 500 * time.Millisecond

// collector deletes in the background what RemoveRoot left.
type collector struct {
	wake chan struct{}
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func (s *Store) startCollector() {
	ctx, cancel := context.WithCancel(context.Background())
	s.collector = &collector{wake: make(chan struct{}, 1), stop: cancel}
	s.collector.wg.Go(func() {
		for {
			select {
			case <-s.collector.wake:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(collectDelay):
			case <-ctx.Done():
				return
			}
			if err := s.GC(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("collect what removed machines left", "error", err)
			}
		}
	})
}

func (s *Store) collectSoon() {
	select {
	case s.collector.wake <- struct{}{}:
	default:
	}
}
