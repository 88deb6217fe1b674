// Package doctor finds out what this host has for running instances, what it lacks, and what each
// lack costs.
//
// It promises to try a thing where trying is cheap, rather than to believe a version number, and to
// leave nothing behind. It installs packages only when asked to.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/accel"
)

// Verdict is how a finding bears on nacre.
type Verdict string

const (
	OK      Verdict = "ok"
	Limited Verdict = "limited" // nacre works, without what Cost names
	Missing Verdict = "missing" // nacre can't run instances here
)

// Finding is one thing that was looked at.
type Finding struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`          // what there is
	Cost    string  `json:"cost,omitempty"` // what the lack of it costs
	Fix     string  `json:"fix,omitempty"`  // what to do about it
	Package string  `json:"package,omitempty"`
}

// program is a Debian package's program that nacre drives.
type program struct {
	name, pkg, cost string
	args            []string
	required        bool
}

var programs = append([]program{
	{"runc", "runc", "no container instances", []string{"--version"}, true},
	{"conmon", "conmon", "no container instances", []string{"--version"}, true},
	{"nft", "nftables", "no security groups, so no instances", []string{"--version"}, true},
	{"mmdebstrap", "mmdebstrap", "`nacre image bake debian-12` does not work; images can still be imported and pulled", []string{"--version"}, false},
	{"busybox", "busybox-static", "`nacre image bake busybox` does not work", []string{"--help"}, false},
	{"qemu-img", "qemu-utils", "no virtual machines and no volumes", []string{"--version"}, false},
	{"qemu-storage-daemon", "qemu-system-common", "no virtual machines and no volumes", []string{"--version"}, false},
	{"grub-mkimage", "grub-common", "`nacre image bake debian-12-cloud` does not work; disks can still be imported", []string{"--version"}, false},
	{"sfdisk", "fdisk", "`nacre image bake debian-12-cloud` does not work; disks can still be imported", []string{"--version"}, false},
	{"mformat", "mtools", "`nacre image bake debian-12-cloud` does not work; disks can still be imported", []string{"--version"}, false},
	{"mkfs.ext4", "e2fsprogs", "no virtual machines from images of layers, and no file systems on volumes", []string{"-V"}, false},
	{"ssh", "openssh-client", "`nacre ssh` does not work", []string{"-V"}, false},
}, ofArchitectures(runtime.GOARCH)...)

// firmware is what virtual machines without a kernel of nacre's boot with.
type firmware struct{ name, file, pkg, cost string }

var firmwares = []firmware{
	{"UEFI for x86_64", "/usr/share/ovmf/OVMF.fd", "ovmf", "no virtual machines of the architecture x86_64 that boot with UEFI"},
	{"UEFI for arm64", "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "qemu-efi-aarch64", "no virtual machines of the architecture arm64 that boot from their disk"},
}

// Examine looks at everything. The findings come in a fixed order. verdictFile is where `nacre up` keeps what it found out of KVM
// (package accel); it need not be there.
func Examine(ctx context.Context, verdictFile string) []Finding {
	findings := []Finding{privileges(), kernel(), cgroups(), userNamespaces(), overlay(), idmappedMounts(), packetFilter(), kvm(verdictFile), emulation(ctx)}
	for _, p := range programs {
		f := Finding{Name: p.name, Verdict: OK}
		path, err := exec.LookPath(p.name)
		if err != nil {
			f.Verdict, f.Found, f.Cost, f.Package = Limited, "not installed", p.cost, p.pkg
			f.Fix = "nacre doctor --install"
			if p.required {
				f.Verdict = Missing
			}
		} else {
			f.Found = path + versionOf(ctx, path, p.args)
		}
		findings = append(findings, f)
	}
	for _, x := range firmwares {
		f := Finding{Name: x.name, Verdict: OK, Found: x.file}
		if _, err := os.Stat(x.file); err != nil {
			f.Verdict, f.Found, f.Cost, f.Package, f.Fix = Limited, "not installed", x.cost, x.pkg, "nacre doctor --install"
		}
		findings = append(findings, f)
	}
	return findings
}

func versionOf(ctx context.Context, path string, args []string) string {
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil && len(out) == 0 {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return " (" + strings.TrimSpace(first) + ")"
}

// Install installs the Debian packages that findings name, reporting apt's output through log.
func Install(ctx context.Context, findings []Finding, log func(string)) error {
	var packages []string
	for _, f := range findings {
		if f.Package != "" {
			packages = append(packages, f.Package)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("install %s: this host has no apt-get; install them with its own package manager", strings.Join(packages, ", "))
	}
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, packages...)} {
		log("apt-get " + strings.Join(args, " "))
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, lastLines(string(out), 20))
		}
	}
	return nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func privileges() Finding {
	f := Finding{Name: "root", Verdict: OK, Found: "uid 0"}
	if os.Geteuid() != 0 {
		f.Verdict, f.Found, f.Cost, f.Fix = Missing, fmt.Sprintf("uid %d", os.Geteuid()), "no instances: namespaces, mounts and links need root", "run nacre as root (sudo)"
	}
	return f
}

func kernel() Finding {
	f := Finding{Name: "kernel", Verdict: OK}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Finding{Name: "kernel", Verdict: Missing, Found: err.Error(), Cost: "nothing is known of this host"}
	}
	f.Found = fmt.Sprintf("%s %s", unix.ByteSliceToString(u.Release[:]), runtime.GOARCH)
	return f
}

// cgroups tells which hierarchies control instances, and whether all controllers are there.
func cgroups() Finding {
	f := Finding{Name: "control groups", Verdict: OK}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return Finding{Name: f.Name, Verdict: Missing, Found: err.Error(), Cost: "no limits for instances, so no instances", Fix: "mount /sys/fs/cgroup"}
	}
	need := []string{"cpu", "memory", "pids"}
	have := func(c string) bool { _, err := os.Stat(filepath.Join("/sys/fs/cgroup", c)); return err == nil }
	f.Found = "version 1 or hybrid"
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		f.Found = "version 2"
		b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return Finding{Name: f.Name, Verdict: Missing, Found: err.Error(), Cost: "no limits for instances, so no instances"}
		}
		controllers := strings.Fields(string(b))
		have = func(c string) bool {
			for _, x := range controllers {
				if x == c {
					return true
				}
			}
			return false
		}
	}
	for _, c := range need {
		if !have(c) {
			f.Verdict, f.Cost, f.Fix = Missing, "the "+c+" limit can't be set, so no instances", "enable the "+c+" controller on the kernel's command line"
		}
	}
	return f
}

func userNamespaces() Finding {
	f := Finding{Name: "user namespaces", Verdict: OK, Found: "available"}
	b, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err != nil || strings.TrimSpace(string(b)) == "0" {
		f.Verdict, f.Found, f.Cost, f.Fix = Missing, "switched off", "no container instances: root inside would be root outside", "sysctl user.max_user_namespaces=15000"
	}
	return f
}

func overlay() Finding {
	f := Finding{Name: "overlayfs", Verdict: OK, Found: "available"}
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(b), "\toverlay\n") {
		if exec.Command("modprobe", "overlay").Run() != nil {
			f.Verdict, f.Found, f.Cost, f.Fix = Missing, "not in this kernel", "no container instances", "use a kernel with CONFIG_OVERLAY_FS"
		}
	}
	return f
}

// idmappedMounts tries mount_setattr on a detached copy of a directory, with a bad user namespace: a kernel that
// knows idmapped mounts refuses the descriptor, an older one the call.
func idmappedMounts() Finding {
	f := Finding{Name: "idmapped mounts", Verdict: OK, Found: "available"}
	err := unix.MountSetattr(-1, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: ^uint64(0)})
	if errors.Is(err, unix.ENOSYS) {
		f.Verdict, f.Found, f.Cost, f.Fix = Missing, "not in this kernel", "no container instances: image layers can't be shared between id ranges", "use Linux 5.19 or newer"
	}
	return f
}

// packetFilter asks the kernel for its nftables sockets.
func packetFilter() Finding {
	f := Finding{Name: "nftables", Verdict: OK, Found: "available"}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		f.Verdict, f.Found, f.Cost, f.Fix = Missing, err.Error(), "no security groups, so no instances", "use a kernel with CONFIG_NF_TABLES"
		return f
	}
	unix.Close(fd)
	return f
}

// kvm says what nacre found out by booting a guest. That is done by `nacre up`, which has a kernel to boot.
func kvm(verdictFile string) Finding {
	f := Finding{Name: "/dev/kvm", Verdict: OK}
	const cost = "virtual machines are translated, several times slower; containers are not concerned"
	if _, err := os.Stat("/dev/kvm"); err != nil {
		f.Verdict, f.Found, f.Cost = Limited, "absent", cost
		return f
	}
	v, err := accel.Read(verdictFile)
	var u unix.Utsname
	if err == nil && unix.Uname(&u) == nil && v.HostKernel != unix.ByteSliceToString(u.Release[:]) {
		err = errors.New("the verdict is of another kernel")
	}
	switch {
	case err != nil || v.Demand != accel.TCG && v.Proved.IsZero():
		f.Verdict, f.Found, f.Cost = Limited, "present; whether it runs a guest is not proved yet", cost+", until KVM is proved"
		f.Fix = "nacre image bake linux, while nacre runs: it boots that kernel once to find out"
	case v.Accelerator == accel.KVM:
		f.Found = "present; " + v.String()
	case v.Demand == accel.TCG:
		f.Found = "present; not used, as --accelerator tcg demands"
	default:
		f.Verdict, f.Found, f.Cost = Limited, "present, but not used; "+v.String(), cost
	}
	return f
}
