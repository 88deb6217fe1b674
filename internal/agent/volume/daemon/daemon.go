// Package daemon makes kernel block devices of volumes: qemu-storage-daemon, one a volume, shows it as a file by FUSE, and a loop
// device stands on the file.
//
// A daemon is confined as machines' programs are (package confined, which also keeps, adopts and limits it): an unprivileged user, a
// network namespace without links, a read-only root, no capabilities, and of the host's files its volume's directory alone. It is
// handed the descriptor of a FUSE mount that was made for it, so it mounts nothing itself. It outlives the agent; so do mount and loop device, which
// hang on it: when a daemon dies, its device answers every request with an error, and never again with old data.
//
// The package moves bytes and decides nothing: who may have a volume is its backend's to say.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// IDBase is the range of host ids that all daemons have: just below those of machines. They see neither one another nor
	// one another's files.
	IDBase = 0x10000000 - confined.IDCount
	user   = 1000
	// User is who a daemon is on the host.
	User = IDBase + user

	monitorSocket = "monitor.sock"
	exportFile    = "export"
	volumeTarget  = "/volume"
	exportID      = "device"
	fdDir         = "fd" // shown as /dev/fd

	monitorFD = 3 // the descriptors that a daemon inherits
	fuseFD    = 4

	memory     = 512 << 20 // bytes; its caches of qcow2 tables are a few MiB
	threads    = 128
	quitGrace  = 20 * time.Second
	readyLimit = 20 * time.Second
	// answerLimit is how long a daemon that is ready has for its first answer to the kernel, and serveTries how often one is started that fails.
	answerLimit = 20 * time.Second
	serveTries  = 3
)

// Config says where daemons are kept.
type Config struct {
	CloudID  string // marks control groups
	Dir      string // a directory a volume below it, and what survives
	StateDir string // the runtime's state; must not survive a reboot of the host
	Groups   *confined.Groups
	Logger   *slog.Logger
}

// Server runs the daemons of a node.
type Server struct {
	*confined.Keeper
	cfg  Config
	log  *slog.Logger
	root string
	path string // of the program

	mu     sync.Mutex
	graphs map[cloud.InstanceID]volume.Graph // of those being started
}

// Device is a kernel's block device.
type Device struct {
	Path         string // such as "/dev/loop3"
	Major, Minor uint32
}

// New finds the program. It starts nothing.
func New(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Logger, root: filepath.Join(cfg.Dir, "root"), graphs: map[cloud.InstanceID]volume.Graph{}}
	var err error
	if s.path, err = exec.LookPath("qemu-storage-daemon"); err != nil {
		return nil, errors.New("volumes of containers need qemu-storage-daemon, which is not installed; `nacre doctor --install` installs it")
	}
	if err := makeRoot(s.root); err != nil {
		return nil, err
	}
	s.Keeper, err = confined.New(ctx, confined.Config{Name: "daemon", CloudID: cfg.CloudID, MachinesDir: filepath.Join(cfg.Dir, "served"), StateDir: cfg.StateDir,
		Dir: cfg.Dir, Groups: cfg.Groups, Logger: cfg.Logger}, confined.Hooks{Bundle: s.bundle, Ready: s.ready, Ask: s.quit})
	return s, err
}

// key is the name under which a daemon is kept: the keeper's are instances' ids, and its digits are the volume's.
func key(id cloud.VolumeID) cloud.InstanceID {
	return cloud.InstanceID("i-" + strings.TrimPrefix(string(id), "vol-"))
}

// VolumeOf is the volume of a daemon, as Events and Status name it.
func VolumeOf(k cloud.InstanceID) cloud.VolumeID {
	return cloud.VolumeID("vol-" + strings.TrimPrefix(string(k), "i-"))
}

func (s *Server) exportPath(k cloud.InstanceID) string {
	return filepath.Join(s.cfg.Dir, "served", string(k), exportFile)
}

