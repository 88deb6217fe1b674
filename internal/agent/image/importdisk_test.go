package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/image/diskheader"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// diskImage has qemu-img make an image of 8 MiB that looks as if it could be booted by BIOS.
func diskImage(t *testing.T, format string, options ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	raw := make([]byte, 8<<20)
	raw[0], raw[510], raw[511] = 0xeb, 0x55, 0xaa
	copy(raw[5<<20:], "here")
	return convert(t, dir, raw, append([]string{"-f", "raw", "-O", format}, options...)...)
}

func convert(t *testing.T, dir string, b []byte, options ...string) []byte {
	t.Helper()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command("qemu-img", append(append([]string{"convert"}, options...), in, out)...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, said)
	}
	made, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// tidy fails a test whose store has something half made.
func tidy(t *testing.T, s *Store) {
	t.Helper()
	left, err := os.ReadDir(s.disks(makingDir))
	if err != nil || len(left) > 0 {
		t.Errorf("%d are left in the making, %v", len(left), err)
	}
}

func TestADiskOfAnyFormatIsKeptOnceAsOne(t *testing.T) {
	s := openStore(t, t.TempDir())
	seen := map[string]string{}
	for _, c := range []struct {
		format  string
		options []string
	}{{"raw", nil}, {"qcow2", nil}, {"qcow2", []string{"-c"}}, {"vmdk", nil}, {"vmdk", []string{"-o", "subformat=streamOptimized"}}, {"vdi", nil}} {
		img, err := s.ImportDisk(t.Context(), bytes.NewReader(diskImage(t, c.format, c.options...)), DiskOptions{Name: "d"}, nil)
		if err != nil {
			t.Fatalf("%s %v: %v", c.format, c.options, err)
		}
		seen[img.Digest] = c.format
		if img.Format != "qcow2" || img.VirtualSize != 8<<20 || img.Firmware != cloud.FirmwareBIOS || img.Kind != KindDisk {
			t.Errorf("%s: %+v", c.format, img)
		}
	}
	if len(seen) != 1 {
		t.Fatalf("one disk became %v", seen)
	}
	for digest := range seen {
		path, err := s.File(digest)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw := convert(t, t.TempDir(), b, "-f", "qcow2", "-O", "raw")
		if len(raw) != 8<<20 || string(raw[5<<20:5<<20+4]) != "here" || raw[510] != 0x55 {
			t.Error("the disk's bytes are others")
		}
		d, err := s.PrepareDisk(t.Context(), "m", digest, 1<<30)
		if err != nil || d.Base != path || d.BaseFormat != "qcow2" {
			t.Errorf("%+v, %v", d, err)
		}
	}
	tidy(t, s)
}

func TestADiskIsWhatItIsSaidToBe(t *testing.T) {
	s := openStore(t, t.TempDir())
	raw := diskImage(t, "raw")
	if _, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), DiskOptions{Name: "d", Format: diskheader.VMDK}, nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "said to be vmdk, and is raw") {
		t.Error(err)
	}
	img, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), DiskOptions{Name: "d", Firmware: cloud.FirmwareUEFI, Devices: cloud.DevicesEmulated, Architecture: "arm64"}, nil)
	if err != nil || img.Firmware != cloud.FirmwareUEFI || img.Devices != cloud.DevicesEmulated || img.Architecture != "arm64" {
		t.Errorf("%+v, %v", img, err)
	}
	raw[0] = 0
	if _, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), DiskOptions{Name: "d"}, nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "can be started") {
		t.Error(err)
	}
	if _, err := s.ImportDisk(t.Context(), strings.NewReader("no disk"), DiskOptions{Name: "d"}, nil); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	tidy(t, s)
}

// What gets past the headers is qemu-img's to find.
func TestHostileDisksAreRefusedAndLeaveNothing(t *testing.T) {
	s := openStore(t, t.TempDir())
	qcow := diskImage(t, "qcow2")
	first := binary.BigEndian.Uint64(qcow[40:])
	second := binary.BigEndian.Uint64(qcow[first:]) & 0x00fffffffffffe00
	backed := bytes.Clone(qcow)
	binary.BigEndian.PutUint64(backed[8:], 600)
	binary.BigEndian.PutUint32(backed[16:], 11)
	copy(backed[600:], "/etc/shadow")
	into := bytes.Clone(qcow) // data in the first table
	binary.BigEndian.PutUint64(into[second:], first|1<<63)
	beyond := bytes.Clone(qcow)
	binary.BigEndian.PutUint64(beyond[second:], 1<<40|1<<63)
	vmdk := diskImage(t, "vmdk")
	binary.LittleEndian.PutUint32(vmdk[binary.LittleEndian.Uint64(vmdk[56:])*512:], 0x7fffffff)
	for name, c := range map[string]struct {
		image []byte
		why   string
	}{
		"a backing file":             {backed, "backing file"},
		"data in a table":            {into, "qemu-img check"},
		"data beyond the end":        {beyond, "qemu-img check"},
		"vmdk's table in the void":   {vmdk, "cut off"},
		"qcow2 cut in its data":      {qcow[:len(qcow)-65536], "qemu-img check"},
		"a vmdk that is a list":      {[]byte("# Disk DescriptorFile\ncreateType=\"monolithicFlat\"\nRW 100 FLAT \"/etc/shadow\" 0\n"), "names other files"},
		"a stream that ends at once": {nil, "neither"},
	} {
		if img, err := s.ImportDisk(t.Context(), bytes.NewReader(c.image), DiskOptions{Name: name}, nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %+v, %v", name, img, err)
		}
	}
	if list, err := s.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%d images stay, %v", len(list), err)
	}
	tidy(t, s)
}

