// Package ec2 answers EC2: each action is validated against the domain, then read from one view of the store or
// written in one transaction.
//
// It promises that an answered success is committed, that a refused call has changed nothing, and that a
// dry run validates exactly as the real call does. It never starts anything itself: what it writes is
// intent, which the control plane makes true. An account sees only what is its own, and public images.
package ec2

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Console asks an instance's node for the end of its console, limit bytes at most, and when it was last
// written to.
type Console interface {
	Console(ctx context.Context, node cloud.NodeID, id cloud.InstanceID, limit int) ([]byte, time.Time, error)
}

// Config is what the service works with.
type Config struct {
	Store   *store.Store
	Console Console
	Rand    io.Reader
	Now     func() time.Time
	Logger  *slog.Logger
}

// Service answers EC2's actions.
type Service struct {
	cfg   Config
	store *store.Store
}

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg, store: cfg.Store} }

// Register adds the service's actions.
func (s *Service) Register(r *awsapi.Registry) {
	r.Refuse(ec2.Service, refusal)
	s.registerRegions(r)
	s.registerInstances(r)
	s.registerInstanceAttributes(r)
	s.registerInstanceTypes(r)
	s.registerLaunchTemplates(r)
	s.registerFleets(r)
	s.registerPlacement(r)
	s.registerAccountSettings(r)
	s.registerCredits(r)
	s.registerInstanceCare(r)
	s.registerNetworkInterfaces(r)
	s.registerKeyPairs(r)
	s.registerImages(r)
	s.registerImageLife(r)
	s.registerCaptures(r)
	s.registerImports(r)
	s.registerVolumes(r)
	s.registerVPCs(r)
	s.registerSecurityGroups(r)
	s.registerNetworkACLs(r)
	s.registerFlowLogs(r)
	s.registerNATGateways(r)
	s.registerAddresses(r)
	s.registerTags(r)
}

var errDryRun = errors.New("dry run")

// update runs one transaction for a call. A dry run goes through all of it and commits nothing.
func (s *Service) update(ctx context.Context, call *awsapi.Call, fn func(*store.Tx) error) error {
	err := s.store.Update(ctx, func(tx *store.Tx) error {
		tx.At(call.Now)
		if err := fn(tx); err != nil {
			return err
		}
		if call.DryRun {
			return errDryRun
		}
		return nil
	})
	switch {
	case errors.Is(err, errDryRun):
		return awsapi.DryRunOperation()
	case errors.Is(err, store.ErrContended):
		return awsapi.Errorf("Unavailable", "The resources are being changed by other calls; try again.")
	case errors.Is(err, store.ErrFull):
		return awsapi.Errorf("Unavailable", "The cloud's store is full; the operator has to make room.")
	}
	return err
}

func newID[T cloud.ID](s *Service) T { return cloud.NewID[T](s.cfg.Rand) }

// deref reads an optional member.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// optional is nil for the zero value: EC2 leaves such members out.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// text is optional for types that are strings.
func text[S ~string](v S) *string { return optional(string(v)) }

// strs turns typed strings into plain ones.
func strs[S ~string](list []S) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

// filters is the model's filters as the engine wants them.
func filters(list []ec2.Filter) []awsapi.Filter {
	out := make([]awsapi.Filter, len(list))
	for i, f := range list {
		out[i] = awsapi.Filter{Name: deref(f.Name), Values: f.Values}
	}
	return out
}

// boolText is how filters see a flag.
func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// timeText is how filters see a time.
func timeText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
