package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
)

func TestWhatLiesOrClimbsIsRefusedAndLeavesNothing(t *testing.T) {
	good := imagetest.Tar(t, hello()...)
	plain := func(list ...imagetest.Entry) []byte {
		return imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, list...)})
	}
	for name, archive := range map[string][]byte{
		"empty":          {},
		"noise":          bytes.Repeat([]byte("noise"), 1000),
		"no manifest":    imagetest.Tar(t, hello()...),
		"truncated":      imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good})[:2000],
		"climbing entry": plain(imagetest.Entry{Header: tar.Header{Name: "../../climbed"}, Body: "x"}),
		"climbing deep":  plain(imagetest.Entry{Header: tar.Header{Name: "a/../../climbed"}, Body: "x"}),
		"climbing link":  plain(imagetest.Entry{Header: tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}}),
		"lying layer": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(_ *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			img.RootFS.DiffIDs[0] = digest.FromString("another")
		}),
		"missing layer": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) {
			m.Layers[0].Digest = digest.FromString("another")
		}),
		"changed layer": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, blobs map[digest.Digest][]byte) {
			blobs[m.Layers[0].Digest] = append([]byte(nil), blobs[m.Layers[0].Digest][:20]...)
		}),
		"wrong size": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) { m.Layers[0].Size++ }),
		"layer count": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(_ *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromString("x"))
		}),
		"129 layers": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			for range maxLayers {
				m.Layers, img.RootFS.DiffIDs = append(m.Layers, m.Layers[0]), append(img.RootFS.DiffIDs, img.RootFS.DiffIDs[0])
			}
		}),
		"another architecture": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(_ *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			img.Architecture = "riscv64"
		}),
		"a name for a digest": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(_ *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			img.RootFS.DiffIDs[0] = rootPrefix + "i-0123456789abcdef0"
		}),
		"no size": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) { m.Layers[0].Size = 0 }),
		"a manifest of 5 MiB": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) {
			m.Annotations = map[string]string{"x": strings.Repeat("x", 5<<20)}
		}),
		"too many files": manyFiles(t, maxFiles+1),
		"a compressed stream that is cut off": func() []byte {
			z := gzipped(t, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}))
			return z[:len(z)-10]
		}(),
		"unknown media type": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) {
			m.Layers[0].MediaType = "text/plain"
		}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if list, err := s.Import(t.Context(), bytes.NewReader(archive), "bad", "", nil); !errors.Is(err, ErrInvalid) {
				t.Errorf("%d images, %v", len(list), err)
			}
			if content, layers, err := s.Usage(t.Context()); err != nil || content != 0 || layers != 0 {
				t.Errorf("%d bytes of content and %d of layers stay, %v", content, layers, err)
			}
			nothingOnDisk(t, s)
			if _, err := os.Stat(filepath.Join(filepath.Dir(s.root), "climbed")); err == nil {
				t.Error("it climbed")
			}
		})
	}
}

func manyFiles(t testing.TB, count int) []byte {
	t.Helper()
	var list []imagetest.Entry
	for n := range count {
		list = append(list, imagetest.Entry{Header: tar.Header{Name: fmt.Sprint(n), Typeflag: tar.TypeSymlink, Linkname: "x"}})
	}
	return imagetest.Tar(t, list...)
}

