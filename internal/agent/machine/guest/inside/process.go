package inside

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/creack/pty"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

// Starter starts a process and returns its id and a channel that gets its end. A first process has a reaper that collects
// every child, so that nobody else may wait for one.
type Starter func(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error)

// StartChild is the Starter of a program that is not the first process.
func StartChild(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	end := make(chan syscall.WaitStatus, 1)
	go func() {
		var st syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(pid, &st, 0, nil); err != syscall.EINTR {
				break
			}
		}
		end <- st
	}()
	return pid, end, nil
}

// process is one that the agent started.
type process struct {
	session *session
	id      uint32
	stdin   *wire.Queue
	out     map[wire.Type]*wire.Credit

	mu       sync.Mutex
	pid      int // 0 once it was collected
	tty      *os.File
	finished bool
}

// exec opens a stream. Everything that may take time happens beside the reading of the port.
func (s *session) exec(f wire.Frame) {
	p := &process{session: s, id: f.Stream, stdin: wire.NewQueue(),
		out: map[wire.Type]*wire.Credit{wire.TypeStdout: wire.NewCredit(), wire.TypeStderr: wire.NewCredit()}}
	s.mu.Lock()
	used, full, over := s.procs[f.Stream] != nil, len(s.procs) >= wire.MaxProcesses, s.over
	if !used && !full && !over {
		s.procs[f.Stream] = p
	}
	s.mu.Unlock()
	if over {
		return
	}
	go func() {
		var x wire.Exec
		err := json.Unmarshal(f.Payload, &x)
		switch {
		case used:
			return // a second one on a stream in use concerns nobody
		case full:
			err = fmt.Errorf("%d processes run already", wire.MaxProcesses)
		case err == nil:
			err = p.run(x)
		}
		if err != nil {
			if !full {
				p.remove()
			}
			s.message(wire.TypeStarted, f.Stream, wire.Started{Error: err.Error()})
		}
	}()
}

func (p *process) remove() {
	p.session.mu.Lock()
	delete(p.session.procs, p.id)
	p.session.mu.Unlock()
}

// run starts the process and its copies.
func (p *process) run(x wire.Exec) error {
	if len(x.Args) == 0 {
		return errors.New("no command")
	}
	l, err := lookUp(x.User)
	if err != nil {
		return err
	}
	env := l.environment(x)
	dir := l.directory(x.Dir)
	path, err := find(x.Args[0], env, dir)
	if err != nil {
		return err
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Sys: &syscall.SysProcAttr{Setsid: true, Credential: l.credential()}}
	if x.TTY {
		return p.startTerminal(path, x, attr)
	}
	return p.startPipes(path, x, attr)
}

// begin starts the process and, on success, everything that goes on while it runs.
func (p *process) begin(path string, x wire.Exec, attr *syscall.ProcAttr, input io.WriteCloser, outputs map[wire.Type]*os.File) error {
	start := p.session.server.Starter
	if start == nil {
		start = StartChild
	}
	p.mu.Lock()
	pid, end, err := start(path, x.Args, attr)
	p.pid = pid
	hungUp := p.finished
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", x.Args[0], err)
	}
	if hungUp {
		p.hangUp()
	}
	p.session.message(wire.TypeStarted, p.id, wire.Started{PID: pid})
	var copies sync.WaitGroup
	for t, f := range outputs {
		copies.Go(func() { p.send(t, f) })
	}
	if input != nil {
		go func() {
			p.stdin.CopyTo(input, func(n int) {
				p.session.message(wire.TypeWindow, p.id, wire.Window{Of: wire.TypeStdin, Bytes: n})
			})
			if !x.TTY {
				input.Close()
			}
		}()
	} else {
		p.stdin.End(io.EOF)
	}
	go func() {
		st := <-end
		p.mu.Lock()
		p.pid = 0
		p.mu.Unlock()
		copies.Wait()
		p.stdin.End(io.EOF)
		p.mu.Lock()
		if p.tty != nil {
			p.tty.Close()
			p.tty = nil
		}
		p.mu.Unlock()
		p.remove()
		p.session.message(wire.TypeExit, p.id, wire.Exit{Code: exitCode(st)})
	}()
	return nil
}

// exitCode is as shells have it.
func exitCode(st syscall.WaitStatus) int {
	if st.Signaled() {
		return 128 + int(st.Signal())
	}
	return st.ExitStatus()
}

