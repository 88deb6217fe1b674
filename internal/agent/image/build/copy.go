package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/moby/patternmatcher"
	"github.com/moby/sys/user"

	"github.com/nacre-cloud/nacre/internal/containerfile"
)

// pick is one file, directory or link that is copied, and the name that it gets in its destination.
type pick struct {
	name string // in its tree
	to   string // below the destination; "" for the contents of a directory
	node node
}

// source is where a COPY takes its files from, and what its key says of it.
type source struct {
	tree  tree
	owned bool   // files keep their owners, as those of stages do
	chain string // of a stage's layers, "" for the context
}

// picks finds what a COPY's paths mean.
func picks(src tree, c *containerfile.Copy) ([]pick, error) {
	var list []pick
	for _, p := range c.Paths {
		names, err := match(src, p)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			real, n, there, err := resolve(src, name)
			if err != nil {
				return nil, err
			}
			if !there {
				return nil, fmt.Errorf("%s is not there", path.Join("/", name))
			}
			to := path.Base(path.Join("/", name))
			if n.mode.IsDir() {
				to = ""
			}
			list = append(list, pick{name: real, to: to, node: n})
		}
	}
	return list, nil
}

// match is the names that a path with wildcards means, in order.
func match(src tree, pattern string) ([]string, error) {
	parts := split(path.Join("/", pattern))
	if !slices.ContainsFunc(parts, func(p string) bool { return strings.ContainsAny(p, `*?[\`) }) {
		return []string{strings.Join(parts, "/")}, nil
	}
	found := []string{""}
	for _, part := range parts {
		var next []string
		for _, dir := range found {
			real, n, there, err := resolve(src, dir)
			if err != nil || !there || !n.mode.IsDir() {
				continue
			}
			names, err := src.list(real)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				ok, err := path.Match(part, name)
				if err != nil {
					return nil, fmt.Errorf("%q is not a pattern: %w", pattern, err)
				}
				if ok {
					next = append(next, path.Join(dir, name))
				}
			}
		}
		found = next
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("nothing is called %s", pattern)
	}
	return found, nil
}

// walk visits a picked tree, directories before what is in them, in the order of names.
func walk(src tree, name, rel string, n node, skip func(rel string, dir bool) bool, fn func(name, rel string, n node) error) error {
	if err := fn(name, rel, n); err != nil || !n.mode.IsDir() {
		return err
	}
	children, err := src.list(name)
	if err != nil {
		return err
	}
	for _, c := range children {
		below, err := src.lstat(path.Join(name, c))
		if err != nil {
			return err
		}
		at := path.Join(rel, c)
		if skip != nil && skip(at, below.mode.IsDir()) {
			continue
		}
		if err := walk(src, path.Join(name, c), at, below, skip, fn); err != nil {
			return err
		}
	}
	return nil
}

// excluder tells what --exclude leaves out, nil for nothing.
func excluder(patterns []string) (func(rel string, dir bool) bool, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("--exclude: %w", err)
	}
	return func(rel string, dir bool) bool {
		out, err := m.MatchesOrParentMatches(rel)
		return err == nil && out && !(dir && m.Exclusions())
	}, nil
}

// inputs is the digest of all that a COPY depends on but what it is copied to.
func inputs(src source, c *containerfile.Copy, list []pick) (string, error) {
	sum := sha256.New()
	enc := json.NewEncoder(sum)
	if err := enc.Encode(c.Inline); err != nil {
		return "", err
	}
	if src.chain != "" {
		if err := enc.Encode([]any{src.chain, c.Paths}); err != nil {
			return "", err
		}
		return hex.EncodeToString(sum.Sum(nil)), nil
	}
	skip, err := excluder(c.Exclude)
	if err != nil {
		return "", err
	}
	for _, p := range list {
		err := walk(src.tree, p.name, "", p.node, skip, func(_, rel string, n node) error {
			return enc.Encode([]any{p.to, rel, n.mode, n.link, n.digest})
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// owner is who copied files belong to.
type owner struct{ uid, gid int }

// lookUp finds "user:group" in a stage's own files.
func lookUp(stage tree, word string) (owner, error) {
	name, group, grouped := strings.Cut(word, ":")
	var o owner
	id, err := number(name)
	if err != nil {
		return o, err
	}
	if o.uid = id; id < 0 || !grouped {
		found := false
		err := inFile(stage, "etc/passwd", func(r io.Reader) error {
			users, err := user.ParsePasswdFilter(r, func(u user.User) bool { return u.Name == name || id >= 0 && u.Uid == id })
			if err == nil && len(users) > 0 {
				o.uid, o.gid, found = users[0].Uid, users[0].Gid, true
			}
			return err
		})
		switch {
		case id >= 0 && !found:
			o.gid = id // as with docker: a number without an entry is the group too
		case err != nil:
			return o, err
		case !found:
			return o, fmt.Errorf("the stage has no user %q", name)
		}
	}
	if !grouped {
		return o, nil
	}
	if o.gid, err = number(group); err != nil || o.gid >= 0 {
		return o, err
	}
	found := false
	err = inFile(stage, "etc/group", func(r io.Reader) error {
		groups, err := user.ParseGroupFilter(r, func(g user.Group) bool { return g.Name == group })
		if err == nil && len(groups) > 0 {
			o.gid, found = groups[0].Gid, true
		}
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("the stage has no group %q", group)
	}
	return o, err
}

// maxID is the last id that a container has.
const maxID = 65535

// number is an id, -1 for a name.
func number(word string) (int, error) {
	n, err := strconv.Atoi(word)
	switch {
	case err != nil && word == "":
		return 0, errors.New("the name of a user or group is empty")
	case err != nil:
		return -1, nil
	case n < 0 || n > maxID:
		return 0, fmt.Errorf("%s is not an id; they end at %d", word, maxID)
	}
	return n, nil
}

const maxAccounts = 4 << 20 // bytes of a stage's passwd or group file that are looked at

func inFile(t tree, name string, fn func(io.Reader) error) error {
	real, n, there, err := resolve(t, name)
	if err != nil {
		return err
	}
	if !there || !n.mode.IsRegular() {
		return fmt.Errorf("the stage has no /%s to find names in", name)
	}
	f, err := t.open(real)
	if err != nil {
		return err
	}
	defer f.Close()
	return fn(io.LimitReader(f, maxAccounts))
}

// layer writes a layer's tar: all entries dated alike, each directory once.
type layer struct {
	ctx   context.Context
	out   *tar.Writer
	stage tree // what the layer is put on
	date  time.Time
	owner *owner
	mode  *uint32
	made  map[string]bool // directories that are written
}

func newLayer(ctx context.Context, w io.Writer, stage tree, date time.Time) *layer {
	return &layer{ctx: ctx, out: tar.NewWriter(w), stage: stage, date: date, made: map[string]bool{}}
}

// directories writes those of a path that are not there, and the path itself with the mode of the last.
func (l *layer) directories(name string, n node) error {
	if name == "" || l.made[name] {
		return nil
	}
	there, err := l.stage.lstat(name)
	if err == nil {
		if !there.mode.IsDir() {
			return fmt.Errorf("/%s is there and is not a directory", name)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.directories(parent(name), node{mode: fs.ModeDir | 0o755}); err != nil {
		return err
	}
	return l.entry(name, n, nil)
}

// entry writes one entry; content is of a regular file.
func (l *layer) entry(name string, n node, content io.Reader) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	h := &tar.Header{Format: tar.FormatPAX, Name: name, ModTime: l.date, Mode: unixMode(n.mode), Uid: n.uid, Gid: n.gid}
	if l.owner != nil {
		h.Uid, h.Gid = l.owner.uid, l.owner.gid
	}
	if l.mode != nil && n.mode&fs.ModeSymlink == 0 {
		h.Mode = int64(*l.mode)
	}
	switch {
	case n.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		l.made[name] = true
	case n.mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, n.link, 0o777
	case n.mode.IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, n.size
		if n.capability != "" {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": n.capability}
		}
	default:
		return fmt.Errorf("/%s is neither file, directory nor link", name)
	}
	if err := l.out.WriteHeader(h); err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	if content == nil || h.Typeflag != tar.TypeReg {
		return nil
	}
	if _, err := io.Copy(l.out, content); err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	return nil
}

func unixMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for word, bit := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&word != 0 {
			mode |= bit
		}
	}
	return mode
}

// copyInto writes what a COPY or ADD brings. The destination is worked out in the stage, where links are followed as they are inside.
func (l *layer) copyInto(src source, c *containerfile.Copy, list []pick) error {
	skip, err := excluder(c.Exclude)
	if err != nil {
		return err
	}
	if c.Chown != "" {
		o, err := lookUp(l.stage, c.Chown)
		if err != nil {
			return fmt.Errorf("--chown=%s: %w", c.Chown, err)
		}
		l.owner = &o
	}
	l.mode = c.Mode
	if c.Link {
		l.stage = emptyTree{}
	}
	dest, n, there, err := resolve(l.stage, c.Dest)
	if err != nil {
		return err
	}
	into := strings.HasSuffix(c.Dest, "/") || there && n.mode.IsDir()
	for _, p := range list {
		if c.Unpack && p.node.mode.IsRegular() {
			done, err := l.unpack(src.tree, p, dest)
			if err != nil {
				return fmt.Errorf("unpack %s: %w", path.Join("/", p.name), err)
			}
			if done {
				continue
			}
		}
		if p.node.mode.IsDir() {
			err = walk(src.tree, p.name, "", p.node, skip, func(name, rel string, n node) error { return l.copyOne(src, name, dest, rel, n) })
		} else {
			target, dir := dest, parent(dest)
			if into {
				target, dir = path.Join(dest, p.to), dest
			}
			if err = l.directories(dir, node{mode: fs.ModeDir | 0o755}); err == nil {
				err = l.copyOne(src, p.name, target, "", p.node)
			}
		}
		if err != nil {
			return err
		}
	}
	for _, f := range c.Inline {
		target, dir := dest, parent(dest)
		if into {
			target, dir = path.Join(dest, path.Base(path.Join("/", f.Name))), dest
		}
		if err := l.directories(dir, node{mode: fs.ModeDir | 0o755}); err != nil {
			return err
		}
		if err := l.fits(target, false); err != nil {
			return err
		}
		if err := l.entry(target, node{mode: 0o644, size: int64(len(f.Content))}, strings.NewReader(f.Content)); err != nil {
			return err
		}
	}
	return nil
}

// fits refuses a file where a directory is, and the other way round.
func (l *layer) fits(target string, dir bool) error {
	there, err := l.stage.lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case dir && !there.mode.IsDir():
		return fmt.Errorf("a directory can't be copied over /%s, which is a file or a link", target)
	case !dir && there.mode.IsDir():
		return fmt.Errorf("a file can't be copied over the directory /%s", target)
	}
	return nil
}

// copyOne writes one file, directory or link below a destination. Directories that are there keep what they are when they are the destination itself.
func (l *layer) copyOne(src source, name, dest, rel string, n node) error {
	if !src.owned {
		n.uid, n.gid = 0, 0
	}
	target := path.Join(dest, rel)
	if n.mode.IsDir() && rel == "" {
		return l.directories(target, n)
	}
	if err := l.fits(target, n.mode.IsDir()); err != nil {
		return err
	}
	if !n.mode.IsRegular() {
		return l.entry(target, n, nil)
	}
	f, err := src.tree.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return l.entry(target, n, io.LimitReader(f, n.size))
}

// Beginnings of files that ADD unpacks.
var (
	gzipMagic  = []byte{0x1f, 0x8b, 0x08}
	bzip2Magic = []byte("BZh")
	xzMagic    = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	zstdMagic  = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// unpack writes the entries of an archive below a destination. A file that is none is left to be copied.
func (l *layer) unpack(src tree, p pick, dest string) (bool, error) {
	f, err := src.open(p.name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	in := bufio.NewReader(io.LimitReader(f, p.node.size))
	head, _ := in.Peek(512)
	var plain io.Reader = in
	switch {
	case bytes.HasPrefix(head, xzMagic):
		return false, errors.New("archives compressed with xz are not built; compress it with gzip or zstd")
	case bytes.HasPrefix(head, bzip2Magic):
		plain = bzip2.NewReader(in)
	case bytes.HasPrefix(head, gzipMagic), bytes.HasPrefix(head, zstdMagic):
		d, err := compression.DecompressStream(in)
		if err != nil {
			return false, nil // it only begins like one
		}
		defer d.Close()
		plain = d
	case len(head) < 512 || !bytes.Equal(head[257:262], []byte("ustar")):
		return false, nil
	}
	r := tar.NewReader(plain)
	h, err := r.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		return false, nil // compressed, and no archive
	}
	if err := l.directories(dest, node{mode: fs.ModeDir | 0o755}); err != nil {
		return false, err
	}
	for ; err == nil; h, err = r.Next() {
		if err := l.ctx.Err(); err != nil {
			return false, err
		}
		if slices.Contains(split(h.Name), "..") {
			return false, fmt.Errorf("the entry %.200q climbs out of the archive", h.Name)
		}
		name := path.Join(dest, path.Clean("/" + h.Name)[1:])
		if base := path.Base(name); strings.HasPrefix(base, ".wh.") {
			return false, fmt.Errorf("the entry %.200q would delete files of the layers below", h.Name)
		}
		if name == dest {
			continue
		}
		out := *h
		out.Format, out.Name, out.ModTime, out.AccessTime, out.ChangeTime = tar.FormatPAX, name, l.date, time.Time{}, time.Time{}
		out.Uname, out.Gname, out.PAXRecords = "", "", nil
		for k, v := range h.PAXRecords {
			if k == "SCHILY.xattr.security.capability" {
				out.PAXRecords = map[string]string{k: v}
			}
		}
		if l.owner != nil {
			out.Uid, out.Gid = l.owner.uid, l.owner.gid
		}
		switch h.Typeflag {
		case tar.TypeDir:
			out.Name += "/"
		case tar.TypeLink:
			if slices.Contains(split(h.Linkname), "..") {
				return false, fmt.Errorf("the hard link %.200q leads to %.200q, out of the archive", h.Name, h.Linkname)
			}
			out.Linkname = path.Join(dest, path.Clean("/" + h.Linkname)[1:])
		case tar.TypeReg, tar.TypeSymlink, tar.TypeGNUSparse:
		case tar.TypeXGlobalHeader:
			continue
		default:
			continue // nodes of devices: a machine has its own
		}
		if out.Typeflag == tar.TypeGNUSparse {
			out.Typeflag = tar.TypeReg
		}
		if err := l.out.WriteHeader(&out); err != nil {
			return false, fmt.Errorf("write /%s: %w", name, err)
		}
		if out.Typeflag == tar.TypeReg {
			if _, err := io.Copy(l.out, r); err != nil {
				return false, fmt.Errorf("write /%s: %w", name, err)
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		return false, err
	}
	return true, nil
}
