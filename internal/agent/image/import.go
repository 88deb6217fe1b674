package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Limits of an image. What is past them is refused before it fills anything.
const (
	maxLayers   = 128
	maxFiles    = 10_000  // entries of an archive
	maxManifest = 4 << 20 // bytes of a manifest, an index or a configuration
	maxEntries  = 2_000_000
	maxLayer    = 64 << 30 // bytes of one unpacked layer
	reserve     = 1 << 30  // bytes that an import leaves free on the file system
	reserveInos = 100_000  // files that it leaves room for
)

// leaseTime is how long an import may take. What it brought is collected then, even if it never ends.
const leaseTime = 24 * time.Hour

// An image says by these labels what it is.
const (
	systemLabel    = cloud.LabelSystem        // "true": an operating system
	loginUserLabel = "cloud.nacre.login-user" // its ordinary user
)

// Import brings in the images of an OCI or docker archive, as it is or compressed with gzip or zstd, that are for an
// architecture, EC2's word for it; "" is this server's. Everything is verified by its digest; an archive that lies, climbs out of its root, or
// is past a limit is refused with ErrInvalid, and nothing of it stays. Importing an image again
// is cheap.
func (s *Store) Import(ctx context.Context, r io.Reader, name, architecture string, p Progress) ([]Image, error) {
	var list []Image
	architecture, err := ociArchitecture(architecture)
	if err != nil {
		return nil, err
	}
	err = s.leased(ctx, func(ctx context.Context) error {
		plain, err := compression.DecompressStream(r)
		if err != nil {
			return invalid("read the archive: %w", err)
		}
		defer plain.Close()
		report(p, 0, 100, "reading the archive")
		index, err := s.ingest(ctx, &limited{ctx: ctx, s: s, r: plain})
		if err != nil {
			return err
		}
		list, err = s.addIndex(ctx, index, name, architecture, p)
		return err
	})
	return list, err
}

// ingest puts an archive's files into the content store and returns its index.
func (s *Store) ingest(ctx context.Context, r io.Reader) (ocispec.Descriptor, error) {
	counted := countEntries(r)
	index, err := archive.ImportIndex(ctx, ownRefs{s.db.ContentStore(), newKey()}, counted)
	if err == nil {
		// What follows the archive's end, such as a compressed stream's checksum, must be sound too.
		_, err = io.Copy(io.Discard, counted)
	}
	counted.Close()
	switch {
	case err == nil:
		return index, nil
	case ctx.Err() != nil:
		return index, ctx.Err()
	case errors.Is(err, ErrFull):
		return index, fmt.Errorf("read the archive: %w", err)
	}
	return index, invalid("read the archive: %w", err)
}

// countEntries passes an archive on until it has more entries than any honest one: each costs memory while it is read,
// and a few compressed kilobytes make millions. Closing it ends the reading, and waits for that.
func countEntries(r io.Reader) *countedArchive {
	pr, pw := io.Pipe()
	c := &countedArchive{PipeReader: pr, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		pw.CloseWithError(func() error {
			all := io.TeeReader(r, pw)
			entries := tar.NewReader(all)
			for n := 0; ; n++ {
				_, err := entries.Next()
				if errors.Is(err, io.EOF) {
					_, err = io.Copy(io.Discard, all)
					return err
				}
				if err != nil {
					return err
				}
				if n >= maxFiles {
					return fmt.Errorf("an archive has %d entries at most", maxFiles)
				}
			}
		}())
	}()
	return c
}

type countedArchive struct {
	*io.PipeReader
	done chan struct{}
}

func (c *countedArchive) Close() error {
	err := c.PipeReader.Close()
	<-c.done
	return err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

func report(p Progress, done, total int64, what string) {
	if p != nil {
		p(done, total, what)
	}
}

// leased runs an import so that what it brings is kept while it lasts, and collected when it fails.
func (s *Store) leased(ctx context.Context, fn func(context.Context) error) error {
	ctx = s.context(ctx)
	lease, err := s.held.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		return fmt.Errorf("begin an import: %w", err)
	}
	err = fn(leases.WithLease(ctx, lease.ID))
	clean := context.WithoutCancel(ctx)
	err = errors.Join(err, s.held.Delete(clean, lease))
	if err != nil {
		err = errors.Join(err, s.GC(clean))
	}
	return err
}

