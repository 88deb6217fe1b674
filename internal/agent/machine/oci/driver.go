// Package oci runs container machines with an OCI runtime by its command line and conmon as the monitor.
//
// It implements machine.Driver; see there for terms, order of calls and promises. A machine is one container
// with a user namespace of its own, limits, a seccomp filter and dropped capabilities; its first process is
// nacre's init. The monitor outlives the agent, keeps the console's log, and writes down how the container ended.
//
// What a machine has on the host besides its processes: the directory oci in its own directory, the runtime's
// state below Config.StateDir, and a control group named after the cloud and the machine.
package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Config says where a driver works.
type Config struct {
	CloudID     string // marks control groups
	MachinesDir string // where machines have their directories
	StateDir    string // the runtime's state; must not survive a reboot of the host
	Dir         string // exits and the init; survives
	Logger      *slog.Logger
}

// Driver runs container machines.
type Driver struct {
	cfg    Config
	log    *slog.Logger
	runc   string
	conmon string
	runNow string // the script between the two
	init   string // the init's file
	engine string // such as "runc 1.1.5"

	mu       sync.Mutex
	machines map[cloud.InstanceID]*running
	starting int // machines being started, whose control groups may appear any moment
	events   *events
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

var _ machine.Driver = (*Driver)(nil)

// New finds the runtime and the monitor. It starts nothing.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	d := &Driver{cfg: cfg, log: cfg.Logger, machines: map[cloud.InstanceID]*running{}, events: newEvents()}
	var err error
	if d.runc, err = program("runc"); err != nil {
		return nil, err
	}
	if d.conmon, err = program("conmon"); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, d.runc, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", d.runc, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	version, _, _ := strings.Cut(strings.TrimPrefix(first, "runc version "), "+")
	d.engine = "runc " + strings.TrimSpace(version)
	for _, dir := range []string{d.runtimeDir(), d.socketDir(), d.exitDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make a directory for containers: %w", err)
		}
	}
	if d.init, err = installInit(cfg.Dir); err != nil {
		return nil, err
	}
	if d.runNow, err = install(cfg.Dir, "run-now", fmt.Appendf(nil, runNow, d.runc)); err != nil {
		return nil, err
	}
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	d.wg.Go(func() { d.events.run(d.ctx) })
	return d, nil
}

func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("container instances need %s, which is not installed; `nacre doctor --install` installs it", name)
	}
	return path, nil
}

// Engine is the runtime's name and version.
func (d *Driver) Engine() string { return d.engine }

// Events implements machine.Driver.
func (d *Driver) Events() <-chan machine.Status { return d.events.out }

// Close implements machine.Driver.
func (d *Driver) Close() error {
	d.cancel()
	d.mu.Lock()
	for _, r := range d.machines {
		if r.pidfd != nil {
			r.pidfd.Close() // wakes the watcher
		}
	}
	d.mu.Unlock()
	d.wg.Wait()
	d.dropCgroup()
	return nil
}

// runtime runs the OCI runtime with this cloud's state.
func (d *Driver) runtime(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.runc, append([]string{"--root", d.runtimeDir()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("runc %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return out, nil
}

// forget deletes the runtime's state and control groups of a container, killing what is left of it.
func (d *Driver) forget(ctx context.Context, id cloud.InstanceID) error {
	if _, err := os.Stat(filepath.Join(d.runtimeDir(), string(id))); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := d.runtime(ctx, "delete", "--force", string(id)); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	return nil
}

// tidy removes the cloud's own control group when no machine is left in it. It is made again by the next start.
func (d *Driver) tidy() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.machines) > 0 || d.starting > 0 {
		return
	}
	name := "nacre-" + d.cfg.CloudID
	dirs, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", name)) // version 1: one a hierarchy
	for _, dir := range append(dirs, filepath.Join("/sys/fs/cgroup", name)) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.log.Debug("a control group stays", "path", dir, "error", err)
		}
	}
}
