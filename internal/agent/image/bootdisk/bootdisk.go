// Package bootdisk makes a whole disk of a tree of files: a partition table, a boot loader for BIOS and one for UEFI, and the tree
// as its root file system, last, so that it can grow.
//
// It writes a file and nothing else: no loop devices, no mounts, no kernel modules. The same tree and the same programs make the same
// disk, but for the times at which the tree's files were made. Loader and file systems are made by GRUB's, mtools' and e2fsprogs' programs; what GRUB's installer would do on a real disk
// is done here: two sectors' pointers are filled in.
package bootdisk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Spec is a disk to make.
type Spec struct {
	Tree string // the root file system's files, with /boot/grub/grub.cfg
	GRUB string // the directory with GRUB's platforms i386-pc and x86_64-efi, as /usr/lib/grub
	Work string // an empty directory for what is made on the way
	To   string // the file to make; it must not be there
	Size int64  // of the root file system in bytes, whole MiB
	Seed string // identifiers of partitions and file systems come from it
	Time time.Time
}

// RootLabel names the root file system, by which the loader finds it.
const RootLabel = "nacre-root"

const (
	sector = 512
	mib    = 1 << 20
	// The layout: a MiB of tables, one of GRUB's second stage, 15 for the EFI system partition, the rest for the root.
	biosAt, biosSize = 1 * mib, 1 * mib
	espAt, espSize   = 2 * mib, 14 * mib
	rootAt           = 16 * mib
	backupTable      = 1 * mib // at the end
)

// Types of partitions.
const (
	biosType = "21686148-6449-6E6F-744E-656564454649"
	espType  = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	rootType = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" // root of x86-64, by the Discoverable Partitions Specification
)

// findRoot is what both loaders do first.
const findRoot = `search.fs_label ` + RootLabel + ` root
set prefix=($root)/boot/grub
`

// Modules that the loaders carry, beyond those that differ.
var modules = []string{"part_gpt", "ext2", "search_label", "normal", "configfile", "linux", "serial", "terminal", "echo", "test", "minicmd", "reboot"}

// Programs are what Make needs, with the Debian packages that bring them.
var Programs = map[string]string{"grub-mkimage": "grub-common", "sfdisk": "fdisk", "mformat": "mtools", "mcopy": "mtools", "mmd": "mtools", "mkfs.ext4": "e2fsprogs"}

