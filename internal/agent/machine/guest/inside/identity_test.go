package inside

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAFileSystemGrowsToItsDiskAndStaysThere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts a disk")
	}
	dir := t.TempDir()
	disk, at := filepath.Join(dir, "disk"), filepath.Join(dir, "at")
	run := func(argv ...string) {
		t.Helper()
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	run("mkfs.ext4", "-q", disk, "32M")
	if err := os.Truncate(disk, 96<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	run("mount", "-o", "loop", disk, at)
	t.Cleanup(func() { exec.Command("umount", at).Run() })
	size := func() int64 {
		t.Helper()
		var fs unix.Statfs_t
		if err := unix.Statfs(at, &fs); err != nil {
			t.Fatal(err)
		}
		return int64(fs.Blocks) * fs.Bsize
	}
	before := size()
	for range 2 {
		err := grow(at)
		if errors.Is(err, unix.EPERM) {
			t.Skip("growing needs CAP_SYS_RESOURCE, which these tests don't have here")
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := size(); before > 32<<20 || got < 80<<20 {
			t.Errorf("%d MiB became %d MiB", before>>20, got>>20)
		}
	}
}

func TestTheMachineIDIsWrittenAndCopiedOnlyOverAFile(t *testing.T) {
	dir := t.TempDir()
	path, copied := filepath.Join(dir, "etc/machine-id"), filepath.Join(dir, "dbus")
	if err := os.Symlink(path, copied); err != nil {
		t.Fatal(err)
	}
	if err := setMachineID(path, copied, "aa"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(copied); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	os.Remove(copied)
	if err := os.WriteFile(copied, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := setMachineID(path, copied, "bb"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, copied} {
		if b, err := os.ReadFile(p); err != nil || string(b) != "bb\n" {
			t.Errorf("%s: %q, %v", p, b, err)
		}
	}
}
