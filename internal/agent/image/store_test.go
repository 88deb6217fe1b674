package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), StoreConfig{Root: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newStore is a store of the test's own, in a directory that all users may search.
func newStore(t testing.TB) *Store {
	t.Helper()
	dir, err := os.MkdirTemp("", "nacre-image-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, filepath.Join(dir, "store"))
	t.Cleanup(func() {
		ctx := context.Background()
		keys, err := s.Roots(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, k := range keys {
			if err := s.RemoveRoot(ctx, k); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		mounts, _ := os.ReadFile("/proc/self/mounts")
		if strings.Contains(string(mounts), dir) {
			t.Errorf("mounts are left below %s", dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

func target(t testing.TB, s *Store, name string) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(s.root), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// entry is one entry of a layer that a test makes.
type entry struct {
	tar.Header
	body string
}

func tarOf(t testing.TB, list ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		e.Size = int64(len(e.body))
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archiveOf makes an OCI archive of layers. change may spoil its blobs and manifest before it is packed.
func archiveOf(t testing.TB, config ocispec.ImageConfig, layers [][]byte, change func(*ocispec.Manifest, *ocispec.Image, map[digest.Digest][]byte)) []byte {
	t.Helper()
	blobs := map[digest.Digest][]byte{}
	put := func(mediaType string, v any) ocispec.Descriptor {
		b, raw := v.([]byte)
		if !raw {
			var err error
			if b, err = json.Marshal(v); err != nil {
				t.Fatal(err)
			}
		}
		d := digest.FromBytes(b)
		blobs[d] = b
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
	}
	img := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Config: config, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(layer)
		w.Close()
		m.Layers = append(m.Layers, put(ocispec.MediaTypeImageLayerGzip, z.Bytes()))
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(layer))
	}
	if change != nil {
		change(&m, &img, blobs)
	}
	m.Config = put(ocispec.MediaTypeImageConfig, img)
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{put(ocispec.MediaTypeImageManifest, m)}}
	b, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	list := []entry{{Header: tar.Header{Name: "oci-layout"}, body: `{"imageLayoutVersion":"1.0.0"}`}, {Header: tar.Header{Name: "index.json"}, body: string(b)}}
	for d, b := range blobs {
		list = append(list, entry{Header: tar.Header{Name: "blobs/sha256/" + d.Encoded()}, body: string(b)})
	}
	return tarOf(t, list...)
}

func hello() []entry { return []entry{{Header: tar.Header{Name: "hello", Uid: 0}, body: "hello"}} }

func importOne(t testing.TB, s *Store, archive []byte) Image {
	t.Helper()
	list, err := s.Import(t.Context(), bytes.NewReader(archive), "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 {
		t.Fatalf("%d images", len(list))
	}
	return list[0]
}

func TestAnArchiveBecomesAnImageOnceAndSurvivesTheStore(t *testing.T) {
	s := newStore(t)
	archive := archiveOf(t, ocispec.ImageConfig{Entrypoint: []string{"/hello"}, Env: []string{"A=b"}, User: "www"}, [][]byte{tarOf(t, hello()...)}, nil)
	img := importOne(t, s, archive)
	if img.Architecture != "x86_64" || img.Config.System || img.Config.User != "www" || img.Layers != 1 {
		t.Errorf("%+v", img)
	}
	if again := importOne(t, s, archive); again.Digest != img.Digest {
		t.Errorf("the second import made %s, the first %s", again.Digest, img.Digest)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	*s = *openStore(t, s.root)
	if got, err := s.Get(t.Context(), img.Digest); err != nil || got.Config.Entrypoint[0] != "/hello" {
		t.Errorf("after opening again: %+v, %v", got, err)
	}
}

func TestDockersOwnArchivesAreRead(t *testing.T) {
	layer := tarOf(t, hello()...)
	config, err := json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}}})
	if err != nil {
		t.Fatal(err)
	}
	archive := tarOf(t, entry{Header: tar.Header{Name: "config.json"}, body: string(config)}, entry{Header: tar.Header{Name: "layer.tar"}, body: string(layer)},
		entry{Header: tar.Header{Name: "manifest.json"}, body: `[{"Config":"config.json","RepoTags":["x:latest"],"Layers":["layer.tar"]}]`})
	importOne(t, newStore(t), archive)
}

func TestRootsOfOneImageAreStrangersAndKeepWhatWasWritten(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, archiveOf(t, ocispec.ImageConfig{}, [][]byte{tarOf(t, hello()...), tarOf(t, entry{Header: tar.Header{Name: "two", Uid: 33, Gid: 33}, body: "2"})}, nil))
	a, b := target(t, s, "a"), target(t, s, "b")
	for n, dir := range []string{a, b} {
		if err := s.PrepareRoot(t.Context(), fmt.Sprint(n), img.Digest, uint32(0x10000000+n*idCount), dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]uint32{"a/hello": 0x10000000, "a/two": 0x10000000 + 33, "b/hello": 0x10000000 + idCount} {
		info, err := os.Stat(filepath.Join(filepath.Dir(s.root), name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %d, want %d", name, got, want)
		}
	}
	if err := os.WriteFile(filepath.Join(a, "mine"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(b, "mine")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other root sees it: %v", err)
	}
	if err := s.UnmountRoot(t.Context(), "0"); err != nil {
		t.Fatal(err)
	}
	if mounted(a) {
		t.Fatal("it is still mounted")
	}
	for range 2 { // the second call finds it mounted
		if err := s.PrepareRoot(t.Context(), "0", img.Digest, 0x10000000, a); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(a, "mine")); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if err := s.RemoveRoot(t.Context(), "0"); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveRoot(t.Context(), "0"); err != nil {
		t.Errorf("removing it again: %v", err)
	}
	if keys, err := s.Roots(t.Context()); err != nil || len(keys) != 1 || keys[0] != "1" {
		t.Errorf("left are %v, %v", keys, err)
	}
}

func TestADeletedImagesLayersGoWhenItsLastRootDoes(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, archiveOf(t, ocispec.ImageConfig{}, [][]byte{tarOf(t, hello()...)}, nil))
	dir := target(t, s, "a")
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "hello")); err != nil || string(b) != "hello" {
		t.Fatalf("the running root lost its layer: %q, %v", b, err)
	}
	if err := s.RemoveRoot(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if content, layers, err := s.Usage(t.Context()); err != nil || content != 0 || layers != 0 {
		t.Errorf("%d bytes of content and %d of layers are left, %v", content, layers, err)
	}
}

func TestWhatLiesOrClimbsIsRefusedAndLeavesNothing(t *testing.T) {
	good := tarOf(t, hello()...)
	plain := func(list ...entry) []byte {
		return archiveOf(t, ocispec.ImageConfig{}, [][]byte{tarOf(t, list...)}, nil)
	}
	for name, archive := range map[string][]byte{
		"empty":          {},
		"noise":          bytes.Repeat([]byte("noise"), 1000),
		"no manifest":    tarOf(t, hello()...),
		"truncated":      archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, nil)[:2000],
		"climbing entry": plain(entry{Header: tar.Header{Name: "../../climbed"}, body: "x"}),
		"climbing deep":  plain(entry{Header: tar.Header{Name: "a/../../climbed"}, body: "x"}),
		"climbing link":  plain(entry{Header: tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}}),
		"lying layer": archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, func(_ *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			img.RootFS.DiffIDs[0] = digest.FromString("another")
		}),
		"missing layer": archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) {
			m.Layers[0].Digest = digest.FromString("another")
		}),
		"changed layer": archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, blobs map[digest.Digest][]byte) {
			blobs[m.Layers[0].Digest] = append([]byte(nil), blobs[m.Layers[0].Digest][:20]...)
		}),
		"wrong size": archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) { m.Layers[0].Size++ }),
		"layer count": archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, func(_ *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromString("x"))
		}),
		"129 layers": archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			for range maxLayers {
				m.Layers, img.RootFS.DiffIDs = append(m.Layers, m.Layers[0]), append(img.RootFS.DiffIDs, img.RootFS.DiffIDs[0])
			}
		}),
		"another architecture": archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, func(_ *ocispec.Manifest, img *ocispec.Image, _ map[digest.Digest][]byte) {
			img.Architecture = "riscv64"
		}),
		"unknown media type": archiveOf(t, ocispec.ImageConfig{}, [][]byte{good}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) {
			m.Layers[0].MediaType = "text/plain"
		}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if list, err := s.Import(t.Context(), bytes.NewReader(archive), "bad", nil); !errors.Is(err, ErrInvalid) {
				t.Errorf("%d images, %v", len(list), err)
			}
			if content, layers, err := s.Usage(t.Context()); err != nil || content != 0 || layers != 0 {
				t.Errorf("%d bytes of content and %d of layers stay, %v", content, layers, err)
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(s.root), "climbed")); err == nil {
				t.Error("it climbed")
			}
		})
	}
}

