package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of an image. What is past them is refused before it fills anything.
const (
	maxLayers   = 128
	maxManifest = 4 << 20 // bytes of a manifest, an index or a configuration
	reserve     = 1 << 30 // bytes that an import leaves free on the file system
)

// An image says by these labels what it is.
const (
	systemLabel    = "cloud.nacre.system"     // "true": an operating system
	loginUserLabel = "cloud.nacre.login-user" // its ordinary user
)

// Import brings in the images of an OCI or docker archive, as it is or compressed with gzip or zstd, that are for this
// node's architecture. Everything is verified by its digest; an archive that lies, climbs out of its root, or
// is past a limit is refused with ErrInvalid, and nothing of it stays. Importing an image again
// is cheap.
func (s *Store) Import(ctx context.Context, r io.Reader, name string, p Progress) ([]Image, error) {
	var list []Image
	err := s.leased(ctx, func(ctx context.Context) error {
		plain, err := compression.DecompressStream(r)
		if err != nil {
			return invalid("read the archive: %w", err)
		}
		defer plain.Close()
		report(p, 0, 100, "reading the archive")
		index, err := archive.ImportIndex(ctx, s.db.ContentStore(), &limited{ctx: ctx, s: s, r: plain})
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return invalid("read the archive: %w", err)
		}
		list, err = s.addIndex(ctx, index, name, p)
		return err
	})
	return list, err
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
	s.collect.RLock()
	lease, err := s.held.Create(ctx, leases.WithRandomID(), leases.WithExpiration(24*time.Hour))
	if err != nil {
		s.collect.RUnlock()
		return fmt.Errorf("begin an import: %w", err)
	}
	err = fn(leases.WithLease(ctx, lease.ID))
	clean := context.WithoutCancel(ctx)
	err = errors.Join(err, s.held.Delete(clean, lease))
	s.collect.RUnlock()
	if err != nil {
		err = errors.Join(err, s.GC(clean))
	}
	return err
}

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
		free, err := l.s.free()
		if err != nil {
			return 0, err
		}
		if free < reserve+checkEvery {
			return 0, fmt.Errorf("only %d MiB are free for images", free>>20)
		}
		l.left = checkEvery
	}
	n, err := l.r.Read(b)
	l.left -= int64(n)
	return n, err
}

// host matches this node's platform.
func host() platforms.MatchComparer {
	return platforms.Only(platforms.Normalize(ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}))
}

// addIndex adds every image of an index that is for this node.
func (s *Store) addIndex(ctx context.Context, desc ocispec.Descriptor, name string, p Progress) ([]Image, error) {
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
		img, err := s.add(ctx, entry, name, p)
		if errdefs.IsNotFound(err) && len(index.Manifests) > 1 {
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
		return nil, invalid("the archive holds no image for linux/%s", runtime.GOARCH)
	}
	return list, nil
}

// readSmall reads a manifest, an index or a configuration.
func (s *Store) readSmall(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
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
func (s *Store) add(ctx context.Context, target ocispec.Descriptor, name string, p Progress) (Image, error) {
	manifestDesc, manifest, err := s.manifest(ctx, target, 0)
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
	arch, ok := map[string]string{"amd64": "x86_64", "arm64": "arm64"}[config.Architecture]
	if !ok || config.OS != "" && config.OS != "linux" {
		return Image{}, invalid("the image is for %s/%s", config.OS, config.Architecture)
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
	img := Image{Digest: manifestDesc.Digest.String(), Name: name, Architecture: arch, Created: time.Now().UTC(), Size: size, Layers: len(manifest.Layers)}
	if img.Config, err = s.describe(ctx, config, chain); err != nil {
		return Image{}, err
	}
	return img, s.keep(ctx, img, chain, manifestDesc, manifest.Config)
}

// manifest finds the manifest for this node behind a descriptor, which may be that of an index.
func (s *Store) manifest(ctx context.Context, desc ocispec.Descriptor, depth int) (ocispec.Descriptor, ocispec.Manifest, error) {
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
		match := host()
		for _, entry := range index.Manifests {
			if entry.Platform == nil || match.Match(*entry.Platform) {
				return s.manifest(ctx, entry, depth+1)
			}
		}
		return desc, m, fmt.Errorf("image for linux/%s: %w", runtime.GOARCH, errdefs.ErrNotFound)
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
	if err := content.WriteBlob(ctx, s.db.ContentStore(), desc.Digest.String(), readerOf(b), desc); err != nil {
		return desc, fmt.Errorf("write %s: %w", mediaType, err)
	}
	return desc, nil
}
