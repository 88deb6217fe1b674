package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
)

func TestRootsOfOneImageAreStrangersAndKeepWhatWasWritten(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...), imagetest.Tar(t, imagetest.Entry{Header: tar.Header{Name: "two", Uid: 33, Gid: 33}, Body: "2"})}))
	a, b := target(t, s, "a"), target(t, s, "b")
	for n, dir := range []string{a, b} {
		if err := s.PrepareRoot(t.Context(), fmt.Sprint(n), img.Digest, uint32(0x10000000+n*idCount), dir, nil); err != nil {
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
	if isMounted(a) {
		t.Fatal("it is still mounted")
	}
	for range 2 { // the second call finds it mounted
		if err := s.PrepareRoot(t.Context(), "0", img.Digest, 0x10000000, a, nil); err != nil {
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
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
	dir := target(t, s, "a")
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, dir, nil); err != nil {
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
	nothingOnDisk(t, s)
}

func TestFiftyRootsAtOnce(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
	var all sync.WaitGroup
	for n := range 50 {
		dir := target(t, s, fmt.Sprint("r", n))
		all.Go(func() {
			if err := s.PrepareRoot(t.Context(), fmt.Sprint(n), img.Digest, uint32(0x10000000+n*idCount), dir, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if keys, err := s.Roots(t.Context()); err != nil || len(keys) != 50 {
		t.Errorf("%d roots, %v", len(keys), err)
	}
}

func BenchmarkPrepareRoot(b *testing.B) {
	for _, layers := range []int{1, 20} {
		b.Run(fmt.Sprint(layers, "-layers"), func(b *testing.B) {
			s := newStore(b)
			var list [][]byte
			for n := range layers {
				list = append(list, imagetest.Tar(b, imagetest.Entry{Header: tar.Header{Name: fmt.Sprint("f", n)}, Body: "x"}))
			}
			img := importOne(b, s, imagetest.Archive(b, ocispec.ImageConfig{}, list))
			var took []time.Duration
			for b.Loop() {
				n := fmt.Sprint(len(took))
				dir := target(b, s, "t"+n)
				began := time.Now()
				if err := s.PrepareRoot(b.Context(), n, img.Digest, 0x10000000, dir, nil); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
		})
	}
}

// inside runs a shell line as a machine's root does: in a user namespace of its ids, with its root file system for root.
func inside(t testing.TB, root string, idBase int, line string) (string, error) {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: idBase, Size: idCount}}
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestRootInsideOwnsTheImageAndIsNobodyOutside(t *testing.T) {
	s := newStore(t)
	baked, err := s.Bake(t.Context(), "busybox", nil)
	if err != nil {
		t.Fatal(err)
	}
	img := baked.Image
	const idBase = 0x10000000
	root := target(t, s, "inside")
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, idBase, root, nil); err != nil {
		t.Fatal(err)
	}
	out, err := inside(t, root, idBase, "id -u; stat -c %u /bin/busybox /home/admin /; echo changed >> /etc/passwd && mkdir /root/new && chown admin /root/new && rm /bin/vi && stat -c %u /root/new")
	if want := "0\n0\n1000\n0\n1000\n"; err != nil || out != want {
		t.Errorf("inside: %q, %v; want %q", out, err, want)
	}
	for name, want := range map[string]uint32{"bin/busybox": idBase, "etc/passwd": idBase, "root/new": idBase + 1000} {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("outside %s belongs to %d, want %d", name, got, want)
		}
	}
	other := target(t, s, "other")
	if err := s.PrepareRoot(t.Context(), "b", img.Digest, idBase+idCount, other, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := inside(t, other, idBase+idCount, "grep changed /etc/passwd; test -e /bin/vi"); err != nil || out != "" {
		t.Errorf("another machine sees what the first one did: %q, %v", out, err)
	}
	if out, err := inside(t, other, idBase, "echo x > /etc/passwd"); err == nil {
		t.Errorf("another machine's root may write here: %q", out)
	}
}

func TestNobodyButRootComesNearTheLayers(t *testing.T) {
	s := newStore(t)
	info, err := os.Stat(s.root)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the store's directory is %v", info.Mode())
	}
}

func TestARootKeepsItsIDsAndFollowsItsTarget(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
	first, second := target(t, s, "first"), target(t, s, "second")
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, first, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.UnmountRoot(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x20000000, first, nil); err == nil || !strings.Contains(err.Error(), "belong") {
		t.Errorf("with other ids: %v", err)
	}
	if isMounted(first) {
		t.Error("it was mounted all the same")
	}
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, second, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.UnmountRoot(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if isMounted(second) {
		t.Error("it stays mounted where it moved to")
	}
}

func TestARootThatCannotBeMountedLeavesNoMount(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
	missing := filepath.Join(filepath.Dir(s.root), "missing")
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, missing, nil); err == nil {
		t.Fatal("it was mounted nowhere")
	}
	if left, err := os.ReadDir(filepath.Join(s.root, mountsDir)); err != nil || len(left) != 0 {
		t.Errorf("%v stay, %v", left, err)
	}
	if err := s.PrepareRoot(t.Context(), "b", "sha256:"+strings.Repeat("0", 64), 0x10000000, target(t, s, "b"), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown image: %v", err)
	}
}

func TestAnImageOfAsManyLayersAsAllowedIsMounted(t *testing.T) {
	s := newStore(t)
	var layers [][]byte
	for n := range maxLayers {
		layers = append(layers, imagetest.Tar(t, imagetest.File(fmt.Sprint("f", n), "x")))
	}
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, layers))
	root := target(t, s, "a")
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, root, nil); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(root); err != nil || len(list) != maxLayers {
		t.Errorf("%d files of %d layers, %v", len(list), maxLayers, err)
	}
}
