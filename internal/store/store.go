package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
)

// Store is the state of a cloud. Its methods may be called by many goroutines.
type Store struct {
	backend backend
	log     *slog.Logger
	view    atomic.Pointer[View]

	// gate lets a transaction that keeps losing have the store for itself: it holds the gate
	// exclusively, while ordinary commits share it.
	gate sync.RWMutex

	mu            sync.Mutex // for everything below, and for changes of view
	waiters       map[chan struct{}]int64
	subscriptions map[*Subscription]struct{}

	stop context.CancelFunc
	done chan struct{} // closed when the follower has ended, after err was set
	err  error

	closing  sync.Once
	closeErr error

	counters counters
}

// open fills the view and starts to follow the backend, which it closes on failure.
func open(ctx context.Context, b backend, log *slog.Logger) (*Store, error) {
	all, err := b.load(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the store: %w", err), b.close())
	}
	view, _, err := newView().apply(all)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the store: %w", err), b.close())
	}
	s := &Store{
		backend:       b,
		log:           log,
		waiters:       map[chan struct{}]int64{},
		subscriptions: map[*Subscription]struct{}{},
		done:          make(chan struct{}),
	}
	s.view.Store(view)
	following, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.run(following)
	return s, nil
}

// View returns the newest view.
func (s *Store) View() *View { return s.view.Load() }

// Done is closed when the store has stopped: by Close, or by itself, if the backend failed
// or holds what can't be read. Nothing can be written then and nothing new is seen. Those who
// run a store should end when it does; start-up is the recovery.
func (s *Store) Done() <-chan struct{} { return s.done }

// Err says why the store has stopped: ErrClosed after Close, nil before.
func (s *Store) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Close stops the store. Updates under way may fail or succeed; what they acknowledged stays.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.stop()
		<-s.done
		s.closeErr = s.backend.close()
	})
	return s.closeErr
}

// run keeps the view up with the backend until the store is closed or fails.
func (s *Store) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var watchdog sync.WaitGroup
	watchdog.Go(func() {
		select {
		case <-s.backend.down():
			cancel()
		case <-ctx.Done():
		}
	})
	err := s.follow(ctx)
	cancel()
	watchdog.Wait()
	s.end(err)
}

// follow applies what the backend commits until ctx or the backend ends, and says why.
func (s *Store) follow(ctx context.Context) error {
	for {
		err := s.backend.follow(ctx, s.View().revision, s.publish)
		if errors.Is(err, errTrimmed) {
			s.log.Warn("store fell behind the kept history and reads everything again", "revision", s.View().revision)
			if err = s.reload(ctx); err == nil {
				continue
			}
		}
		select {
		case <-s.backend.down():
			return s.backend.reason()
		default:
		}
		if ctx.Err() != nil {
			return ErrClosed
		}
		return err
	}
}

// reload goes to the backend's present contents without the steps between.
func (s *Store) reload(ctx context.Context) error {
	all, err := s.backend.load(ctx)
	if err != nil {
		return fmt.Errorf("read the store again: %w", err)
	}
	return s.publish(s.View().deltaTo(all))
}

// publish makes what happened visible: first in the view, then to subscriptions and
// transactions that wait for it.
func (s *Store) publish(d delta) error {
	next, changes, err := s.View().apply(d)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.Store(next)
	for sub := range s.subscriptions {
		sub.queue(next, changes)
	}
	for seen, revision := range s.waiters {
		if revision <= next.revision {
			delete(s.waiters, seen)
			close(seen)
		}
	}
	return nil
}

// end stops everybody who waits.
func (s *Store) end(err error) {
	if !errors.Is(err, ErrClosed) {
		s.log.Error("store stopped", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	close(s.done)
}

// waitFor returns when the view has reached a revision, or the store or ctx has ended.
func (s *Store) waitFor(ctx context.Context, revision int64) error {
	s.mu.Lock()
	if s.View().revision >= revision {
		s.mu.Unlock()
		return nil
	}
	seen := make(chan struct{})
	s.waiters[seen] = revision
	s.mu.Unlock()
	select {
	case <-seen:
		return nil
	case <-s.done:
		return s.err
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.waiters, seen)
		s.mu.Unlock()
		return ctx.Err()
	}
}
