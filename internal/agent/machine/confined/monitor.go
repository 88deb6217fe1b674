package confined

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// ConsoleSize is how many bytes the console's log may have before it starts anew.
const ConsoleSize = 4 << 20

const (
	consoleLog  = "console.log"
	firstPassed = 3 // the first descriptor after the standard ones
	pidFile     = "pid"
	monitorFile = "monitor.pid"

	runLimit     = 60 * time.Second      // for the runtime to bring a container up
	settleLimit  = 20 * time.Second      // for one that was being brought up when its agent died
	launchLimit  = 20 * time.Millisecond // from an agent's last instruction to the monitor's first
	monitorGrace = 2 * time.Second       // from a container's end to its monitor's
)

// runNow stands between the monitor and the runtime: the monitor only knows how to create a container and leave the start to
// others, which takes a launch of the runtime more.
const runNow = `#!/bin/sh
for a; do
	shift
	case $a in
	create) set -- "$@" run --detach ;;
	*) set -- "$@" "$a" ;;
	esac
done
exec %s "$@"
`

// run has a monitor run the container, and returns its first process. The monitor tells through a pipe: {"pid":N}, or
// a negative number and a message.
func (k *Keeper) run(ctx context.Context, id cloud.InstanceID, b *Bundle) (int, error) {
	k.wg.Go(WakeMigration)
	dir := k.Bundle(id)
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("machine %s: %w", id, err)
	}
	defer r.Close()
	cmd := exec.Command(k.conmon, "--api-version", "1", "--cid", string(id), "--cuuid", string(id), "--name", string(id), "--runtime", k.runNow,
		"--runtime-arg", "--root="+k.runtimeDir(), "--bundle", dir, "--container-pidfile", filepath.Join(dir, pidFile),
		"--conmon-pidfile", filepath.Join(dir, monitorFile), "--exit-dir", k.exitDir(), "--log-path", "k8s-file:"+filepath.Join(dir, consoleLog),
		"--log-size-max", fmt.Sprint(ConsoleSize), "--persist-dir", dir, "--socket-dir-path", k.socketDir(), "--no-sync-log", "--log-level", "error")
	if len(b.Pass) > 0 {
		// The runtime hands the first descriptors above the standard ones on; the monitor's own come after them.
		cmd.Args = append(cmd.Args, "--runtime-opt", fmt.Sprintf("--preserve-fds=%d", len(b.Pass)))
	}
	if k.cfg.Input {
		cmd.Args = append(cmd.Args, "--stdin", "--leave-stdin-open")
	}
	cmd.ExtraFiles = append(slices.Clone(b.Pass), w)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), fmt.Sprintf("_OCI_SYNCPIPE=%d", firstPassed+len(b.Pass))} // not what the agent's own may hold
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var messages strings.Builder
	cmd.Stderr = &messages
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("machine %s: start its monitor: %w", id, err)
	}
	if err := r.SetReadDeadline(time.Now().Add(runLimit)); err != nil {
		return 0, fmt.Errorf("machine %s: %w", id, err)
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	line, readErr := bufio.NewReader(r).ReadString('\n')
	stop()
	// The process that was started forks the monitor and ends.
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("machine %s: its monitor: %w: %s%s", id, err, line, messages.String())
	}
	if line == "" && readErr != nil {
		return 0, errors.Join(fmt.Errorf("machine %s: its monitor said nothing: %w", id, readErr), ctx.Err())
	}
	pid, err := parseAnswer(line)
	if err != nil {
		return 0, fmt.Errorf("machine %s: %w", id, err)
	}
	if err := neverBlock(b.Pass); err != nil {
		return 0, fmt.Errorf("machine %s: %w", id, err)
	}
	return pid, nil
}

// parseAnswer reads the monitor's line.
func parseAnswer(line string) (pid int, err error) {
	var told struct {
		PID     int    `json:"pid"`
		Data    int    `json:"data"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(line), &told); err != nil {
		return 0, fmt.Errorf("its monitor said %q: %w", line, err)
	}
	if pid := max(told.PID, told.Data); pid > 0 {
		return pid, nil
	}
	return 0, fmt.Errorf("the runtime could not run it: %s", strings.TrimSpace(told.Message))
}

// monitor returns a descriptor of a machine's living monitor, or nil.
func (k *Keeper) monitor(id cloud.InstanceID) *os.File {
	b, err := os.ReadFile(filepath.Join(k.Bundle(id), monitorFile))
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return nil
	}
	return k.openMonitor(id, pid)
}

// openMonitor opens a process if it is a machine's monitor.
func (k *Keeper) openMonitor(id cloud.InstanceID, pid int) *os.File {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	// Only now does the number stand for one process.
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !k.monitors(id, line) {
		unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), "monitor")
}

// monitors tells whether a command line is that of a machine's monitor.
func (k *Keeper) monitors(id cloud.InstanceID, line []byte) bool {
	return bytes.HasPrefix(line, []byte(k.conmon+"\x00")) && bytes.Contains(line, []byte("\x00--bundle\x00"+k.Bundle(id)+"\x00"))
}

// searchMonitor looks for a machine's monitor among all processes: one that was just launched has not noted its number yet.
func (k *Keeper) searchMonitor(id cloud.InstanceID) *os.File {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err != nil || !k.monitors(id, line) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if m := k.openMonitor(id, pid); m != nil {
			return m
		}
	}
	return nil
}

// settle waits until nobody is bringing a machine up any more: a monitor whose agent died goes on with what it was told.
func (k *Keeper) settle(id cloud.InstanceID) {
	begin := time.Now()
	for time.Since(begin) < settleLimit {
		if _, err := os.Stat(filepath.Join(k.Bundle(id), pidFile)); err == nil {
			return // it runs, or did
		}
		m := k.searchMonitor(id)
		if m == nil {
			if time.Since(begin) > launchLimit {
				return
			}
			time.Sleep(launchLimit / 4)
			continue
		}
		gone(int(m.Fd()), 5*time.Millisecond)
		m.Close()
	}
}

// endMonitor waits for the monitor of a container that is gone to write that down and to end, and kills one that doesn't.
func (k *Keeper) endMonitor(id cloud.InstanceID) error {
	m := k.monitor(id)
	if m == nil {
		return nil
	}
	defer m.Close()
	if gone(int(m.Fd()), monitorGrace) {
		return nil
	}
	k.log.Warn("a monitor outlived its container and is killed", "instance", id)
	if err := signal(m, unix.SIGKILL); err != nil {
		return fmt.Errorf("machine %s: kill its monitor: %w", id, err)
	}
	if !gone(int(m.Fd()), killLimit) {
		return fmt.Errorf("machine %s: its monitor did not end within %v of being killed", id, killLimit)
	}
	return nil
}

// gone waits for a process to end.
func gone(pidfd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(0, time.Until(deadline).Milliseconds())))
		if err != unix.EINTR {
			return err == nil && n > 0
		}
	}
}