// Recover adopts the daemons that run and takes away what is left of others. It lists the volumes whose devices work.
func (s *Server) Recover(ctx context.Context) ([]cloud.VolumeID, error) {
	// What stands on files of daemons that are gone has to go before the keeper clears their directories.
	served := filepath.Join(s.cfg.Dir, "served")
	entries, err := os.ReadDir(served)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list the volumes' daemons: %w", err)
	}
	found, err := s.Keeper.Recover(ctx)
	if err != nil {
		return nil, err
	}
	runs := map[cloud.InstanceID]bool{}
	var ids []cloud.VolumeID
	for _, st := range found {
		id := VolumeOf(st.ID)
		if st.State == machine.Running {
			if _, err := s.Device(ctx, id); err == nil {
				runs[st.ID] = true
				ids = append(ids, id)
			}
		}
	}
	for _, e := range entries {
		k := cloud.InstanceID(e.Name())
		if cloud.ValidID[cloud.InstanceID](e.Name()) && !runs[k] {
			if err := s.Stop(ctx, VolumeOf(k)); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}

// Serve makes a device of a volume, or tells the one that it has.
func (s *Server) Serve(ctx context.Context, g volume.Graph) (Device, error) {
	k := key(g.ID)
	if d, err := s.Device(ctx, g.ID); err == nil {
		return d, nil
	}
	if err := s.Stop(ctx, g.ID); err != nil {
		return Device{}, err
	}
	s.mu.Lock()
	s.graphs[k] = g
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.graphs, k)
		s.mu.Unlock()
	}()
	spec := machine.Spec{ID: k, Boot: 1, Dir: filepath.Dir(g.Layers[0].Path), Hostname: "volume", IDBase: IDBase, Resources: machine.Resources{Memory: memory, PIDs: threads}}
	// A client that connects while QEMU hands its monitor over to a thread of its own may have two readers, which garble what they read: that daemon is of no use.
	for try := 1; ; try++ {
		_, err := s.Keeper.Start(ctx, spec)
		if err == nil {
			err = attachLoop(s.exportPath(k))
		}
		if err == nil {
			return s.Device(ctx, g.ID)
		}
		stopped := s.Stop(context.WithoutCancel(ctx), g.ID)
		if try == serveTries || stopped != nil || ctx.Err() != nil {
			return Device{}, errors.Join(fmt.Errorf("make a device of volume %s: %w", g.ID, err), stopped)
		}
	}
}

// Device is that of a volume whose daemon runs; an error for others.
func (s *Server) Device(ctx context.Context, id cloud.VolumeID) (Device, error) {
	if st, err := s.Status(ctx, key(id)); err != nil || st.State != machine.Running {
		return Device{}, errors.Join(fmt.Errorf("volume %s has no daemon that runs", id), err)
	}
	return loopOf(s.exportPath(key(id)))
}

// Stop takes a volume's device away and ends its daemon. What was written to the device is in the volume's files then, unless the daemon had died; who
// still has the device open gets errors from then on.
func (s *Server) Stop(ctx context.Context, id cloud.VolumeID) error {
	k := key(id)
	if err := detachLoop(s.exportPath(k)); err != nil {
		return fmt.Errorf("take the device of volume %s away: %w", id, err)
	}
	if err := s.Keeper.Stop(ctx, k, quitGrace); err != nil && !errors.Is(err, machine.ErrNotFound) {
		return err
	}
	if err := unmountExport(s.exportPath(k)); err != nil {
		return fmt.Errorf("take the device of volume %s away: %w", id, err)
	}
	if err := s.Keeper.Remove(ctx, k); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(s.cfg.Dir, "served", string(k)))
}

// Serves tells whether a volume's daemon runs.
func (s *Server) Serves(ctx context.Context, id cloud.VolumeID) bool {
	st, err := s.Status(ctx, key(id))
	return err == nil && st.State == machine.Running
}

// Grown tells the kernel that a volume became larger.
func (s *Server) Grown(ctx context.Context, id cloud.VolumeID) error {
	if err := growLoop(s.exportPath(key(id))); err != nil {
		return fmt.Errorf("grow the device of volume %s: %w", id, err)
	}
	return nil
}

// Door leads to a volume's daemon.
func (s *Server) Door(id cloud.VolumeID) volume.Door { return door{s, key(id)} }

type door struct {
	s *Server
	k cloud.InstanceID
}

// Do implements volume.Door.
func (d door) Do(ctx context.Context, f func(m *qmp.Client) error) error {
	dir, err := os.Open(d.s.Bundle(d.k))
	if err != nil {
		return err
	}
	defer dir.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), monitorSocket))
	if err != nil {
		return fmt.Errorf("volume %s: connect to its daemon: %w", VolumeOf(d.k), err)
	}
	m, err := qmp.New(ctx, conn.(*net.UnixConn))
	if err != nil {
		return fmt.Errorf("volume %s: %w", VolumeOf(d.k), err)
	}
	defer m.Close()
	return f(m)
}

