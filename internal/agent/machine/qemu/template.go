package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// templateBoot is the boot number of a machine that is to become a template: it is told no identity.
	templateBoot = -1
	// stateName names the descriptor of the devices' state in a hypervisor.
	stateName = "state"
	// migratePoll is the time between looks whether a state is written or read.
	migratePoll = 2 * time.Millisecond
)

// Template is a machine that was booted up to where its guest waits to be told who it is, and frozen there: its memory and
// the state of its devices. The frozen disk is the caller's. Machines that are started from it map the memory privately, and
// share with each other what neither writes. It is gone with the process that made it.
type Template struct {
	memory  *os.File // sealed: no machine can change it
	state   *os.File
	extents []extent // what of the memory holds anything
	cards   int      // that it was frozen with: one at most
}

// Memory is how much of the host's memory the template holds, in bytes.
func (t *Template) Memory() int64 {
	var total int64
	for _, f := range []*os.File{t.memory, t.state} {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err == nil {
			total += st.Blocks * 512
		}
	}
	return total
}

// Close lets go of a template. Machines that were started from it keep what they have mapped.
func (t *Template) Close() { errors.Join(t.memory.Close(), t.state.Close()) }

// sources are where a machine's memory and devices come from: nowhere, for one that boots.
type sources struct {
	template *Template
	memfd    *os.File // of a machine that is to be frozen
	saved    *os.File // memory and devices of one that hibernated
}

func (s sources) forked() bool { return s.template != nil }

// incoming tells whether the machine goes on from a state.
func (s sources) incoming() bool { return s.template != nil || s.saved != nil }

// launch is how the machine comes to run, for its owner.
func (s sources) launch(vm *machine.VM) string {
	switch {
	case s.forked():
		return machine.LaunchForked
	case s.saved != nil:
		return machine.LaunchResumed
	case vm.WhyBooted != "":
		return machine.LaunchBooted + ": " + vm.WhyBooted
	}
	return machine.LaunchBooted
}

func (d *Driver) sources(id cloud.InstanceID) sources {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.from[id]
}

func (d *Driver) startFrom(ctx context.Context, s machine.Spec, from sources) (machine.Status, error) {
	if err := check(s); err != nil {
		return machine.Status{}, err
	}
	vm := *s.VM
	if from.saved == nil {
		vm.CPUs, vm.MaxCPUs = max(1, s.Resources.VCPUs), maxCPUs(s)
		vm.Memory, vm.MaxMemory = s.Resources.Memory, maxMemory(s)
		vm.Mapped = (vm.Forked || from.memfd != nil) && !overlays()
	}
	if err := slotted(&vm); err != nil {
		return machine.Status{}, fmt.Errorf("machine %s: %w", s.ID, err)
	}
	s.VM = &vm
	d.mu.Lock()
	d.from[s.ID] = from
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.from, s.ID)
		d.mu.Unlock()
	}()
	return d.Keeper.Start(ctx, s)
}

// StartFrom starts a machine where a template was frozen. Its disks must be copies of the template's; processors, memory and
// devices must be the template's.
func (d *Driver) StartFrom(ctx context.Context, s machine.Spec, from machine.Template) (machine.Status, error) {
	t, ok := from.(*Template)
	if !ok {
		return machine.Status{}, fmt.Errorf("machine %s: its template is another driver's", s.ID)
	}
	vm := *s.VM
	vm.Forked = true
	s.VM = &vm
	return d.startFrom(ctx, s, sources{template: t})
}

// spareCard is the network card of a machine that is to be frozen, in the slot of the first card of those that are started from it.
const spareCard = "spare"

