package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const (
	snapshotter = "overlayfs"
	namespace   = "nacre" // containerd's metadata is divided by namespaces; one is enough here
	// factsLabel carries an Image on its record, so that listing reads no content.
	factsLabel = "cloud.nacre.facts"
	lockWait   = 2 * time.Second
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("no such image on this node")
	ErrInvalid  = errors.New("the image is not acceptable") // corrupt, lying, climbing, or past a limit
)

// StoreConfig says where a store lives.
type StoreConfig struct {
	Root   string // content, layers and writable roots; on a file system that overlayfs can use
	Logger *slog.Logger
}

// Store keeps images, their layers, and the root file systems that machines write to. It is safe for
// concurrent use.
type Store struct {
	root string
	log  *slog.Logger
	bolt *bolt.DB
	db   *metadata.DB
	snap snapshots.Snapshotter
	imgs images.Store
	held leases.Manager

	mu    sync.RWMutex
	known map[string]record // by digest

	// collect keeps imports out while garbage is collected: containerd's own collector expects that.
	collect   sync.RWMutex
	collector *collector
}

// record is an image with what its machines stand on.
type record struct {
	Image Image
	// Chain is the snapshot of the topmost layer.
	Chain string
}

// Open opens the store, makes it on the first time, and collects what an interrupted import left behind. One
// process at a time has it.
func Open(ctx context.Context, cfg StoreConfig) (*Store, error) {
	for _, dir := range []string{cfg.Root, filepath.Join(cfg.Root, "content"), filepath.Join(cfg.Root, "layers")} {
		// Searchable by all: the first process of a container, which is nobody outside, passes through.
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("open the image store: %w", err)
		}
	}
	s := &Store{root: cfg.Root, log: cfg.Logger, known: map[string]record{}}
	cs, err := local.NewStore(filepath.Join(cfg.Root, "content"))
	if err != nil {
		return nil, fmt.Errorf("open the image store's content: %w", err)
	}
	s.bolt, err = bolt.Open(filepath.Join(cfg.Root, "meta.db"), 0o600, &bolt.Options{Timeout: lockWait})
	if err != nil {
		return nil, fmt.Errorf("open the image store's metadata in %s (does another process have it?): %w", cfg.Root, err)
	}
	raw, err := overlay.NewSnapshotter(filepath.Join(cfg.Root, "layers"), overlay.WithRemapIDs, overlay.AsynchronousRemove)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the image store's layers: %w", err), s.bolt.Close())
	}
	if err := os.Chmod(filepath.Join(cfg.Root, "layers"), 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("open the image store's layers: %w", err), raw.Close(), s.bolt.Close())
	}
	if err := os.Chmod(filepath.Join(cfg.Root, "layers", "snapshots"), 0o711); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("open the image store's layers: %w", err), raw.Close(), s.bolt.Close())
	}
	s.db = metadata.NewDB(s.bolt, cs, map[string]snapshots.Snapshotter{snapshotter: raw})
	ctx = s.context(ctx)
	if err := s.db.Init(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the image store's metadata: %w", err), s.Close())
	}
	s.snap, s.imgs, s.held = s.db.Snapshotter(snapshotter), metadata.NewImageStore(s.db), metadata.NewLeaseManager(s.db)
	if err := s.recover(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.startCollector()
	return s, nil
}

func (s *Store) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// recover loads the images and drops the leases of imports that a crash cut off, with what they held.
func (s *Store) recover(ctx context.Context) error {
	list, err := s.imgs.List(ctx)
	if err != nil {
		return fmt.Errorf("list the images of this node: %w", err)
	}
	for _, img := range list {
		var r record
		if err := json.Unmarshal([]byte(img.Labels[factsLabel]), &r); err != nil {
			return fmt.Errorf("image %s: its record is damaged: %w", img.Name, err)
		}
		s.known[img.Name] = r
	}
	old, err := s.held.List(ctx)
	if err != nil {
		return fmt.Errorf("list the leases of interrupted imports: %w", err)
	}
	for _, l := range old {
		if err := s.held.Delete(ctx, l); err != nil {
			return fmt.Errorf("drop the lease of an interrupted import: %w", err)
		}
	}
	ingests, err := s.db.ContentStore().ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("list interrupted downloads: %w", err)
	}
	for _, st := range ingests {
		if err := s.db.ContentStore().Abort(ctx, st.Ref); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("drop an interrupted download: %w", err)
		}
	}
	return s.GC(ctx)
}

// Close releases the store. Mounted roots stay mounted.
func (s *Store) Close() error {
	var problems []error
	if s.collector != nil {
		s.collector.stop()
		s.collector.wg.Wait()
	}
	if s.snap != nil {
		problems = append(problems, s.snap.Close())
	}
	return errors.Join(append(problems, s.bolt.Close())...)
}

// List returns all images, by digest.
func (s *Store) List(context.Context) ([]Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]Image, 0, len(s.known))
	for _, r := range s.known {
		list = append(list, r.Image)
	}
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(a.Digest, b.Digest) })
	return list, nil
}

// Get returns one image, ErrNotFound when there is none with the digest.
func (s *Store) Get(_ context.Context, digest string) (Image, error) {
	r, err := s.find(digest)
	return r.Image, err
}

func (s *Store) find(digest string) (record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.known[digest]
	if !ok {
		return r, fmt.Errorf("%s: %w", digest, ErrNotFound)
	}
	return r, nil
}

// Delete forgets an image. Roots that stand on it keep its layers until they are removed too.
func (s *Store) Delete(ctx context.Context, digest string) error {
	ctx = s.context(ctx)
	s.mu.Lock()
	delete(s.known, digest)
	s.mu.Unlock()
	if err := s.imgs.Delete(ctx, digest); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("forget image %s: %w", digest, err)
	}
	return s.GC(ctx)
}

// GC removes content and layers that neither an image nor a root needs.
func (s *Store) GC(ctx context.Context) error {
	s.collect.Lock()
	defer s.collect.Unlock()
	ctx = s.context(ctx)
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return fmt.Errorf("collect unused image layers: %w", err)
	}
	if c, ok := s.snap.(snapshots.Cleaner); ok {
		if err := c.Cleanup(ctx); err != nil {
			return fmt.Errorf("remove unused image layers: %w", err)
		}
	}
	return nil
}

// Usage is what the store's file system holds for it, in bytes.
func (s *Store) Usage(ctx context.Context) (content, layers int64, err error) {
	ctx = s.context(ctx)
	err = s.db.ContentStore().Walk(ctx, func(i contentInfo) error { content += i.Size; return nil })
	if err != nil {
		return 0, 0, fmt.Errorf("weigh the image content: %w", err)
	}
	err = s.snap.Walk(ctx, func(ctx context.Context, i snapshots.Info) error {
		u, err := s.snap.Usage(ctx, i.Name)
		layers += u.Size
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("weigh the image layers: %w", err)
	}
	return content, layers, nil
}

type contentInfo = content.Info

// free is how many bytes the store's file system has left.
func (s *Store) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, fmt.Errorf("see how much room is left for images: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
