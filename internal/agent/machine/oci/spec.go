package oci

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

const (
	initConfig = "init.json"
	shmSize    = "size=64m"
)

// capabilities are what root inside keeps, all of them within its own user namespace: the set that container tools
// give by default.
var capabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}

func capabilitySets() *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
}

// runtimeSpec is the container's configuration for the runtime.
func (d *Driver) runtimeSpec(s machine.Spec) *specs.Spec {
	spec := d.Configuration(s, confined.Limits(s.Resources))
	spec.Root = &specs.Root{Path: s.RootFS}
	spec.Process = &specs.Process{
		Args: []string{guestinit.Program}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Cwd: "/", Capabilities: capabilitySets(),
		NoNewPrivileges: noNewPrivileges(s),
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: s.UserNS},
		specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: s.NetNS})
	spec.Mounts = append(ownMounts(),
		confined.ReadOnly(d.init, guestinit.Program),
		confined.ReadOnly(filepath.Join(d.Bundle(s.ID), initConfig), guestinit.ConfigFile))
	if unifiedGroups() {
		// The second version's rules are a program that is loaded once. Volumes that come later are loop devices; no node of any other is
		// ever shown inside, and nothing inside can make one.
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: new(int64(loopMajor)), Access: "rw"})
	}
	for _, d := range s.Devices {
		major, minor := int64(d.Major), int64(d.Minor)
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: d.Target, Type: "bind", Source: d.Node, Options: []string{"bind", "nosuid", "noexec"}})
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: "rw"})
	}
	for _, b := range s.Mounts {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: b.Target, Type: "bind", Source: b.Source, Options: []string{"bind", "rw", "nosuid", "nodev"}})
	}
	for _, b := range s.Binds {
		spec.Mounts = append(spec.Mounts, confined.ReadOnly(b.Source, b.Target))
	}
	spec.Linux.Seccomp = confined.SeccompProfile(spec)
	return spec
}

// ownMounts are the file systems of the kernel's that every container has of its own.
func ownMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", shmSize}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		// The host's own sysfs would tell of its devices and its neighbours' links. Only a mount point is there, for the
		// limits by which programs size themselves.
		{Destination: "/sys", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "ro", "size=4k", "nr_inodes=8"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
}

// loopMajor is the number of the kernel's driver of loop devices.
const loopMajor = 7

// unifiedGroups tells whether the host's control groups are those of the second version alone.
func unifiedGroups() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// noNewPrivileges tells whether a machine's programs may never gain privileges: an operating system needs sudo, and an
// application that is root has no more to gain; one that runs as somebody else needs none.
func noNewPrivileges(s machine.Spec) bool {
	name, _, _ := strings.Cut(s.User, ":")
	return !s.System && name != "" && name != "root" && name != "0"
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
