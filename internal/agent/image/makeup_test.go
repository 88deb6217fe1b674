package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
)

func TestARootsMakeupIsItsLayersWhoSharesThemAndWhatWasWritten(t *testing.T) {
	s := newStore(t)
	low := imagetest.Tar(t, hello()...)
	high := imagetest.Tar(t, imagetest.File("more", strings.Repeat("x", 100_000)))
	one := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{low}))
	two := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{low, high}))
	dir := target(t, s, "a")
	if err := s.PrepareRoot(t.Context(), "a", two.Digest, 0x10000000, dir, nil); err != nil {
		t.Fatal(err)
	}
	fresh, err := s.Makeup(t.Context(), "a", two.Digest)
	if err != nil || len(fresh.Layers) != 2 {
		t.Fatalf("%+v, %v", fresh, err)
	}
	both := []string{one.Digest, two.Digest}
	slices.Sort(both)
	for n, want := range []struct {
		content []byte
		images  []string
	}{{low, both}, {high, []string{two.Digest}}} {
		got := fresh.Layers[n]
		if got.Digest != digest.FromBytes(want.content).String() || !slices.Equal(got.Images, want.images) || got.Size == 0 {
			t.Errorf("layer %d: %+v", n, got)
		}
	}
	if fresh.Layers[1].Size < 100_000 || fresh.Layers[0].Size > 50_000 || fresh.Written > 50_000 {
		t.Errorf("%+v", fresh)
	}
	f, err := os.OpenFile(filepath.Join(dir, "more"), os.O_APPEND|os.O_WRONLY, 0) // one byte more copies the whole file up
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("y")
	f.Close()
	if got, err := s.Makeup(t.Context(), "a", two.Digest); err != nil || got.Written < fresh.Written+100_000 {
		t.Errorf("%d bytes were written, %d before, %v", got.Written, fresh.Written, err)
	}
	// The image goes, the layers that the root stands on stay.
	if err := s.Delete(t.Context(), two.Digest); err != nil {
		t.Fatal(err)
	}
	got, err := s.Makeup(t.Context(), "a", two.Digest)
	if err != nil || len(got.Layers) != 2 || !slices.Equal(got.Layers[0].Images, []string{one.Digest}) || got.Layers[1].Images != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestADisksMakeupIsItsBaseAndItsOverlay(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
	if _, err := s.PrepareDisk(t.Context(), "a", img.Digest, 1<<30); err != nil {
		t.Fatal(err)
	}
	got, err := s.Makeup(t.Context(), "a", img.Digest)
	if err != nil || got.Disk != "ext4 made of the layers" || got.DiskSize == 0 || got.Written == 0 || got.Written > 4<<20 || len(got.Layers) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.RemoveDisk(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
}
