package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Kind says what an image's digest is of.
type Kind string

const (
	KindLayers  Kind = ""     // an OCI manifest
	KindDisk    Kind = "disk" // a whole disk
	KindKernel  Kind = "kernel"
	KindRamdisk Kind = "ramdisk"
)

// fileType is the media type of what is one file.
const fileType = "application/octet-stream"

// AddFile brings a kernel, a RAM disk or a disk into the store. Digest, Size and Created of the image are set here; the rest is
// the caller's, who has looked at the bytes.
func (s *Store) AddFile(ctx context.Context, r io.Reader, img Image) (Image, error) {
	err := s.leased(ctx, func(ctx context.Context) error {
		w, err := content.OpenWriter(ctx, s.db.ContentStore(), content.WithRef("file-"+newKey()+img.Name))
		if err != nil {
			return fmt.Errorf("write %s: %w", img.Name, err)
		}
		defer w.Close()
		n, err := io.Copy(w, &limited{ctx: ctx, s: s, r: r})
		if err != nil {
			return fmt.Errorf("write %s: %w", img.Name, err)
		}
		desc := ocispec.Descriptor{MediaType: fileType, Digest: w.Digest(), Size: n}
		if err := w.Commit(ctx, n, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("write %s: %w", img.Name, err)
		}
		img.Digest, img.Size, img.Created = desc.Digest.String(), n, bakedAt
		return s.keepFile(ctx, img, desc)
	})
	return img, err
}

// keepFile writes the record of a file: from then on it stays.
func (s *Store) keepFile(ctx context.Context, img Image, desc ocispec.Descriptor) error {
	s.records.Lock()
	defer s.records.Unlock()
	r := record{Image: img}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("image %s: encode its record: %w", img.Digest, err)
	}
	_, err = s.imgs.Create(ctx, images.Image{Name: img.Digest, Target: desc, Labels: map[string]string{factsLabel: string(b)}})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("image %s: write its record: %w", img.Digest, err)
	}
	s.mu.Lock()
	s.known[img.Digest] = r
	s.mu.Unlock()
	return nil
}

// File is the path of a kernel's, a RAM disk's or a disk's bytes, which nobody may write.
func (s *Store) File(name string) (string, error) {
	r, err := s.find(name)
	if err != nil {
		return "", err
	}
	if r.Image.Kind == KindLayers {
		return "", fmt.Errorf("%s is an image of layers, not a file", name)
	}
	d, err := digest.Parse(name)
	if err != nil {
		return "", fmt.Errorf("%q is no digest: %w", name, err)
	}
	return filepath.Join(s.root, contentDir, "blobs", d.Algorithm().String(), d.Encoded()), nil
}
