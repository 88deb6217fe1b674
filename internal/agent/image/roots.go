package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	idCount    = 65536
	gcRoot     = "containerd.io/gc.root"
	rootPrefix = "root-" // before a root's key, so that nothing else of the store is taken for one
	rootLabel  = "cloud.nacre.target"
)

// PrepareRoot mounts a machine's writable root file system at target, an existing directory, and makes it the
// first time: an overlay on the image's layers, which appear through id-mapped mounts as belonging to the 65,536 host
// ids from idBase. It takes the same time whatever the image's size, and may be repeated, also after the
// host was started again: what the machine wrote stays until RemoveRoot. The ids of a root never change, because
// what was written belongs to them. userns opens a user namespace of just these ids, and may take its time for it; nil has
// one made.
func (s *Store) PrepareRoot(ctx context.Context, key, digest string, idBase uint32, target string, userns func() (*os.File, error)) (err error) {
	if isMounted(target) {
		return nil
	}
	ctx = s.context(ctx)
	mapping := fmt.Sprintf("0:%d:%d", idBase, idCount)
	if userns == nil {
		userns = func() (*os.File, error) { return mount.GetUsernsFD(mapping, mapping) }
	}
	var ids *os.File
	var mounts []mount.Mount
	var both errgroup.Group
	both.Go(func() (err error) {
		ids, err = userns()
		return err
	})
	both.Go(func() (err error) {
		mounts, err = s.rootSnapshot(ctx, rootPrefix+key, digest, mapping, target)
		return err
	})
	err = both.Wait()
	if ids != nil {
		defer ids.Close()
	}
	if err != nil {
		return fmt.Errorf("prepare the root file system %s: %w", key, err)
	}
	if err := s.mountMapped(mounts, ids, target); err != nil {
		return fmt.Errorf("mount the root file system %s: %w", key, err)
	}
	return nil
}

// rootSnapshot makes or finds the writable layer of a root.
func (s *Store) rootSnapshot(ctx context.Context, name, digest, mapping, target string) ([]mount.Mount, error) {
	info, err := s.snap.Stat(ctx, name)
	if errdefs.IsNotFound(err) {
		r, err := s.find(digest)
		if err == nil {
			err = runsHere(r.Image)
		}
		if err != nil {
			return nil, err
		}
		return s.snap.Prepare(ctx, name, r.Chain, snapshots.WithLabels(map[string]string{
			gcRoot: time.Now().UTC().Format(time.RFC3339), rootLabel: target,
			snapshots.LabelSnapshotUIDMapping: mapping, snapshots.LabelSnapshotGIDMapping: mapping,
		}))
	}
	if err != nil {
		return nil, err
	}
	if had := info.Labels[snapshots.LabelSnapshotUIDMapping]; had != mapping {
		return nil, fmt.Errorf("its files belong to the ids %s, not %s", had, mapping)
	}
	if info.Labels[rootLabel] != target {
		info.Labels[rootLabel] = target
		if _, err := s.snap.Update(ctx, info, "labels."+rootLabel); err != nil {
			return nil, err
		}
	}
	return s.snap.Mounts(ctx, name)
}

// UnmountRoot takes a root away from its target and keeps its bytes. Unknown and unmounted ones are no error.
func (s *Store) UnmountRoot(ctx context.Context, key string) error {
	info, err := s.snap.Stat(s.context(ctx), rootPrefix+key)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the root file system %s: %w", key, err)
	}
	target := info.Labels[rootLabel]
	if !isMounted(target) {
		return nil
	}
	if err := unmountDetached(target); err != nil {
		return fmt.Errorf("unmount the root file system %s: %w", key, err)
	}
	return nil
}

// unmountDetached unmounts so that a stranger who looks inside can't keep it; what uses it goes on until it lets go.
func unmountDetached(target string) error {
	if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// RemoveRoot unmounts a root and deletes what its machine wrote. The deletion itself goes on in the next
// collection; a crash in between loses nothing but time.
func (s *Store) RemoveRoot(ctx context.Context, key string) error {
	if err := s.UnmountRoot(ctx, key); err != nil {
		return err
	}
	ctx = s.context(ctx)
	info, err := s.snap.Stat(ctx, rootPrefix+key)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the root file system %s: %w", key, err)
	}
	if err := s.snap.Remove(ctx, rootPrefix+key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the root file system %s: %w", key, err)
	}
	if err := os.Remove(info.Labels[rootLabel]); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Debug("a root's mount point stays", "root", key, "error", err)
	}
	s.collectSoon()
	return nil
}

// Roots lists the keys of all roots, mounted or not.
func (s *Store) Roots(ctx context.Context) ([]string, error) {
	var keys []string
	err := s.snap.Walk(s.context(ctx), func(_ context.Context, i snapshots.Info) error {
		if key, ok := strings.CutPrefix(i.Name, rootPrefix); ok {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the root file systems: %w", err)
	}
	return keys, nil
}