// An image that got past all headers still finds nothing: the program sees its own files and one directory, and may do nothing.
func TestTheProgramThatReadsImagesSeesNothingElse(t *testing.T) {
	s := openStore(t, t.TempDir())
	w, err := s.newWorkbench()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	qcow := diskImage(t, "qcow2")
	binary.BigEndian.PutUint64(qcow[8:], 600)
	binary.BigEndian.PutUint32(qcow[16:], 11)
	copy(qcow[600:], "/etc/passwd")
	if _, err := w.put("in", bytes.NewReader(qcow)); err != nil {
		t.Fatal(err)
	}
	// Without a word on what stands behind it, as nobody calls it.
	err = w.run(t.Context(), 1<<20, nil, "convert", "-O", "raw", imgWork+"/in", imgWork+"/out")
	if err == nil || !strings.Contains(err.Error(), "'/etc/passwd': No such file or directory") {
		t.Errorf("a backing file of the host's: %v", err)
	}
	if err := w.run(t.Context(), 1<<20, nil, "create", "-f", "raw", "/usr/bin/new", "1M"); err == nil {
		t.Error("it writes beside its directory")
	}
	if err := w.run(t.Context(), 1<<20, nil, "info", "nbd://127.0.0.1:1/"); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("the network: %v", err)
	}
	if err := w.run(t.Context(), 1<<20, nil, "create", "-f", "raw", "-o", "preallocation=full", imgWork+"/big", "64M"); code(err) == 0 {
		t.Errorf("a file over its limit: %v", err)
	}
}

func TestAnImageThatUnpacksToMoreThanItMayIsStopped(t *testing.T) {
	s := openStore(t, t.TempDir())
	w, err := s.newWorkbench()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	raw := bytes.Repeat([]byte("bomb"), 16<<20)
	if _, err := w.put("in", bytes.NewReader(convert(t, t.TempDir(), raw, "-f", "raw", "-O", "qcow2", "-c"))); err != nil {
		t.Fatal(err)
	}
	err = w.run(t.Context(), 8<<20, nil, "convert", "-O", "qcow2", node(diskheader.QCOW2, "in"), imgWork+"/out")
	if err == nil || !strings.Contains(err.Error(), "File too large") {
		t.Error(err)
	}
}

func TestAnImportOfADiskThatIsCancelledLeavesNothing(t *testing.T) {
	s := openStore(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	converting := false
	_, err := s.ImportDisk(ctx, bytes.NewReader(diskImage(t, "qcow2")), DiskOptions{Name: "d"}, func(_, _ int64, what string) {
		if what == "converting the disk" {
			converting = true
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || !converting {
		t.Errorf("%v, converting %v", err, converting)
	}
	if list, err := s.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%d images stay, %v", len(list), err)
	}
	tidy(t, s)
}

func TestWhatACrashLeavesOfADiskIsGoneWithTheNextStart(t *testing.T) {
	s := openStore(t, t.TempDir())
	w, err := s.newWorkbench()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.put("in", strings.NewReader("half")); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(s.root, bakesDir, "debian-12-cloud-tree-1/tree/usr/bin")
	if err := os.MkdirAll(tree, 0o700); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	tidy(t, s)
	if left, err := os.ReadDir(filepath.Join(s.root, bakesDir)); err != nil || len(left) > 0 {
		t.Errorf("%d bakes stay, %v", len(left), err)
	}
}

// The devices are the image's that is registered; the bytes are stored once.
func TestOneDiskIsImportedWithEitherKindOfDevices(t *testing.T) {
	s := openStore(t, t.TempDir())
	raw := diskImage(t, "raw")
	var digest string
	for _, want := range []cloud.Devices{cloud.DevicesEmulated, cloud.DevicesVirtio, cloud.DevicesEmulated} {
		img, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), DiskOptions{Name: "d", Devices: want}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if digest == "" {
			digest = img.Digest
		}
		if img.Devices != want || img.Digest != digest {
			t.Errorf("imported with the devices %q: %+v; the first one is %s", want, img, digest)
		}
	}
	tidy(t, s)
}
