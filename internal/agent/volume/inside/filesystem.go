package inside

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fileSystem is the one that is made on volumes and mounted.
const fileSystem = "ext4"

// Prepare makes a file system on a device that holds none, and has one that is there checked and filled up to the device's size. A machine may have
// written anything to its volume: only what the check calls sound is shown to the host's kernel.
func Prepare(ctx context.Context, device string) error {
	if err := awaitUnused(ctx, device); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", device).CombinedOutput()
	var exit *exec.ExitError
	found := strings.TrimSpace(string(out))
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 2 && found == "":
		return run(ctx, 0, "mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", "-m", "0", device)
	case err != nil:
		return fmt.Errorf("look what is on %s: %w: %s", device, err, found)
	case found != fileSystem:
		return fmt.Errorf("the volume holds %q, and only %s is mounted; take the tag away and use the device, or erase its beginning", found, fileSystem)
	}
	// 1 says that errors were corrected.
	if err := run(ctx, 1, "e2fsck", "-f", "-p", device); err != nil {
		return fmt.Errorf("its file system is damaged beyond what is repaired unasked: %w", err)
	}
	return run(ctx, 0, "resize2fs", "-f", device)
}

// unusedLimit is how long the kernel may take to let go of a file system whose machine has just ended.
const unusedLimit = 10 * time.Second

// awaitUnused waits until nothing is mounted from a device.
func awaitUnused(ctx context.Context, device string) error {
	for deadline := time.Now().Add(unusedLimit); ; {
		f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("look what is on %s: %w", device, err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func run(ctx context.Context, most int, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() <= most {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// OpenFS mounts a device's file system nowhere yet, with its files seen through the ids of a user namespace.
func OpenFS(device, userNS string) (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("mount %s: %w", device, err)
		}
	}()
	ns, err := os.Open(userNS)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	ctx, err := unix.Fsopen(fileSystem, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ctx)
	// What the file system itself asks for on errors could be to halt the host.
	for _, o := range [][2]string{{"source", device}, {"errors", "remount-ro"}} {
		if err := unix.FsconfigSetString(ctx, o[0], o[1]); err != nil {
			return nil, err
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "mount")
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Put attaches a mount at a directory of the host; Leave takes it away again, for whoever is not using it elsewhere.
func Put(fs *os.File, dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if err := unix.MoveMount(int(fs.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	return nil
}

// Leave takes away what is mounted at a directory of the host, and the directory. It never deletes through a mount.
func Leave(dir string) error {
	if err := unmountAll(dir, true); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
