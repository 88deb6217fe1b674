// Package qemu runs virtual machines with QEMU, driven over QMP.
//
// It implements machine.Driver; see there for terms, order of calls and promises, and package confined for what keeps most of
// them. A machine is one QEMU process in a container of its own: a range of user ids, an empty network namespace, a read-only
// root with QEMU's programs and nothing else, no capabilities, seccomp filters of the container and of QEMU. Disks, taps and
// sockets are descriptors that it inherits or is sent; it opens no path of the host's but its own libraries, the kernel and the
// RAM disk. Its first serial port is the container's standard input and output, so that the monitor keeps the console.
//
// A guest with nacre's program (package guest) is told who it is over a serial port; others ask the network and the metadata
// service.
package qemu

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Config says where a driver works.
type Config struct {
	CloudID     string           // marks control groups
	MachinesDir string           // where machines have their directories
	StateDir    string           // the runtime's state; must not survive a reboot of the host
	Dir         string           // exits and the hypervisors' root; survives
	Groups      *confined.Groups // shared with the node's other drivers; nil where there are none
	Logger      *slog.Logger
}

// bundleDir is the directory in a machine's own that belongs to this driver.
const bundleDir = "qemu"

// startLimit is how long a hypervisor may take to answer.
const startLimit = 30 * time.Second

// Driver runs virtual machines.
type Driver struct {
	*confined.Keeper
	log     *slog.Logger
	root    string // the hypervisors' root
	version string // QEMU's, such as "7.2.22"

	mu    sync.Mutex
	links map[cloud.InstanceID]*link
	from  map[cloud.InstanceID]sources // of machines that are being started
}

var _ machine.Driver = (*Driver)(nil)

// New finds runtime, monitor and hypervisor. It starts nothing.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	d := &Driver{log: cfg.Logger, root: filepath.Join(cfg.Dir, "root"), links: map[cloud.InstanceID]*link{}, from: map[cloud.InstanceID]sources{}}
	var err error
	if d.version, err = Version(ctx); err != nil {
		return nil, err
	}
	if err := makeRoot(d.root); err != nil {
		return nil, err
	}
	d.Keeper, err = confined.New(ctx, confined.Config{Name: bundleDir, CloudID: cfg.CloudID, MachinesDir: cfg.MachinesDir, StateDir: cfg.StateDir, Dir: cfg.Dir,
		Input: true, Groups: cfg.Groups, Logger: cfg.Logger},
		confined.Hooks{Bundle: d.bundle, Ready: d.ready, Watched: d.watched, Ask: d.ask, Ended: d.ended})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Engine is the hypervisor's name and version.
func (d *Driver) Engine() string { return "QEMU " + d.version }

// Build changes whenever the hypervisor's program for an architecture does: what one has frozen, another may not be able to read.
func (d *Driver) Build(architecture string) (string, error) {
	b, err := boardOf(architecture)
	if err != nil {
		return "", err
	}
	path, err := b.find()
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	return fmt.Sprintf("%s %d:%d %d %d", path, st.Dev, st.Ino, st.Size, st.Mtim.Nano()), nil
}

func (d *Driver) engineOf(s machine.Spec) string {
	how := machine.LaunchBooted
	if s.VM.Forked {
		how = machine.LaunchForked
	}
	return fmt.Sprintf("QEMU %s (%s, %s)", d.version, s.VM.Accelerator, how)
}

// Recover implements machine.Driver. A hypervisor whose machine was never let go is taken away: what it was being given was
// lost with the agent.
func (d *Driver) Recover(ctx context.Context) ([]machine.Status, error) {
	found, err := d.Keeper.Recover(ctx)
	if err != nil {
		return nil, err
	}
	var kept []machine.Status
	for _, st := range found {
		if st.Boot == templateBoot || st.State == machine.Running && d.halfMade(ctx, st.ID) {
			if err := d.Remove(ctx, st.ID); err != nil {
				return nil, err
			}
			continue
		}
		kept = append(kept, st)
	}
	return kept, nil
}

func (d *Driver) halfMade(ctx context.Context, id cloud.InstanceID) bool {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var st struct{ Status string }
	err := d.run(ctx, id, "query-status", nil, &st)
	return err == nil && (st.Status == "prelaunch" || st.Status == "inmigrate" || st.Status == "paused")
}

// Start implements machine.Driver.
func (d *Driver) Start(ctx context.Context, s machine.Spec) (machine.Status, error) {
	return d.startFrom(ctx, s, sources{})
}

