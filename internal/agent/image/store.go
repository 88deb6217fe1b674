package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
)

const (
	snapshotter = "overlayfs"
	contentDir  = "content"
	layersDir   = "layers"
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
	// Guest returns the files that disks made of layers get, of an architecture in EC2's word; nil for none.
	Guest func(architecture string) ([]File, error)
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
	// cached are layers that steps of builds made, by key.
	cached map[string]cachedLayer

	// records keeps a record's writing and its forgetting whole: in the database and in known.
	records sync.Mutex
	// layers is the snapshotter below snap, which knows the directories that no snapshot has any more.
	layers snapshots.Cleaner

	collector *collector

	guest    func(architecture string) (guestFiles, error)
	building singleflight.Group // of disks, by name

	converting chan struct{} // holds one for each disk image that is being converted
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
	if strings.ContainsAny(cfg.Root, `,:\`) {
		return nil, fmt.Errorf("open the image store: the path %q has a comma, colon or backslash, which overlayfs takes for its own", cfg.Root)
	}
	for _, dir := range []string{cfg.Root, filepath.Join(cfg.Root, contentDir), filepath.Join(cfg.Root, mountsDir), filepath.Join(cfg.Root, bakesDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open the image store: %w", err)
		}
	}
	// Images bring set-user-id programs that anyone may have written: nobody but root may come near them. Machines
	// don't pass through here: an overlay keeps hold of its layers.
	if err := os.Chmod(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	quieten.Do(func() { log.L.Logger.SetOutput(libraryLog{cfg.Logger}) })
	s := &Store{root: cfg.Root, log: cfg.Logger, known: map[string]record{}, cached: map[string]cachedLayer{}, converting: make(chan struct{}, conversions)}
	s.loadGuest(cfg.Guest)
	var err error
	s.bolt, err = bolt.Open(filepath.Join(cfg.Root, "meta.db"), 0o600, &bolt.Options{Timeout: lockWait})
	if err != nil {
		return nil, fmt.Errorf("open the image store's metadata in %s (does another process have it?): %w", cfg.Root, err)
	}
	// From here on this process has the store.
	cs, err := local.NewStore(filepath.Join(cfg.Root, contentDir))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the image store's content: %w", err), s.bolt.Close())
	}
	if err := errors.Join(s.sweepMounts(), s.sweepBakes(), s.openDisks()); err != nil {
		return nil, errors.Join(err, s.bolt.Close())
	}
	raw, err := overlay.NewSnapshotter(filepath.Join(cfg.Root, layersDir), overlay.WithRemapIDs, overlay.AsynchronousRemove)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the image store's layers: %w", err), s.bolt.Close())
	}
	s.layers = raw.(snapshots.Cleaner)
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

// quieten gives what containerd's libraries say, to the one logger that they have for the whole process, to a store's
// own. What matters of it comes back as an error too.
var quieten sync.Once

type libraryLog struct{ to *slog.Logger }

func (l libraryLog) Write(line []byte) (int, error) {
	l.to.Debug("library", "line", strings.TrimSpace(string(line)))
	return len(line), nil
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
		if strings.HasPrefix(img.Name, cachePrefix) {
			if err := s.loadCached(img); err != nil {
				return err
			}
			continue
		}
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
		if l.ID == registryLease {
			continue
		}
		if err := s.held.Delete(ctx, l); err != nil {
			return fmt.Errorf("drop the lease of an interrupted import: %w", err)
		}
	}
	ingests, err := s.db.ContentStore().ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("list interrupted downloads: %w", err)
	}
	for _, st := range ingests {
		if strings.HasPrefix(st.Ref, pushes) {
			continue
		}
		if err := s.db.ContentStore().Abort(ctx, st.Ref); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("drop an interrupted download: %w", err)
		}
	}
	if err := s.openRegistryLease(ctx); err != nil {
		return err
	}
	// One that was cut off in its first instructions has no name to be dropped by.
	halves := filepath.Join(s.root, contentDir, "ingest")
	left, err := os.ReadDir(halves)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for interrupted downloads: %w", err)
	}
	for _, e := range left {
		// With a name it is a push, or the collection below finds nobody who knows it.
		if name, err := os.ReadFile(filepath.Join(halves, e.Name(), "ref")); err == nil && len(name) > 0 {
			continue
		}
		if err := os.RemoveAll(filepath.Join(halves, e.Name())); err != nil {
			return fmt.Errorf("drop an interrupted download: %w", err)
		}
	}
	if err := s.sweepLayers(ctx); err != nil {
		return fmt.Errorf("remove layers that a crash left: %w", err)
	}
	if err := s.suspectAll(ctx); err != nil {
		return err
	}
	if err := s.sweepBases(); err != nil {
		return err
	}
	return s.GC(ctx)
}

// sweepLayers removes the directories that no snapshot has. A layer's directory gets its name before its record is
// written, and one that a crash left in between has the name that the next layer will get.
func (s *Store) sweepLayers(ctx context.Context) error {
	err := s.layers.Cleanup(ctx)
	if !errdefs.IsNotFound(err) {
		return err
	}
	// There has never been a snapshot: whatever is there is left over.
	all := filepath.Join(s.root, layersDir, "snapshots")
	left, err := os.ReadDir(all)
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(all, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// suspectAll makes the next collection compare everything on disk with the records. The metadata's collector looks
// only at what it knows to have changed since it started, and so would never find what a crash
// left between the removal of a record and that of its files.
func (s *Store) suspectAll(ctx context.Context) error {
	key := newKey()
	if _, err := s.snap.Prepare(ctx, key, ""); err != nil {
		return fmt.Errorf("look for layers that a crash left: %w", err)
	}
	if err := s.snap.Remove(ctx, key); err != nil {
		return fmt.Errorf("look for layers that a crash left: %w", err)
	}
	blob, err := s.putBlob(ctx, "application/octet-stream", []byte(key))
	if err != nil {
		return fmt.Errorf("look for content that a crash left: %w", err)
	}
	if err := s.db.ContentStore().Delete(ctx, blob.Digest); err != nil {
		return fmt.Errorf("look for content that a crash left: %w", err)
	}
	return nil
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
	s.records.Lock()
	s.mu.Lock()
	delete(s.known, digest)
	s.mu.Unlock()
	err := s.imgs.Delete(ctx, digest)
	s.records.Unlock()
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("forget image %s: %w", digest, err)
	}
	return errors.Join(s.sweepBases(), s.GC(ctx))
}

// GC removes content and layers that neither an image, a root nor a running import needs. Nothing waits for
// it: deleting files, which takes time, comes after everything is marked as gone.
func (s *Store) GC(ctx context.Context) error {
	ctx = s.context(ctx)
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return fmt.Errorf("collect unused image layers: %w", err)
	}
	// The metadata's collector does this only for what it removed just now; a crash may have left more.
	if err := s.layers.Cleanup(ctx); err != nil {
		return fmt.Errorf("remove unused image layers: %w", err)
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

// ErrFull is an import that would fill the store's file system.
var ErrFull = errors.New("the image store is full")

// left is how many bytes an import may take of the file system.
func (s *Store) left() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, fmt.Errorf("see how much room is left for images: %w", err)
	}
	return int64(st.Bavail)*st.Bsize - reserve, nil
}

// Room fails when the file system has no room for more bytes besides what an import leaves free.
func (s *Store) Room(more int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return fmt.Errorf("see how much room is left for images: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free-reserve < more {
		return fmt.Errorf("%w: %d MiB are free, %d are needed and %d stay free", ErrFull, free>>20, more>>20, reserve>>20)
	}
	if st.Files > 0 && st.Ffree < reserveInos { // some file systems don't count files
		return fmt.Errorf("%w: room for %d more files is left, and %d stay free", ErrFull, st.Ffree, reserveInos)
	}
	return nil
}
