package build

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits of a build's context.
const (
	maxContextEntries = 500_000
	maxNameDepth      = 200
	maxLinks          = 64 // followed in one path
)

// tree is files that are copied from, or to: the context's, or a stage's. Names are clean, relative, and "" for its root; no link is followed
// and nothing outside of the tree is ever reached.
type tree interface {
	lstat(name string) (node, error) // fs.ErrNotExist where there is nothing
	list(name string) ([]string, error)
	open(name string) (io.ReadCloser, error)
}

// node is one file, directory or link.
type node struct {
	mode       fs.FileMode
	uid, gid   int
	size       int64
	link       string // of a symbolic link
	capability string // of a program
	digest     string // of a regular file's content, where it is known
}

// resolve follows the links of a path inside a tree and returns the name that it leads to. What isn't there any more is taken as it stands: there then
// is false.
func resolve(t tree, name string) (real string, n node, there bool, err error) {
	n, err = t.lstat("")
	if err != nil {
		return "", n, false, err
	}
	rest := split(name)
	for links := 0; len(rest) > 0; {
		if len(rest) > maxNameDepth {
			return "", n, false, fmt.Errorf("/%s is nested too deep", name)
		}
		part := rest[0]
		rest = rest[1:]
		switch {
		case part == "..":
			real = parent(real)
			if n, err = t.lstat(real); err != nil {
				return "", n, false, err
			}
			continue
		case !n.mode.IsDir():
			return "", n, false, fmt.Errorf("/%s is not a directory", real)
		}
		at := path.Join(real, part)
		found, err := t.lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return path.Join("/", at, path.Join(rest...))[1:], node{}, false, nil
		}
		if err != nil {
			return "", n, false, err
		}
		if found.mode&fs.ModeSymlink == 0 {
			real, n = at, found
			continue
		}
		if links++; links > maxLinks {
			return "", n, false, fmt.Errorf("/%s leads through more than %d links", name, maxLinks)
		}
		if path.IsAbs(found.link) {
			real = ""
		}
		if n, err = t.lstat(real); err != nil {
			return "", n, false, err
		}
		rest = append(split(found.link), rest...)
	}
	return real, n, true, nil
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(p string) bool { return p == "" || p == "." })
}

