// Package confined runs machines that are one confined program each: a container made by an OCI runtime by its command
// line, with conmon as the monitor. It is what the drivers of machines have in common.
//
// A Keeper keeps the promises of machine.Driver about starting, ending, adoption and the console; a driver says by its Hooks
// what the program is (the init of a container machine, or the hypervisor of a virtual one), how it is asked to end, and what
// its end means. The monitor outlives the agent, keeps the console's log, and writes down how the container ended.
//
// What a machine has on the host besides its processes: a directory named after the driver in its own directory, the runtime's
// state below Config.StateDir, and a control group named after the cloud and the machine.
package confined

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

// Config says where a driver's machines are kept. Two drivers of one node share MachinesDir, CloudID and Groups, nothing else.
type Config struct {
	Name        string // the driver's directory in each machine's own, such as "oci"
	CloudID     string // marks control groups
	MachinesDir string // where machines have their directories
	StateDir    string // the runtime's state; must not survive a reboot of the host
	Dir         string // exits and programs; survives
	Input       bool   // what is typed at a console is the program's input; else that is empty, and what is typed is lost
	Groups      *Groups
	Logger      *slog.Logger
}

// Hooks are what one driver's machines have that others' don't. Bundle and Ask are always set.
type Hooks struct {
	// Bundle describes the container of a machine that is to be started. No older boot of it runs any more.
	Bundle func(ctx context.Context, s machine.Spec) (Bundle, error)
	// Ready waits until a program that was just started is the machine that was asked for. After an error nothing is left of it.
	Ready func(ctx context.Context, p Process) error
	// Watched is told of every machine that runs, started or adopted. It must not block.
	Watched func(p Process)
	// Ask asks a machine to shut down; it need not wait for that. After an error the machine is killed without its grace.
	Ask func(ctx context.Context, p Process) error
	// End completes what is known of an end, from what the driver knows of its program. Requested is set already.
	End func(id cloud.InstanceID, exit machine.Exit) machine.Exit
	// Ended is told when a machine that was watched has ended or is given up. It must not block.
	Ended func(id cloud.InstanceID)
}

// Keeper runs the machines of one driver. Its exported methods named like those of machine.Driver do what is said there.
type Keeper struct {
	cfg    Config
	hooks  Hooks
	log    *slog.Logger
	runc   string
	conmon string
	runNow string // the script between the two
	engine string // such as "runc 1.1.5"

	mu       sync.Mutex
	machines map[cloud.InstanceID]*running
	events   *events
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	attaching sync.Mutex
	attached  map[cloud.InstanceID]*attachment // to machines' consoles
}

// New finds the runtime and the monitor. It starts nothing.
func New(ctx context.Context, cfg Config, hooks Hooks) (*Keeper, error) {
	k := &Keeper{cfg: cfg, hooks: hooks, log: cfg.Logger, machines: map[cloud.InstanceID]*running{}, events: newEvents(),
		attached: map[cloud.InstanceID]*attachment{}}
	if k.cfg.Groups == nil {
		k.cfg.Groups = NewGroups(cfg.CloudID)
	}
	var err error
	if k.runc, err = program("runc"); err != nil {
		return nil, err
	}
	if k.conmon, err = program("conmon"); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, k.runc, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", k.runc, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	version, _, _ := strings.Cut(strings.TrimPrefix(first, "runc version "), "+")
	k.engine = "runc " + strings.TrimSpace(version)
	for _, dir := range []string{k.runtimeDir(), k.socketDir(), k.exitDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make a directory for containers: %w", err)
		}
	}
	if k.runNow, err = Install(cfg.Dir, "run-now", fmt.Appendf(nil, runNow, k.runc)); err != nil {
		return nil, err
	}
	k.ctx, k.cancel = context.WithCancel(context.WithoutCancel(ctx))
	k.wg.Go(func() { k.events.run(k.ctx) })
	return k, nil
}

func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("instances need %s, which is not installed; `nacre doctor --install` installs it", name)
	}
	return path, nil
}

// Engine is the runtime's name and version.
func (k *Keeper) Engine() string { return k.engine }

// Events implements machine.Driver.
func (k *Keeper) Events() <-chan machine.Status { return k.events.out }

// Close implements machine.Driver.
func (k *Keeper) Close() error {
	k.cancel()
	k.mu.Lock()
	var known []*running
	for _, r := range k.machines {
		known = append(known, r)
		if r.pidfd != nil {
			r.pidfd.Close() // wakes the watcher
		}
	}
	k.mu.Unlock()
	k.wg.Wait()
	for _, r := range known {
		k.letGo(r)
		k.cfg.Groups.release()
	}
	k.cfg.Groups.Drop()
	return nil
}

// Context ends when the keeper is closed.
func (k *Keeper) Context() context.Context { return k.ctx }

// Go runs what Close waits for.
func (k *Keeper) Go(f func()) { k.wg.Go(f) }

// RuntimeCommand is a call of the OCI runtime with this driver's state, not started yet.
func (k *Keeper) RuntimeCommand(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, k.runc, append([]string{"--root", k.runtimeDir()}, args...)...)
}

func (k *Keeper) runtime(ctx context.Context, args ...string) ([]byte, error) {
	out, err := k.RuntimeCommand(ctx, args...).CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("runc %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return out, nil
}

// forget deletes the runtime's state and control groups of a container, killing what is left of it.
func (k *Keeper) forget(ctx context.Context, id cloud.InstanceID) error {
	if _, err := os.Stat(filepath.Join(k.runtimeDir(), string(id))); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := k.runtime(ctx, "delete", "--force", string(id)); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	return nil
}