// Check tells what Make lacks on this host.
func Check() error {
	var lacks []string
	for program, pkg := range Programs {
		if _, err := exec.LookPath(program); err != nil && !slices.Contains(lacks, pkg) {
			lacks = append(lacks, pkg)
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	slices.Sort(lacks)
	return fmt.Errorf("a disk with a boot loader needs %s, which is not installed; `nacre doctor --install` installs it", strings.Join(lacks, ", "))
}

// Make makes a disk. tell is called with a few words at each step.
func Make(ctx context.Context, s Spec, tell func(what string)) error {
	if err := Check(); err != nil {
		return err
	}
	if s.Size <= 0 || s.Size%mib != 0 {
		return fmt.Errorf("make a disk: a root file system of %d bytes has no whole MiB", s.Size)
	}
	f, err := os.OpenFile(s.To, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(rootAt + s.Size + backupTable); err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	for _, step := range []struct {
		what string
		do   func(context.Context, Spec, *os.File) error
	}{{"making the partitions", partitions}, {"making the boot loader for BIOS", bios}, {"making the boot loader for UEFI", uefi}, {"making the root file system", root}} {
		tell(step.what)
		if err := step.do(ctx, s, f); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return f.Close()
}

// uuid is an identifier that comes from the seed and a word.
func (s Spec) uuid(what string) string {
	sum := sha256.Sum256([]byte(s.Seed + " " + what))
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80
	id := hex.EncodeToString(sum[:16])
	return strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")
}

// RootUUID is the identifier of the root file system.
func (s Spec) RootUUID() string { return s.uuid("root file system") }

func (s Spec) run(ctx context.Context, input, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	when := strconv.FormatInt(s.Time.Unix(), 10)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+when, "E2FSPROGS_FAKE_TIME="+when, "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1", "TZ=UTC")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func partitions(ctx context.Context, s Spec, _ *os.File) error {
	table := fmt.Sprintf("label: gpt\nlabel-id: %s\nfirst-lba: 34\n", s.uuid("table"))
	for _, p := range []struct {
		number     int
		at, size   int64
		kind, name string
	}{{14, biosAt, biosSize, biosType, "bios"}, {15, espAt, espSize, espType, "efi"}, {1, rootAt, s.Size, rootType, "root"}} {
		table += fmt.Sprintf("%d : start=%d, size=%d, type=%s, uuid=%s, name=%s\n", p.number, p.at/sector, p.size/sector, p.kind, s.uuid(p.name), p.name)
	}
	return s.run(ctx, table, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", s.To)
}

// image has GRUB make a loader of one platform that first does findRoot.
func (s Spec) image(ctx context.Context, platform, to string, more ...string) error {
	first := filepath.Join(s.Work, "first.cfg")
	if err := os.WriteFile(first, []byte(findRoot), 0o600); err != nil {
		return err
	}
	return s.run(ctx, "", "grub-mkimage", append(append([]string{"-d", filepath.Join(s.GRUB, platform), "-O", platform, "-o", to, "-c", first, "-p", "/boot/grub"}, modules...), more...)...)
}

// GRUB's first and second stage, by its headers grub/i386/pc/boot.h and diskboot.S: where the first keeps the sector of the second,
// and its check of the drive, which real disks skip; and where the second keeps the sector and count of what follows it.
const (
	bootSector, bootDriveCheck = 0x5c, 0x66
	blockList                  = sector - 12
	bootCode                   = 440
	bootParameters             = 0x5a // up to here lie a file system's parameters, from byte 3 on
)

func bios(ctx context.Context, s Spec, f *os.File) error {
	core := filepath.Join(s.Work, "core.img")
	if err := s.image(ctx, "i386-pc", core, "biosdisk"); err != nil {
		return err
	}
	second, err := os.ReadFile(core)
	if err != nil {
		return err
	}
	first, err := os.ReadFile(filepath.Join(s.GRUB, "i386-pc", "boot.img"))
	if err != nil {
		return err
	}
	if len(first) != sector || len(second) < 2*sector || len(second) > biosSize {
		return fmt.Errorf("GRUB's stages have %d and %d bytes, which are not those that are known here", len(first), len(second))
	}
	binary.LittleEndian.PutUint64(first[bootSector:], biosAt/sector)
	first[bootDriveCheck], first[bootDriveCheck+1] = 0x90, 0x90
	rest := (len(second) - 1) / sector // sectors after the first
	binary.LittleEndian.PutUint64(second[blockList:], biosAt/sector+1)
	binary.LittleEndian.PutUint16(second[blockList+8:], uint16(rest))
	_, err = f.WriteAt(second, biosAt)
	_, more := f.WriteAt(first[:3], 0)
	_, last := f.WriteAt(first[bootParameters:bootCode], bootParameters)
	return errors.Join(err, more, last)
}

func uefi(ctx context.Context, s Spec, f *os.File) error {
	loader, esp := filepath.Join(s.Work, "bootx64.efi"), filepath.Join(s.Work, "esp")
	if err := s.image(ctx, "x86_64-efi", loader, "efi_gop", "all_video"); err != nil {
		return err
	}
	if err := os.Chtimes(loader, s.Time, s.Time); err != nil {
		return err
	}
	serial := strings.ToUpper(s.uuid("efi file system")[:8])
	for _, args := range [][]string{
		{"mformat", "-C", "-i", esp, "-T", strconv.Itoa(espSize / sector), "-h", "64", "-s", "32", "-N", serial, "-v", "EFI", "::"},
		{"mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-m", "-i", esp, loader, "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if err := s.run(ctx, "", args[0], args[1:]...); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(esp)
	if err != nil {
		return err
	}
	if len(b) > espSize {
		return fmt.Errorf("the file system has %d bytes; %d are there", len(b), espSize)
	}
	_, err = f.WriteAt(b, espAt)
	return err
}

func root(ctx context.Context, s Spec, _ *os.File) error {
	id := s.RootUUID()
	return s.run(ctx, "", "mkfs.ext4", "-q", "-F", "-L", RootLabel, "-U", id, "-m", "1", "-E", fmt.Sprintf("lazy_itable_init=1,hash_seed=%s,offset=%d", id, rootAt),
		"-d", s.Tree, s.To, strconv.FormatInt(s.Size>>10, 10)+"k")
}