// ownRefs gives the uploads of one import names of their own, so that imports of alike archives neither wait for one
// another nor go on with one another's halves.
type ownRefs struct {
	content.Store
	prefix string
}

func (o ownRefs) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	return o.Store.Writer(ctx, append(opts, func(w *content.WriterOpts) error {
		w.Ref = o.prefix + w.Ref
		return nil
	})...)
}

// newKey is a name that no snapshot or upload has.
func newKey() string { return rand.Text() + "-" }

// limited stops a read that would fill the file system, or whose caller gave up.
type limited struct {
	ctx  context.Context
	s    *Store
	r    io.Reader
	left int64 // bytes until the room is looked at again
}

const checkEvery = 64 << 20

func (l *limited) Read(b []byte) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	if l.left <= 0 {
		if err := l.s.Room(checkEvery); err != nil {
			return 0, err
		}
		l.left = checkEvery
	}
	n, err := l.r.Read(b)
	l.left -= int64(n)
	return n, err
}

// addIndex adds every image of an index that is for an architecture.
func (s *Store) addIndex(ctx context.Context, desc ocispec.Descriptor, name, architecture string, p Progress) ([]Image, error) {
	b, err := s.readSmall(ctx, desc)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, invalid("read the index: %w", err)
	}
	var list []Image
	seen := map[string]bool{}
	for _, entry := range index.Manifests {
		if entry.Platform != nil && !platform(architecture).Match(*entry.Platform) {
			continue
		}
		img, err := s.add(ctx, entry, name, architecture, p)
		if len(index.Manifests) > 1 && (errors.Is(err, errPlatform) || errdefs.IsNotFound(err)) {
			continue // for another platform, or not part of the archive
		}
		if err != nil {
			return nil, err
		}
		if !seen[img.Digest] {
			seen[img.Digest] = true
			list = append(list, img)
		}
	}
	if len(list) == 0 {
		return nil, invalid("the archive holds no image for linux/%s", architecture)
	}
	return list, nil
}

// sound refuses what is no digest: names made from it must not meet others of the store.
func sound(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return invalid("%q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return invalid("%s is not a SHA-256 digest", d)
	}
	return nil
}

// readSmall reads a manifest, an index or a configuration.
func (s *Store) readSmall(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if err := sound(desc.Digest); err != nil {
		return nil, err
	}
	info, err := s.db.ContentStore().Info(ctx, desc.Digest)
	if err != nil {
		return nil, invalid("%s is referred to and not there: %w", desc.Digest, err)
	}
	if info.Size > maxManifest {
		return nil, invalid("%s has %d bytes; a manifest has %d at most", desc.Digest, info.Size, maxManifest)
	}
	desc.Size = info.Size
	b, err := content.ReadBlob(ctx, s.db.ContentStore(), desc)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	return b, nil
}

