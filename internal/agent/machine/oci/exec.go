package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/creack/pty"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Exec implements machine.Driver. The runtime stays as the process's parent and hands on its exit code; with a terminal it
// carries the bytes between the terminal inside and one here.
func (d *Driver) Exec(ctx context.Context, id cloud.InstanceID, spec machine.ExecSpec) (machine.Process, error) {
	inside, err := d.Running(id)
	if err != nil {
		return nil, err
	}
	d.Go(confined.WakeMigration)
	config, err := execConfig(inside, spec)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", id, err)
	}
	b, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("machine %s: encode a process: %w", id, err)
	}
	// A file without a name: nothing is left behind, whatever happens.
	fd, err := unix.MemfdCreate("nacre-exec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("machine %s: describe a process: %w", id, err)
	}
	description := os.NewFile(uintptr(fd), "process")
	defer description.Close()
	if _, err := description.Write(b); err != nil {
		return nil, fmt.Errorf("machine %s: describe a process: %w", id, err)
	}
	cmd := d.RuntimeCommand(ctx, "exec", "--process", "/proc/self/fd/3", string(id))
	cmd.ExtraFiles = []*os.File{description}
	p := &process{cmd: cmd}
	if spec.TTY {
		err = p.startTerminal(spec)
	} else {
		err = p.startPipes(spec)
	}
	if err != nil {
		return nil, fmt.Errorf("machine %s: start %q: %w", id, strings.Join(spec.Args, " "), err)
	}
	return p, nil
}

// execConfig resolves the user in the machine's own files and completes the environment.
func execConfig(inside machine.Spec, spec machine.ExecSpec) (*specs.Process, error) {
	if len(spec.Args) == 0 {
		return nil, errors.New("start a process: no command")
	}
	rootFS := inside.RootFS
	who, err := resolveUser(rootFS, spec.User)
	if err != nil {
		return nil, err
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + who.Home, "SHELL=" + orElse(who.shell, "/bin/sh")}
	if who.name != "" {
		env = append(env, "USER="+who.name, "LOGNAME="+who.name)
	}
	if spec.TTY {
		env = append(env, "TERM="+orElse(spec.Term, "xterm"))
	}
	env = mergeEnv(env, spec.Env)
	groups := make([]uint32, len(who.Sgids))
	for i, g := range who.Sgids {
		groups[i] = uint32(g)
	}
	dir := spec.Dir
	if dir == "" {
		dir = who.Home
		if f, err := openWithin(rootFS, dir, unix.O_PATH|unix.O_DIRECTORY); err != nil {
			dir = "/"
		} else {
			f.Close()
		}
	}
	return &specs.Process{Terminal: spec.TTY, Args: spec.Args, Env: env, Cwd: dir, Capabilities: capabilitySets(), NoNewPrivileges: noNewPrivileges(inside),
		User: specs.User{UID: uint32(who.Uid), GID: uint32(who.Gid), AdditionalGids: groups}}, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// mergeEnv lets later variables win over earlier ones of the same name.
func mergeEnv(list, more []string) []string {
	at := map[string]int{}
	var out []string
	for _, e := range append(append([]string(nil), list...), more...) {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	return out
}

// login is a user of a machine. Name and shell are empty for a number that has no entry.
type login struct {
	*user.ExecUser
	name, shell string
}

// resolveUser finds a user in the machine's passwd and group files.
func resolveUser(rootFS, name string) (login, error) {
	// An image may have neither file; numbers still work then.
	passwd, group := readWithin(rootFS, "/etc/passwd"), readWithin(rootFS, "/etc/group")
	who, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return login{}, fmt.Errorf("find the user %q: %w", name, err)
	}
	l := login{ExecUser: who}
	entries, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(u user.User) bool { return u.Uid == who.Uid })
	if err == nil && len(entries) > 0 {
		l.name, l.shell = entries[0].Name, entries[0].Shell
	}
	return l, nil
}

// readWithin reads a small file of the machine's; nil when it can't be read.
func readWithin(rootFS, path string) []byte {
	f, err := openWithin(rootFS, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil
	}
	return b
}

// openWithin opens a file of the machine's; no link leads out of its root.
func openWithin(rootFS, path string, flags uint64) (*os.File, error) {
	root, err := os.Open(rootFS)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), strings.TrimPrefix(path, "/"), &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, fmt.Errorf("open %s inside: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// process is a process inside a machine, by the runtime that is its parent here.
type process struct {
	cmd    *exec.Cmd
	tty    *os.File
	copies sync.WaitGroup // output
	outErr error
	mu     sync.Mutex
	ended  bool
}

func (p *process) startPipes(spec machine.ExecSpec) error {
	p.cmd.Stdout, p.cmd.Stderr = spec.Stdout, spec.Stderr
	if spec.Stdin == nil {
		return p.cmd.Start()
	}
	// Not cmd.Stdin: Wait would wait for the reader to end, which may only happen after it.
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		io.Copy(in, spec.Stdin)
		in.Close()
	}()
	return nil
}

// startTerminal gives the runtime a terminal as its own, whose size it passes on.
func (p *process) startTerminal(spec machine.ExecSpec) error {
	tty, err := pty.StartWithSize(p.cmd, &pty.Winsize{Cols: spec.Cols, Rows: spec.Rows})
	if err != nil {
		return err
	}
	p.tty = tty
	if spec.Stdin != nil {
		go io.Copy(tty, spec.Stdin)
	}
	if spec.Stdout != nil {
		p.copies.Go(func() {
			if _, err := io.Copy(spec.Stdout, tty); err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, os.ErrClosed) {
				p.outErr = err
			}
		})
	}
	return nil
}

// Wait implements machine.Process.
func (p *process) Wait() (int, error) {
	if p.tty != nil {
		p.copies.Wait() // ends when the last one has closed the terminal
	}
	err := p.cmd.Wait()
	p.mu.Lock()
	p.ended = true
	if p.tty != nil {
		p.tty.Close()
	}
	p.mu.Unlock()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, p.outErr
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), p.outErr
	case errors.As(err, &exit):
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	}
	return 0, fmt.Errorf("wait for a process inside: %w", err)
}

// Signal implements machine.Process. The runtime passes signals on.
func (p *process) Signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return os.ErrProcessDone
	}
	if p.tty != nil && sig == syscall.SIGHUP {
		// Hanging the terminal up reaches every process on it.
		p.tty.Close()
	}
	return p.cmd.Process.Signal(sig)
}

// Resize implements machine.Process.
func (p *process) Resize(cols, rows uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.tty == nil {
		return os.ErrProcessDone
	}
	return pty.Setsize(p.tty, &pty.Winsize{Cols: cols, Rows: rows})
}
