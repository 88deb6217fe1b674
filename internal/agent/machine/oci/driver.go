// Package oci runs container machines with an OCI runtime by its command line and conmon as the monitor.
//
// It implements machine.Driver; see there for terms, order of calls and promises, and package confined for what keeps most of
// them. A machine is one container with a user namespace of its own, limits, a seccomp filter and dropped capabilities; its
// first process is nacre's init.
package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Config says where a driver works.
type Config struct {
	CloudID     string           // marks control groups
	MachinesDir string           // where machines have their directories
	StateDir    string           // the runtime's state; must not survive a reboot of the host
	Dir         string           // exits and the init; survives
	Groups      *confined.Groups // shared with the node's other drivers; nil where there are none
	Logger      *slog.Logger
}

// bundleDir is the directory in a machine's own that belongs to this driver.
const bundleDir = "oci"

// Driver runs container machines.
type Driver struct {
	*confined.Keeper
	init string // the init's file
}

var _ machine.Driver = (*Driver)(nil)

// New finds the runtime and the monitor. It starts nothing.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	d := &Driver{}
	var err error
	d.Keeper, err = confined.New(ctx, confined.Config{Name: bundleDir, CloudID: cfg.CloudID, MachinesDir: cfg.MachinesDir, StateDir: cfg.StateDir, Dir: cfg.Dir,
		Groups: cfg.Groups, Logger: cfg.Logger}, confined.Hooks{Bundle: d.bundle, Ask: ask, End: end})
	if err != nil {
		return nil, err
	}
	if d.init, err = installInit(cfg.Dir); err != nil {
		d.Keeper.Close()
		return nil, err
	}
	return d, nil
}

// Start implements machine.Driver.
func (d *Driver) Start(ctx context.Context, s machine.Spec) (machine.Status, error) {
	if err := check(s); err != nil {
		return machine.Status{}, err
	}
	return d.Keeper.Start(ctx, s)
}

// bundle is the container of a machine.
func (d *Driver) bundle(_ context.Context, s machine.Spec) (confined.Bundle, error) {
	b, err := json.Marshal(initConfiguration(s))
	if err != nil {
		return confined.Bundle{}, fmt.Errorf("machine %s: encode %s: %w", s.ID, initConfig, err)
	}
	return confined.Bundle{Config: d.runtimeSpec(s), Files: []confined.File{{Name: initConfig, Content: b}}}, nil
}

// ask sends the init the signal by which it shuts the machine down.
func ask(ctx context.Context, p confined.Process) error {
	if err := p.Signal(ctx, unix.SIGTERM); err != nil {
		return fmt.Errorf("machine %s: ask it to end: %w", p.Spec.ID, err)
	}
	return nil
}

// end reads the init's wish from its exit code.
func end(_ cloud.InstanceID, exit machine.Exit) machine.Exit {
	exit.Reboot = exit.Code == guestinit.RebootCode && !exit.Requested
	return exit
}

// Update implements machine.Driver.
func (d *Driver) Update(ctx context.Context, id cloud.InstanceID, r machine.Resources) error {
	spec, err := d.Running(id)
	switch {
	case err != nil:
		return err
	case r == spec.Resources:
		return nil
	}
	if r.Memory <= 0 || r.PIDs <= 0 {
		return fmt.Errorf("machine %s: memory and process limits are always set", id)
	}
	if r.Memory < spec.Resources.Memory {
		// The kernel would make room by killing.
		held, err := d.MemoryHeld(id)
		if err != nil {
			return err
		}
		if held > r.Memory {
			return fmt.Errorf("machine %s: its processes hold %d MiB of memory, more than the %d MiB that it was to have", id, held>>20, r.Memory>>20)
		}
	}
	return d.Limit(ctx, id, confined.Limits(r), r)
}
