package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

// Exec starts a process inside and returns when it runs. When ctx ends, the process is killed.
func (c *Client) Exec(ctx context.Context, spec machine.ExecSpec) (machine.Process, error) {
	if len(spec.Args) == 0 {
		return nil, errors.New("start a process: no command")
	}
	p := &process{client: c, tty: spec.TTY, started: make(chan wire.Started, 1), exit: make(chan struct{}),
		stdout: wire.NewQueue(), stderr: wire.NewQueue(), stdin: wire.NewCredit()}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, c.err
	}
	if len(c.processes) >= wire.MaxProcesses {
		c.mu.Unlock()
		return nil, fmt.Errorf("start %q: %d processes run already", strings.Join(spec.Args, " "), wire.MaxProcesses)
	}
	c.next++
	p.id = c.next
	c.processes[p.id] = p
	c.mu.Unlock()
	if err := p.start(ctx, spec); err != nil {
		p.abandon()
		return nil, fmt.Errorf("start %q: %w", strings.Join(spec.Args, " "), err)
	}
	return p, nil
}

// process is a process inside.
type process struct {
	client *Client
	id     uint32
	tty    bool

	started        chan wire.Started
	stdout, stderr *wire.Queue
	stdin          *wire.Credit
	copies         sync.WaitGroup
	outErr         error // of the copies; read after them

	mu   sync.Mutex
	over bool
	exit chan struct{} // closed when over; code and err are set
	code int
	err  error
}

func (p *process) start(ctx context.Context, spec machine.ExecSpec) error {
	out := p.client.out
	err := out.Message(wire.TypeExec, p.id, wire.Exec{Args: spec.Args, Env: spec.Env, Dir: spec.Dir, User: spec.User, TTY: spec.TTY,
		Cols: spec.Cols, Rows: spec.Rows, Term: spec.Term, Stdin: spec.Stdin != nil})
	if err != nil {
		return err
	}
	begun := func(s wire.Started) error {
		if s.Error != "" {
			return errors.New(s.Error)
		}
		return nil
	}
	select {
	case s := <-p.started:
		if err := begun(s); err != nil {
			return err
		}
	case <-p.exit:
		select {
		case s := <-p.started: // and has ended already
			if err := begun(s); err != nil {
				return err
			}
		default:
			if p.err != nil {
				return p.err
			}
			return errors.New("the guest ended it before it began")
		}
	case <-ctx.Done():
		out.Message(wire.TypeSignal, p.id, wire.Signal{Number: int(syscall.SIGKILL)})
		return ctx.Err()
	}
	context.AfterFunc(ctx, func() { p.Signal(syscall.SIGKILL) })
	var mu sync.Mutex
	for _, s := range []struct {
		of wire.Type
		q  *wire.Queue
		to io.Writer
	}{{wire.TypeStdout, p.stdout, spec.Stdout}, {wire.TypeStderr, p.stderr, spec.Stderr}} {
		p.copies.Go(func() {
			err := s.q.CopyTo(s.to, func(n int) { out.Message(wire.TypeWindow, p.id, wire.Window{Of: s.of, Bytes: n}) })
			mu.Lock()
			p.outErr = errors.Join(p.outErr, err)
			mu.Unlock()
		})
	}
	if spec.Stdin != nil {
		// Nobody waits for it: its reader may end only after the process did.
		go p.feed(spec.Stdin)
	}
	return nil
}

// feed sends the input, as far as the process consumes it.
func (p *process) feed(from io.Reader) {
	b := make([]byte, wire.MaxChunk)
	for {
		n, err := from.Read(b)
		for at := 0; at < n; {
			k, closed := p.stdin.Take(n - at)
			if closed != nil || p.client.out.Bytes(wire.TypeStdin, p.id, b[at:at+k]) != nil {
				return
			}
			at += k
		}
		if err != nil {
			p.client.out.Bytes(wire.TypeStdin, p.id, nil)
			return
		}
	}
}

// handle takes one message of the guest's.
func (p *process) handle(f wire.Frame) error {
	bad := func(err error) error { return fmt.Errorf("the guest's message on a process: %w", err) }
	switch f.Type {
	case wire.TypeStarted:
		var s wire.Started
		if err := json.Unmarshal(f.Payload, &s); err != nil {
			return bad(err)
		}
		select {
		case p.started <- s:
		default:
			return bad(errors.New("started twice"))
		}
	case wire.TypeStdout, wire.TypeStderr:
		q := p.stdout
		if f.Type == wire.TypeStderr {
			q = p.stderr
		}
		if err := q.Put(f.Payload); err != nil {
			return bad(err)
		}
	case wire.TypeWindow:
		var w wire.Window
		if err := json.Unmarshal(f.Payload, &w); err != nil {
			return bad(err)
		}
		if err := p.stdin.Add(w.Bytes); err != nil {
			return bad(err)
		}
	case wire.TypeExit:
		var e wire.Exit
		if err := json.Unmarshal(f.Payload, &e); err != nil {
			return bad(err)
		}
		p.finish(e.Code&0xff, nil)
	default:
		return bad(fmt.Errorf("type %d", f.Type))
	}
	return nil
}

// lost ends a process whose connection ended.
func (p *process) lost(err error) { p.finish(0, err) }

func (p *process) finish(code int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over, p.code, p.err = true, code, err
	if err == nil {
		err = io.EOF
	}
	p.stdout.End(err)
	p.stderr.End(err)
	p.stdin.Close()
	close(p.exit)
}

// abandon forgets a process that did not start.
func (p *process) abandon() {
	p.client.mu.Lock()
	delete(p.client.processes, p.id)
	p.client.mu.Unlock()
	p.finish(0, ErrLost)
}

// Wait implements machine.Process.
func (p *process) Wait() (int, error) {
	<-p.exit
	p.copies.Wait()
	if p.err != nil {
		return 0, fmt.Errorf("wait for a process inside: %w", p.err)
	}
	return p.code, p.outErr
}

// Signal implements machine.Process.
func (p *process) Signal(sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v has no number", sig)
	}
	return p.tell(wire.TypeSignal, wire.Signal{Number: int(n)})
}

// Resize implements machine.Process.
func (p *process) Resize(cols, rows uint16) error {
	if !p.tty {
		return os.ErrProcessDone
	}
	return p.tell(wire.TypeResize, wire.Resize{Cols: cols, Rows: rows})
}

func (p *process) tell(t wire.Type, v any) error {
	p.mu.Lock()
	over := p.over
	p.mu.Unlock()
	if over {
		return os.ErrProcessDone
	}
	return p.client.out.Message(t, p.id, v)
}
