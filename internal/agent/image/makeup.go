package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Makeup tells what a machine's root, or its disk, is made of: the layers of its image, which other images stand on each, and
// what the machine wrote. Weighing that looks at each of a root's own files. An image that was removed has layers without digests of their own as long
// as the root stands on them. It changes nothing.
func (s *Store) Makeup(ctx context.Context, key, digest string) (cloud.RootMakeup, error) {
	ctx = s.context(ctx)
	out := cloud.RootMakeup{Digest: digest}
	var chain []string // the topmost layer first
	var err error
	switch r, known := s.find(digest); {
	case known == nil && r.Image.Kind == KindLayers:
		chain, err = s.chain(ctx, r.Chain)
	case known != nil:
		if chain, err = s.chain(ctx, rootPrefix+key); len(chain) > 0 {
			chain = chain[1:]
		}
	}
	if err != nil {
		return out, fmt.Errorf("the layers of %s: %w", key, err)
	}
	images, err := s.byLayer(ctx)
	if err != nil {
		return out, fmt.Errorf("the layers of %s: %w", key, err)
	}
	contents := s.contents(ctx, digest)
	for n, name := range slices.Backward(chain) {
		u, err := s.snap.Usage(ctx, name)
		if err != nil {
			return out, fmt.Errorf("weigh the layer %s: %w", name, err)
		}
		layer := cloud.LayerMakeup{Digest: name, Size: u.Size, Images: images[name]}
		if at := len(chain) - 1 - n; len(contents) == len(chain) {
			layer.Digest = contents[at]
		}
		out.Layers = append(out.Layers, layer)
	}
	return out, s.written(ctx, key, &out)
}

// written weighs what a machine has of its own.
func (s *Store) written(ctx context.Context, key string, out *cloud.RootMakeup) error {
	u, err := s.snap.Usage(ctx, rootPrefix+key)
	if err == nil {
		out.Written = u.Size
		return nil
	}
	if !errdefs.IsNotFound(err) {
		return fmt.Errorf("weigh what %s wrote: %w", key, err)
	}
	d, err := s.overlay(s.disks(overlaysDir, key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has no root yet
	}
	if err != nil {
		return fmt.Errorf("weigh what %s wrote: %w", key, err)
	}
	OfDisk(out)
	for path, to := range map[string]*int64{d.Path: &out.Written, d.Base: &out.DiskSize} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return fmt.Errorf("weigh what %s wrote: %w", key, &os.PathError{Op: "stat", Path: path, Err: err})
		}
		*to = st.Blocks * 512
	}
	return nil
}

// OfDisk notes that a root is a disk, and of what.
func OfDisk(out *cloud.RootMakeup) {
	out.Disk = "a disk image"
	if len(out.Layers) > 0 {
		out.Disk = "ext4 made of the layers"
	}
}

// chain lists a snapshot and those below it.
func (s *Store) chain(ctx context.Context, name string) ([]string, error) {
	var list []string
	for name != "" {
		info, err := s.snap.Stat(ctx, name)
		if errdefs.IsNotFound(err) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		list = append(list, name)
		name = info.Parent
	}
	return list, nil
}

// byLayer are the digests of the images that stand on each layer.
func (s *Store) byLayer(ctx context.Context) (map[string][]string, error) {
	s.mu.RLock()
	tops := map[string]string{}
	for digest, r := range s.known {
		if r.Image.Kind == KindLayers {
			tops[digest] = r.Chain
		}
	}
	s.mu.RUnlock()
	out := map[string][]string{}
	for digest, top := range tops {
		names, err := s.chain(ctx, top)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			out[name] = append(out[name], digest)
		}
	}
	for _, list := range out {
		slices.Sort(list)
	}
	return out, nil
}

// contents are the digests of an image's unpacked layers, the lowest first; nil when they can't be read.
func (s *Store) contents(ctx context.Context, digest string) []string {
	img, err := s.imgs.Get(ctx, digest)
	if err != nil {
		return nil
	}
	known, err := s.find(digest)
	if err != nil {
		return nil
	}
	architecture, err := ociArchitecture(known.Image.Architecture)
	if err != nil {
		return nil
	}
	_, manifest, err := s.manifest(ctx, img.Target, architecture, 0)
	if err != nil {
		return nil
	}
	b, err := s.readSmall(ctx, manifest.Config)
	if err != nil {
		return nil
	}
	var config ocispec.Image
	if err := json.Unmarshal(b, &config); err != nil {
		return nil
	}
	var out []string
	for _, d := range config.RootFS.DiffIDs {
		out = append(out, d.String())
	}
	return out
}
