package image

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/images/archive"

	"github.com/nacre-cloud/nacre/internal/agent/image/diskheader"
)

// FormatOCI is the format of an exported image of layers; a whole disk's are those of diskheader.
const FormatOCI = "oci"

// Export writes an image: one of layers as an OCI archive, which docker and podman load too, and which imports again to the same digest; a whole disk as qcow2, raw or
// vmdk. format "" is the image's own.
func (s *Store) Export(ctx context.Context, digest, format string, w io.Writer) error {
	r, err := s.find(digest)
	if err != nil {
		return err
	}
	switch r.Image.Kind {
	case KindLayers:
		if format != "" && format != FormatOCI {
			return invalid("it is made of layers and no disk: they are exported as %s", FormatOCI)
		}
		return s.exportLayers(ctx, r.Image, w)
	case KindDisk:
		return s.exportDisk(ctx, r.Image, diskheader.Format(format), w)
	}
	return invalid("it is a %s, and machine images are exported", r.Image.Kind)
}

func (s *Store) exportLayers(ctx context.Context, img Image, w io.Writer) error {
	ctx = s.context(ctx)
	record, err := s.imgs.Get(ctx, img.Digest)
	if err != nil {
		return fmt.Errorf("find the image %s: %w", img.Digest, err)
	}
	architecture, err := ociArchitecture(img.Architecture)
	if err != nil {
		return err
	}
	target, _, err := s.manifest(ctx, record.Target, architecture, 0)
	if err != nil {
		return err
	}
	if err := archive.Export(ctx, s.db.ContentStore(), w, archive.WithManifest(target), archive.WithAllPlatforms()); err != nil {
		return fmt.Errorf("export %s: %w", img.Digest, err)
	}
	return nil
}

func (s *Store) exportDisk(ctx context.Context, img Image, format diskheader.Format, w io.Writer) error {
	path, err := s.File(img.Digest)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	switch format {
	case diskheader.None, diskheader.Format(img.Format):
		_, err := io.Copy(w, f)
		return err
	case diskheader.QCOW2, diskheader.Raw, diskheader.VMDK:
	default:
		return invalid("there is no export as %.20q: disks are exported as qcow2, raw or vmdk, layers as %s", format, FormatOCI)
	}
	select {
	case s.converting <- struct{}{}:
		defer func() { <-s.converting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	bench, err := s.newWorkbench()
	if err != nil {
		return fmt.Errorf("export %s: %w", img.Digest, err)
	}
	defer bench.close()
	if _, err := bench.put("in", &limited{ctx: ctx, s: s, r: f}); err != nil {
		return fmt.Errorf("export %s: %w", img.Digest, err)
	}
	room, err := s.left()
	if err != nil {
		return err
	}
	if err := bench.run(ctx, min(room, img.VirtualSize+img.VirtualSize/64+64<<20), nil, "convert", "-O", string(format), node(diskheader.Format(img.Format), "in"), imgWork+"/out"); err != nil {
		return fmt.Errorf("export %s as %s: %w", img.Digest, format, err)
	}
	out, err := os.Open(bench.path("out"))
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(w, out)
	return err
}
