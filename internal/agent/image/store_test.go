package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
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
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
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

func hello() []imagetest.Entry {
	return []imagetest.Entry{{Header: tar.Header{Name: "hello", Uid: 0}, Body: "hello"}}
}

func importOne(t testing.TB, s *Store, archive []byte) Image {
	t.Helper()
	list, err := s.Import(t.Context(), bytes.NewReader(archive), "test", "", nil)
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
	archive := imagetest.Archive(t, ocispec.ImageConfig{Entrypoint: []string{"/hello"}, Env: []string{"A=b"}, User: "www"}, [][]byte{imagetest.Tar(t, hello()...)})
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
	layer := imagetest.Tar(t, hello()...)
	config, err := json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}}})
	if err != nil {
		t.Fatal(err)
	}
	archive := imagetest.Tar(t, imagetest.Entry{Header: tar.Header{Name: "config.json"}, Body: string(config)}, imagetest.Entry{Header: tar.Header{Name: "layer.tar"}, Body: string(layer)},
		imagetest.Entry{Header: tar.Header{Name: "manifest.json"}, Body: `[{"Config":"config.json","RepoTags":["x:latest"],"Layers":["layer.tar"]}]`})
	importOne(t, newStore(t), archive)
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

func TestACompressedArchiveIsTheSameImage(t *testing.T) {
	s := newStore(t)
	archive := imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)})
	want := importOne(t, s, archive).Digest
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, packed := range map[string][]byte{"gzip": gzipped(t, archive), "zstd": z.Bytes()} {
		if got := importOne(t, s, packed).Digest; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestImportsOfOneArchiveAtOnceMakeOneImage(t *testing.T) {
	s := newStore(t)
	archive := imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...), imagetest.Tar(t, imagetest.File("two", "2"))})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := s.Import(t.Context(), bytes.NewReader(archive), "same", "", nil); err != nil {
				t.Error(err)
			}
			if err := s.GC(t.Context()); err != nil { // in the middle of the others
				t.Error(err)
			}
		})
	}
	all.Wait()
	list, err := s.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%d images, %v", len(list), err)
	}
	if err := s.PrepareRoot(t.Context(), "a", list[0].Digest, 0x10000000, target(t, s, "a"), nil); err != nil {
		t.Error(err)
	}
}

func TestAStoreHasOneProcess(t *testing.T) {
	s := newStore(t)
	if other, err := Open(t.Context(), StoreConfig{Root: s.root, Logger: slog.New(slog.DiscardHandler)}); err == nil {
		other.Close()
		t.Error("it was opened twice")
	}
}

func TestWhatACrashLeftOfACollectionIsFoundByTheNextOpen(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
	// The records go, and the process with them before any file does.
	err := s.bolt.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("v1")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(s.root, mountsDir, "look-crashed")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(t.TempDir(), left, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.root, bakesDir, "debian-12-crashed", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	*s = *openStore(t, s.root)
	if _, err := s.Get(t.Context(), img.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("the image: %v", err)
	}
	nothingOnDisk(t, s)
}

// TestMain lets the test binary be the process that is killed in the middle of an import.
func TestMain(m *testing.M) {
	if dir := os.Getenv("NACRE_IMAGE_TEST_IMPORT"); dir != "" {
		s, err := Open(context.Background(), StoreConfig{Root: dir, Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			_, err = s.Import(context.Background(), os.Stdin, "killed", "", nil)
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
	archive := imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, imagetest.Entry{Header: tar.Header{Name: "big"}, Body: strings.Repeat("0123456789abcdef", 1<<18)})})
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
	nothingOnDisk(t, s)
	importOne(t, s, archive)
}

// nothingOnDisk fails unless the store's directories hold no blob, upload, layer or mount point.
func nothingOnDisk(t testing.TB, s *Store) {
	t.Helper()
	for _, dir := range []string{"content/blobs/sha256", "content/ingest", "layers/snapshots", mountsDir, bakesDir} {
		left, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range left {
			t.Errorf("%s/%s is left", dir, e.Name())
		}
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

func TestALayerWhoseRecordACrashKeptBackIsInNobodysWay(t *testing.T) {
	for _, fresh := range []bool{true, false} {
		t.Run(fmt.Sprintf("fresh=%v", fresh), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			s := openStore(t, dir)
			if !fresh {
				importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			layers := filepath.Join(dir, layersDir)
			if fresh { // as killed in the very first layer
				if err := errors.Join(os.RemoveAll(layers), os.Remove(filepath.Join(dir, "meta.db"))); err != nil {
					t.Fatal(err)
				}
			}
			var left []string
			for n := range 20 { // the next numbers are among these
				name := filepath.Join(layers, "snapshots", strconv.Itoa(n+1), "fs")
				if os.MkdirAll(filepath.Dir(filepath.Dir(name)), 0o700) != nil || os.Mkdir(filepath.Dir(name), 0o700) != nil {
					continue // a layer's own
				}
				if err := os.Mkdir(name, 0o755); err != nil {
					t.Fatal(err)
				}
				left = append(left, name)
			}
			if len(left) < 10 {
				t.Fatalf("only %d directories were made", len(left))
			}
			s = openStore(t, dir)
			defer s.Close()
			for _, name := range left {
				if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is still there: %v", name, err)
				}
			}
		})
	}
}
