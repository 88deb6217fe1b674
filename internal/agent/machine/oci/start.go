package oci

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	initConfig  = "init.json"
	consoleLog  = "console.log"
	consoleSize = 4 << 20 // bytes of the console's log, after which it starts anew
	pidFile     = "pid"
	startLimit  = 60 * time.Second
)

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
	d.drop(s.ID)
	if err := d.forget(ctx, s.ID); err != nil {
		return machine.Status{}, err
	}
	if err := d.write(s); err != nil {
		return machine.Status{}, err
	}
	st, err := d.launch(ctx, s)
	if err != nil {
		clean := context.WithoutCancel(ctx)
		d.drop(s.ID)
		return machine.Status{}, errors.Join(err, d.forget(clean, s.ID), d.clear(s.ID))
	}
	return st, nil
}

// write puts the bundle down. The record comes before anything runs: what a crash leaves is found by it.
func (d *Driver) write(s machine.Spec) error {
	dir := d.bundle(s.ID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("machine %s: make its bundle: %w", s.ID, err)
	}
	for _, old := range []string{d.exitFile(s.ID), filepath.Join(dir, pidFile), filepath.Join(dir, "oom")} {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("machine %s: clear its last boot away: %w", s.ID, err)
		}
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
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

// launch creates the container under its monitor, starts it and watches it.
func (d *Driver) launch(ctx context.Context, s machine.Spec) (machine.Status, error) {
	pid, err := d.create(ctx, s.ID)
	if err != nil {
		return machine.Status{}, err
	}
	ticks, err := startTicks(pid)
	if err != nil {
		return machine.Status{}, fmt.Errorf("machine %s: its first process ended at once: %w", s.ID, err)
	}
	// The watch begins before the start, so that no end is missed.
	rec := saved{Spec: s, PID: pid, Ticks: ticks, Status: machine.Status{ID: s.ID, Boot: s.Boot, State: machine.Running, PID: pid, Started: time.Now().UTC(), Engine: d.engine}}
	r, err := d.track(rec)
	if err != nil {
		return machine.Status{}, err
	}
	if _, err := d.runtime(ctx, "start", string(s.ID)); err != nil {
		return machine.Status{}, fmt.Errorf("machine %s: %w", s.ID, err)
	}
	if err := d.save(rec); err != nil {
		return machine.Status{}, err
	}
	d.watch(r)
	return rec.Status, nil
}

// create has the monitor create the container, and returns its first process. The monitor tells through a pipe: {"pid":N}, or
// a negative number and a message.
func (d *Driver) create(ctx context.Context, id cloud.InstanceID) (int, error) {
	dir := d.bundle(id)
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("machine %s: %w", id, err)
	}
	defer r.Close()
	cmd := exec.Command(d.conmon, "--api-version", "1", "--cid", string(id), "--cuuid", string(id), "--name", string(id), "--runtime", d.runc,
		"--runtime-arg", "--root="+d.cfg.StateDir, "--bundle", dir, "--container-pidfile", filepath.Join(dir, pidFile), "--exit-dir", d.exitDir(),
		"--log-path", "k8s-file:"+filepath.Join(dir, consoleLog), "--log-size-max", fmt.Sprint(consoleSize), "--persist-dir", dir,
		"--socket-dir-path", d.cfg.StateDir, "--no-sync-log", "--log-level", "error")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), "_OCI_SYNCPIPE=3")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var messages strings.Builder
	cmd.Stderr = &messages
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("machine %s: start its monitor: %w", id, err)
	}
	if err := r.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return 0, fmt.Errorf("machine %s: %w", id, err)
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	line, readErr := bufio.NewReader(r).ReadString('\n')
	stop()
	// The process that was started forks the monitor and ends.
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("machine %s: its monitor: %w: %s%s", id, err, line, messages.String())
	}
	var told struct {
		PID     int    `json:"pid"`
		Data    int    `json:"data"`
		Message string `json:"message"`
	}
	if line == "" && readErr != nil {
		return 0, errors.Join(fmt.Errorf("machine %s: its monitor said nothing: %w", id, readErr), ctx.Err())
	}
	if err := json.Unmarshal([]byte(line), &told); err != nil {
		return 0, fmt.Errorf("machine %s: its monitor said %q: %w", id, line, err)
	}
	pid := max(told.PID, told.Data)
	if pid <= 0 {
		return 0, fmt.Errorf("machine %s: the runtime could not create it: %s", id, strings.TrimSpace(told.Message))
	}
	return pid, nil
}
