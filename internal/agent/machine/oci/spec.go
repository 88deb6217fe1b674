package oci

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

const (
	idCount   = 65536
	cpuPeriod = 100_000 // microseconds
	shmSize   = "size=64m"
)

// capabilities are what root inside keeps, all of them within its own user namespace: the set that container tools
// give by default.
var capabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}

// maskedPaths tell of the host what no neighbour should know; readonlyPaths would change it.
var (
	maskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func capabilitySets() *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
}

// runtimeSpec is the container's configuration for the runtime.
func (d *Driver) runtimeSpec(s machine.Spec) *specs.Spec {
	spec := &specs.Spec{
		Version:  "1.0.2",
		Root:     &specs.Root{Path: s.RootFS},
		Hostname: s.Hostname,
		Process: &specs.Process{
			Args: []string{guestinit.Program}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Cwd: "/", Capabilities: capabilitySets(),
			NoNewPrivileges: noNewPrivileges(s),
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", shmSize}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			// The host's own sysfs would tell of its devices and its neighbours' links. Only a mount point is there, for the
			// limits by which programs size themselves.
			{Destination: "/sys", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "ro", "size=4k", "nr_inodes=8"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			bind(d.init, guestinit.Program),
			bind(filepath.Join(d.bundle(s.ID), initConfig), guestinit.ConfigFile),
		},
		Linux: &specs.Linux{
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: s.IDBase, Size: idCount}},
			GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: s.IDBase, Size: idCount}},
			CgroupsPath: d.cgroup(s.ID),
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
				{Type: specs.UserNamespace, Path: s.UserNS}, {Type: specs.NetworkNamespace, Path: s.NetNS}},
			MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
			Resources: resources(s.Resources),
		},
	}
	for _, b := range s.Binds {
		spec.Mounts = append(spec.Mounts, bind(b.Source, b.Target))
	}
	spec.Linux.Seccomp = seccompProfile(spec)
	return spec
}

// seccompProfile is the filter that container tools give by default. The x32 ABI is left out: nobody's programs use it, Debian's
// kernels refuse it, and building the filter for it takes half of the time of all three.
func seccompProfile(spec *specs.Spec) *specs.LinuxSeccomp {
	profile := seccomp.DefaultProfile(spec)
	profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	return profile
}

// noNewPrivileges tells whether a machine's programs may never gain privileges: an operating system needs sudo, and an
// application that is root has no more to gain; one that runs as somebody else needs none.
func noNewPrivileges(s machine.Spec) bool {
	name, _, _ := strings.Cut(s.User, ":")
	return !s.System && name != "" && name != "root" && name != "0"
}

func bind(source, target string) specs.Mount {
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"bind", "ro", "nosuid", "nodev"}}
}

// resources are limits in the runtime's terms. Devices are denied but for those that every container has.
func resources(r machine.Resources) *specs.LinuxResources {
	out := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Memory:  &specs.LinuxMemory{Limit: &r.Memory, Swap: &r.Memory}, // swap counts memory too: none of its own
		Pids:    &specs.LinuxPids{Limit: &r.PIDs},
		CPU:     &specs.LinuxCPU{},
	}
	if r.VCPUs > 0 {
		out.CPU.Period, out.CPU.Quota = new(uint64(cpuPeriod)), new(int64(r.VCPUs)*cpuPeriod)
	}
	if r.Weight > 0 {
		// 100 is one ordinary share of version 2; version 1 counts 1024 for it. The runtime converts.
		out.CPU.Shares = new(uint64(min(max(r.Weight, 1)*1024/100, 262144)))
	}
	return out
}

// initConfiguration is what the init inside is told.
func initConfiguration(s machine.Spec) guestinit.Config {
	stop := unix.SignalNum(s.StopSignal)
	if stop == 0 && s.StopSignal != "" && !strings.HasPrefix(s.StopSignal, "SIG") {
		stop = unix.SignalNum("SIG" + s.StopSignal)
	}
	if stop == 0 {
		stop = unix.SIGTERM
	}
	return guestinit.Config{Instance: string(s.ID), System: s.System, Hostname: s.Hostname, FQDN: s.FQDN, Address: s.Address, Resolvers: s.Resolvers, Domain: s.Domain,
		Args: s.Args, Env: s.Env, WorkingDir: s.WorkingDir, User: s.User, StopSignal: int(stop), Greeting: s.Greeting, UserData: s.UserData, PublicKey: s.PublicKey}
}

// check refuses what can't be run.
func check(s machine.Spec) error {
	switch {
	case s.Resources.Memory <= 0 || s.Resources.PIDs <= 0:
		return fmt.Errorf("machine %s: it has no memory or process limit", s.ID)
	case !s.System && len(s.Args) == 0:
		return fmt.Errorf("machine %s: its image names no command; give one with `nacre run IMAGE -- COMMAND`", s.ID)
	case s.RootFS == "" || s.NetNS == "" || s.UserNS == "":
		return fmt.Errorf("machine %s: it lacks a root file system or its namespaces", s.ID)
	}
	return nil
}
