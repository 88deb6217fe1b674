package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agent/image/bootdisk"
	"github.com/nacre-cloud/nacre/internal/agent/image/diskheader"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// cloudRoom is what baking a whole Debian takes at its fullest, in bytes: the tree, the disk, and the disk as it is kept.
const cloudRoom = 3 << 30

// cloudPackages are what makes a server of Debian's essential packages that sets itself up in a cloud.
var cloudPackages = append([]string{"linux-image-cloud-amd64", "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "systemd-sysv", "dbus", "libpam-systemd", "systemd-resolved",
	"systemd-timesyncd", "netplan.io", "isc-dhcp-client", "openssh-server", "cloud-init", "cloud-guest-utils", "fdisk"}, debianPackages...)

// cloudLine is what the kernel is told by the loader: where its console is, and that memory which is plugged in is used at once, so that it can be taken out again.
const cloudLine = "console=tty0 console=ttyS0,115200 memhp_default_state=online memory_hotplug.online_policy=auto-movable"

// customizeCloud is run by mmdebstrap in the finished root, whose path is $1. Nothing in there is nacre's: user, keys, name and network
// are cloud-init's to set up, from the metadata service. The loader's configuration is replaced by the first update-grub.
const customizeCloud = `#!/bin/sh
set -e
cd "$1"
echo 'LABEL=` + bootdisk.RootLabel + ` / ext4 defaults 0 1' > etc/fstab
cat > etc/default/grub <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="` + cloudLine + `"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
END
mkdir -p boot/grub
cp -r usr/lib/grub/i386-pc usr/lib/grub/x86_64-efi boot/grub/
cat > boot/grub/grub.cfg <<END
serial --unit=0 --speed=115200
terminal_output console serial
linux /vmlinuz root=LABEL=` + bootdisk.RootLabel + ` ro ` + cloudLine + `
initrd /initrd.img
boot
END
cat > etc/cloud/cloud.cfg.d/90_default_user.cfg <<END
system_info:
  default_user:
    name: admin
    gecos: Debian
    groups: [adm, sudo]
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    shell: /bin/bash
    lock_passwd: true
locale: false
END
rm -f etc/ssh/ssh_host_* etc/hostname etc/apt/apt.conf.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/99mmdebstrap
if [ -s /tmp/proxy.conf ]; then install -m 0644 /tmp/proxy.conf etc/apt/apt.conf.d/90-proxy; fi
: > etc/machine-id
`

// Parts of 100 of such a bake.
const (
	cloudTree = 60
	cloudDisk = 65
)

// part tells of work that is a part of other work, from one hundredth to another.
func part(p Progress, from, to int64) Progress {
	return func(done, total int64, what string) {
		if total > 0 {
			report(p, from+(to-from)*min(done, total)/total, 100, what)
		}
	}
}

// bakeCloudDisk makes a whole disk of Debian's packages, which starts by BIOS and by UEFI and is set up by its own cloud-init.
func (s *Store) bakeCloudDisk(ctx context.Context, name, architecture string, p Progress) (img Image, err error) {
	if native != "amd64" || architecture != native {
		return img, fmt.Errorf("bake %s: its boot loaders are for x86_64, made on such a server; this one is %s", name, ec2Architecture(native))
	}
	if err := bootdisk.Check(); err != nil {
		return img, fmt.Errorf("bake %s: %w", name, err)
	}
	if err := s.Room(cloudRoom); err != nil {
		return img, fmt.Errorf("bake %s: %w", name, err)
	}
	dir, err := os.MkdirTemp(filepath.Join(s.root, bakesDir), name+"-tree-")
	if err != nil {
		return img, fmt.Errorf("bake %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tree, work := filepath.Join(dir, "tree"), filepath.Join(dir, "work")
	if err := errors.Join(os.Mkdir(tree, 0o755), os.Mkdir(work, 0o700)); err != nil {
		return img, fmt.Errorf("bake %s: %w", name, err)
	}
	options := []string{"--variant=minbase", "--include=" + strings.Join(cloudPackages, ","),
		`--dpkgopt=path-exclude=/usr/share/man/*`, `--dpkgopt=path-exclude=/usr/share/doc/*`, `--dpkgopt=path-include=/usr/share/doc/*/copyright`,
		"--customize-hook=/tmp/customize-cloud"}
	if err := s.debstrap(ctx, name, architecture, options, part(p, 0, cloudTree), func(ctx context.Context, r io.Reader) error { return untar(ctx, r, tree) }); err != nil {
		return img, err
	}
	w, err := s.newWorkbench()
	if err != nil {
		return img, fmt.Errorf("bake %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, w.close()) }()
	size, err := s.assemble(ctx, w, tree, work, part(p, cloudTree, cloudDisk))
	if err != nil {
		return img, fmt.Errorf("bake %s: %w", name, err)
	}
	return s.keepDisk(ctx, w, diskheader.Raw, size, DiskOptions{Name: name, Firmware: cloud.FirmwareBIOS, Config: Config{System: true, SSHServer: true, Systemd: true, LoginUser: "admin"}},
		part(p, cloudDisk, 100))
}

// assemble makes the disk of a tree on a workbench, and returns its bytes.
func (s *Store) assemble(ctx context.Context, w *workbench, tree, work string, p Progress) (int64, error) {
	size, err := treeSize(tree)
	if err != nil {
		return 0, err
	}
	spec := bootdisk.Spec{Tree: tree, GRUB: filepath.Join(tree, "usr/lib/grub"), Work: work, To: w.path("in"), Size: size, Seed: "debian-12-cloud", Time: bakedAt}
	step := int64(0)
	err = bootdisk.Make(ctx, spec, func(what string) {
		report(p, step, 4, what)
		step++
	})
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(spec.To)
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Chown(spec.To, imgUser, imgUser)
}

// untar lays a root file system's tar stream out in a directory that nobody else may enter.
func untar(ctx context.Context, r io.Reader, to string) error {
	cmd := exec.CommandContext(ctx, "tar", "--extract", "--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*", "--directory", to)
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lay the files out: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
