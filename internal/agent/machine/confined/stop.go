package confined

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// killLimit is how long the kernel may take to end a machine that was killed.
const killLimit = 30 * time.Second

// Stop implements machine.Driver.
func (k *Keeper) Stop(ctx context.Context, id cloud.InstanceID, grace time.Duration) error {
	k.mu.Lock()
	r := k.machines[id]
	if r != nil {
		r.rec.Stopped = true
	}
	var rec saved
	if r != nil {
		rec = r.rec
	}
	k.mu.Unlock()
	if r == nil {
		return k.forget(ctx, id)
	}
	select {
	case <-r.done:
		return k.forget(ctx, id)
	default:
	}
	if err := k.save(rec); err != nil { // a crash from here on must not take the end for the machine's own wish
		return err
	}
	if grace > 0 {
		asked, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		err := k.hooks.Ask(asked, r.process())
		if err != nil {
			k.log.Warn("a machine is killed, as it can't be asked to end", "instance", id, "error", err)
			cancel()
		}
		select {
		case <-r.done:
			return k.forget(ctx, id)
		case <-asked.Done():
			if err == nil && ctx.Err() == nil {
				k.log.Info("machine is killed, as it did not end in its grace", "instance", id, "grace", grace)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	// The end of its first process is the end of all processes of its namespace.
	if err := signal(r.pidfd, unix.SIGKILL); err != nil {
		return fmt.Errorf("machine %s: kill it: %w", id, err)
	}
	limit := time.NewTimer(killLimit)
	defer limit.Stop()
	select {
	case <-r.done:
		return k.forget(ctx, id)
	case <-limit.C:
		return fmt.Errorf("machine %s did not end within %v of being killed", id, killLimit)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handlerLimit is how long a machine that was just started gets to be ready for a signal.
const handlerLimit = 2 * time.Second

// Process is the first process of a machine's container.
type Process struct {
	Spec  machine.Spec
	PID   int
	pidfd *os.File
}

func (r *running) process() Process {
	return Process{Spec: r.rec.Spec, PID: r.rec.PID, pidfd: r.pidfd}
}

// Signal sends a signal that the process handles, waiting a little for it to do so: the first process of a namespace never
// gets one that it doesn't.
func (p Process) Signal(ctx context.Context, sig unix.Signal) error {
	awaitHandler(ctx, p.PID, sig)
	return signal(p.pidfd, sig)
}

// awaitHandler waits until a process handles a signal.
func awaitHandler(ctx context.Context, pid int, sig unix.Signal) {
	for deadline := time.Now().Add(handlerLimit); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		if err != nil {
			return // it has ended
		}
		_, rest, _ := strings.Cut(string(b), "\nSigCgt:\t")
		mask, _, _ := strings.Cut(rest, "\n")
		caught, err := strconv.ParseUint(mask, 16, 64)
		if err != nil || caught&(1<<(sig-1)) != 0 {
			return
		}
	}
}

// signal sends a signal to a process that may have ended.
func signal(pidfd *os.File, sig unix.Signal) error {
	if pidfd == nil {
		return nil
	}
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// Remove implements machine.Driver.
func (k *Keeper) Remove(ctx context.Context, id cloud.InstanceID) error {
	if err := k.Stop(ctx, id, 0); err != nil {
		return err
	}
	k.drop(id)
	k.cfg.Groups.Drop()
	return k.clear(id)
}

// Status implements machine.Driver.
func (k *Keeper) Status(_ context.Context, id cloud.InstanceID) (machine.Status, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.machines[id]
	if r == nil {
		return machine.Status{}, fmt.Errorf("machine %s: %w", id, machine.ErrNotFound)
	}
	return r.rec.Status, nil
}

// Limit changes the limits of a running machine's control group in place, and notes what they stand for.
func (k *Keeper) Limit(ctx context.Context, id cloud.InstanceID, limits *specs.LinuxResources, r machine.Resources) error {
	if _, err := k.Running(id); err != nil {
		return err
	}
	memory := fmt.Sprint(*limits.Memory.Limit)
	args := []string{"update", "--memory", memory, "--memory-swap", memory, "--pids-limit", fmt.Sprint(*limits.Pids.Limit)}
	if limits.CPU.Quota != nil {
		args = append(args, "--cpu-period", fmt.Sprint(*limits.CPU.Period), "--cpu-quota", fmt.Sprint(*limits.CPU.Quota))
	}
	if limits.CPU.Shares != nil {
		args = append(args, "--cpu-share", fmt.Sprint(*limits.CPU.Shares))
	}
	if _, err := k.runtime(ctx, append(args, string(id))...); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	return k.Note(id, func(s *machine.Spec) { s.Resources = r })
}

// Note changes what is kept of a machine's specification, so that it is adopted as it is now. A machine that is not known any
// more needs none.
func (k *Keeper) Note(id cloud.InstanceID, change func(s *machine.Spec)) error {
	k.mu.Lock()
	r := k.machines[id]
	var rec saved
	if r != nil {
		change(&r.rec.Spec)
		rec = r.rec
	}
	k.mu.Unlock()
	if r == nil {
		return nil
	}
	return k.save(rec)
}

// Running is the specification of a machine that runs.
func (k *Keeper) Running(id cloud.InstanceID) (machine.Spec, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.machines[id]
	if r == nil {
		return machine.Spec{}, fmt.Errorf("machine %s: %w", id, machine.ErrNotFound)
	}
	if r.rec.Status.State != machine.Running {
		return machine.Spec{}, fmt.Errorf("machine %s is not running", id)
	}
	return r.rec.Spec, nil
}
