package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fuseDevice  = "/dev/fuse"
	loopControl = "/dev/loop-control"
	// maxRead is the largest read that the kernel asks of a daemon, in bytes.
	maxRead = 1 << 20
	// loopTries bounds how often a free loop device may be taken by somebody else first.
	loopTries = 100
)

// mountExport mounts what the holder of the descriptor that it returns will show, at a file.
func mountExport(path string) (*os.File, error) {
	if err := unmountExport(path); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("volumes of containers need FUSE: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=100000,user_id=0,group_id=0,allow_other,default_permissions,max_read=%d", f.Fd(), maxRead)
	if err := unix.Mount("nacre-volume", path, "fuse", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		f.Close()
		return nil, fmt.Errorf("mount %s: %w", path, err)
	}
	return f, nil
}

// unmountExport takes a mount away, whoever still uses it.
func unmountExport(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // nothing is mounted there any more
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// errSilent is returned where a daemon runs and does not answer the kernel.
var errSilent = errors.New("its daemon does not answer the kernel")

// openShown opens what a daemon shows. The kernel waits for a daemon's first answer for ever, and no signal ends that: after the limit the
// connection is cut, for all who wait.
func openShown(path string, limit time.Duration) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		opened <- result{f, err}
	}()
	patience := time.NewTimer(limit)
	defer patience.Stop()
	select {
	case r := <-opened:
		return r.f, r.err
	case <-patience.C:
	}
	if err := unix.Unmount(path, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return nil, fmt.Errorf("%w, and cutting it off fails: %w", errSilent, err)
	}
	r := <-opened
	if r.err == nil {
		r.f.Close()
	}
	return nil, errSilent
}

// attachLoop lets a free loop device stand on a file.
func attachLoop(path string) error {
	backing, err := openShown(path, answerLimit)
	if err != nil {
		return fmt.Errorf("open what its daemon shows: %w", err)
	}
	defer backing.Close()
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("volumes of containers need loop devices: %w", err)
	}
	defer control.Close()
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("find a free loop device: %w", err)
		}
		loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd())}
		copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		loop.Close()
		if errors.Is(err, unix.EBUSY) {
			continue // somebody else was first
		}
		if err != nil {
			return fmt.Errorf("set loop device %d up: %w", n, err)
		}
		return nil
	}
	return errors.New("every free loop device was taken by somebody else")
}

// loopOf finds the loop device that stands on a file.
func loopOf(path string) (Device, error) {
	links, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return Device{}, err
	}
	for _, l := range links {
		b, err := os.ReadFile(l)
		if err != nil || strings.TrimSuffix(strings.TrimSpace(string(b)), " (deleted)") != path {
			continue
		}
		name := filepath.Base(filepath.Dir(filepath.Dir(l)))
		d := Device{Path: "/dev/" + name}
		var st unix.Stat_t
		if err := unix.Stat(d.Path, &st); err != nil {
			return Device{}, fmt.Errorf("look at %s: %w", d.Path, err)
		}
		d.Major, d.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		return d, nil
	}
	return Device{}, fmt.Errorf("no loop device stands on %s: %w", path, fs.ErrNotExist)
}

// detachLoop writes what the kernel holds for the device and takes it off its file. The kernel finishes that when the last
// one who has it open closes it.
func detachLoop(path string) error {
	for {
		d, err := loopOf(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		loop, err := os.OpenFile(d.Path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_ = loop.Sync() // an error tells of a daemon that is gone: there is nowhere to write to
		err = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0)
		loop.Close()
		if err != nil && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("take %s off its file: %w", d.Path, err)
		}
		// One that is still open elsewhere goes with its last user: it must not be found again.
		if again, err := loopOf(path); err != nil || again != d {
			continue
		}
		return nil
	}
}

// growLoop tells a loop device that its file became larger.
func growLoop(path string) error {
	d, err := loopOf(path)
	if err != nil {
		return err
	}
	// The kernel remembers the file's size for a second; this asks the daemon.
	var sx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_FORCE_SYNC, unix.STATX_SIZE, &sx); err != nil {
		return err
	}
	loop, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer loop.Close()
	return unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_CAPACITY, 0)
}
