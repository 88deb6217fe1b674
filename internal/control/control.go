package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	// resync is the safety net under the watch.
	resync = 30 * time.Second
	// janitorEvery is how often what is over is cleared away.
	janitorEvery = time.Minute
	// TerminatedFor is how long a terminated instance can still be described, as in EC2.
	TerminatedFor = time.Hour
	// TokensFor is how long a client token is remembered.
	TokensFor = 24 * time.Hour
	// ImportsFor is how long an ended import can still be described.
	ImportsFor = 24 * time.Hour
	// FleetsFor is how long a fleet can still be described when its instances are forgotten.
	FleetsFor = 48 * time.Hour
	// PeeringsFor is how long a peering that is over can still be described.
	PeeringsFor = 2 * time.Hour
	// UsageFor is how long a row of the usage ledger is kept after its end: Cost Explorer's 13 months, and the current one.
	UsageFor   = 430 * 24 * time.Hour
	retryAfter = time.Second
)

// Reconcilers are the parts of the control plane that nobody calls.
type Reconcilers struct {
	Store  *store.Store
	Now    func() time.Time
	Logger *slog.Logger
	// Reconciled is told how long each reconciliation took, and what it failed for; nil for nobody.
	Reconciled func(took time.Duration, err error)
}

// Run works until ctx ends or the store fails.
func (r *Reconcilers) Run(ctx context.Context) error {
	_, sub := r.Store.Watch(store.Instances, store.Nodes, store.ImportTasks, store.NATGateways, store.Images, store.Snapshots)
	defer sub.Close()
	clean := time.NewTicker(janitorEvery)
	defer clean.Stop()
	if err := r.clean(ctx); err != nil && ctx.Err() == nil {
		r.Logger.Error("clear away what is over", "error", err)
	}
	for {
		next := resync
		begin := r.Now()
		err := r.reconcile(ctx)
		if r.Reconciled != nil && ctx.Err() == nil {
			r.Reconciled(r.Now().Sub(begin), err)
		}
		if err != nil && ctx.Err() == nil {
			r.Logger.Error("reconcile", "error", err, "retry", retryAfter)
			next = retryAfter
		}
		select {
		case <-ctx.Done():
			return nil
		case <-sub.Ready():
			if _, err := sub.Next(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("watch the store: %w", err)
			}
		case <-clean.C:
			if err := r.clean(ctx); err != nil && ctx.Err() == nil {
				r.Logger.Error("clear away what is over", "error", err)
			}
		case <-time.After(next):
		}
	}
}

// reconcile does every next step that the store's present state calls for.
func (r *Reconcilers) reconcile(ctx context.Context) error {
	if err := schedule(ctx, r.Store, r.Now); err != nil {
		return fmt.Errorf("place instances: %w", err)
	}
	if err := finishUnplaced(ctx, r.Store, r.Now); err != nil {
		return err
	}
	if err := placeNATGateways(ctx, r.Store, r.Now()); err != nil {
		return err
	}
	if err := settleCopies(ctx, r.Store); err != nil {
		return err
	}
	return placeImports(ctx, r.Store)
}

// fleetLives tells whether any of a fleet's instances is still known.
func fleetLives(r store.Reader, f *cloud.Fleet) bool {
	for _, g := range f.Groups {
		for _, id := range g.Instances {
			if _, ok := store.Get(r, store.Instances, id); ok {
				return true
			}
		}
	}
	return false
}

// endPeering ends a request for a peering that nobody accepted in time, and forgets a peering that is over after its time.
func endPeering(tx *store.Tx, p *cloud.Peering, now time.Time) {
	if !p.Ended.IsZero() {
		if now.Sub(p.Ended) > PeeringsFor {
			store.Delete(tx, store.Peerings, p.ID)
		}
		return
	}
	if p.Status != cloud.PeeringPending || !now.After(p.Expires) {
		return
	}
	if p, ok := store.Get(tx, store.Peerings, p.ID); ok && p.Status == cloud.PeeringPending {
		p.Status, p.Message, p.Ended = cloud.PeeringExpired, "Expired", p.Expires
		store.Put(tx, store.Peerings, p)
	}
}

// clean removes images that expire, and forgets terminated instances, client tokens, pushed keys, ended imports and fleets that are over after their time.
func (r *Reconcilers) clean(ctx context.Context) error {
	now := r.Now()
	expired := expireImages(ctx, r.Store, now)
	err := r.Store.Update(ctx, func(tx *store.Tx) error {
		view := tx.View()
		for _, i := range store.ListBy(view, store.InstancesByState, cloud.StateTerminated) {
			if now.Sub(i.Terminated) > TerminatedFor {
				store.Delete(tx, store.Instances, i.ID)
			}
		}
		for _, t := range store.List(view, store.ClientTokens) {
			if now.Sub(t.Created) > TokensFor {
				store.Delete(tx, store.ClientTokens, store.TokenKey(t.Account, t.Action, t.Token))
			}
		}
		for _, u := range store.List(view, store.Usages) {
			if !u.End.IsZero() && now.Sub(u.End) > UsageFor {
				store.Delete(tx, store.Usages, store.UsageKey(u.Key()))
			}
		}
		for _, k := range store.List(view, store.PushedKeys) {
			if now.After(k.Expires) {
				store.Delete(tx, store.PushedKeys, store.PushedTo(k.Instance, k.Key))
			}
		}
		for _, t := range store.List(view, store.ImportTasks) {
			if !t.Ended.IsZero() && now.Sub(t.Ended) > ImportsFor {
				store.Delete(tx, store.ImportTasks, t.ID)
			}
		}
		for _, g := range store.List(view, store.NATGateways) {
			if !g.Deleted.IsZero() && now.Sub(g.Deleted) > NATGatewaysFor {
				store.Delete(tx, store.NATGateways, g.ID)
			}
		}
		for _, p := range store.List(view, store.Peerings) {
			endPeering(tx, p, now)
		}
		for _, f := range store.List(view, store.Fleets) {
			if now.Sub(f.Created) > FleetsFor && !fleetLives(view, f) {
				store.Delete(tx, store.Fleets, f.ID)
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("forget what is over: %w", err)
	}
	return errors.Join(expired, err)
}

// TerminateAll notes that no instance is left on any node, for a cloud that is being taken down
// whole. The caller removes the machines.
func TerminateAll(ctx context.Context, s *store.Store, now time.Time) error {
	err := s.Update(ctx, func(tx *store.Tx) error {
		tx.At(now)
		for _, i := range store.List(tx, store.Instances) {
			if i.State == cloud.StateTerminated {
				continue
			}
			i.Desired = cloud.DesiredTerminated
			i.StateReason = cloud.ReasonUserTerminate
			if err := terminate(tx, i, now); err != nil {
				return err
			}
			store.Put(tx, store.Instances, i)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("terminate all instances: %w", err)
	}
	return nil
}
