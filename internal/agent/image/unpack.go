package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of one unpacked layer.
const (
	maxEntries   = 2_000_000
	maxLayerSize = 64 << 30 // bytes
)

func readerOf(b []byte) io.Reader { return bytes.NewReader(b) }

// unpack makes the committed snapshot of a layer on those below it, unless it is there. chain are the
// uncompressed digests up to this layer's. It returns the layer's own size.
func (s *Store) unpack(ctx context.Context, chain []digest.Digest, layer ocispec.Descriptor) (int64, error) {
	id, parent := identity.ChainID(chain).String(), ""
	if len(chain) > 1 {
		parent = identity.ChainID(chain[:len(chain)-1]).String()
	}
	if _, err := s.snap.Stat(ctx, id); err == nil {
		u, err := s.snap.Usage(ctx, id)
		return u.Size, err
	}
	key := "unpack-" + rand.Text() + "-" + id
	mounts, err := s.snap.Prepare(ctx, key, parent)
	if err != nil {
		return 0, fmt.Errorf("prepare it: %w", err)
	}
	done := false
	defer func() {
		if !done {
			if err := s.snap.Remove(context.WithoutCancel(ctx), key); err != nil && !errdefs.IsNotFound(err) {
				s.log.Warn("a half-unpacked layer stays until the next collection", "layer", layer.Digest, "error", err)
			}
		}
	}()
	err = mount.WithTempMount(ctx, mounts, func(root string) error { return s.apply(ctx, root, layer, chain[len(chain)-1]) })
	if err != nil {
		return 0, err
	}
	if err := s.snap.Commit(ctx, id, key); err != nil && !errdefs.IsAlreadyExists(err) {
		return 0, fmt.Errorf("commit it: %w", err)
	} else if err == nil {
		done = true
	}
	u, err := s.snap.Usage(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("weigh it: %w", err)
	}
	return u.Size, nil
}

// apply extracts a layer into root and checks that it is what the configuration says.
func (s *Store) apply(ctx context.Context, root string, layer ocispec.Descriptor, want digest.Digest) error {
	ra, err := s.db.ContentStore().ReaderAt(ctx, ocispec.Descriptor{Digest: layer.Digest})
	if err != nil {
		return invalid("%s is referred to and not there: %w", layer.Digest, err)
	}
	defer ra.Close()
	if layer.Size > 0 && ra.Size() != layer.Size {
		return invalid("%s has %d bytes and the manifest says %d", layer.Digest, ra.Size(), layer.Size)
	}
	plain, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return invalid("decompress %s: %w", layer.Digest, err)
	}
	defer plain.Close()
	digester := digest.SHA256.Digester()
	in := io.TeeReader(&limited{ctx: ctx, s: s, r: io.LimitReader(plain, maxLayerSize+1)}, digester.Hash())
	guard := &entryGuard{}
	if _, err := archive.Apply(ctx, root, in, archive.WithFilter(guard.check)); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if guard.refused != nil {
			return guard.refused
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

// entryGuard refuses what no honest layer holds: entries that climb out of the root, links that lead out of it by
// their name, device nodes other than overlayfs's own marks, and too many entries or bytes.
type entryGuard struct {
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

func (g *entryGuard) look(h *tar.Header) (bool, error) {
	g.entries++
	g.bytes += h.Size
	switch {
	case g.entries > maxEntries:
		return false, invalid("a layer has %d entries at most", maxEntries)
	case g.bytes > maxLayerSize:
		return false, invalid("a layer has %d bytes at most", int64(maxLayerSize))
	case climbs(h.Name):
		return false, invalid("the entry %q climbs out of the image's root", h.Name)
	case h.Typeflag == tar.TypeLink && climbs(h.Linkname):
		return false, invalid("the hard link %q leads to %q, out of the image's root", h.Name, h.Linkname)
	case h.Typeflag == tar.TypeBlock, h.Typeflag == tar.TypeChar:
		// Packages bring nodes such as /dev/null; a machine gets its own /dev, so they are left out.
		return false, nil
	}
	return true, nil
}

// climbs tells whether a name leaves the directory that it is relative to. Absolute names are relative to the image's root.
func climbs(name string) bool {
	clean := path.Clean("/" + name)
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
	return strings.ContainsRune(clean, 0)
}

// view mounts an image's layers read-only for looking into them.
func (s *Store) view(ctx context.Context, chain string, fn func(root string) error) error {
	key := "view-" + rand.Text() + "-" + chain
	mounts, err := s.snap.View(ctx, key, chain)
	if err != nil {
		return fmt.Errorf("look into the image: %w", err)
	}
	err = mount.WithReadonlyTempMount(ctx, mounts, fn)
	return errors.Join(err, s.snap.Remove(context.WithoutCancel(ctx), key))
}