func TestALinkInTheImageLeadsNobodyOut(t *testing.T) {
	s := newStore(t)
	outside := target(t, s, "outside")
	importOne(t, s, archiveOf(t, ocispec.ImageConfig{}, [][]byte{tarOf(t,
		entry{Header: tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}},
		entry{Header: tar.Header{Name: "out/planted"}, body: "x"},
		entry{Header: tar.Header{Name: "etc/passwd", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}},
	)}, nil))
	if list, _ := os.ReadDir(outside); len(list) != 0 {
		t.Errorf("the extraction wrote %v through a link", list)
	}
}

func TestFiftyRootsAtOnce(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, archiveOf(t, ocispec.ImageConfig{}, [][]byte{tarOf(t, hello()...)}, nil))
	var all sync.WaitGroup
	for n := range 50 {
		dir := target(t, s, fmt.Sprint("r", n))
		all.Go(func() {
			if err := s.PrepareRoot(t.Context(), fmt.Sprint(n), img.Digest, uint32(0x10000000+n*idCount), dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if keys, err := s.Roots(t.Context()); err != nil || len(keys) != 50 {
		t.Errorf("%d roots, %v", len(keys), err)
	}
}

// TestMain lets the test binary be the process that is killed in the middle of an import.
func TestMain(m *testing.M) {
	if dir := os.Getenv("NACRE_IMAGE_TEST_IMPORT"); dir != "" {
		s, err := Open(context.Background(), StoreConfig{Root: dir, Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			_, err = s.Import(context.Background(), os.Stdin, "killed", nil)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestAnImportThatIsKilledLeavesAStoreThatOpensEmpty(t *testing.T) {
	s := newStore(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	archive := archiveOf(t, ocispec.ImageConfig{}, [][]byte{tarOf(t, entry{Header: tar.Header{Name: "big"}, body: strings.Repeat("0123456789abcdef", 1<<18)})}, nil)
	for n := range 6 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "NACRE_IMAGE_TEST_IMPORT="+s.root)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in.Write(archive[:len(archive)*(n+1)/7])
		time.Sleep(time.Duration(20*n) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	*s = *openStore(t, s.root)
	if content, layers, err := s.Usage(t.Context()); err != nil || content != 0 || layers != 0 {
		t.Errorf("%d bytes of content and %d of layers stay, %v", content, layers, err)
	}
	importOne(t, s, archive)
}

func TestTheBusyboxRecipeIsReproducibleAndASystem(t *testing.T) {
	s := newStore(t)
	a, err := s.Bake(t.Context(), "busybox", nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Bake(t.Context(), "busybox", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest != b.Digest || !a.Config.System || a.Config.LoginUser != "admin" {
		t.Errorf("%+v and %s", a, b.Digest)
	}
	if _, err := s.Bake(t.Context(), "cake", nil); err == nil {
		t.Error("an unknown recipe was baked")
	}
}

func TestOrdinaryUsers(t *testing.T) {
	for text, want := range map[string]string{
		"root:x:0:0::/root:/bin/sh\nadmin:x:1000:1000::/home/admin:/bin/bash\n": "admin",
		"svc:x:1001:1:::/usr/sbin/nologin\n":                                    "",
		"a:b\n\nx:x:nan:0:::/bin/sh":                                            "",
		"nobody:x:65534:65534::/:/bin/sh":                                       "",
	} {
		if got := parseOrdinaryUser(strings.NewReader(text)); got != want {
			t.Errorf("%q: %q", text, got)
		}
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
	f.Add(archiveOf(f, ocispec.ImageConfig{}, [][]byte{tarOf(f, hello()...)}, nil))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		s.Import(t.Context(), bytes.NewReader(archive), "fuzz", nil)
		if list, _ := os.ReadDir(filepath.Dir(s.root)); len(list) != 1 {
			t.Errorf("something was written beside the store: %v", list)
		}
	})
}

func BenchmarkPrepareRoot(b *testing.B) {
	for _, layers := range []int{1, 20} {
		b.Run(fmt.Sprint(layers, "-layers"), func(b *testing.B) {
			s := newStore(b)
			var list [][]byte
			for n := range layers {
				list = append(list, tarOf(b, entry{Header: tar.Header{Name: fmt.Sprint("f", n)}, body: "x"}))
			}
			img := importOne(b, s, archiveOf(b, ocispec.ImageConfig{}, list, nil))
			n := 0
			for b.Loop() {
				n++
				b.StopTimer()
				dir := target(b, s, fmt.Sprint("t", n))
				b.StartTimer()
				if err := s.PrepareRoot(b.Context(), fmt.Sprint(n), img.Digest, 0x10000000, dir); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
