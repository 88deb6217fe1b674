package confined

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
func (k *Keeper) Recover(ctx context.Context) ([]machine.Status, error) {
	entries, err := os.ReadDir(k.cfg.MachinesDir)
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
		st, ok, err := k.recoverOne(ctx, id)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			// One machine's damage must not keep the others from being adopted.
			k.log.Error("a machine can't be adopted; it is undone", "instance", id, "error", err)
			if err := k.undo(ctx, id); err != nil {
				return nil, err
			}
			continue
		}
		if ok {
			found = append(found, st)
		}
	}
	// Containers of which not even a directory is left.
	states, err := os.ReadDir(k.runtimeDir())
	if err != nil {
		return nil, fmt.Errorf("list the runtime's containers: %w", err)
	}
	for _, e := range states {
		if !known[e.Name()] && cloud.ValidID[cloud.InstanceID](e.Name()) {
			if err := k.forget(ctx, cloud.InstanceID(e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// recoverOne adopts a machine that runs or has ended, and undoes one that never got to run.
func (k *Keeper) recoverOne(ctx context.Context, id cloud.InstanceID) (machine.Status, bool, error) {
	rec, ok, err := k.load(id)
	if err != nil {
		return machine.Status{}, false, err
	}
	if !ok {
		if _, err := os.Stat(k.Bundle(id)); errors.Is(err, fs.ErrNotExist) {
			return machine.Status{}, false, nil // another driver's: this one's directory comes before all else that it makes
		}
		return machine.Status{}, false, k.undo(ctx, id)
	}
	if rec.Status.State == machine.Exited {
		k.remember(rec)
		return rec.Status, true, k.forget(ctx, id)
	}
	if rec.PID == 0 { // cut off between the bundle and the note that it runs
		k.settle(id)
		if rec, err = k.half(ctx, rec); err != nil {
			return machine.Status{}, false, err
		}
	}
	if rec.PID != 0 {
		if r, err := k.track(rec); err == nil {
			k.watch(r)
			return rec.Status, true, nil
		}
	}
	if !k.ran(id) {
		// Neither a container nor an end: it never got to run, or the host was restarted under it.
		return machine.Status{}, false, k.undo(ctx, id)
	}
	exit, err := k.exitOf(ctx, id)
	if err != nil {
		return machine.Status{}, false, err
	}
	exit.Requested = rec.Stopped
	rec.end(k.complete(id, exit))
	k.remember(rec)
	return rec.Status, true, errors.Join(k.save(rec), k.forget(ctx, id))
}

// ran tells whether there is a container that was started, or its end.
func (k *Keeper) ran(id cloud.InstanceID) bool {
	for _, path := range []string{k.exitFile(id), filepath.Join(k.runtimeDir(), string(id))} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// half finishes the note on a container that was started right before a crash. Its PID stays 0 when it doesn't run.
func (k *Keeper) half(ctx context.Context, rec saved) (saved, error) {
	id := rec.Spec.ID
	rec.Status = machine.Status{ID: id, Boot: rec.Spec.Boot, State: machine.Running, Engine: k.engine}
	if _, err := os.Stat(filepath.Join(k.runtimeDir(), string(id))); errors.Is(err, fs.ErrNotExist) {
		return rec, nil
	}
	out, err := k.runtime(ctx, "state", string(id))
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
		return rec, k.forget(ctx, id)
	default:
		return rec, nil
	}
	if rec.Ticks, err = startTicks(state.PID); err != nil {
		return rec, nil // it has just ended
	}
	rec.PID, rec.Status.PID = state.PID, state.PID
	return rec, k.save(rec)
}

// remember keeps an ended machine known, without a process to watch.
func (k *Keeper) remember(rec saved) {
	close(k.know(rec, nil).done)
}
