package image

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
)

func TestEachLayerTellsWhatItAddsAndEveryByteIsCountedOnce(t *testing.T) {
	s := newStore(t)
	below := imagetest.Tar(t, imagetest.File("a", "aa"), imagetest.File("gone", "g"), imagetest.Entry{Header: tar.Header{Name: "d/", Typeflag: tar.TypeDir}}, imagetest.File("d/large", "0123456789"))
	above := imagetest.Tar(t, imagetest.File("b", "b"), imagetest.File(".wh.gone", ""), imagetest.Entry{Header: tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a"}})
	one := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{below}))
	two := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{below, above}))
	made, err := s.Layers(t.Context(), two.Digest)
	if err != nil || len(made.Layers) != 2 {
		t.Fatalf("%+v, %v", made, err)
	}
	low, high := made.Layers[0], made.Layers[1]
	if low.Files != 3 || low.Directories != 1 || low.Deleted != 0 || low.Largest[0].Path != "/d/large" || low.Largest[0].Size != 10 || len(low.Images) != 2 {
		t.Errorf("the lower one is %+v", low)
	}
	if high.Files != 1 || high.Others != 1 || high.Deleted != 1 || len(high.Images) != 1 || high.Images[0] != two.Digest {
		t.Errorf("the upper one is %+v", high)
	}
	root := target(t, s, "r")
	if err := s.PrepareRoot(t.Context(), "r", two.Digest, 0x10000000, root, nil); err != nil {
		t.Fatal(err)
	}
	// A volume's files count once, however many names they have.
	volumes := target(t, s, "volumes")
	file := filepath.Join(volumes, "one")
	if err := errors.Join(os.WriteFile(filepath.Join(root, "w"), make([]byte, 1<<16), 0o644), os.WriteFile(file, make([]byte, 1<<16), 0o644), os.Link(file, filepath.Join(volumes, "two"))); err != nil {
		t.Fatal(err)
	}
	if err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	use, err := s.Weigh(t.Context(), volumes)
	if err != nil {
		t.Fatal(err)
	}
	content, layers, err := s.Usage(t.Context())
	if err != nil || use.Content != content || use.Layers+use.Written != layers || use.Volumes != 1<<16 || use.Written < 1<<16 {
		t.Errorf("%+v, where %d and %d bytes are; %v", use, content, layers, err)
	}
	var own, shared int64
	for _, img := range use.Images {
		own, shared = own+img.Own, max(shared, img.Shared)
		if img.Image == one.Digest && img.Shared < low.Size {
			t.Errorf("the first image is %+v", img)
		}
	}
	if own+shared != use.Content+use.Layers+use.Disks {
		t.Errorf("%d bytes of single images and %d that are shared make %d", own, shared, use.Content+use.Layers+use.Disks)
	}
}
