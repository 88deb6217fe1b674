package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Recover implements machine.Driver.
func (d *Driver) Recover(ctx context.Context) ([]machine.Status, error) {
	entries, err := os.ReadDir(d.cfg.MachinesDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the machines: %w", err)
	}
	var found []machine.Status
	known := map[string]bool{}
	for _, e := range entries {
		if !e.IsDir() || !cloud.ValidID[cloud.InstanceID](e.Name()) {
			continue
		}
		id := cloud.InstanceID(e.Name())
		known[e.Name()] = true
		st, ok, err := d.recoverOne(ctx, id)
		if err != nil {
			// One machine's damage must not keep the others from being adopted.
			d.log.Error("a machine can't be adopted; it is undone", "instance", id, "error", err)
			if err := errors.Join(d.forget(ctx, id), d.clear(id)); err != nil {
				return nil, err
			}
			continue
		}
		if ok {
			found = append(found, st)
		}
	}
	// Containers of which not even a directory is left.
	states, err := os.ReadDir(d.cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("list the runtime's containers: %w", err)
	}
	for _, e := range states {
		if !known[e.Name()] && cloud.ValidID[cloud.InstanceID](e.Name()) {
			if err := d.forget(ctx, cloud.InstanceID(e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// recoverOne adopts a machine that runs or has ended, and undoes one that never got to run.
func (d *Driver) recoverOne(ctx context.Context, id cloud.InstanceID) (machine.Status, bool, error) {
	rec, ok, err := d.load(id)
	if err != nil {
		return machine.Status{}, false, err
	}
	if !ok {
		return machine.Status{}, false, errors.Join(d.forget(ctx, id), d.clear(id))
	}
	if rec.Status.State == machine.Exited {
		d.remember(rec)
		return rec.Status, true, d.forget(ctx, id)
	}
	if rec.PID == 0 { // cut off between the bundle and the note that it runs
		if rec, ok = d.half(ctx, rec); !ok {
			return machine.Status{}, false, errors.Join(d.forget(ctx, id), d.clear(id))
		}
	}
	if ticks, err := startTicks(rec.PID); err == nil && ticks == rec.Ticks {
		r, err := d.track(rec)
		if err == nil {
			d.watch(r)
			return rec.Status, true, nil
		}
	}
	exit, ok := d.readExit(id)
	if !ok {
		// Neither a process nor an end: the host was restarted under it.
		return machine.Status{}, false, errors.Join(d.forget(ctx, id), d.clear(id))
	}
	exit.OOMKilled = exit.Code == 137 && d.outOfMemory(rec.Spec)
	exit.Requested = rec.Stopped
	exit.Reboot = exit.Code == guestinit.RebootCode && !exit.Requested
	rec.Status.State, rec.Status.PID, rec.Status.Exit = machine.Exited, 0, exit
	d.remember(rec)
	return rec.Status, true, errors.Join(d.save(rec), d.forget(ctx, id))
}

// half finishes the note on a container that was started right before a crash; ok is false when it was not.
func (d *Driver) half(ctx context.Context, rec saved) (saved, bool) {
	out, err := d.runtime(ctx, "state", string(rec.Spec.ID))
	if err != nil {
		return rec, false
	}
	var state struct {
		Status string `json:"status"`
		PID    int    `json:"pid"`
	}
	if json.Unmarshal(out, &state) != nil || state.Status != "running" {
		return rec, false
	}
	ticks, err := startTicks(state.PID)
	if err != nil {
		return rec, false
	}
	rec.PID, rec.Ticks = state.PID, ticks
	rec.Status = machine.Status{ID: rec.Spec.ID, Boot: rec.Spec.Boot, State: machine.Running, PID: state.PID, Engine: d.engine}
	return rec, d.save(rec) == nil
}

// remember keeps an ended machine known, without a process to watch.
func (d *Driver) remember(rec saved) {
	r := &running{rec: rec, done: make(chan struct{})}
	close(r.done)
	d.mu.Lock()
	d.machines[rec.Spec.ID] = r
	d.mu.Unlock()
}