// send copies what the process writes, as far as it is consumed. When nobody takes it any more, the pipe is closed.
func (p *process) send(t wire.Type, from *os.File) {
	if !p.isTTY(from) { // which is closed with the process
		defer from.Close()
	}
	b := make([]byte, wire.MaxChunk)
	for {
		n, err := from.Read(b)
		for at := 0; at < n; {
			k, closed := p.out[t].Take(n - at)
			if closed != nil || p.session.bytes(t, p.id, b[at:at+k]) != nil {
				return
			}
			at += k
		}
		if err != nil {
			return
		}
	}
}

func (p *process) isTTY(f *os.File) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tty == f
}

func (p *process) startPipes(path string, x wire.Exec, attr *syscall.ProcAttr) error {
	var ours, theirs []*os.File
	closeAll := func(l []*os.File) {
		for _, f := range l {
			f.Close()
		}
	}
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err != nil {
			closeAll(ours)
			closeAll(theirs)
		}
		return r, w, err
	}
	var input *os.File
	if x.Stdin {
		r, w, err := pipe()
		if err != nil {
			return err
		}
		theirs, ours, input = append(theirs, r), append(ours, w), w
	} else {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		theirs = append(theirs, null)
	}
	outputs := map[wire.Type]*os.File{}
	for _, t := range []wire.Type{wire.TypeStdout, wire.TypeStderr} {
		r, w, err := pipe()
		if err != nil {
			return err
		}
		theirs, ours, outputs[t] = append(theirs, w), append(ours, r), r
	}
	for _, f := range theirs {
		attr.Files = append(attr.Files, f.Fd())
	}
	var in io.WriteCloser
	if input != nil {
		in = input
	}
	err := p.begin(path, x, attr, in, outputs)
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
	}
	return err
}

func (p *process) startTerminal(path string, x wire.Exec, attr *syscall.ProcAttr) error {
	master, tty, err := pty.Open()
	if err != nil {
		return err
	}
	defer tty.Close()
	pty.Setsize(master, &pty.Winsize{Cols: x.Cols, Rows: x.Rows})
	// Programs such as tmux open their terminal by its name, as their user.
	tty.Chown(int(attr.Sys.Credential.Uid), int(attr.Sys.Credential.Gid))
	fd := tty.Fd()
	attr.Files = []uintptr{fd, fd, fd}
	attr.Sys.Setctty = true
	p.mu.Lock()
	p.tty = master
	p.mu.Unlock()
	var in io.WriteCloser
	if x.Stdin {
		in = master
	}
	outputs := map[wire.Type]*os.File{wire.TypeStdout: master}
	if err := p.begin(path, x, attr, in, outputs); err != nil {
		p.mu.Lock()
		p.tty = nil
		p.mu.Unlock()
		master.Close()
		return err
	}
	return nil
}

// handle takes one message of the agent's; it never blocks.
func (p *process) handle(f wire.Frame) {
	switch f.Type {
	case wire.TypeStdin:
		if len(f.Payload) == 0 {
			p.stdin.End(io.EOF)
		} else if p.stdin.Put(f.Payload) != nil {
			p.hangUp()
		}
	case wire.TypeWindow:
		var w wire.Window
		if json.Unmarshal(f.Payload, &w) == nil && p.out[w.Of] != nil {
			p.out[w.Of].Add(w.Bytes)
		}
	case wire.TypeSignal:
		var s wire.Signal
		if json.Unmarshal(f.Payload, &s) == nil && s.Number > 0 && s.Number < 65 {
			p.signal(syscall.Signal(s.Number))
		}
	case wire.TypeResize:
		var r wire.Resize
		if json.Unmarshal(f.Payload, &r) != nil {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.tty != nil {
			pty.Setsize(p.tty, &pty.Winsize{Cols: r.Cols, Rows: r.Rows})
		}
	}
}

func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return
	}
	if p.tty != nil && sig == syscall.SIGHUP {
		// All of its session hear it, as when a terminal is taken away.
		syscall.Kill(-p.pid, sig)
		return
	}
	syscall.Kill(p.pid, sig)
}

// hangUp ends a process that nobody is there for any more: it is told so, and finds its streams closed.
func (p *process) hangUp() {
	for _, c := range p.out {
		c.Close()
	}
	p.stdin.End(io.EOF)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished = true
	if p.pid != 0 {
		syscall.Kill(-p.pid, syscall.SIGHUP)
	}
}