// Name implements volume.Door: the volume's directory is the daemon's /volume.
func (d door) Name(_ context.Context, _ *qmp.Client, path string, _ bool) (string, error) {
	return volumeTarget + "/" + filepath.Base(path), nil
}

// ready has a daemon open its volume and export it.
func (s *Server) ready(ctx context.Context, p confined.Process) error {
	s.mu.Lock()
	g := s.graphs[p.Spec.ID]
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	d := door{s, p.Spec.ID}
	err := d.Do(ctx, func(m *qmp.Client) error {
		if err := volume.Open(ctx, m, d, g); err != nil {
			return err
		}
		return m.Run(ctx, "block-export-add", map[string]any{"type": "fuse", "id": exportID, "node-name": volume.Top(g.ID), "mountpoint": fmt.Sprintf("/dev/fd/%d", fuseFD),
			"writable": true, "growable": false, "allow-other": "on"}, nil)
	})
	if err == nil {
		return nil
	}
	said, _, _ := s.Console(context.Background(), p.Spec.ID, 512)
	return errors.Join(fmt.Errorf("%w; its daemon said: %q", err, said), unmountExport(s.exportPath(p.Spec.ID)))
}

// quit asks a daemon to write everything and end.
func (s *Server) quit(ctx context.Context, p confined.Process) error {
	return door{s, p.Spec.ID}.Do(ctx, func(m *qmp.Client) error {
		err := m.Run(ctx, "quit", nil, nil)
		if errors.Is(err, qmp.ErrClosed) {
			return nil
		}
		return err
	})
}

// shown are the host's directories that a daemon reads: itself and its libraries.
var shown = []string{"/usr/bin", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"}

// makeRoot makes the directory that all daemons have as their root: empty but for places to mount on. A file stands where libfuse
// takes a name for a descriptor's number: QEMU insists that an export is mounted on a file, and libfuse sees from the name
// that it is mounted already.
func makeRoot(root string) error {
	for _, dir := range []string{"proc", "dev", "etc", "usr/bin", "usr/lib", "usr/lib64", volumeTarget, "../" + fdDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return fmt.Errorf("make the daemons' root: %w", err)
		}
	}
	for _, file := range []string{"etc/ld.so.cache", fmt.Sprintf("../%s/%d", fdDir, fuseFD)} {
		f, err := os.OpenFile(filepath.Join(root, file), os.O_CREATE|os.O_WRONLY, 0o444)
		if err != nil {
			return fmt.Errorf("make the daemons' root: %w", err)
		}
		f.Close()
	}
	for name, to := range map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make the daemons' root: %w", err)
		}
	}
	return nil
}

// bundle is the container of a daemon.
func (s *Server) bundle(_ context.Context, spec machine.Spec) (b confined.Bundle, err error) {
	defer func() {
		if err != nil {
			for _, f := range b.Pass {
				f.Close()
			}
			err = fmt.Errorf("confine the daemon of volume %s: %w", VolumeOf(spec.ID), err)
		}
	}()
	monitor, err := confined.Listen(s.Bundle(spec.ID), monitorSocket)
	if err != nil {
		return b, err
	}
	b.Pass = append(b.Pass, monitor)
	fuse, err := mountExport(s.exportPath(spec.ID))
	if err != nil {
		return b, err
	}
	b.Pass = append(b.Pass, fuse)
	c := s.Configuration(spec, confined.Limits(spec.Resources))
	c.Root = &specs.Root{Path: s.root, Readonly: true}
	c.Process = &specs.Process{Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}, User: specs.User{UID: user, GID: user}, Env: []string{"PATH=/usr/bin"},
		Args: []string{s.path, "--chardev", fmt.Sprintf("socket,id=monitor,fd=%d,server=on,wait=off", monitorFD), "--monitor", "chardev=monitor"}}
	c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	c.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		confined.ReadOnly(filepath.Join(s.cfg.Dir, fdDir), "/dev/fd"),
		{Destination: volumeTarget, Type: "bind", Source: spec.Dir, Options: []string{"bind", "rw", "nosuid", "nodev", "noexec"}},
	}
	for _, path := range shown {
		if _, err := os.Stat(path); err == nil {
			c.Mounts = append(c.Mounts, confined.ReadOnly(path, path))
		}
	}
	c.Linux.Seccomp = confined.SeccompProfile(c)
	b.Config, b.Engine = c, "qemu-storage-daemon"
	return b, nil
}