// check refuses what can't be run.
func check(s machine.Spec) error {
	switch {
	case s.VM == nil:
		return fmt.Errorf("machine %s: it is no virtual machine", s.ID)
	case s.Resources.Memory < 16<<20:
		return fmt.Errorf("machine %s: a virtual machine needs 16 MiB of memory at least", s.ID)
	case len(s.VM.Disks) == 0 && s.VM.Root == nil:
		return fmt.Errorf("machine %s: it has no disk", s.ID)
	case s.VM.Firmware == cloud.FirmwareNone && s.VM.Kernel == "":
		return fmt.Errorf("machine %s: it has neither a kernel nor firmware to start with", s.ID)
	case s.VM.Architecture != "x86_64" && (s.VM.Firmware == cloud.FirmwareBIOS || s.VM.Devices == cloud.DevicesEmulated):
		return fmt.Errorf("machine %s: BIOS and emulated devices are for x86_64, not for %s", s.ID, s.VM.Architecture)
	case s.VM.Devices == cloud.DevicesEmulated && s.VM.GuestAgent:
		return fmt.Errorf("machine %s: the guest's program needs a paravirtual port, and the devices are emulated", s.ID)
	case s.VM.Devices == cloud.DevicesEmulated && len(s.VM.Disks) > 6:
		return fmt.Errorf("machine %s: an emulated disk controller has 6 ports", s.ID)
	}
	return nil
}

// ready gives a hypervisor that was just started its network cards and lets the machine go.
func (d *Driver) ready(ctx context.Context, p confined.Process) error {
	from := d.sources(p.Spec.ID)
	limit := startLimit
	if from.saved != nil {
		limit = saveLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop, err := cancelWith(p.PID, cancel)
	if err != nil {
		return d.why(p.Spec.ID, err)
	}
	defer stop()
	err = d.withMonitor(ctx, p.Spec.ID, func(m *qmp.Client) error {
		// The cards that a state was saved with are there before it is read, the others come after it.
		before := len(p.Spec.VM.NICs)
		if from.forked() {
			before = min(before, from.template.cards)
			if !p.Spec.VM.Mapped {
				if err := overlay(ctx, m, p.PID, from.template, p.Spec.VM); err != nil {
					return err
				}
			}
		}
		if err := plugAll(ctx, m, p.Spec.VM, p.Spec.VM.NICs[:before]); err != nil {
			return err
		}
		if !from.forked() {
			if err := d.plugVolumes(ctx, m, p.Spec); err != nil {
				return err
			}
		}
		if err := from.receive(ctx, m); err != nil {
			return err
		}
		if from.forked() { // the template had none
			if err := d.plugVolumes(ctx, m, p.Spec); err != nil {
				return err
			}
		}
		if err := plugAll(ctx, m, p.Spec.VM, p.Spec.VM.NICs[before:]); err != nil {
			return err
		}
		return m.Run(ctx, "cont", nil, nil)
	})
	if err != nil {
		return d.why(p.Spec.ID, err)
	}
	return nil
}

// why adds to an error what the hypervisor said, which is on the console.
func (d *Driver) why(id cloud.InstanceID, err error) error {
	said, _, readErr := d.Console(context.Background(), id, 512)
	text := strings.TrimSpace(string(said))
	if readErr != nil || text == "" {
		return fmt.Errorf("machine %s: its hypervisor did not come up: %w", id, err)
	}
	return fmt.Errorf("machine %s: its hypervisor did not come up: %w; it said: %s", id, err, text)
}

// cancelWith calls cancel when a process ends, until stop is called.
func cancelWith(pid int, cancel func()) (stop func(), err error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := f.SyscallConn()
		if err != nil {
			return
		}
		gone := false
		raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			gone = err == nil && n > 0
			return gone
		})
		if gone {
			cancel()
		}
	}()
	return func() { f.Close(); <-done }, nil
}

// ask tells the guest to shut down: its program where it has one, as soon as that answers, and the power button until then.
func (d *Driver) ask(ctx context.Context, p confined.Process) error {
	id := p.Spec.ID
	if c := d.guestOf(id); c != nil {
		err := c.Shutdown(ctx, false)
		if err == nil {
			return nil
		}
		d.log.Warn("the guest's program did not take the shutdown; the power button is pressed", "instance", id, "error", err)
	} else if p.Spec.VM.GuestAgent {
		limit, _ := ctx.Deadline()
		d.Go(func() { d.askLater(id, limit) })
	}
	return d.run(ctx, id, "system_powerdown", nil, nil)
}

// askLater tells a guest to shut down once its program answers, which it may do only after its boot.
func (d *Driver) askLater(id cloud.InstanceID, limit time.Time) {
	ctx, cancel := context.WithDeadline(d.Context(), limit)
	defer cancel()
	if err := d.AwaitGuest(ctx, id); err != nil {
		return // it has ended, or is about to be killed
	}
	if c := d.guestOf(id); c != nil {
		if err := c.Shutdown(ctx, false); err != nil {
			d.log.Warn("the guest's program did not take the shutdown", "instance", id, "error", err)
		}
	}
}
