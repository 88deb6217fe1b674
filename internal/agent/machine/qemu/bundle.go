package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// user is who the hypervisor runs as, in the machine's own range of ids.
	user = 1000
	// overhead is what a hypervisor needs beside its guest's memory, with its cache of translated code, in bytes.
	overhead = (translated + 192) << 20
	// threads bounds the hypervisor's threads beside its processors.
	threads = 256

	monitorSocket = "monitor.sock"
	portSocket    = "guest.sock"
)

var hostCPUs = runtime.NumCPU()

// shown are the host's directories that a hypervisor reads: itself, its libraries and its firmware.
var shown = []string{"/usr/bin", "/usr/lib", "/usr/lib64", "/usr/share/qemu", "/usr/share/seabios", "/etc/ld.so.cache"}

const hugePages = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

// links are those of a host whose /usr is merged.
var links = map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}

// makeRoot makes the directory that all hypervisors have as their root: empty but for places to mount on.
func makeRoot(root string) error {
	for _, dir := range []string{"proc", "dev", "tmp", "boot", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return fmt.Errorf("make the hypervisors' root: %w", err)
		}
	}
	for _, path := range shown {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil && info.IsDir() {
			err = os.MkdirAll(filepath.Join(root, path), 0o755)
		} else if err == nil {
			err = touch(filepath.Join(root, path))
		}
		if err != nil {
			return fmt.Errorf("make the hypervisors' root: %w", err)
		}
	}
	for _, file := range []string{kernelTarget, initrdTarget, uefiTarget} {
		if err := touch(filepath.Join(root, file)); err != nil {
			return fmt.Errorf("make the hypervisors' root: %w", err)
		}
	}
	// QEMU looks there for the size of huge pages, and complains on the console when it finds nothing.
	pages, err := os.ReadFile(hugePages)
	if err != nil {
		pages = []byte("2097152\n")
	}
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(hugePages)), 0o755); err != nil {
		return fmt.Errorf("make the hypervisors' root: %w", err)
	}
	if err := os.WriteFile(filepath.Join(root, hugePages), pages, 0o644); err != nil {
		return fmt.Errorf("make the hypervisors' root: %w", err)
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make the hypervisors' root: %w", err)
		}
	}
	return nil
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o444)
	if err != nil {
		return err
	}
	return f.Close()
}

// bundle is the container of a machine's hypervisor: no network, no files of the host that it could write, no capabilities.
func (d *Driver) bundle(_ context.Context, s machine.Spec) (b confined.Bundle, err error) {
	l := &line{}
	defer func() {
		if err != nil {
			l.close()
			err = fmt.Errorf("machine %s: %w", s.ID, err)
		}
	}()
	from := d.sources(s.ID)
	if err := from.hand(l, s.VM); err != nil { // first, to be memoryFD
		return b, err
	}
	board, err := boardOf(s.VM.Architecture)
	if err != nil {
		return b, err
	}
	path, err := board.find()
	if err != nil {
		return b, err
	}
	if firmware := board.uefi; s.VM.Firmware == cloud.FirmwareUEFI {
		if _, err := os.Stat(firmware); err != nil {
			return b, fmt.Errorf("it starts by UEFI, and %s is not installed; `nacre doctor --install` installs it", firmware)
		}
	}
	monitor, err := d.listen(s.ID, monitorSocket)
	if err != nil {
		return b, err
	}
	var port *os.File
	if s.VM.GuestAgent {
		if port, err = d.listen(s.ID, portSocket); err != nil {
			monitor.Close()
			return b, err
		}
	}
	l.channels(board, s, monitor, port)
	l.machine(board, s, from)
	if err := l.disks(s.VM); err != nil {
		return b, err
	}
	from.state(l)
	return confined.Bundle{Config: d.container(s, append([]string{path}, l.args...)), Pass: l.pass, Engine: d.engineOf(s), Launch: from.launch(s.VM)}, nil
}

// container is the hypervisor's confinement.
func (d *Driver) container(s machine.Spec, args []string) *specs.Spec {
	spec := d.Configuration(s, limits(s))
	spec.Root = &specs.Root{Path: d.root, Readonly: true}
	spec.Process = &specs.Process{Args: args, Env: []string{"PATH=/usr/bin", "TMPDIR=/tmp"}, Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
		User: specs.User{UID: user, GID: user}}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=1m"}},
	}
	for _, path := range shown {
		if _, err := os.Stat(path); err == nil {
			spec.Mounts = append(spec.Mounts, confined.ReadOnly(path, path))
		}
	}
	for target, source := range map[string]string{kernelTarget: s.VM.Kernel, initrdTarget: s.VM.Initrd} {
		if source != "" {
			spec.Mounts = append(spec.Mounts, confined.ReadOnly(source, target))
		}
	}
	if s.VM.Firmware == cloud.FirmwareUEFI {
		spec.Mounts = append(spec.Mounts, confined.ReadOnly(boards[s.VM.Architecture].uefi, uefiTarget))
	}
	if s.VM.Accelerator == "kvm" {
		var st unix.Stat_t
		if err := unix.Stat("/dev/kvm", &st); err == nil {
			major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/dev/kvm", Type: "bind", Source: "/dev/kvm", Options: []string{"bind", "nosuid"}})
			spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rw"})
		}
	}
	spec.Linux.Seccomp = confined.SeccompProfile(spec)
	return spec
}

// limits are those of the hypervisor of a machine: its guest's memory is part of its own.
func limits(s machine.Spec) *specs.LinuxResources {
	r := s.Resources
	r.Memory += overhead
	r.PIDs = int64(threads + s.VM.MaxCPUs)
	return confined.Limits(r)
}

// listen makes a socket in the machine's directory, which the hypervisor takes over.
func (d *Driver) listen(id cloud.InstanceID, name string) (*os.File, error) {
	return confined.Listen(d.Bundle(id), name)
}

// dial connects to a socket in the machine's directory.
func (d *Driver) dial(ctx context.Context, id cloud.InstanceID, name string) (*net.UnixConn, error) {
	dir, err := os.Open(d.Bundle(id))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}
