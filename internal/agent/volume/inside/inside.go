// Package inside shows block devices and their file systems inside running containers.
//
// It works on a container's mount namespace, on threads of its own that are thrown away, and as the container's root: whatever paths and
// links there are inside, they lead nowhere outside. Everything may be repeated. It decides nothing, and keeps nothing.
package inside

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Container is a running container.
type Container struct {
	PID  int    // its first process
	Root uint32 // the host's id of its root
}

// within runs do in a container's mount namespace.
func (c Container) within(do func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", c.PID))
	if err != nil {
		return fmt.Errorf("find the container's mounts: %w", err)
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("leave the process's root: %w", err)
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter the container's mounts: %w", err)
			}
			// Files that are made belong to the container's root; the host's has no id there.
			if _, err := unix.SetfsgidRetGid(int(c.Root)); err != nil {
				return err
			}
			if _, err := unix.SetfsuidRetUid(int(c.Root)); err != nil {
				return err
			}
			return do()
		}()
	}()
	return <-done
}

// MakeNode makes a device node on the host that a container's root may use.
func MakeNode(node string, major, minor, owner uint32) error {
	if err := os.MkdirAll(filepath.Dir(node), 0o711); err != nil {
		return err
	}
	if err := os.Remove(node); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mknod(node, unix.S_IFBLK|0o660, int(unix.Mkdev(major, minor))); err != nil {
		return fmt.Errorf("make the device node %s: %w", node, err)
	}
	return errors.Join(os.Chown(node, int(owner), int(owner)), os.Chmod(node, 0o660))
}

// Show lets a container see a device node of the host at target.
func (c Container) Show(node, target string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, node, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone the device node %s: %w", node, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Attr_clr: unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("show the device node %s: %w", node, err)
	}
	return c.within(func() error {
		if err := unmountAll(target, true); err != nil {
			return err
		}
		f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("make %s inside: %w", target, err)
		}
		f.Close()
		if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("show %s inside: %w", target, err)
		}
		return nil
	})
}

// Shows tells whether a container sees a device at target.
func (c Container) Shows(target string, major, minor uint32) bool {
	var st unix.Stat_t
	err := c.within(func() error { return unix.Lstat(target, &st) })
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == unix.Mkdev(major, minor)
}

// Hide takes a device node away from a container. Who has it open keeps it open.
func (c Container) Hide(target string) error {
	return c.within(func() error {
		if err := unmountAll(target, true); err != nil {
			return err
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove %s inside: %w", target, err)
		}
		return nil
	})
}

// Mount puts a file system at target, which is made when it isn't there.
func (c Container) Mount(fs *os.File, target string) error {
	return c.within(func() error {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("make %s inside: %w", target, err)
		}
		if err := unix.MoveMount(int(fs.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
			return fmt.Errorf("mount at %s inside: %w", target, err)
		}
		return nil
	})
}

// ErrBusy is returned for a file system that is in use.
var ErrBusy = errors.New("the file system is in use inside")

// Unmount takes every mount of a device away from a container, wherever it is. Forced, it goes on although files are open.
func (c Container) Unmount(major, minor uint32, force bool) error {
	for {
		places, err := c.mounts(major, minor)
		if err != nil || len(places) == 0 {
			return err
		}
		if err := c.within(func() error { return unmountAll(places[len(places)-1], force) }); err != nil {
			return err
		}
	}
}

// UnmountAt takes away what is mounted at a place, whoever uses it.
func (c Container) UnmountAt(target string) error {
	return c.within(func() error { return unmountAll(target, true) })
}

// Mounted tells whether a container has a file system of a device.
func (c Container) Mounted(major, minor uint32) bool {
	places, err := c.mounts(major, minor)
	return err == nil && len(places) > 0
}

// mounts are the places where a container has file systems of a device.
func (c Container) mounts(major, minor uint32) ([]string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", c.PID))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var places []string
	device := fmt.Sprintf("%d:%d", major, minor)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && fields[2] == device {
			places = append(places, unescape(fields[4]))
		}
	}
	return places, nil
}

// unescape reads a path of mountinfo, where spaces and the like are three octal digits.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// unmountAll takes away what is mounted at a place.
func unmountAll(place string, force bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if force {
		flags |= unix.MNT_DETACH
	}
	for {
		err := unix.Unmount(place, flags)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR): // nothing is mounted there any more
			return nil
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmount %s: %w", place, ErrBusy)
		case err != nil:
			return fmt.Errorf("unmount %s: %w", place, err)
		}
	}
}

// Allow lets a container's control group use a device, or no more. In the first version of control groups only: in the second the
// rules are a program that the runtime loads at the start, and loop devices pass it.
func (c Container) Allow(major, minor uint32, allow bool) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.PID))
	if err != nil {
		return fmt.Errorf("find the container's control group: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		if !ok || controllers != "devices" {
			continue
		}
		file := "devices.deny"
		if allow {
			file = "devices.allow"
		}
		rule := fmt.Sprintf("b %d:%d rw", major, minor)
		if err := os.WriteFile(path.Join("/sys/fs/cgroup/devices", group, file), []byte(rule), 0); err != nil {
			return fmt.Errorf("let the container use the device: %w", err)
		}
	}
	return nil
}
