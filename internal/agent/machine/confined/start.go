package confined

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Start implements machine.Driver.
func (k *Keeper) Start(ctx context.Context, s machine.Spec) (machine.Status, error) {
	if st, err := k.Status(ctx, s.ID); err == nil && st.State == machine.Running && st.Boot >= s.Boot {
		return st, nil
	}
	k.cfg.Groups.need()
	defer k.cfg.Groups.release()
	// An older boot's end must be written down before the new one's place for it is cleared.
	if err := k.end(ctx, s.ID); err != nil {
		return machine.Status{}, err
	}
	b, err := k.write(ctx, s)
	if err != nil {
		return machine.Status{}, err
	}
	defer b.close()
	st, err := k.launch(ctx, s, &b)
	if err != nil {
		return machine.Status{}, errors.Join(err, k.undo(context.WithoutCancel(ctx), s.ID))
	}
	return st, nil
}

// write puts the bundle down. The record comes before anything runs: what a crash leaves is found by it.
func (k *Keeper) write(ctx context.Context, s machine.Spec) (Bundle, error) {
	dir := k.Bundle(s.ID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return Bundle{}, fmt.Errorf("machine %s: make its bundle: %w", s.ID, err)
	}
	for _, old := range []string{k.exitFile(s.ID), filepath.Join(dir, pidFile), filepath.Join(dir, monitorFile)} {
		if err := remove(old); err != nil {
			return Bundle{}, fmt.Errorf("machine %s: clear its last boot away: %w", s.ID, err)
		}
	}
	if err := k.turnConsole(s.ID); err != nil {
		return Bundle{}, err
	}
	if err := k.save(saved{Spec: s}); err != nil {
		return Bundle{}, err
	}
	b, err := k.hooks.Bundle(ctx, s)
	if err != nil {
		return Bundle{}, errors.Join(err, k.undo(context.WithoutCancel(ctx), s.ID))
	}
	config, err := json.Marshal(b.Config)
	if err != nil {
		err = fmt.Errorf("machine %s: encode its container: %w", s.ID, err)
	}
	// The container's own configuration stays the host's root's.
	err = errors.Join(err, k.writeFiles(s.ID, 0, []File{{"config.json", config}}), k.writeFiles(s.ID, s.IDBase, b.Files))
	if err != nil {
		b.close()
		return Bundle{}, errors.Join(err, k.undo(context.WithoutCancel(ctx), s.ID))
	}
	return b, nil
}

// launch runs the container under its monitor and watches it.
func (k *Keeper) launch(ctx context.Context, s machine.Spec, b *Bundle) (machine.Status, error) {
	pid, err := k.run(ctx, s.ID, b)
	b.close()
	if err != nil {
		return machine.Status{}, err
	}
	rec := saved{Spec: s, PID: pid, Status: machine.Status{ID: s.ID, Boot: s.Boot, State: machine.Running, PID: pid, Started: time.Now().UTC(),
		Engine: orElse(b.Engine, k.engine), Launch: b.Launch}}
	rec.Ticks, _ = startTicks(pid)
	if err := k.save(rec); err != nil {
		return machine.Status{}, err
	}
	if k.hooks.Ready != nil {
		if err := k.hooks.Ready(ctx, Process{Spec: s, PID: pid}); err != nil {
			return machine.Status{}, err
		}
	}
	r, err := k.track(rec)
	if err != nil {
		// It ended before it could be watched: that is told like every other end.
		r = k.know(rec, nil)
	}
	k.watch(r)
	return rec.Status, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// end takes what runs of a machine away, with its control group and monitor. Its files stay.
func (k *Keeper) end(ctx context.Context, id cloud.InstanceID) error {
	k.drop(id)
	if err := k.forget(ctx, id); err != nil {
		return err
	}
	return k.endMonitor(id)
}

// undo takes a machine back that never got to run. What it wrote to its console in earlier boots is kept.
func (k *Keeper) undo(ctx context.Context, id cloud.InstanceID) error {
	k.settle(id)
	if err := k.end(ctx, id); err != nil {
		return err
	}
	entries, err := os.ReadDir(k.Bundle(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("machine %s: delete its bundle: %w", id, err)
	}
	kept := false
	for _, e := range entries {
		if e.Name() == consoleLog || e.Name() == oldConsoleLog {
			if info, err := e.Info(); err == nil && info.Size() > 0 {
				kept = true
				continue
			}
		}
		if err := os.RemoveAll(filepath.Join(k.Bundle(id), e.Name())); err != nil {
			return fmt.Errorf("machine %s: delete its bundle: %w", id, err)
		}
	}
	if kept {
		return k.clearOutside(id)
	}
	return k.clear(id)
}

// clear deletes what the driver keeps of a machine.
func (k *Keeper) clear(id cloud.InstanceID) error {
	if err := os.RemoveAll(k.Bundle(id)); err != nil {
		return fmt.Errorf("machine %s: delete its bundle: %w", id, err)
	}
	return k.clearOutside(id)
}

// clearOutside deletes what there is of a machine outside of its own directory.
func (k *Keeper) clearOutside(id cloud.InstanceID) error {
	// The monitor makes a short link to the bundle: names of sockets may not be long.
	for _, path := range []string{k.exitFile(id), filepath.Join(k.socketDir(), string(id))} {
		if err := remove(path); err != nil {
			return fmt.Errorf("machine %s: delete its traces: %w", id, err)
		}
	}
	return nil
}

// remove deletes a file that may not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
