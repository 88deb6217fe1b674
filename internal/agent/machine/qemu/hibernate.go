package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// savedMemory is a machine's saved memory and devices, savedHardware the hardware that they were saved from. Without the second,
	// which comes last, the first is nothing.
	savedMemory   = "hibernated.memory"
	savedHardware = "hibernated.json"
	// saveLimit is how long saving or loading a machine's memory may take.
	saveLimit = 5 * time.Minute
	// stayFree is how much room a saved memory leaves on its file system, in bytes.
	stayFree = 1 << 30
)

// saved is what a machine was when its memory was saved. A machine that is resumed must be the same.
type saved struct {
	CPUs    int
	Plugged int // processors, also those that its guest puts to rest
	Memory  int64
	VM      machine.VM
}

func (d *Driver) saved(s machine.Spec, name string) string { return filepath.Join(s.Dir, name) }

// Hibernated tells whether a machine's memory is saved below its directory.
func (d *Driver) Hibernated(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, savedHardware))
	return err == nil
}

// Hibernate saves the memory and devices of a running machine below its directory and ends it. After an error the machine
// goes on as it was.
func (d *Driver) Hibernate(ctx context.Context, id cloud.InstanceID) error {
	s, err := d.Running(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	if err := d.forgetSaved(s); err != nil {
		return err
	}
	err = d.save(ctx, s)
	if err != nil {
		on := d.run(context.WithoutCancel(ctx), id, "cont", nil, nil)
		return errors.Join(fmt.Errorf("machine %s: save its memory: %w", id, err), on, d.forgetSaved(s))
	}
	return d.Stop(ctx, id, 0)
}

func (d *Driver) save(ctx context.Context, s machine.Spec) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.Dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; free-stayFree < s.Resources.Memory {
		return fmt.Errorf("%d MiB are free in %s; its memory of %d MiB and %d MiB to stay free are needed", free>>20, s.Dir, s.Resources.Memory>>20, stayFree>>20)
	}
	f, err := os.OpenFile(d.saved(s, savedMemory), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	plugged := 0
	err = d.withMonitor(ctx, s.ID, func(m *qmp.Client) error {
		err := d.whole(ctx, m, s.ID)
		if err != nil {
			return err
		}
		if s, err = d.Running(s.ID); err != nil {
			return err
		}
		if _, plugged, err = pluggedCPUs(ctx, m, s.VM); err != nil {
			return err
		}
		// The disk is a stopped machine's from here on: what comes after can only be its end, or that it goes on.
		if err := m.Run(ctx, "stop", nil, nil); err != nil {
			return err
		}
		if err := shareMemory(ctx, m, false); err != nil { // as it was received, if it was forked
			return err
		}
		if err := m.RunWith(ctx, "getfd", map[string]any{"fdname": stateName}, nil, f); err != nil {
			return err
		}
		// As fast as the disk takes it.
		if err := m.Run(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": 0}, nil); err != nil {
			return err
		}
		if err := m.Run(ctx, "migrate", map[string]any{"uri": "fd:" + stateName}, nil); err != nil {
			return err
		}
		return migrated(ctx, m)
	})
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	b, err := json.Marshal(saved{CPUs: s.Resources.VCPUs, Plugged: plugged, Memory: s.Resources.Memory, VM: *s.VM})
	if err != nil {
		return err
	}
	tmp := d.saved(s, savedHardware+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.saved(s, savedHardware))
}

// forgetSaved deletes what is saved of a machine's memory.
func (d *Driver) forgetSaved(s machine.Spec) error {
	for _, name := range []string{savedHardware, savedMemory} { // in this order: never the first without the second
		if err := os.Remove(d.saved(s, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("machine %s: delete its saved memory: %w", s.ID, err)
		}
	}
	return nil
}

// Resume starts a machine where Hibernate saved it, with its processes where they were. What was saved is gone afterwards, also when
// it could not be used: then the error says why, and the machine may be booted.
func (d *Driver) Resume(ctx context.Context, s machine.Spec) (_ machine.Status, err error) {
	defer func() { err = errors.Join(err, d.forgetSaved(s)) }()
	b, err := os.ReadFile(d.saved(s, savedHardware))
	if err != nil {
		return machine.Status{}, fmt.Errorf("machine %s: its saved memory: %w", s.ID, err)
	}
	var was saved
	if err := json.Unmarshal(b, &was); err != nil {
		return machine.Status{}, fmt.Errorf("machine %s: what its memory was saved from: %w", s.ID, err)
	}
	if was.Memory != s.Resources.Memory || was.CPUs != s.Resources.VCPUs || len(was.VM.NICs) != len(s.VM.NICs) || len(was.VM.Volumes) != len(s.VM.Volumes) {
		return machine.Status{}, fmt.Errorf("machine %s: its size, network cards or volumes are others than those that its memory was saved with", s.ID)
	}
	f, err := os.Open(d.saved(s, savedMemory))
	if err != nil {
		return machine.Status{}, fmt.Errorf("machine %s: its saved memory: %w", s.ID, err)
	}
	defer f.Close()
	vm := *s.VM
	vm.Forked, vm.Mapped, vm.CPUs, vm.MaxCPUs, vm.Memory, vm.MaxMemory = was.VM.Forked, was.VM.Mapped, was.Plugged, was.VM.MaxCPUs, was.VM.Memory, was.VM.MaxMemory
	vm.NICs = slices.Clone(vm.NICs)
	for i, n := range vm.NICs {
		k := slices.IndexFunc(was.VM.NICs, func(w machine.NIC) bool { return w.Interface == n.Interface })
		if k < 0 {
			return machine.Status{}, fmt.Errorf("machine %s: its memory was saved without the network card %s", s.ID, n.Interface)
		}
		vm.NICs[i].Slot = was.VM.NICs[k].Slot
	}
	vm.Volumes = slices.Clone(vm.Volumes)
	for n := range vm.Volumes {
		for _, w := range was.VM.Volumes {
			if w.Graph.ID == vm.Volumes[n].Graph.ID {
				vm.Volumes[n].Slot = w.Slot
			}
		}
		if vm.Volumes[n].Slot == 0 {
			return machine.Status{}, fmt.Errorf("machine %s: it had other volumes when its memory was saved", s.ID)
		}
	}
	s.VM = &vm
	st, err := d.startFrom(ctx, s, sources{saved: f})
	if err != nil {
		return st, err
	}
	d.Go(func() { d.setClock(s.ID) })
	return st, nil
}

// setClock tells a guest that was not there for a while what time it is.
func (d *Driver) setClock(id cloud.InstanceID) {
	ctx, cancel := context.WithTimeout(d.Context(), startLimit)
	defer cancel()
	if err := d.AwaitGuest(ctx, id); err != nil {
		return // without nacre's program it keeps its own time
	}
	c := d.guestOf(id)
	if c == nil {
		return
	}
	p, err := c.Exec(ctx, machine.ExecSpec{Args: []string{"/bin/sh", "-c", fmt.Sprintf("date -s @%d", time.Now().Unix())}})
	if err == nil {
		_, err = p.Wait()
	}
	if err != nil {
		d.log.Warn("a resumed machine's clock is late", "instance", id, "error", err)
	}
}
