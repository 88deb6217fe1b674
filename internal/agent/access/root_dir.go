package access

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// rootDir is an instance's root file system. Its owner is somebody else, who may put a link, a pipe or
// a device anywhere at any time: every path is resolved by the kernel within the root, and only
// regular files are read.
type rootDir struct {
	name string
	fd   int
}

func openRoot(name string) (*rootDir, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open root file system", Path: name, Err: err}
	}
	return &rootDir{name: name, fd: fd}, nil
}

func (r *rootDir) Close() error { return unix.Close(r.fd) }

// resolveTries bounds how often a lookup is repeated that the kernel gave up because somebody renamed
// directories under it.
const resolveTries = 16

// resolve returns a handle for a path inside the root, without opening what it names.
func (r *rootDir) resolve(name string) (fd int, st unix.Stat_t, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range resolveTries {
		fd, err = unix.Openat2(r.fd, strings.TrimPrefix(path.Clean("/"+name), "/"), &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, st, &fs.PathError{Op: "open in " + r.name, Path: name, Err: err}
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, &fs.PathError{Op: "stat in " + r.name, Path: name, Err: err}
	}
	return fd, st, nil
}

// readFile returns a regular file's content, refusing one that is longer than limit.
func (r *rootDir) readFile(name string, limit int64) ([]byte, error) {
	data, _, err := r.read(name, limit)
	return data, err
}

// readPrivate is readFile for a file that decides who may log in: it must belong to one of the owners and be
// writable by nobody else, and so must the two directories above it.
func (r *rootDir) readPrivate(name string, limit int64, owners ...uint32) ([]byte, error) {
	data, st, err := r.read(name, limit)
	if err != nil {
		return nil, err
	}
	if err := private(name, st, owners); err != nil {
		return nil, err
	}
	for dir, n := path.Dir(name), 0; n < 2; dir, n = path.Dir(dir), n+1 {
		fd, st, err := r.resolve(dir)
		if err != nil {
			return nil, err
		}
		unix.Close(fd)
		if err := private(dir, st, owners); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func private(name string, st unix.Stat_t, owners []uint32) error {
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("%s can be written by others than its owner (mode %#o)", name, st.Mode&0o7777)
	}
	for _, o := range owners {
		if st.Uid == o {
			return nil
		}
	}
	return fmt.Errorf("%s belongs to somebody else (host id %d)", name, st.Uid)
}

func (r *rootDir) read(name string, limit int64) ([]byte, unix.Stat_t, error) {
	fd, st, err := r.resolve(name)
	if err != nil {
		return nil, st, err
	}
	defer unix.Close(fd)
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, fmt.Errorf("%s in %s is not a regular file", name, r.name)
	}
	// The handle is opened through /proc, so that it is the very file that was looked at.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, st, fmt.Errorf("open %s in %s: %w", name, r.name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, st, fmt.Errorf("read %s in %s: %w", name, r.name, err)
	}
	if int64(len(data)) > limit {
		return nil, st, fmt.Errorf("%s in %s is longer than %d bytes", name, r.name, limit)
	}
	return data, st, nil
}

// executable says whether name is a regular file that somebody may execute.
func (r *rootDir) executable(name string) bool {
	fd, st, err := r.resolve(name)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0
}
