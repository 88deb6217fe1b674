package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive/tarheader"
	"golang.org/x/sys/unix"
)

// How a layer says that something of the layers below is gone (image-spec/layer.md), and how overlayfs does.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	opaqueAttr     = "trusted.overlay.opaque"
	xattrRecord    = "SCHILY.xattr."
)

// ofInstances tells whether nacre writes a file anew at every first boot: what an instance was called is nothing to the next one.
func ofInstances(name string) bool {
	return name == "etc/hostname" || name == "etc/hosts" || name == "etc/resolv.conf"
}

// layerWriter writes an overlay's writable layer as a layer of an image: what the directory holds, and what it hides.
type layerWriter struct {
	ctx   context.Context
	out   *tar.Writer
	rules layerRules
	links map[uint64]string // names by inode, of files with several
	bytes int64
}

// layerRules are what whoever makes a layer wants of it.
type layerRules struct {
	leaveOut func(name string) bool // by names relative to the root; nil for nothing
	date     *time.Time             // of every entry; nil for each file's own
}

// writeLayer writes the tree below root, an overlay's upper directory in which files belong to whom the machine sees. The same tree makes the same
// bytes. What a layer can't hold is refused by name; sockets, which are nothing without their process, are left out.
func writeLayer(ctx context.Context, w io.Writer, root string, rules layerRules) error {
	l := &layerWriter{ctx: ctx, out: tar.NewWriter(w), rules: rules, links: map[uint64]string{}}
	err := filepath.WalkDir(root, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, at)
		if err != nil || name == "." || rules.leaveOut != nil && rules.leaveOut(name) {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return l.add(at, name, info)
	})
	return errors.Join(err, l.out.Close())
}

func (l *layerWriter) add(at, name string, info fs.FileInfo) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	base := path.Base(name)
	switch {
	case !ok:
		return fmt.Errorf("look at /%s: it has no inode", name)
	case strings.HasPrefix(base, whiteoutPrefix):
		return invalid("the file /%s can't be part of an image: in a layer, its name says that %q is deleted; rename it", name, strings.TrimPrefix(base, whiteoutPrefix))
	case info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0:
		return l.mark(path.Join(path.Dir(name), whiteoutPrefix+base))
	case info.Mode()&fs.ModeSocket != 0:
		return nil
	}
	attrs, err := xattrs(at)
	if err != nil {
		return fmt.Errorf("read the attributes of /%s: %w", name, err)
	}
	for attr := range attrs {
		if attr == "trusted.overlay.redirect" || attr == "trusted.overlay.metacopy" {
			return fmt.Errorf("/%s is only a reference to a file of a layer below (%s): the host's overlayfs has redirect_dir or metacopy on; switch it off", name, attr)
		}
	}
	h, err := tarheader.FileInfoHeaderNoLookups(info, "")
	if err != nil {
		return fmt.Errorf("describe /%s: %w", name, err)
	}
	h.Format, h.Name, h.AccessTime, h.ChangeTime, h.PAXRecords = tar.FormatPAX, name, time.Time{}, time.Time{}, nil
	switch h.Typeflag {
	case tar.TypeDir:
		h.Name += "/"
	case tar.TypeSymlink:
		if h.Linkname, err = os.Readlink(at); err != nil {
			return err
		}
	case tar.TypeBlock, tar.TypeChar:
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	if h.Typeflag == tar.TypeReg && st.Nlink > 1 {
		if first, seen := l.links[st.Ino]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return l.header(h)
		}
		l.links[st.Ino] = name
	}
	for attr, value := range attrs {
		if belongsInLayer(attr) {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[xattrRecord+attr] = value
		}
	}
	if l.bytes += h.Size; l.bytes > maxLayer {
		return invalid("with /%s, of %d bytes, the files written are larger than a layer may be, %d bytes (holes in files count)", name, h.Size, int64(maxLayer))
	}
	if err := l.header(h); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if attrs[opaqueAttr] == "y" {
			return l.mark(path.Join(name, opaqueMarker))
		}
	case tar.TypeReg:
		return l.content(at, name, h.Size)
	}
	return nil
}

// mark writes an entry that says that something is gone.
func (l *layerWriter) mark(name string) error {
	return l.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatPAX})
}

func (l *layerWriter) header(h *tar.Header) error {
	if l.rules.date != nil {
		h.ModTime = *l.rules.date
	}
	if err := l.out.WriteHeader(h); err != nil {
		return fmt.Errorf("write /%s: %w", h.Name, err)
	}
	return nil
}

func (l *layerWriter) content(at, name string, size int64) error {
	f, err := os.OpenFile(at, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := io.Copy(l.out, io.LimitReader(f, size)); err != nil || n != size {
		return errors.Join(fmt.Errorf("copy /%s: %d of %d bytes were there", name, n, size), err)
	}
	return nil
}

// belongsInLayer tells whether an attribute is the file's own: not the overlay's, nor one that the host's security modules gave it.
func belongsInLayer(attr string) bool {
	switch {
	case strings.HasPrefix(attr, "user.overlay."):
		return false
	case strings.HasPrefix(attr, "user."), attr == "security.capability", strings.HasPrefix(attr, "system.posix_acl_"):
		return true
	}
	return false
}

// xattrs are a file's extended attributes; a link's are its own.
func xattrs(at string) (map[string]string, error) {
	names, err := readGrowing(func(b []byte) (int, error) { return unix.Llistxattr(at, b) })
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := readGrowing(func(b []byte) (int, error) { return unix.Lgetxattr(at, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = string(value)
	}
	return out, nil
}

// readGrowing asks for something of which only the kernel knows the size.
func readGrowing(ask func(b []byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := ask(b)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}
