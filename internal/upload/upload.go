// Package upload keeps archives that were sent to the endpoint until an import has read them.
//
// An archive is named by the SHA-256 of its bytes, which is checked while it arrives: a file appears
// under its name whole and right, or not at all. The package never looks inside an archive.
package upload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxSize bounds one archive, in bytes.
	MaxSize = 32 << 30
	// reserve is what an upload leaves free on the file system, in bytes.
	reserve = 1 << 30
	// unread is how long an archive that nobody imports is kept.
	unread = time.Hour
)

var (
	// ErrMismatch reports bytes that don't have the digest they were sent under.
	ErrMismatch = errors.New("the bytes do not have the digest they were sent under")
	// ErrTooLarge reports an archive over MaxSize, or over the room that is left.
	ErrTooLarge = errors.New("the archive is too large")
	// ErrDigest reports a name that isn't "sha256:" and 64 hexadecimal digits.
	ErrDigest = errors.New(`a digest is "sha256:" and 64 hexadecimal digits`)
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Dir is a directory of archives.
type Dir struct{ path string }

// Open makes the directory when it is not there, and removes what earlier uploads left half done.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory for uploads: %w", err)
	}
	partial, err := filepath.Glob(filepath.Join(path, "partial-*"))
	if err != nil {
		return nil, fmt.Errorf("look for half-done uploads: %w", err)
	}
	for _, p := range partial {
		if err := os.Remove(p); err != nil {
			return nil, fmt.Errorf("remove a half-done upload: %w", err)
		}
	}
	return &Dir{path}, nil
}

func (d *Dir) file(digest string) (string, error) {
	if !digestForm.MatchString(digest) {
		return "", fmt.Errorf("%q: %w", digest, ErrDigest)
	}
	return filepath.Join(d.path, strings.Replace(digest, ":", "-", 1)), nil
}

// Put keeps size bytes of r under their digest. Bytes that are there already are not written again,
// but still read and checked.
func (d *Dir) Put(ctx context.Context, digest string, r io.Reader, size int64) error {
	path, err := d.file(digest)
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return fmt.Errorf("upload %s: see how much room is left: %w", digest, err)
	}
	if free := int64(st.Bavail) * st.Bsize; size > MaxSize || size > free-reserve {
		return fmt.Errorf("upload %s of %d bytes, with %d free and a limit of %d: %w", digest, size, free, int64(MaxSize), ErrTooLarge)
	}
	f, err := os.CreateTemp(d.path, "partial-*")
	if err != nil {
		return fmt.Errorf("upload %s: %w", digest, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), &io.LimitedReader{R: contextReader{ctx, r}, N: size + 1})
	if err != nil {
		return fmt.Errorf("upload %s: after %d bytes: %w", digest, n, err)
	}
	if n != size || "sha256:"+hex.EncodeToString(sum.Sum(nil)) != digest {
		return fmt.Errorf("upload %s: %d of %d bytes arrived: %w", digest, n, size, ErrMismatch)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("upload %s: %w", digest, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("upload %s: %w", digest, err)
	}
	return nil
}

// Open opens an archive for reading.
func (d *Dir) Open(_ context.Context, digest string) (io.ReadCloser, error) {
	path, err := d.file(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the archive %s was not uploaded, or longer than %s ago; send it again", digest, unread)
	}
	if err != nil {
		return nil, fmt.Errorf("open the archive %s: %w", digest, err)
	}
	return f, nil
}

// Clean removes the archives that no import wants: those not in wanted that are older than an hour.
func (d *Dir) Clean(wanted map[string]bool, now time.Time) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("list the uploads: %w", err)
	}
	for _, e := range entries {
		digest := strings.Replace(e.Name(), "-", ":", 1)
		if !digestForm.MatchString(digest) || wanted[digest] {
			continue
		}
		info, err := e.Info()
		if err != nil || now.Sub(info.ModTime()) < unread {
			continue
		}
		if err := os.Remove(filepath.Join(d.path, e.Name())); err != nil {
			return fmt.Errorf("remove the upload %s: %w", digest, err)
		}
	}
	return nil
}

// contextReader ends a copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
