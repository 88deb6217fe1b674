package store

import (
	"context"
	"fmt"
	"time"
)

const (
	// losses is how often a transaction runs beside others before it gets the store to itself.
	losses = 4
	// attempts bounds the rest, which only writers of other processes can make fail.
	attempts = 100
)

// Update runs fn and commits what it wrote. If others changed what fn read, fn runs again on
// a newer view, so it must have no effects but through tx, and set the variables that it
// leaves results in anew each time. It must not call Update.
//
// If fn returns an error, nothing is written, and Update returns that very error. ctx bounds
// the attempts, but a commit under way is waited for, so that its outcome is known.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	exclusive := false
	defer func() {
		if exclusive {
			s.gate.Unlock()
		}
	}()
	for attempt := 1; attempt <= attempts; attempt++ {
		if err := s.Err(); err != nil {
			return fmt.Errorf("store transaction: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store transaction, attempt %d: %w", attempt, err)
		}
		tx := newTx(s.View())
		if err := tx.run(fn); err != nil {
			return err
		}
		if len(tx.writes) == 0 {
			return nil // it saw one consistent view; there is nothing that could be lost
		}
		revision, won, err := s.commit(ctx, tx, exclusive)
		if err != nil {
			return fmt.Errorf("commit a store transaction: %w", err)
		}
		if won {
			// The writes are acknowledged by now, whatever becomes of the store.
			_ = s.waitFor(context.WithoutCancel(ctx), revision)
			return nil
		}
		s.counters.lost.Add(1)
		// The rival's revision is no higher than the one at which the guard failed.
		if err := s.waitFor(ctx, revision); err != nil {
			return fmt.Errorf("store transaction, after attempt %d: %w", attempt, err)
		}
		if attempt == losses {
			s.gate.Lock()
			exclusive = true
		}
	}
	return fmt.Errorf("store transaction, %d attempts: %w", attempts, ErrContended)
}

func (s *Store) commit(ctx context.Context, tx *Tx, exclusive bool) (revision int64, won bool, err error) {
	guards, writes := tx.request()
	if tx.size > MaxTxnBytes || len(guards) > MaxTxnOps || len(writes) > MaxTxnOps {
		return 0, false, fmt.Errorf("%d objects read, %d written, %d bytes: %w", len(guards), len(writes), tx.size, ErrTooLarge)
	}
	if !exclusive {
		s.gate.RLock()
		defer s.gate.RUnlock()
	}
	begin := time.Now()
	revision, won, err = s.backend.commit(context.WithoutCancel(ctx), guards, writes)
	if err == nil && won {
		s.counters.note(time.Since(begin))
	}
	return revision, won, err
}
