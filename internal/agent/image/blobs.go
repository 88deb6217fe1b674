package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/registry"
)

const (
	// registryLease holds what repositories keep, over restarts.
	registryLease = "registry"
	// pushes is what the names of uploads to repositories begin with. They outlive a restart, so that a push goes on.
	pushes = "push/"
)

// Blobs is a store's content as the registry sees it: a blob that an AMI has too is there once.
type Blobs struct{ s *Store }

// Blobs returns the store's content for the registry.
func (s *Store) Blobs() Blobs { return Blobs{s} }

var _ registry.Blobs = Blobs{}

// openRegistryLease makes the lease on the first time.
func (s *Store) openRegistryLease(ctx context.Context) error {
	_, err := s.held.Create(ctx, leases.WithID(registryLease))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("hold what the registry keeps: %w", err)
	}
	return nil
}

func (b Blobs) context(ctx context.Context) context.Context {
	return leases.WithLease(b.s.context(ctx), registryLease)
}

// missing gives what isn't there the error that the registry knows.
func missing(err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

func (b Blobs) room(more int64) error {
	err := b.s.Room(more)
	if errors.Is(err, ErrFull) {
		return fmt.Errorf("%w: %w", registry.ErrFull, err)
	}
	return err
}

func (b Blobs) Upload(ctx context.Context, name string, create bool) (registry.Upload, error) {
	ctx = b.context(context.WithoutCancel(ctx)) // it outlives the request that began it
	cs := b.s.db.ContentStore()
	if !create {
		if _, err := cs.Status(ctx, pushes+name); err != nil {
			return nil, missing(err)
		}
	}
	w, err := cs.Writer(ctx, content.WithRef(pushes+name))
	if err != nil {
		return nil, err
	}
	st, err := w.Status()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &push{b: b, w: w, offset: st.Offset}, nil
}

func (b Blobs) Uploads(ctx context.Context) (map[string]time.Time, error) {
	list, err := b.s.db.ContentStore().ListStatuses(b.context(ctx))
	if err != nil {
		return nil, err
	}
	out := map[string]time.Time{}
	for _, st := range list {
		if name, ok := strings.CutPrefix(st.Ref, pushes); ok {
			out[name] = st.UpdatedAt
		}
	}
	return out, nil
}

func (b Blobs) Abort(ctx context.Context, name string) error {
	err := b.s.db.ContentStore().Abort(b.context(ctx), pushes+name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (b Blobs) Put(ctx context.Context, d digest.Digest, p []byte) error {
	ctx = b.context(ctx)
	if err := b.room(int64(len(p))); err != nil {
		return err
	}
	w, err := content.OpenWriter(ctx, b.s.db.ContentStore(), content.WithRef(newKey()), content.WithDescriptor(ocispec.Descriptor{Digest: d, Size: int64(len(p))}))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(p); err != nil {
		return err
	}
	if err := w.Commit(ctx, int64(len(p)), d); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

func (b Blobs) Open(ctx context.Context, d digest.Digest) (registry.Blob, error) {
	ra, err := b.s.db.ContentStore().ReaderAt(b.context(ctx), ocispec.Descriptor{Digest: d})
	return ra, missing(err)
}

func (b Blobs) Release(ctx context.Context, keep func(digest.Digest) bool) error {
	ctx = b.context(ctx)
	lease := leases.Lease{ID: registryLease}
	held, err := b.s.held.ListResources(ctx, lease)
	if err != nil {
		return fmt.Errorf("list what the registry holds: %w", err)
	}
	released := false
	for _, r := range held {
		if r.Type != "content" || keep(digest.Digest(r.ID)) {
			continue
		}
		if err := b.s.held.DeleteResource(ctx, lease, r); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("let go of %s: %w", r.ID, err)
		}
		released = true
	}
	if released {
		b.s.collectSoon()
	}
	return nil
}

// push is a blob on its way into a repository.
type push struct {
	b       Blobs
	w       content.Writer
	offset  int64
	checked int64 // up to where there was room
}

func (p *push) Offset() int64 { return p.offset }

func (p *push) Write(b []byte) (int, error) {
	if end := p.offset + int64(len(b)); end > p.checked {
		if err := p.b.room(checkEvery); err != nil {
			return 0, err
		}
		p.checked = end + checkEvery
	}
	n, err := p.w.Write(b)
	p.offset += int64(n)
	return n, err
}

func (p *push) Commit(ctx context.Context, d digest.Digest) error {
	err := p.w.Commit(p.b.context(ctx), 0, d)
	switch {
	case err == nil, errdefs.IsAlreadyExists(err):
		return nil
	case errdefs.IsFailedPrecondition(err):
		return fmt.Errorf("%w: %w", registry.ErrDigest, err)
	}
	return err
}

func (p *push) Close() error { return p.w.Close() }
