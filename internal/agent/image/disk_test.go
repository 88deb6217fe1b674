package image

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
)

const diskSize = 256 << 20

// debugfs asks the ext4 tools about a file system.
func debugfs(t *testing.T, disk, request string) string {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", request, disk).Output()
	if err != nil {
		t.Fatalf("debugfs %s: %v", request, err)
	}
	return string(out)
}

// reopen is the store after a restart, with the guest's files of before.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := s.guest(ec2Architecture(native))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), StoreConfig{Root: s.root, Logger: s.log, Guest: func(string) ([]File, error) { return g.files, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	return again
}

func TestADiskHoldsWhatTheLayersHoldAndTheGuestsFiles(t *testing.T) {
	s := openStore(t, t.TempDir())
	s.loadGuest(func(string) ([]File, error) {
		return []File{{Path: "/usr/lib/nacre/guest", Mode: 0o755, Content: []byte("program")}, {Path: "/etc/on", Mode: fs.ModeSymlink | 0o777, Symlink: "/usr/lib/nacre/guest"}}, nil
	})
	lower := imagetest.Tar(t, append(hello(), imagetest.Entry{Header: tar.Header{Name: "gone"}, Body: "x"},
		imagetest.Entry{Header: tar.Header{Name: "web", Uid: 33, Gid: 34, Mode: 0o4711, PAXRecords: map[string]string{"SCHILY.xattr.user.colour": "blue"}}, Body: "page"},
		imagetest.Entry{Header: tar.Header{Name: "again", Typeflag: tar.TypeLink, Linkname: "web", Uid: 33, Gid: 34, Mode: 0o4711}})...)
	upper := imagetest.Tar(t, imagetest.Entry{Header: tar.Header{Name: ".wh.gone"}}, imagetest.Entry{Header: tar.Header{Name: "new"}, Body: "n"})
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{lower, upper}))
	var disks [2]Disk
	var both sync.WaitGroup
	for n, key := range []string{"a", "b"} { // at once: one build
		both.Go(func() {
			var err error
			if disks[n], err = s.PrepareDisk(t.Context(), key, img.Digest, diskSize); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if disks[0].Base != disks[1].Base || disks[0].Path == disks[1].Path || disks[0].BaseFormat != "raw" {
		t.Fatalf("%+v", disks)
	}
	base := disks[0].Base
	if out, err := exec.Command("e2fsck", "-fn", base).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	stat := debugfs(t, base, "stat /web")
	for _, part := range []string{"Mode:  04711", "User:    33", "Group:    34", "Links: 2", "user.colour"} {
		if !strings.Contains(stat, part) {
			t.Errorf("no %q in %s", part, stat)
		}
	}
	if list := debugfs(t, base, "ls -l /"); strings.Contains(list, " gone") || !strings.Contains(list, " new") {
		t.Error(list)
	}
	if got := debugfs(t, base, "cat /usr/lib/nacre/guest"); got != "program" {
		t.Errorf("%q", got)
	}
	if got := debugfs(t, base, "stat /etc/on"); !strings.Contains(got, `Fast link dest: "/usr/lib/nacre/guest"`) {
		t.Error(got)
	}
	out, err := exec.Command("qemu-img", "info", disks[0].Path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "(268435456 bytes)") || strings.Contains(string(out), "backing") {
		t.Errorf("%v, %s", err, out)
	}

	// It is the same disk after a restart; a build that was cut off is gone.
	if err := os.WriteFile(filepath.Join(s.disks(makingDir), "half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	if again, err := s.PrepareDisk(t.Context(), "a", img.Digest, diskSize); err != nil || again != disks[0] {
		t.Errorf("%+v, %v", again, err)
	}
	if left, _ := os.ReadDir(s.disks(makingDir)); len(left) > 0 {
		t.Errorf("%v is left", left)
	}

	// The base stays as long as a disk stands on it, also without its image.
	if err := s.Delete(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	for n, key := range []string{"a", "b"} {
		if _, err := os.Stat(base); err != nil {
			t.Errorf("with %d disks removed: %v", n, err)
		}
		if err := s.RemoveDisk(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(base); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the base is left: %v", err)
	}
}

func TestADiskSmallerThanItsImageIsRefused(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
	if _, err := s.PrepareDisk(t.Context(), "small", img.Digest, 1<<20); err == nil || !strings.Contains(err.Error(), "MiB") {
		t.Error(err)
	}
	if keys, err := s.Disks(t.Context()); err != nil || len(keys) > 0 {
		t.Errorf("%v, %v", keys, err)
	}
}

func TestAFileIsKeptByItsDigest(t *testing.T) {
	s := openStore(t, t.TempDir())
	img, err := s.AddFile(t.Context(), strings.NewReader("bytes of a kernel"), Image{Name: "k", Kind: KindKernel, Architecture: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	if err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	path, err := s.File(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "bytes of a kernel" {
		t.Errorf("%q, %v", b, err)
	}
	if got, err := s.Get(t.Context(), img.Digest); err != nil || got.Kind != KindKernel || got.Size != 17 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.Delete(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its bytes are left: %v", err)
	}
}
