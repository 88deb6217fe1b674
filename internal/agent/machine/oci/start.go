package oci

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

const initConfig = "init.json"

// Start implements machine.Driver.
func (d *Driver) Start(ctx context.Context, s machine.Spec) (machine.Status, error) {
	if st, err := d.Status(ctx, s.ID); err == nil && st.State == machine.Running && st.Boot >= s.Boot {
		return st, nil
	}
	if err := check(s); err != nil {
		return machine.Status{}, err
	}
	d.mu.Lock()
	d.starting++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.starting--
		d.mu.Unlock()
	}()
	// An older boot's end must be written down before the new one's place for it is cleared.
	if err := d.end(ctx, s.ID); err != nil {
		return machine.Status{}, err
	}
	if err := d.write(s); err != nil {
		return machine.Status{}, err
	}
	st, err := d.launch(ctx, s)
	if err != nil {
		return machine.Status{}, errors.Join(err, d.undo(context.WithoutCancel(ctx), s.ID))
	}
	return st, nil
}

// write puts the bundle down. The record comes before anything runs: what a crash leaves is found by it.
func (d *Driver) write(s machine.Spec) error {
	dir := d.bundle(s.ID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("machine %s: make its bundle: %w", s.ID, err)
	}
	for _, old := range []string{d.exitFile(s.ID), filepath.Join(dir, pidFile), filepath.Join(dir, monitorFile)} {
		if err := remove(old); err != nil {
			return fmt.Errorf("machine %s: clear its last boot away: %w", s.ID, err)
		}
	}
	if err := d.turnConsole(s.ID); err != nil {
		return err
	}
	if err := d.save(saved{Spec: s}); err != nil {
		return err
	}
	for name, v := range map[string]any{"config.json": d.runtimeSpec(s), initConfig: initConfiguration(s)} {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("machine %s: encode %s: %w", s.ID, name, err)
		}
		path := filepath.Join(dir, name)
		if err := remove(path); err != nil {
			return fmt.Errorf("machine %s: write %s: %w", s.ID, name, err)
		}
		if err := os.WriteFile(path, b, 0o400); err != nil {
			return fmt.Errorf("machine %s: write %s: %w", s.ID, name, err)
		}
		if name == initConfig { // root inside, and nobody else, reads it
			if err := os.Chown(path, int(s.IDBase), int(s.IDBase)); err != nil {
				return fmt.Errorf("machine %s: write %s: %w", s.ID, name, err)
			}
		}
	}
	return nil
}

// launch runs the container under its monitor and watches it.
func (d *Driver) launch(ctx context.Context, s machine.Spec) (machine.Status, error) {
	pid, err := d.run(ctx, s.ID)
	if err != nil {
		return machine.Status{}, err
	}
	rec := saved{Spec: s, PID: pid, Status: machine.Status{ID: s.ID, Boot: s.Boot, State: machine.Running, PID: pid, Started: time.Now().UTC(), Engine: d.engine}}
	rec.Ticks, _ = startTicks(pid)
	if err := d.save(rec); err != nil {
		return machine.Status{}, err
	}
	r, err := d.track(rec)
	if err != nil {
		// It ended before it could be watched: that is told like every other end.
		r = d.know(rec, nil)
	}
	d.watch(r)
	return rec.Status, nil
}

// end takes what runs of a machine away, with its control group and monitor. Its files stay.
func (d *Driver) end(ctx context.Context, id cloud.InstanceID) error {
	d.drop(id)
	if err := d.forget(ctx, id); err != nil {
		return err
	}
	return d.endMonitor(id)
}

// undo takes a machine back that never got to run. What it wrote to its console in earlier boots is kept.
func (d *Driver) undo(ctx context.Context, id cloud.InstanceID) error {
	d.settle(id)
	if err := d.end(ctx, id); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.bundle(id))
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
		if err := os.RemoveAll(filepath.Join(d.bundle(id), e.Name())); err != nil {
			return fmt.Errorf("machine %s: delete its bundle: %w", id, err)
		}
	}
	if kept {
		return d.clearOutside(id)
	}
	return d.clear(id)
}

// clear deletes what the driver keeps of a machine.
func (d *Driver) clear(id cloud.InstanceID) error {
	if err := os.RemoveAll(d.bundle(id)); err != nil {
		return fmt.Errorf("machine %s: delete its bundle: %w", id, err)
	}
	return d.clearOutside(id)
}

// clearOutside deletes what there is of a machine outside of its own directory.
func (d *Driver) clearOutside(id cloud.InstanceID) error {
	// The monitor makes a short link to the bundle: names of sockets may not be long.
	for _, path := range []string{d.exitFile(id), filepath.Join(d.socketDir(), string(id))} {
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