// Freeze boots a machine, waits until its guest is ready to be told who it is and settle agrees, and makes a template of it. The
// machine is gone afterwards, save for its disk. Of its network cards the first one is kept as a spare, which those that are started
// from it find in the place of theirs; without any, theirs are plugged in as they run.
func (d *Driver) Freeze(ctx context.Context, s machine.Spec, settle func(ctx context.Context, exec machine.Exec) error) (_ machine.Template, err error) {
	s.Boot = templateBoot
	vm := *s.VM
	vm.NICs = slices.Clone(vm.NICs[:min(1, len(vm.NICs))])
	for i := range vm.NICs {
		vm.NICs[i] = machine.NIC{Interface: spareCard, MAC: wire.SpareMAC, MTU: vm.NICs[i].MTU, Tap: vm.NICs[i].Tap}
	}
	vm.Volumes = nil
	s.VM = &vm
	fd, err := unix.MemfdCreate("nacre-memory", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("machine %s: make its memory: %w", s.ID, err)
	}
	t := &Template{memory: os.NewFile(uintptr(fd), "memory"), cards: len(vm.NICs)}
	defer func() {
		if err != nil {
			t.memory.Close()
			if t.state != nil {
				t.state.Close()
			}
			err = errors.Join(err, d.Remove(context.WithoutCancel(ctx), s.ID))
		}
	}()
	if err := unix.Ftruncate(fd, s.Resources.Memory); err != nil {
		return nil, fmt.Errorf("machine %s: make its memory: %w", s.ID, err)
	}
	if fd, err = unix.MemfdCreate("nacre-state", unix.MFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("machine %s: make room for its state: %w", s.ID, err)
	}
	t.state = os.NewFile(uintptr(fd), "state")
	if _, err := d.startFrom(ctx, s, sources{memfd: t.memory}); err != nil {
		return nil, err
	}
	if err := d.awaitReady(ctx, s.ID); err != nil {
		return nil, err
	}
	if settle != nil {
		l := d.linkOf(s.ID)
		l.mu.Lock()
		c := l.client
		l.mu.Unlock()
		if c == nil {
			return nil, fmt.Errorf("machine %s: its guest went away", s.ID)
		}
		if err := settle(ctx, c.Exec); err != nil {
			return nil, err
		}
	}
	err = d.withMonitor(ctx, s.ID, func(m *qmp.Client) error {
		if err := m.Run(ctx, "stop", nil, nil); err != nil {
			return err
		}
		if err := shareMemory(ctx, m, true); err != nil {
			return err
		}
		if err := m.RunWith(ctx, "getfd", map[string]any{"fdname": stateName}, nil, t.state); err != nil {
			return err
		}
		if err := m.Run(ctx, "migrate", map[string]any{"uri": "fd:" + stateName}, nil); err != nil {
			return err
		}
		return migrated(ctx, m)
	})
	if err != nil {
		return nil, fmt.Errorf("machine %s: freeze it: %w", s.ID, err)
	}
	if err := d.Remove(ctx, s.ID); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(t.memory.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, fmt.Errorf("machine %s: seal its memory: %w", s.ID, err)
	}
	if t.extents, err = extents(t.memory); err != nil {
		return nil, fmt.Errorf("machine %s: %w", s.ID, err)
	}
	return t, nil
}

// awaitReady waits until the guest's program answers.
func (d *Driver) awaitReady(ctx context.Context, id cloud.InstanceID) error {
	for {
		if _, err := d.Running(id); err != nil {
			return err
		}
		l := d.linkOf(id)
		l.mu.Lock()
		there, changed := l.client != nil, l.changed
		l.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("machine %s: wait for its guest: %w", id, ctx.Err())
		}
	}
}

// shareMemory says whether memory that is a shared file is kept out of a state.
func shareMemory(ctx context.Context, m *qmp.Client, out bool) error {
	return m.Run(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "x-ignore-shared", "state": out}}}, nil)
}

// migrated waits until a state is written or read.
func migrated(ctx context.Context, m *qmp.Client) error {
	for {
		var st struct {
			Status string
			Error  string `json:"error-desc"`
		}
		if err := m.Run(ctx, "query-migrate", nil, &st); err != nil {
			return err
		}
		switch st.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("the state of its devices: %s %s", st.Status, st.Error)
		}
		select {
		case <-time.After(migratePoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// again opens a file without a name a second time, with a place of its own.
func again(f *os.File, mode int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), mode, 0)
}

// state says on the command line where the state of the devices comes from.
func (s sources) state(l *line) {
	l.add("-S")
	if s.incoming() {
		l.add("-incoming", "defer")
	}
}

// receive takes the state in.
func (s sources) receive(ctx context.Context, m *qmp.Client) error {
	if !s.incoming() {
		return nil
	}
	state := s.saved
	if s.forked() {
		if err := shareMemory(ctx, m, true); err != nil {
			return err
		}
		var err error
		if state, err = again(s.template.state, os.O_RDONLY); err != nil {
			return err
		}
		defer state.Close()
	}
	if err := m.RunWith(ctx, "getfd", map[string]any{"fdname": stateName}, nil, state); err != nil {
		return err
	}
	if err := m.Run(ctx, "migrate-incoming", map[string]any{"uri": "fd:" + stateName}, nil); err != nil {
		return err
	}
	return migrated(ctx, m)
}

// bootID is the identifier of a boot that no kernel of its own drew.
func bootID(s machine.Spec) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "boot %d of %s", s.Boot, s.ID))
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80
	id := hex.EncodeToString(sum[:16])
	return strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")
}
