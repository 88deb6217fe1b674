package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// A snapshot that is no image's layer says by its key what it is.
const (
	unpackPrefix = "unpack-"
	viewPrefix   = "view-"
)

// unpack makes the committed snapshot of a layer on those below it, unless it is there; either way the lease of ctx
// keeps it. chain are the uncompressed digests up to this layer's. It returns the layer's own size.
func (s *Store) unpack(ctx context.Context, chain []digest.Digest, layer ocispec.Descriptor) (int64, error) {
	id, parent := identity.ChainID(chain).String(), ""
	if len(chain) > 1 {
		parent = identity.ChainID(chain[:len(chain)-1]).String()
	}
	for {
		key := unpackPrefix + newKey() + id
		mounts, err := s.snap.Prepare(ctx, key, parent, snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: id}))
		if errdefs.IsAlreadyExists(err) {
			u, err := s.snap.Usage(ctx, id)
			if err != nil {
				return 0, fmt.Errorf("weigh it: %w", err)
			}
			return u.Size, nil
		}
		if err != nil {
			return 0, fmt.Errorf("prepare it: %w", err)
		}
		err = s.withMount(mounts, func(root string) error { return s.apply(ctx, root, layer, chain[len(chain)-1]) })
		if err == nil {
			err = s.snap.Commit(ctx, id, key)
		}
		if err == nil {
			continue // finds it, and weighs it
		}
		if err := s.snap.Remove(context.WithoutCancel(ctx), key); err != nil && !errdefs.IsNotFound(err) {
			s.log.Warn("a half-unpacked layer stays until the next collection", "layer", layer.Digest, "error", err)
		}
		// Another import may have made the same layer meanwhile.
		if !errdefs.IsAlreadyExists(err) {
			return 0, fmt.Errorf("unpack it: %w", err)
		}
	}
}

// apply extracts a layer into root and checks that it is what the configuration says.
func (s *Store) apply(ctx context.Context, root string, layer ocispec.Descriptor, want digest.Digest) error {
	ra, err := s.db.ContentStore().ReaderAt(ctx, ocispec.Descriptor{Digest: layer.Digest})
	if err != nil {
		return invalid("%s is referred to and not there: %w", layer.Digest, err)
	}
	defer ra.Close()
	if ra.Size() != layer.Size {
		return invalid("%s has %d bytes and the manifest says %d", layer.Digest, ra.Size(), layer.Size)
	}
	plain, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return invalid("decompress %s: %w", layer.Digest, err)
	}
	defer plain.Close()
	digester := digest.SHA256.Digester()
	in := io.TeeReader(&limited{ctx: ctx, s: s, r: plain}, digester.Hash())
	guard := &entryGuard{room: s.Room}
	if _, err := archive.Apply(ctx, root, in, archive.WithFilter(guard.check)); err != nil {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case guard.refused != nil:
			return guard.refused
		case errors.Is(err, ErrFull), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO):
			return fmt.Errorf("extract %s: %w", layer.Digest, err)
		}
		return invalid("extract %s: %w", layer.Digest, err)
	}
	// What follows the archive's end belongs to the digest too.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return invalid("read %s to its end: %w", layer.Digest, err)
	}
	if got := digester.Digest(); got != want {
		return invalid("layer %s unpacks to %s and the configuration says %s", layer.Digest, got, want)
	}
	return nil
}

// entryGuard refuses what no honest layer holds: entries that climb out of the root, hard links that lead out of it by
// their name, and too many entries or bytes. It leaves out what a machine must not get from an image: device
// nodes, and the attributes by which overlayfs would follow an image's word.
type entryGuard struct {
	room    func(more int64) error
	entries int
	bytes   int64
	refused error
}

func (g *entryGuard) check(h *tar.Header) (bool, error) {
	keep, err := g.look(h)
	if err != nil {
		g.refused = err
	}
	return keep, err
}

// bigEntry is the size from which room is made sure of before an entry is written. A sparse one is
// written in full and may be far bigger than what is read for it.
const bigEntry = 1 << 20

func (g *entryGuard) look(h *tar.Header) (bool, error) {
	g.entries++
	switch {
	case g.entries > maxEntries:
		return false, invalid("a layer has %d entries at most", maxEntries)
	case h.Size < 0 || h.Size > maxLayer || g.bytes+h.Size > maxLayer:
		return false, invalid("a layer has %d bytes at most", int64(maxLayer))
	case climbs(h.Name):
		return false, invalid("the entry %q climbs out of the image's root", h.Name)
	case h.Typeflag == tar.TypeLink && climbs(h.Linkname):
		return false, invalid("the hard link %q leads to %q, out of the image's root", h.Name, h.Linkname)
	case h.Typeflag == tar.TypeBlock, h.Typeflag == tar.TypeChar:
		// Packages bring nodes such as /dev/null; a machine gets its own /dev.
		return false, nil
	}
	g.bytes += h.Size
	if h.Size >= bigEntry {
		if err := g.room(h.Size); err != nil {
			return false, err
		}
	}
	for name := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(name, "SCHILY.xattr."); ok && (strings.HasPrefix(attr, "trusted.") || strings.HasPrefix(attr, "user.overlay.")) {
			delete(h.PAXRecords, name)
		}
	}
	return true, nil
}

// climbs tells whether a name leaves the directory that it is relative to. Absolute names are relative to the image's root.
func climbs(name string) bool {
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
