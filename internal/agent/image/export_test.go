package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/diskheader"
	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestAnExportedImageIsImportedAgainAsTheSame(t *testing.T) {
	s := newStore(t)
	archive := imagetest.Archive(t, ocispec.ImageConfig{Env: []string{"A=b"}}, [][]byte{imagetest.Tar(t, hello()...)})
	img := importOne(t, s, archive)
	root := target(t, s, "a")
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, root, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(root, "more"), []byte("more"), 0o644), os.Chown(filepath.Join(root, "more"), 0x10000000, 0x10000000)); err != nil {
		t.Fatal(err)
	}
	made, err := s.Capture(t.Context(), "a", img.Digest, captured)
	if err != nil {
		t.Fatal(err)
	}
	other := newStore(t)
	for _, digest := range []string{img.Digest, made.Digest} {
		var out bytes.Buffer
		if err := s.Export(t.Context(), digest, "", &out); err != nil {
			t.Fatal(err)
		}
		if again := importOne(t, other, out.Bytes()); again.Digest != digest || len(again.Config.Env) != 1 {
			t.Errorf("%s came back as %+v", digest, again)
		}
	}
	for format, says := range map[string]string{"qcow2": "layers", "tar": "layers"} {
		if err := s.Export(t.Context(), img.Digest, format, io.Discard); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("as %s: %v", format, err)
		}
	}
	if err := s.Export(t.Context(), "sha256:none", "", io.Discard); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestADiskIsExportedInWhicheverFormat(t *testing.T) {
	s := newStore(t)
	raw := make([]byte, 4<<20)
	copy(raw, "the first sector")
	raw[510], raw[511] = 0x55, 0xaa
	copy(raw[3<<20:], "in the middle")
	img, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), DiskOptions{Name: "disk", Firmware: cloud.FirmwareBIOS}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []diskheader.Format{diskheader.None, diskheader.QCOW2, diskheader.Raw, diskheader.VMDK} {
		path := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(path)
		if err == nil {
			err = errors.Join(s.Export(t.Context(), img.Digest, string(format), f), f.Close())
		}
		if err != nil {
			t.Errorf("as %q: %v", format, err)
			continue
		}
		is := format
		if is == diskheader.None {
			is = diskheader.QCOW2
		}
		back := filepath.Join(t.TempDir(), "back")
		if out, err := exec.Command("qemu-img", "convert", "-f", string(is), "-O", "raw", path, back).CombinedOutput(); err != nil {
			t.Errorf("as %q: %v: %s", format, err, out)
			continue
		}
		if b, err := os.ReadFile(back); err != nil || !bytes.Equal(b, raw) {
			t.Errorf("as %q it came back with %d bytes, %v", format, len(b), err)
		}
	}
	if err := s.Export(t.Context(), img.Digest, "vdi", io.Discard); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}
