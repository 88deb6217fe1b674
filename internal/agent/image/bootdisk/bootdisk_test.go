package bootdisk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/image/diskheader"
)

// made makes a disk of a tree with one file.
func made(t *testing.T) string {
	t.Helper()
	if err := Check(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"tree/boot/grub", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "tree/boot/grub/grub.cfg")
	if err := os.WriteFile(config, []byte("serial --unit=0\nterminal_output serial\necho the loader speaks\nreboot\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1_700_000_000, 0)
	for _, path := range []string{config, filepath.Dir(config), filepath.Join(dir, "tree/boot"), filepath.Join(dir, "tree")} {
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	s := Spec{GRUB: "/usr/lib/grub", Tree: filepath.Join(dir, "tree"), Work: filepath.Join(dir, "work"), To: filepath.Join(dir, "disk"), Size: 32 << 20, Seed: "test", Time: when}
	var steps []string
	if err := Make(t.Context(), s, func(what string) { steps = append(steps, what) }); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 4 {
		t.Errorf("it told of %q", steps)
	}
	return s.To
}

func TestADiskHasItsPartsAndBootsByBothFirmwares(t *testing.T) {
	disk := made(t)
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if bios, uefi := diskheader.Boot(b[:diskheader.BootBytes]); !bios || !uefi {
		t.Errorf("BIOS %v, UEFI %v", bios, uefi)
	}
	out, err := exec.Command("sfdisk", "--verify", disk).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk: %v\n%s", err, out)
	}
	fs := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(fs, b[rootAt:len(b)-backupTable], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", fs).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	for name, args := range map[string][]string{"BIOS": nil, "UEFI": {"-bios", "/usr/share/ovmf/OVMF.fd"}} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "timeout", append([]string{"60", "qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
				"-serial", "stdio", "-drive", "if=virtio,format=raw,snapshot=on,file=" + disk}, args...)...)
			out, err := cmd.CombinedOutput()
			if !bytes.Contains(out, []byte("the loader speaks")) {
				t.Errorf("%v: it said %q", err, out)
			}
		})
	}
}

func TestPartitionsAndLoadersAreTheSameEachTime(t *testing.T) {
	one, err := os.ReadFile(made(t))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(made(t))
	if err != nil {
		t.Fatal(err)
	}
	for n := range rootAt {
		if one[n] != two[n] {
			t.Fatalf("the two disks differ at byte %#x", n)
		}
	}
}

func TestWhatAHostLacksIsNamedWithItsPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := Make(t.Context(), Spec{}, nil)
	if err == nil || !strings.Contains(err.Error(), "e2fsprogs, fdisk, grub-common, mtools") || !strings.Contains(err.Error(), "nacre doctor --install") {
		t.Error(err)
	}
}