func TestTheVariantOfAnImageThatIsTakenIsTheHostsUnlessAnotherIsAskedFor(t *testing.T) {
	foreign := map[string]string{"amd64": "arm64", "arm64": "amd64"}[native]
	archive := imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}, func(_ *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
		img.Architecture = foreign
	})
	s := newStore(t)
	if _, err := s.Import(t.Context(), bytes.NewReader(archive), "foreign", "", nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), foreign) {
		t.Errorf("an image for %s: %v", foreign, err)
	}
	if _, err := s.Import(t.Context(), bytes.NewReader(archive), "foreign", "riscv64", nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "riscv64") {
		t.Errorf("an image for a machine that there is none of: %v", err)
	}
	list, err := s.Import(t.Context(), bytes.NewReader(archive), "foreign", ec2Architecture(foreign), nil)
	if err != nil || len(list) != 1 || list[0].Architecture != ec2Architecture(foreign) {
		t.Fatalf("asked for, it is %+v, %v", list, err)
	}
	// A disk can be made of it, with the program of its own architecture; a container's root can't.
	s.loadGuest(func(architecture string) ([]File, error) {
		return []File{{Path: "/guest", Mode: 0o755, Content: []byte("for " + architecture)}}, nil
	})
	disk, err := s.PrepareDisk(t.Context(), "vm", list[0].Digest, diskSize)
	if err != nil {
		t.Fatal(err)
	}
	if got := debugfs(t, disk.Base, "cat guest"); got != "for "+list[0].Architecture {
		t.Errorf("the disk's program is %q", got)
	}
	if err := s.PrepareRoot(t.Context(), "c", list[0].Digest, 0x10000000, target(t, s, "c"), nil); err == nil || !strings.Contains(err.Error(), "virtual machines run it") {
		t.Errorf("a container's root of it: %v", err)
	}
}

func TestASparseFileIsWeighedAtItsFullSize(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hole"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "hole"), maxLayer+1); err != nil {
		t.Fatal(err)
	}
	layer, err := exec.Command("tar", "--sparse", "-C", dir, "-c", "hole").Output()
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	if _, err := s.ImportRootFS(t.Context(), bytes.NewReader(layer), systemImage("", native), "sparse", nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("a hole of 64 GiB in %d bytes: %v", len(layer), err)
	}
	nothingOnDisk(t, s)
}

func TestALayersWordToOverlayfsAndItsDevicesAreLeftOut(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t,
		imagetest.Entry{Header: tar.Header{Name: "d", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.kept": "1"}}},
		imagetest.Entry{Header: tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 254}},
	)}))
	r, err := s.find(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	err = s.view(s.context(t.Context()), r.Chain, func(root string) error {
		b := make([]byte, 100)
		if n, err := unix.Lgetxattr(filepath.Join(root, "d"), "trusted.overlay.redirect", b); err == nil {
			t.Errorf("the redirect is %q", b[:n])
		}
		if _, err := unix.Lgetxattr(filepath.Join(root, "d"), "user.kept", b); err != nil {
			t.Errorf("an ordinary attribute is gone: %v", err)
		}
		if _, err := os.Lstat(filepath.Join(root, "disk")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the device: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestALinkInTheImageLeadsNobodyOut(t *testing.T) {
	s := newStore(t)
	outside := target(t, s, "outside")
	importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t,
		imagetest.Entry{Header: tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}},
		imagetest.Entry{Header: tar.Header{Name: "out/planted"}, Body: "x"},
		imagetest.Entry{Header: tar.Header{Name: "etc/passwd", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}},
	)}))
	if list, _ := os.ReadDir(outside); len(list) != 0 {
		t.Errorf("the extraction wrote %v through a link", list)
	}
}

func FuzzEntryNames(f *testing.F) {
	f.Add("a/../../b", "x")
	f.Fuzz(func(t *testing.T, name, link string) {
		g := &entryGuard{}
		ok, err := g.look(&tar.Header{Name: name, Linkname: link, Typeflag: tar.TypeLink})
		if ok && err == nil {
			if clean := filepath.Join("/root", filepath.Clean(name)); !strings.HasPrefix(clean, "/root") && !strings.HasPrefix(name, "/") {
				t.Errorf("%q is let through to %s", name, clean)
			}
		}
	})
}

func FuzzArchives(f *testing.F) {
	s := newStore(f)
	f.Add(imagetest.Archive(f, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(f, hello()...)}))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		s.Import(t.Context(), bytes.NewReader(archive), "fuzz", "", nil)
		if list, _ := os.ReadDir(filepath.Dir(s.root)); len(list) != 1 {
			t.Errorf("something was written beside the store: %v", list)
		}
	})
}
