package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// mountsDir is where the store mounts what nobody else may see, for as long as one call lasts. What a crash left
// there is taken away by the next Open.
const mountsDir = "mounts"

// isMounted tells whether dir is the root of a mounted overlay.
func isMounted(dir string) bool {
	var sx unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &sx) != nil || sx.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false
	}
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// withMount shows fn a snapshot at a place of its own.
func (s *Store) withMount(mounts []mount.Mount, fn func(root string) error) (err error) {
	dir, err := os.MkdirTemp(filepath.Join(s.root, mountsDir), "look-")
	if err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	defer func() { err = errors.Join(err, s.leave(dir)) }()
	if err := mount.All(mounts, dir); err != nil {
		return fmt.Errorf("mount the layers: %w", err)
	}
	return fn(dir)
}

// leave takes everything away from a directory made for one call, and the directory. It never deletes
// through a mount: a directory that isn't empty stays.
func (s *Store) leave(dir string) error {
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // nothing is mounted there any more
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the mount point: %w", err)
	}
	return nil
}

// sweepMounts takes away what calls that a crash cut off had mounted.
func (s *Store) sweepMounts() error {
	left, err := os.ReadDir(filepath.Join(s.root, mountsDir))
	if err != nil {
		return fmt.Errorf("look for mounts that a crash left: %w", err)
	}
	var problems []error
	for _, e := range left {
		problems = append(problems, s.leave(filepath.Join(s.root, mountsDir, e.Name())))
	}
	return errors.Join(problems...)
}

// mountMapped mounts an overlay of the snapshotter at target, with its lower layers seen through the ids of userns.
//
// All layers lie in one directory, so one id-mapped clone of its mount serves any number of them. The
// kernel takes a lower layer only from a mount of this namespace, so the clone is attached for the length of the
// call; the overlay keeps its own reference. The layers are named relative to it: 128 of them fit the
// one page that mount(2) takes.
func (s *Store) mountMapped(mounts []mount.Mount, userns *os.File, target string) (err error) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return fmt.Errorf("the layers make no overlay: %v", mounts)
	}
	var layers, options []string
	for _, o := range mounts[0].Options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "uidmap", "gidmap":
		case "lowerdir":
			layers = strings.Split(value, ":")
		default:
			options = append(options, o)
		}
	}
	all := filepath.Join(s.root, layersDir, "snapshots")
	for i, l := range layers {
		if layers[i], err = filepath.Rel(all, l); err != nil {
			return fmt.Errorf("a layer lies outside the store: %w", err)
		}
	}
	options = append(options, "lowerdir="+strings.Join(layers, ":"))

	dir, err := os.MkdirTemp(filepath.Join(s.root, mountsDir), "map-")
	if err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	defer func() { err = errors.Join(err, s.leave(dir)) }()
	if err := bindMapped(all, dir, userns, unix.MOUNT_ATTR_RDONLY); err != nil {
		return err
	}
	return mountFrom(dir, target, strings.Join(options, ","))
}

// BindMapped shows a directory at dir, for writing too, where files belong to the ids that userns maps.
func BindMapped(source, dir string, userns *os.File) error {
	return bindMapped(source, dir, userns, unix.MOUNT_ATTR_NOSUID)
}

// bindMapped attaches a clone of a directory's mount at dir, without devices, where files belong to the ids that userns maps.
func bindMapped(source, dir string, userns *os.File, attributes uint64) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone the mount of %s: %w", source, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_NODEV | attributes, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(userns.Fd())}
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("map the ids of %s: its file system can't (ext4, xfs and btrfs can, from Linux 5.19 under an overlay): %w", source, err)
	}
	if err != nil {
		return fmt.Errorf("map the ids of %s: %w", source, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach the mapped %s: %w", source, err)
	}
	return nil
}

// mountFrom mounts an overlay whose lower layers are named relative to dir. It runs on a thread of its own, whose
// working directory is no other's and which ends with it.
func mountFrom(dir, target, options string) error {
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("the overlay's options are %d bytes long and the kernel takes %d", len(options), os.Getpagesize()-1)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("leave the process's working directory: %w", err)
			}
			if err := unix.Chdir(dir); err != nil {
				return fmt.Errorf("enter %s: %w", dir, err)
			}
			// Programs may be set-user-id, for sudo: inside the machine's ids it means what it says. Devices may not be.
			if err := unix.Mount("overlay", target, "overlay", unix.MS_NODEV, options); err != nil {
				return fmt.Errorf("mount the overlay at %s: %w", target, err)
			}
			return nil
		}()
	}()
	return <-done
}

// view shows fn an image's layers, read-only.
func (s *Store) view(ctx context.Context, chain string, fn func(root string) error) error {
	key := viewPrefix + newKey() + chain
	mounts, err := s.snap.View(ctx, key, chain)
	if err != nil {
		return fmt.Errorf("look into the image: %w", err)
	}
	// A view of a single layer is a bind mount, which would show devices and run set-user-id programs.
	err = s.withMount(withOptions(mounts, "ro", "nodev", "nosuid", "noexec"), fn)
	return errors.Join(err, s.snap.Remove(context.WithoutCancel(ctx), key))
}

func withOptions(mounts []mount.Mount, options ...string) []mount.Mount {
	out := make([]mount.Mount, len(mounts))
	for i, m := range mounts {
		m.Options = append(append([]string(nil), m.Options...), options...)
		out[i] = m
	}
	return out
}
