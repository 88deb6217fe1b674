package image

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Adopt makes an image of content that a repository of this server's registry has, by its manifest's or its index's digest, for an
// architecture, EC2's word for it; "" is this server's. Nothing is copied, and the image keeps the content when the repository is gone.
func (s *Store) Adopt(ctx context.Context, d, name, architecture string, p Progress) (Image, error) {
	architecture, err := ociArchitecture(architecture)
	if err != nil {
		return Image{}, err
	}
	var img Image
	err = s.leased(ctx, func(ctx context.Context) error {
		desc, err := s.hold(ctx, digest.Digest(d), 0)
		if err != nil {
			return fmt.Errorf("take %s from its repository: %w", d, err)
		}
		img, err = s.add(ctx, desc, name, architecture, p)
		return err
	})
	return img, err
}

// hold has the lease of ctx keep a manifest, or an index, and all of it that is there, whatever is deleted meanwhile.
func (s *Store) hold(ctx context.Context, d digest.Digest, depth int) (ocispec.Descriptor, error) {
	lease, _ := leases.FromContext(ctx)
	keep := func(d digest.Digest) error {
		return s.held.AddResource(ctx, leases.Lease{ID: lease}, leases.Resource{ID: d.String(), Type: "content"})
	}
	desc := ocispec.Descriptor{Digest: d}
	if depth > 3 {
		return desc, invalid("the index is nested more than 3 deep")
	}
	if err := sound(d); err != nil {
		return desc, err
	}
	// First kept, then read: what is there then stays.
	if err := keep(d); err != nil {
		return desc, err
	}
	b, err := s.readSmall(ctx, desc)
	if err != nil {
		return desc, err
	}
	var doc struct {
		MediaType string               `json:"mediaType"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return desc, invalid("read the manifest: %w", err)
	}
	desc.Size, desc.MediaType = int64(len(b)), doc.MediaType
	if desc.MediaType == "" {
		desc.MediaType = ocispec.MediaTypeImageManifest
		if doc.Config == nil {
			desc.MediaType = ocispec.MediaTypeImageIndex
		}
	}
	if doc.Config != nil {
		doc.Layers = append(doc.Layers, *doc.Config)
	}
	for _, l := range doc.Layers {
		if err := sound(l.Digest); err != nil {
			return desc, err
		}
		if err := keep(l.Digest); err != nil {
			return desc, err
		}
	}
	for _, m := range doc.Manifests {
		if _, err := s.db.ContentStore().Info(ctx, m.Digest); errdefs.IsNotFound(err) {
			continue // add says which one it misses
		}
		if _, err := s.hold(ctx, m.Digest, depth+1); err != nil {
			return desc, err
		}
	}
	return desc, nil
}
