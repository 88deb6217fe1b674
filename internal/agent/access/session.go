package access

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
)

// Exit codes of what could not be started, as shells and sshd use them.
const (
	exitNotStarted = 127
	exitUnknown    = 255
)

// maxEarly bounds the signals kept for a process that is still being started.
const maxEarly = 16

// session is a channel on which one shell, command or subsystem runs.
type session struct {
	c   *connection
	ch  ssh.Channel
	env []string // accepted from the client

	// Only the goroutine that answers the channel's requests touches what follows.
	tty     bool
	term    string
	began   bool
	running chan struct{} // closed when the process has ended and the channel is closed

	mu         sync.Mutex
	cols, rows uint16
	process    machine.Process // nil until it has started and after it has ended
	ended      bool
	early      []os.Signal // for when it has started
	sent       map[syscall.Signal]bool
}

// runSession serves a session from its opening until its process has ended, or is no longer waited for.
func (c *connection) runSession(nc ssh.NewChannel) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return // the connection has ended
	}
	defer ch.Close()
	s := &session{c: c, ch: ch, sent: map[syscall.Signal]bool{}}
	execCtx, abandon := context.WithCancel(context.WithoutCancel(c.ctx))
	defer abandon()
	for r := range requests { // closed when either side closed the channel, or the connection ended
		ok, begin := s.answer(r)
		if r.WantReply {
			r.Reply(ok, nil) // an error is the connection's end, which this loop sees next
		}
		if begin != nil {
			s.running = make(chan struct{})
			c.wg.Go(func() {
				defer close(s.running)
				defer ch.Close()
				s.run(execCtx, *begin)
			})
		}
	}
	if s.running == nil {
		return
	}
	s.signal(syscall.SIGHUP)
	timer := time.NewTimer(c.limits.HangupGrace)
	defer timer.Stop()
	select {
	case <-s.running:
	case <-timer.C:
		abandon()
		<-s.running
	}
}

// answer does what the client asks for. begin is set when a process is to be started.
func (s *session) answer(r *ssh.Request) (ok bool, begin *machine.ExecSpec) {
	switch r.Type {
	case "env":
		return s.setEnv(r.Payload), nil
	case "pty-req":
		return s.setTerminal(r.Payload), nil
	case "window-change":
		return s.resize(r.Payload), nil
	case "signal":
		var m struct{ Name string }
		if ssh.Unmarshal(r.Payload, &m) != nil {
			return false, nil
		}
		sig, known := signalNames[m.Name]
		if known && s.began {
			s.signal(sig)
		}
		return known && s.began, nil
	case "shell", "exec", "subsystem":
		if s.began {
			return false, nil
		}
		var m struct{ Value string }
		if r.Type != "shell" && ssh.Unmarshal(r.Payload, &m) != nil {
			return false, nil
		}
		spec, ok := s.spec(r.Type, m.Value)
		if !ok {
			return false, nil
		}
		s.began = true
		s.c.log.Debug("SSH session", "kind", r.Type, "tty", s.tty)
		return true, spec
	}
	return false, nil // agent and X11 forwarding, breaks, and what else there may come to be
}

func (s *session) setTerminal(payload []byte) bool {
	var m struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     string
	}
	if s.began || s.tty || !s.c.key.pty || ssh.Unmarshal(payload, &m) != nil || !cleanEnv(m.Term) {
		return false
	}
	s.tty, s.term = true, m.Term
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cols, s.rows = clamp(m.Cols), clamp(m.Rows)
	return true
}

func clamp(n uint32) uint16 { return uint16(min(n, 1<<16-1)) }

func (s *session) resize(payload []byte) bool {
	var m struct{ Cols, Rows, Width, Height uint32 }
	if !s.tty || ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cols, s.rows = clamp(m.Cols), clamp(m.Rows)
	if s.process == nil {
		return true
	}
	if err := s.process.Resize(s.cols, s.rows); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.c.log.Debug("SSH terminal not resized", "error", err)
		return false
	}
	return true
}

// signal passes a signal on, at once or when the process has started.
func (s *session) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.process != nil:
		s.deliver(sig)
	case !s.ended && len(s.early) < maxEarly:
		s.early = append(s.early, sig)
	}
}

func (s *session) deliver(sig os.Signal) {
	if n, ok := sig.(syscall.Signal); ok {
		s.sent[n] = true
	}
	if err := s.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.c.log.Debug("SSH signal not delivered", "signal", sig, "error", err)
	}
}

// run starts the process, waits for it and tells the client how it ended.
func (s *session) run(ctx context.Context, spec machine.ExecSpec) {
	spec.Stdin, spec.Stdout = s.ch, s.ch
	if !spec.TTY {
		spec.Stderr = s.ch.Stderr()
	}
	s.mu.Lock()
	spec.Cols, spec.Rows = s.cols, s.rows
	s.mu.Unlock()
	p, err := s.c.Exec(ctx, spec)
	if err != nil {
		s.c.log.Warn("SSH session's process did not start", "command", spec.Args[0], "error", err)
		fmt.Fprintf(s.ch.Stderr(), "nacre: %s could not be started in %s\r\n", spec.Args[0], s.c.Instance)
		s.exited(exitNotStarted, 0)
		return
	}
	s.started(p, spec)
	code, err := p.Wait()
	s.mu.Lock()
	s.process, s.ended = nil, true
	s.mu.Unlock()
	if err != nil {
		s.c.log.Warn("SSH session's process ended in an unknown way", "command", spec.Args[0], "error", err)
		code = exitUnknown
	}
	s.exited(code, s.killedBy(p, code))
}

// started hands over what came while the process was being started.
func (s *session) started(p machine.Process, spec machine.ExecSpec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = p
	if spec.TTY && (s.cols != spec.Cols || s.rows != spec.Rows) {
		if err := p.Resize(s.cols, s.rows); err != nil {
			s.c.log.Debug("SSH terminal not resized", "error", err)
		}
	}
	for _, sig := range s.early {
		s.deliver(sig)
	}
	s.early = nil
}

// killedBy tells the signal that ended the process, 0 for none. An exit code above 128 alone doesn't say it: a
// shell reports its last command's death in the same way. So it counts when the process says so, or when
// it is the code of a signal that this session sent.
func (s *session) killedBy(p machine.Process, code int) syscall.Signal {
	if k, ok := p.(interface{ ExitSignal() syscall.Signal }); ok {
		return k.ExitSignal()
	}
	sig := syscall.Signal(code - 128)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent[sig] {
		return sig
	}
	return 0
}

// exited sends how the process ended, and then the end of the output: OpenSSH's client may give a shared connection's session
// up once both sides have said that nothing more comes, and would not hear of the end. Errors mean that the client has gone.
func (s *session) exited(code int, sig syscall.Signal) {
	defer s.ch.CloseWrite()
	for name, n := range signalNames {
		if sig != n {
			continue
		}
		s.ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name       string
			CoreDumped bool
			Message    string
			Language   string
		}{Name: name}))
		return
	}
	s.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)}))
}
