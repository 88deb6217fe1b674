package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// killLimit is how long the kernel may take to end a machine that was killed.
const killLimit = 30 * time.Second

// Stop implements machine.Driver.
func (d *Driver) Stop(ctx context.Context, id cloud.InstanceID, grace time.Duration) error {
	d.mu.Lock()
	r := d.machines[id]
	if r != nil {
		r.rec.Stopped = true
	}
	var rec saved
	if r != nil {
		rec = r.rec
	}
	d.mu.Unlock()
	if r == nil {
		return d.forget(ctx, id)
	}
	select {
	case <-r.done:
		return d.forget(ctx, id)
	default:
	}
	if err := d.save(rec); err != nil { // a crash from here on must not take the end for the machine's own wish
		return err
	}
	if grace > 0 {
		awaitHandler(ctx, rec.PID, unix.SIGTERM)
		if err := signal(r.pidfd, unix.SIGTERM); err != nil {
			return fmt.Errorf("machine %s: ask it to end: %w", id, err)
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-r.done:
			return d.forget(ctx, id)
		case <-timer.C:
			d.log.Info("machine is killed, as it did not end in its grace", "instance", id, "grace", grace)
		case <-ctx.Done():
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
		return d.forget(ctx, id)
	case <-limit.C:
		return fmt.Errorf("machine %s did not end within %v of being killed", id, killLimit)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handlerLimit is how long a machine that was just started gets to be ready for a signal.
const handlerLimit = 2 * time.Second

// awaitHandler waits until a process handles a signal: the first process of a namespace never gets one that it doesn't.
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
func (d *Driver) Remove(ctx context.Context, id cloud.InstanceID) error {
	if err := d.Stop(ctx, id, 0); err != nil {
		return err
	}
	d.drop(id)
	d.tidy()
	return d.clear(id)
}

// Status implements machine.Driver.
func (d *Driver) Status(_ context.Context, id cloud.InstanceID) (machine.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.machines[id]
	if r == nil {
		return machine.Status{}, fmt.Errorf("machine %s: %w", id, machine.ErrNotFound)
	}
	return r.rec.Status, nil
}

// Update implements machine.Driver.
func (d *Driver) Update(ctx context.Context, id cloud.InstanceID, r machine.Resources) error {
	st, err := d.Status(ctx, id)
	if err != nil {
		return err
	}
	if st.State != machine.Running {
		return fmt.Errorf("machine %s is not running", id)
	}
	if r.Memory <= 0 || r.PIDs <= 0 {
		return fmt.Errorf("machine %s: memory and process limits are always set", id)
	}
	limits := resources(r)
	args := []string{"update", "--memory", fmt.Sprint(r.Memory), "--memory-swap", fmt.Sprint(r.Memory), "--pids-limit", fmt.Sprint(r.PIDs)}
	if limits.CPU.Quota != nil {
		args = append(args, "--cpu-period", fmt.Sprint(*limits.CPU.Period), "--cpu-quota", fmt.Sprint(*limits.CPU.Quota))
	}
	if limits.CPU.Shares != nil {
		args = append(args, "--cpu-share", fmt.Sprint(*limits.CPU.Shares))
	}
	if _, err := d.runtime(ctx, append(args, string(id))...); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	d.mu.Lock()
	tracked := d.machines[id]
	var rec saved
	if tracked != nil {
		tracked.rec.Spec.Resources = r
		rec = tracked.rec
	}
	d.mu.Unlock()
	if tracked == nil {
		return nil
	}
	return d.save(rec)
}
