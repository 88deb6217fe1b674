package access_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/creack/pty"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
)

// host stands in for a machine: it runs processes on this host as they are, with their home below
// root. What a driver adds to that is the driver's to test.
type host struct {
	root    string
	mu      sync.Mutex
	running map[*hostProcess]bool
}

func (h *host) Exec(ctx context.Context, spec machine.ExecSpec) (machine.Process, error) {
	cmd := exec.CommandContext(ctx, spec.Args[0], spec.Args[1:]...)
	for _, v := range spec.Env {
		if home, ok := strings.CutPrefix(v, "HOME="); ok {
			cmd.Dir = filepath.Join(h.root, home)
			v = "HOME=" + cmd.Dir
		}
		cmd.Env = append(cmd.Env, v)
	}
	p := &hostProcess{h: h, cmd: cmd}
	var err error
	if spec.TTY {
		p.tty, err = pty.StartWithSize(cmd, &pty.Winsize{Cols: spec.Cols, Rows: spec.Rows})
		if err != nil {
			return nil, err
		}
		p.copies.Go(func() { io.Copy(spec.Stdout, p.tty) })
		go io.Copy(p.tty, spec.Stdin) // ends with the session's channel
	} else {
		cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		go func() { // ends with the session's channel
			io.Copy(stdin, spec.Stdin)
			stdin.Close()
		}()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[p] = true
	return p, nil
}

func (h *host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (h *host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, network, address)
}

// processes counts what runs.
func (h *host) processes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.running)
}

type hostProcess struct {
	h      *host
	cmd    *exec.Cmd
	tty    *os.File // nil without a terminal
	copies sync.WaitGroup
	killed syscall.Signal

	mu    sync.Mutex
	ended bool
}

func (p *hostProcess) Wait() (int, error) {
	err := p.cmd.Wait()
	p.copies.Wait() // the terminal's last output ends with an error once nobody has it open
	p.mu.Lock()
	p.ended = true
	if p.tty != nil {
		p.tty.Close()
	}
	p.mu.Unlock()
	p.h.mu.Lock()
	delete(p.h.running, p)
	p.h.mu.Unlock()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		p.killed = ws.Signal()
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

func (p *hostProcess) ExitSignal() syscall.Signal { return p.killed }

func (p *hostProcess) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

func (p *hostProcess) Resize(cols, rows uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return os.ErrProcessDone
	}
	return pty.Setsize(p.tty, &pty.Winsize{Cols: cols, Rows: rows})
}