func parent(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

// dirTree is a directory that nobody changes: a stage's layers, mounted read-only where only root gets.
type dirTree string

func (d dirTree) at(name string) string { return filepath.Join(string(d), filepath.FromSlash(name)) }

func (d dirTree) lstat(name string) (node, error) {
	info, err := os.Lstat(d.at(name))
	if err != nil {
		return node{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	n := node{mode: info.Mode(), uid: int(st.Uid), gid: int(st.Gid), size: info.Size()}
	switch {
	case n.mode&fs.ModeSymlink != 0:
		n.link, err = os.Readlink(d.at(name))
	case n.mode.IsRegular():
		b := make([]byte, 64)
		if size, err := unix.Lgetxattr(d.at(name), "security.capability", b); err == nil {
			n.capability = string(b[:size])
		}
	}
	return n, err
}

func (d dirTree) list(name string) ([]string, error) {
	entries, err := os.ReadDir(d.at(name))
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (d dirTree) open(name string) (io.ReadCloser, error) {
	return os.OpenFile(d.at(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// emptyTree has nothing in it.
type emptyTree struct{}

func (emptyTree) lstat(name string) (node, error) {
	if name == "" {
		return node{mode: fs.ModeDir | 0o755}, nil
	}
	return node{}, fs.ErrNotExist
}
func (emptyTree) list(string) ([]string, error)      { return nil, nil }
func (emptyTree) open(string) (io.ReadCloser, error) { return nil, fs.ErrNotExist }

// contextTree is a tar file: only its index is in memory, with the digest of every file's content.
type contextTree struct {
	file  io.ReaderAt
	nodes map[string]*contextNode
}

type contextNode struct {
	node
	offset   int64
	children map[string]bool // of a directory
}

// counted counts what is read, and hides that it could be sought in.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// readContext reads a context's archive once and indexes it. It refuses names that climb, nodes of devices, and what isn't said plainly.
func readContext(file io.ReaderAt, size int64) (*contextTree, error) {
	t := &contextTree{file: file, nodes: map[string]*contextNode{"": {node: node{mode: fs.ModeDir | 0o755}, children: map[string]bool{}}}}
	in := &counted{r: io.NewSectionReader(file, 0, size)}
	r := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("the context is not a plain tar: %w", err)
		case n >= maxContextEntries:
			return nil, fmt.Errorf("the context has more than %d entries; .dockerignore leaves some out", maxContextEntries)
		}
		name, err := contextName(h.Name)
		if err != nil {
			return nil, err
		}
		add := &contextNode{node: node{mode: fs.FileMode(h.Mode).Perm() | special(h.Mode)}, offset: in.n}
		switch h.Typeflag {
		case tar.TypeDir:
			add.mode |= fs.ModeDir
		case tar.TypeSymlink:
			add.mode, add.link = fs.ModeSymlink|0o777, h.Linkname
		case tar.TypeReg:
			if h.Size > size-in.n { // before a byte is read: holes could go on for years
				return nil, fmt.Errorf("the context says that /%s has %d bytes, more than there are in it", name, h.Size)
			}
			sum := sha256.New()
			if add.size, err = io.Copy(sum, r); err != nil {
				return nil, fmt.Errorf("read /%s of the context: %w", name, err)
			}
			if in.n-add.offset != add.size {
				return nil, fmt.Errorf("the context holds /%s with holes, as tar's sparse files have; pack it without", name)
			}
			add.digest = hex.EncodeToString(sum.Sum(nil))
		case tar.TypeLink:
			to, err := contextName(h.Linkname)
			if err != nil {
				return nil, err
			}
			first := t.nodes[to]
			if first == nil || !first.mode.IsRegular() {
				return nil, fmt.Errorf("the hard link /%s of the context leads to /%s, which is no file before it", name, to)
			}
			add.node, add.offset = first.node, first.offset
		case tar.TypeXGlobalHeader:
			continue
		default:
			return nil, fmt.Errorf("the context holds /%s, which is neither file, directory nor link; .dockerignore can leave it out", name)
		}
		if err := t.put(name, add); err != nil {
			return nil, err
		}
	}
}

func special(mode int64) (m fs.FileMode) {
	for bit, word := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= word
		}
	}
	return m
}

// contextName is an entry's name in the index.
func contextName(name string) (string, error) {
	parts := split(name)
	if slices.Contains(parts, "..") {
		return "", fmt.Errorf("the entry %.200q climbs out of the context", name)
	}
	if len(parts) > maxNameDepth || len(name) > 4096 {
		return "", fmt.Errorf("the entry %.60q… of the context is nested too deep", name)
	}
	return strings.Join(parts, "/"), nil
}

// put adds an entry, and the directories above it that have none of their own.
func (t *contextTree) put(name string, n *contextNode) error {
	if name == "" {
		return nil // the root's own mode is the sender's business
	}
	if n.mode.IsDir() {
		n.children = map[string]bool{}
		if old := t.nodes[name]; old != nil && old.mode.IsDir() {
			n.children = old.children
		}
	} else if old := t.nodes[name]; old != nil && old.mode.IsDir() {
		return fmt.Errorf("the context has /%s twice, once as a directory", name)
	}
	for at := name; at != ""; at = parent(at) {
		up := t.nodes[parent(at)]
		if up == nil {
			up = &contextNode{node: node{mode: fs.ModeDir | 0o755}, children: map[string]bool{}}
			t.nodes[parent(at)] = up
		}
		if !up.mode.IsDir() {
			return fmt.Errorf("the entry /%s of the context lies below /%s, which is no directory", name, parent(at))
		}
		up.children[path.Base(at)] = true
	}
	t.nodes[name] = n
	return nil
}

func (t *contextTree) lstat(name string) (node, error) {
	if n := t.nodes[name]; n != nil {
		return n.node, nil
	}
	return node{}, fs.ErrNotExist
}

func (t *contextTree) list(name string) ([]string, error) {
	if n := t.nodes[name]; n != nil {
		return slices.Sorted(maps.Keys(n.children)), nil
	}
	return nil, fs.ErrNotExist
}

func (t *contextTree) open(name string) (io.ReadCloser, error) {
	n := t.nodes[name]
	if n == nil || !n.mode.IsRegular() {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(io.NewSectionReader(t.file, n.offset, n.size)), nil
}
