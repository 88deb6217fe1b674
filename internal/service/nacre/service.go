// Package nacre answers nacre's own service: what a cloud is asked that AWS has no words for (docs/decisions/0014). It has nothing
// that AWS's services have an action for, and tells an account about its own resources only; what is about the servers themselves is the operator's.
package nacre

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Nodes asks nodes. Inspect has an instance's node look inside it; refused says, for whoever asked, why what the look asks for can't be found.
type Nodes interface {
	Inspect(ctx context.Context, node cloud.NodeID, id cloud.InstanceID, look cloud.Look) (found *cloud.Inspection, refused string, err error)
	// Images tells what an image is made of, or, of no image, where the bytes of all are.
	Images(ctx context.Context, node cloud.NodeID, digest string) (*cloud.ImageMakeup, *cloud.ImageUse, error)
	// Open has a node open a tunnel, whose end is the caller's to close.
	Open(ctx context.Context, node cloud.NodeID, to agentrpc.Target) (io.ReadWriteCloser, error)
	Build(ctx context.Context, node cloud.NodeID, q agentrpc.BuildQuery) (agentrpc.BuildAnswer, error)
}

// Secrets keeps what only a build's commands may know, in memory.
type Secrets interface {
	Put(task cloud.ImportTaskID, values map[string][]byte, now time.Time)
	Drop(task cloud.ImportTaskID)
}

// Config is what the service works with.
type Config struct {
	Store   *store.Store
	Nodes   Nodes
	Secrets Secrets
	Rand    io.Reader
	Logger  *slog.Logger
}

// Service answers the actions.
type Service struct {
	cfg   Config
	store *store.Store
}

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg, store: cfg.Store} }

// Register adds the service's actions.
func (s *Service) Register(r *awsapi.Registry) {
	s.registerInspect(r)
	s.registerBuilds(r)
	s.registerImages(r)
}
