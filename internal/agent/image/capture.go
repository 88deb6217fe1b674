package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// CaptureOptions say what an image that is made of a root is called.
type CaptureOptions struct {
	Name    string
	Created time.Time
	By      string // what its history says it was made by
}

// Capture makes an image of what a root's machine wrote: a layer more over those that the root stands on, which are shared. Files belong to whom the machine
// sees, and what it deleted is deleted. Nothing may write to the root meanwhile. The same root and options make the same image.
func (s *Store) Capture(ctx context.Context, key, parent string, o CaptureOptions) (img Image, err error) {
	known, err := s.find(parent)
	if err != nil {
		return img, fmt.Errorf("make an image of %s: %w", key, err)
	}
	if known.Image.Layers >= maxLayers {
		return img, invalid("its image has %d layers already, and an image has %d at most; build or export it anew with fewer", known.Image.Layers, maxLayers)
	}
	architecture, err := ociArchitecture(known.Image.Architecture)
	if err != nil {
		return img, err
	}
	upper, base, err := s.upperOf(ctx, key)
	if err != nil {
		return img, fmt.Errorf("make an image of %s: %w", key, err)
	}
	err = s.leased(ctx, func(ctx context.Context) error {
		layer, err := s.putUpper(ctx, upper, base, layerRules{leaveOut: ofInstances})
		if err != nil {
			return err
		}
		target, err := s.stack(ctx, parent, architecture, layer, o)
		if err != nil {
			return err
		}
		img, err = s.add(ctx, target, o.Name, architecture, nil)
		return err
	})
	if err != nil {
		err = fmt.Errorf("make an image of %s: %w", key, err)
	}
	return img, err
}

// upperOf finds the directory that a root's machine writes to, and the first host id that its files belong to.
func (s *Store) upperOf(ctx context.Context, key string) (dir string, base uint32, err error) {
	ctx = s.context(ctx)
	info, err := s.snap.Stat(ctx, rootPrefix+key)
	if errdefs.IsNotFound(err) {
		return "", 0, errors.New("it has no root on this server")
	}
	if err != nil {
		return "", 0, err
	}
	if _, err := fmt.Sscanf(info.Labels[snapshots.LabelSnapshotUIDMapping], "0:%d:", &base); err != nil {
		return "", 0, fmt.Errorf("the ids of its files are unknown: %w", err)
	}
	mounts, err := s.snap.Mounts(ctx, rootPrefix+key)
	if err != nil {
		return "", 0, err
	}
	for _, m := range mounts {
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				return dir, base, nil
			}
		}
	}
	return "", 0, fmt.Errorf("it is no overlay: %v", mounts)
}

// putUpper writes a writable layer, whose files belong to host ids from base on, as a layer of an image. It is read through a mount that maps the ids back,
// so that owners, ACLs and capabilities are what the machine sees.
func (s *Store) putUpper(ctx context.Context, upper string, base uint32, rules layerRules) (layer ocispec.Descriptor, err error) {
	mapping := fmt.Sprintf("%d:0:%d", base, idCount)
	ids, err := mount.GetUsernsFD(mapping, mapping)
	if err != nil {
		return layer, fmt.Errorf("map the ids of its files: %w", err)
	}
	defer ids.Close()
	dir, err := os.MkdirTemp(filepath.Join(s.root, mountsDir), "upper-")
	if err != nil {
		return layer, fmt.Errorf("make a mount point: %w", err)
	}
	defer func() { err = errors.Join(err, s.leave(dir)) }()
	if err := bindMapped(upper, dir, ids, unix.MOUNT_ATTR_RDONLY); err != nil {
		return layer, err
	}
	w, err := content.OpenWriter(ctx, s.db.ContentStore(), content.WithRef("capture-"+newKey()))
	if err != nil {
		return layer, fmt.Errorf("write the layer: %w", err)
	}
	defer w.Close()
	full := &roomy{s: s, w: w}
	if err := writeLayer(ctx, full, dir, rules); err != nil {
		return layer, err
	}
	layer = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: w.Digest(), Size: full.n}
	if err := w.Commit(ctx, full.n, layer.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return layer, fmt.Errorf("write the layer: %w", err)
	}
	return layer, nil
}

// roomy stops a write that would fill the file system.
type roomy struct {
	s    *Store
	w    io.Writer
	n    int64
	left int64
}

func (r *roomy) Write(b []byte) (int, error) {
	if r.left <= 0 {
		if err := r.s.Room(checkEvery); err != nil {
			return 0, err
		}
		r.left = checkEvery
	}
	n, err := r.w.Write(b)
	r.n, r.left = r.n+int64(n), r.left-int64(n)
	return n, err
}

// ociTypes are the media types of an OCI manifest for those that docker's have.
var ociTypes = map[string]string{
	images.MediaTypeDockerSchema2Layer: ocispec.MediaTypeImageLayer, images.MediaTypeDockerSchema2LayerGzip: ocispec.MediaTypeImageLayerGzip,
	images.MediaTypeDockerSchema2LayerZstd: ocispec.MediaTypeImageLayerZstd,
}

// stack writes configuration and manifest of an image with one layer more. What it doesn't know of the configuration stays as it is.
func (s *Store) stack(ctx context.Context, parent, architecture string, layer ocispec.Descriptor, o CaptureOptions) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	record, err := s.imgs.Get(ctx, parent)
	if err != nil {
		return none, fmt.Errorf("find the image %s: %w", parent, err)
	}
	_, below, err := s.manifest(ctx, record.Target, architecture, 0)
	if err != nil {
		return none, err
	}
	b, err := s.readSmall(ctx, below.Config)
	if err != nil {
		return none, err
	}
	config, err := withLayer(b, layer.Digest, o)
	if err != nil {
		return none, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	if m.Config, err = s.putBlob(ctx, ocispec.MediaTypeImageConfig, config); err != nil {
		return none, err
	}
	for _, l := range append(below.Layers, layer) {
		if oci, ok := ociTypes[l.MediaType]; ok {
			l.MediaType = oci
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
	}
	if b, err = json.Marshal(m); err != nil {
		return none, fmt.Errorf("encode the manifest: %w", err)
	}
	return s.putBlob(ctx, ocispec.MediaTypeImageManifest, b)
}

// withLayer is an image's configuration with one layer more.
func withLayer(config []byte, layer digest.Digest, o CaptureOptions) ([]byte, error) {
	var known ocispec.Image
	all := map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(config, &known), json.Unmarshal(config, &all)); err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	known.RootFS.DiffIDs = append(known.RootFS.DiffIDs, layer)
	known.History = append(known.History, ocispec.History{Created: &o.Created, CreatedBy: o.By})
	for name, v := range map[string]any{"rootfs": known.RootFS, "history": known.History, "created": o.Created} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode the image's configuration: %w", err)
		}
		all[name] = b
	}
	b, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode the image's configuration: %w", err)
	}
	return b, nil
}
