package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
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
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			// One machine's damage must not keep the others from being adopted.
			d.log.Error("a machine can't be adopted; it is undone", "instance", id, "error", err)
			if err := d.undo(ctx, id); err != nil {
				return nil, err
			}
			continue
		}
		if ok {
			found = append(found, st)
		}
	}
	// Containers of which not even a directory is left.
	states, err := os.ReadDir(d.runtimeDir())
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
		return machine.Status{}, false, d.undo(ctx, id)
	}
	if rec.Status.State == machine.Exited {
		d.remember(rec)
		return rec.Status, true, d.forget(ctx, id)
	}
	if rec.PID == 0 { // cut off between the bundle and the note that it runs
		d.settle(id)
		if rec, err = d.half(ctx, rec); err != nil {
			return machine.Status{}, false, err
		}
	}
	if rec.PID != 0 {
		if r, err := d.track(rec); err == nil {
			d.watch(r)
			return rec.Status, true, nil
		}
	}
	if !d.ran(id) {
		// Neither a container nor an end: it never got to run, or the host was restarted under it.
		return machine.Status{}, false, d.undo(ctx, id)
	}
	exit, err := d.exitOf(ctx, id)
	if err != nil {
		return machine.Status{}, false, err
	}
	rec.end(exit)
	d.remember(rec)
	return rec.Status, true, errors.Join(d.save(rec), d.forget(ctx, id))
}

// ran tells whether there is a container that was started, or its end.
func (d *Driver) ran(id cloud.InstanceID) bool {
	for _, path := range []string{d.exitFile(id), filepath.Join(d.runtimeDir(), string(id))} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// half finishes the note on a container that was started right before a crash. Its PID stays 0 when it doesn't run.
func (d *Driver) half(ctx context.Context, rec saved) (saved, error) {
	id := rec.Spec.ID
	rec.Status = machine.Status{ID: id, Boot: rec.Spec.Boot, State: machine.Running, Engine: d.engine}
	if _, err := os.Stat(filepath.Join(d.runtimeDir(), string(id))); errors.Is(err, fs.ErrNotExist) {
		return rec, nil
	}
	out, err := d.runtime(ctx, "state", string(id))
	if err != nil {
		return rec, fmt.Errorf("machine %s: %w", id, err)
	}
	var state struct {
		Status string `json:"status"`
		PID    int    `json:"pid"`
	}
	if err := json.Unmarshal(out, &state); err != nil {
		return rec, fmt.Errorf("machine %s: the runtime's word on its state: %w", id, err)
	}
	switch state.Status {
	case "running":
	case "created": // the start itself was cut off
		return rec, d.forget(ctx, id)
	default:
		return rec, nil
	}
	if rec.Ticks, err = startTicks(state.PID); err != nil {
		return rec, nil // it has just ended
	}
	rec.PID, rec.Status.PID = state.PID, state.PID
	return rec, d.save(rec)
}

// remember keeps an ended machine known, without a process to watch.
func (d *Driver) remember(rec saved) {
	close(d.know(rec, nil).done)
}