// add makes an image, whose content is there, ready for machines: its layers unpacked, its record written.
func (s *Store) add(ctx context.Context, target ocispec.Descriptor, name, architecture string, p Progress) (Image, error) {
	manifestDesc, manifest, err := s.manifest(ctx, target, architecture, 0)
	if err != nil {
		return Image{}, err
	}
	if known, err := s.find(manifestDesc.Digest.String()); err == nil {
		return known.Image, nil
	}
	if len(manifest.Layers) == 0 || len(manifest.Layers) > maxLayers {
		return Image{}, invalid("the image has %d layers; 1 to %d are accepted", len(manifest.Layers), maxLayers)
	}
	b, err := s.readSmall(ctx, manifest.Config)
	if err != nil {
		return Image{}, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(b, &config); err != nil {
		return Image{}, invalid("read the image's configuration: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return Image{}, invalid("the configuration names %d layers and the manifest %d", len(config.RootFS.DiffIDs), len(manifest.Layers))
	}
	if config.Architecture != architecture || config.OS != "" && config.OS != "linux" {
		return Image{}, invalid("%w: it is for %s/%s and linux/%s is wanted; `nacre image import --arch` wants another", errPlatform, config.OS, config.Architecture, architecture)
	}
	for _, d := range config.RootFS.DiffIDs {
		if err := sound(d); err != nil {
			return Image{}, err
		}
	}
	var size int64
	for n, layer := range manifest.Layers {
		report(p, int64(n), int64(len(manifest.Layers)), fmt.Sprintf("unpacking layer %d of %d", n+1, len(manifest.Layers)))
		weight, err := s.unpack(ctx, config.RootFS.DiffIDs[:n+1], layer)
		if err != nil {
			return Image{}, fmt.Errorf("layer %d: %w", n+1, err)
		}
		size += weight
	}
	chain := identity.ChainID(config.RootFS.DiffIDs).String()
	img := Image{Digest: manifestDesc.Digest.String(), Name: name, Architecture: ec2Architecture(architecture), Created: time.Now().UTC(), Size: size, Layers: len(manifest.Layers)}
	if img.Config, err = s.describe(ctx, config, chain); err != nil {
		return Image{}, err
	}
	return img, s.keep(ctx, img, chain, manifestDesc, manifest.Config)
}

// errPlatform is an image for another kind of computer.
var errPlatform = errors.New("the image is not for the architecture")

// manifest finds the manifest for an architecture behind a descriptor, which may be that of an index.
func (s *Store) manifest(ctx context.Context, desc ocispec.Descriptor, architecture string, depth int) (ocispec.Descriptor, ocispec.Manifest, error) {
	var m ocispec.Manifest
	if depth > 3 {
		return desc, m, invalid("the index is nested more than 3 deep")
	}
	b, err := s.readSmall(ctx, desc)
	if err != nil {
		return desc, m, err
	}
	if images.IsIndexType(desc.MediaType) {
		var index ocispec.Index
		if err := json.Unmarshal(b, &index); err != nil {
			return desc, m, invalid("read the index: %w", err)
		}
		match := platform(architecture)
		for _, entry := range index.Manifests {
			if entry.Platform == nil || match.Match(*entry.Platform) {
				return s.manifest(ctx, entry, architecture, depth+1)
			}
		}
		return desc, m, invalid("%w: none of its variants is for linux/%s", errPlatform, architecture)
	}
	if !images.IsManifestType(desc.MediaType) {
		return desc, m, invalid("%q is not the media type of an image's manifest", desc.MediaType)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return desc, m, invalid("read the manifest: %w", err)
	}
	for _, layer := range m.Layers {
		if !images.IsLayerType(layer.MediaType) {
			return desc, m, invalid("%q is not the media type of a layer", layer.MediaType)
		}
		if err := sound(layer.Digest); err != nil {
			return desc, m, err
		}
	}
	return desc, m, nil
}

// keep writes the image's record: from then on its content and layers stay.
func (s *Store) keep(ctx context.Context, img Image, chain string, manifest, config ocispec.Descriptor) error {
	cs := s.db.ContentStore()
	if _, err := images.SetChildrenMappedLabels(cs, images.ChildrenHandler(cs), nil)(ctx, manifest); err != nil {
		return fmt.Errorf("image %s: tie its content together: %w", img.Digest, err)
	}
	label := "containerd.io/gc.ref.snapshot." + snapshotter
	_, err := cs.Update(ctx, content.Info{Digest: config.Digest, Labels: map[string]string{label: chain}}, "labels."+label)
	if err != nil {
		return fmt.Errorf("image %s: tie its layers to it: %w", img.Digest, err)
	}
	s.records.Lock()
	defer s.records.Unlock()
	r := record{Image: img, Chain: chain}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("image %s: encode its record: %w", img.Digest, err)
	}
	_, err = s.imgs.Create(ctx, images.Image{Name: img.Digest, Target: manifest, Labels: map[string]string{factsLabel: string(b)}})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("image %s: write its record: %w", img.Digest, err)
	}
	s.mu.Lock()
	s.known[img.Digest] = r
	s.mu.Unlock()
	return nil
}

// putBlob writes small content and returns its descriptor.
func (s *Store) putBlob(ctx context.Context, mediaType string, b []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := content.WriteBlob(ctx, s.db.ContentStore(), desc.Digest.String(), bytes.NewReader(b), desc); err != nil {
		return desc, fmt.Errorf("write %s: %w", mediaType, err)
	}
	return desc, nil
}
