package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/busybox"
)

// Baked is what a recipe made: an image, and the kernel and RAM disk that virtual machines of its layers are started with.
type Baked struct {
	Image           Image  // without a digest where the recipe is one of a kernel alone
	Kernel, Ramdisk *Image // nil where the recipe makes none
}

// recipes are all that Bake knows.
const recipes = "debian-12, debian-12-server, debian-12-cloud, busybox and linux; all but the disk also with -arm64 or -amd64 for another architecture"

// Bake makes an image by a recipe: "debian-12" from Debian's packages, "debian-12-server" with systemd and an SSH server of its own,
// "debian-12-cloud", a whole disk of such a Debian, "busybox", one program, or "linux", the kernel of virtual machines alone. A recipe with
// "-arm64" or "-amd64" behind it bakes for that architecture, whichever this server's is; whole disks are of this server's.
func (s *Store) Bake(ctx context.Context, recipe string, p Progress) (b Baked, err error) {
	base, architecture := cutArchitecture(recipe)
	switch base {
	case "debian-12", "debian-12-server":
		var more []string
		if base != "debian-12" {
			more = serverPackages
		}
		if b.Image, err = s.bakeDebian(ctx, recipe, architecture, more, p); err != nil {
			return b, err
		}
		kernel, ramdisk, err := s.bakeKernel(ctx, architecture, p)
		if err != nil {
			return b, err
		}
		b.Kernel, b.Ramdisk = &kernel, &ramdisk
		return b, nil
	case "debian-12-cloud":
		b.Image, err = s.bakeCloudDisk(ctx, recipe, architecture, p)
		return b, err
	case "linux":
		kernel, ramdisk, err := s.bakeKernel(ctx, architecture, p)
		b.Kernel, b.Ramdisk = &kernel, &ramdisk
		return b, err
	case "busybox":
		b.Image, err = s.bakeBusybox(ctx, recipe, architecture, p)
		return b, err
	}
	return b, fmt.Errorf("there is no recipe %q; there are %s", recipe, recipes)
}

// systemImage is the configuration of an operating system's image.
func systemImage(user, architecture string) ocispec.Image {
	return ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: architecture},
		Config: ocispec.ImageConfig{
			Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
			Labels: map[string]string{systemLabel: "true", loginUserLabel: user},
		},
	}
}

// ImportRootFS makes an image with one layer of a root file system's tar stream, plain or compressed with gzip or zstd.
// The same stream and configuration make the same image.
func (s *Store) ImportRootFS(ctx context.Context, r io.Reader, config ocispec.Image, name string, p Progress) (Image, error) {
	var img Image
	err := s.leased(ctx, func(ctx context.Context) error {
		layer, err := s.putLayer(ctx, r, name)
		if err != nil {
			return err
		}
		config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
		b, err := json.Marshal(config)
		if err != nil {
			return fmt.Errorf("encode the configuration: %w", err)
		}
		configDesc, err := s.putBlob(ctx, ocispec.MediaTypeImageConfig, b)
		if err != nil {
			return err
		}
		manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: configDesc, Layers: []ocispec.Descriptor{layer}}
		if b, err = json.Marshal(manifest); err != nil {
			return fmt.Errorf("encode the manifest: %w", err)
		}
		desc, err := s.putBlob(ctx, ocispec.MediaTypeImageManifest, b)
		if err != nil {
			return err
		}
		img, err = s.add(ctx, desc, name, config.Architecture, p)
		return err
	})
	return img, err
}

// putLayer writes a plain tar stream as a layer.
func (s *Store) putLayer(ctx context.Context, r io.Reader, name string) (ocispec.Descriptor, error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return ocispec.Descriptor{}, invalid("read the root file system: %w", err)
	}
	defer plain.Close()
	w, err := content.OpenWriter(ctx, s.db.ContentStore(), content.WithRef("rootfs-"+newKey()+name))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("write the layer: %w", err)
	}
	defer w.Close()
	n, err := io.Copy(w, &limited{ctx: ctx, s: s, r: plain})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("write the layer: %w", err)
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: w.Digest(), Size: n}
	if err := w.Commit(ctx, n, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, fmt.Errorf("write the layer: %w", err)
	}
	return desc, nil
}

// bakeBusybox makes a system of one static program, with root and the user admin. This server's own architecture's is installed here,
// another's is fetched.
func (s *Store) bakeBusybox(ctx context.Context, name, architecture string, p Progress) (Image, error) {
	report(p, 0, 1, "packing busybox")
	var program []byte
	if architecture != native {
		var err error
		if program, err = s.foreignBusybox(ctx, name, architecture); err != nil {
			return Image{}, err
		}
	}
	root, err := busybox.RootFS(ctx, program)
	if err != nil {
		return Image{}, err
	}
	return s.ImportRootFS(ctx, bytes.NewReader(root), systemImage(busybox.LoginUser, architecture), name, p)
}

// foreignBusybox takes the program out of another architecture's package.
func (s *Store) foreignBusybox(ctx context.Context, name, architecture string) (program []byte, err error) {
	err = s.debstrap(ctx, name, architecture, []string{extract, "--include=busybox-static"}, nil, func(_ context.Context, r io.Reader) error {
		in := tar.NewReader(r)
		for {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				_, err := io.Copy(io.Discard, r)
				return err
			}
			if err != nil {
				return fmt.Errorf("read busybox's package: %w", err)
			}
			if path.Clean("/"+h.Name) != busybox.Program || h.Typeflag != tar.TypeReg {
				continue
			}
			if program, err = io.ReadAll(io.LimitReader(in, maxKernel)); err != nil {
				return fmt.Errorf("read busybox's package: %w", err)
			}
		}
	})
	if err == nil && program == nil {
		err = fmt.Errorf("the package busybox-static of %s has no %s", architecture, busybox.Program)
	}
	return program, err
}
