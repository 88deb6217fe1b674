package confined

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// oncePrefix begins the ids of containers that are run to their end.
	oncePrefix = "build-"
	// onceGrace is how long such a container may take to go after its first process was told to.
	onceGrace = 10 * time.Second
)

// ErrNotRun is returned by Once when the container's command was never started, or was killed with it.
var ErrNotRun = errors.New("the container did not come to its command's end")

// Once runs a container to the end of its command, which its first process, nacre's init, is told over a socket; output is what the command writes. It
// returns the command's exit code. The container needs no sweep and has no monitor: when ctx ends, or this process by whatever instruction,
// the socket is closed, the first process ends and the kernel ends all others; the runtime, which waits for that, takes the rest away.
func (k *Keeper) Once(ctx context.Context, dir string, config *specs.Spec, command any, output io.Writer) (code int, err error) {
	id := filepath.Base(config.Linux.CgroupsPath)
	b, err := json.Marshal(config)
	if err != nil {
		return 0, fmt.Errorf("encode the container %s: %w", id, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		return 0, fmt.Errorf("write the container %s: %w", id, err)
	}
	line, err := json.Marshal(command)
	if err != nil {
		return 0, fmt.Errorf("encode the command of %s: %w", id, err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return 0, fmt.Errorf("make the socket of %s: %w", id, err)
	}
	defer ours.Close()
	k.cfg.Groups.need()
	defer func() {
		k.cfg.Groups.release()
		k.cfg.Groups.Drop()
	}()
	cmd := k.RuntimeCommand(context.WithoutCancel(ctx), "run", "--bundle", dir, "--preserve-fds", "1", id)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.WaitDelay = onceGrace
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 0, fmt.Errorf("start the container %s: %w", id, err)
	}
	ended := make(chan error, 1)
	k.Go(func() { ended <- cmd.Wait() })
	stop := context.AfterFunc(ctx, func() { ours.Close() })
	defer stop()
	_, writeErr := ours.Write(append(line, '\n'))
	told, readErr := bufio.NewReader(io.LimitReader(ours, 16)).ReadString('\n')
	if ctx.Err() != nil || readErr != nil {
		ours.Close()
	}
	var runErr error
	select {
	case runErr = <-ended:
	case <-time.After(onceGrace):
		_, err := k.runtime(context.WithoutCancel(ctx), "delete", "--force", id)
		runErr = errors.Join(err, <-ended)
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if readErr != nil {
		return 0, fmt.Errorf("%w: %w", ErrNotRun, errors.Join(writeErr, runErr))
	}
	if code, err = strconv.Atoi(strings.TrimSpace(told)); err != nil {
		return 0, fmt.Errorf("%w: its end is told as %q", ErrNotRun, told)
	}
	return code, nil
}

// socketPair is a connection, one end of it as a file for another process.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	near := os.NewFile(uintptr(fds[0]), "socket")
	theirs = os.NewFile(uintptr(fds[1]), "socket")
	ours, err = net.FileConn(near)
	near.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// SweepOnce takes away what containers left whose runtime was killed too.
func (k *Keeper) SweepOnce(ctx context.Context) error {
	entries, err := os.ReadDir(k.runtimeDir())
	if err != nil {
		return fmt.Errorf("look for containers of builds: %w", err)
	}
	var problems []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), oncePrefix) {
			problems = append(problems, k.forget(ctx, cloud.InstanceID(e.Name())))
		}
	}
	return errors.Join(problems...)
}

// OnceID is an id for a container that is run to its end.
func OnceID(random string) cloud.InstanceID {
	return cloud.InstanceID(oncePrefix + strings.ToLower(random))
}
