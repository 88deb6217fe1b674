package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// packedContext is a directory as it is sent to be built: a plain tar in a file that has no name.
type packedContext struct {
	file   *os.File
	size   int64
	digest string // hexadecimal
	count  int
}

// ignored are the patterns of what stays out of a context: those of the file beside the Containerfile, else of the directory's own.
func ignored(dir, containerfile string) ([]string, error) {
	for _, name := range []string{containerfile + ".dockerignore", filepath.Join(dir, ".containerignore"), filepath.Join(dir, ".dockerignore")} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		patterns, err := ignorefile.ReadAll(f)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return patterns, nil
	}
	return nil, nil
}

// packContext packs a directory, without what patterns leave out. The same files make the same bytes: dates and owners are left out.
func packContext(ctx context.Context, dir string, patterns []string, tell func(files int, bytes int64)) (p *packedContext, err error) {
	out, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("the patterns of what is ignored: %w", err)
	}
	f, err := os.CreateTemp("", "nacre-context-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	p = &packedContext{file: f}
	sum := sha256.New()
	counter := &countWriter{w: io.MultiWriter(f, sum)}
	w := tar.NewWriter(counter)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		name = filepath.ToSlash(name)
		skip, err := out.MatchesOrParentMatches(name)
		if err != nil {
			return fmt.Errorf("the patterns of what is ignored: %w", err)
		}
		if skip {
			if e.IsDir() && !out.Exclusions() {
				return filepath.SkipDir
			}
			return nil
		}
		p.count++
		tell(p.count, counter.n)
		return packOne(w, path, name, e)
	})
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("pack %s: %w", dir, err)
	}
	p.size, p.digest = counter.n, hex.EncodeToString(sum.Sum(nil))
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return p, nil
}

func packOne(w *tar.Writer, path, name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Format: tar.FormatPAX, Name: name, Mode: int64(info.Mode().Perm()), ModTime: time.Unix(0, 0)}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return w.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
		return w.WriteHeader(h)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither file, directory nor link; name it in .dockerignore", name)
	}
	for bit, word := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if info.Mode()&word != 0 {
			h.Mode |= bit
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(w, io.LimitReader(f, h.Size))
	if err == nil && n != h.Size {
		err = fmt.Errorf("%s became shorter while it was read", name)
	}
	return err
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
