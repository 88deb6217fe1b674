// Package inside is the guest's end of the serial port: it serves the agent's calls and runs processes for it.
package inside

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

// Machine is what the calls act on.
type Machine interface {
	// Welcome completes what is said of the machine at the beginning of a connection.
	Welcome(*wire.Welcome)
	Identify(wire.Identity) wire.Reply
	Shutdown(reboot bool) error
	Stats() (wire.Stats, error)
	Connect(wire.Interface) error
	Pages(wire.Pages) (wire.ProcessPages, error)
}

// Server serves one port.
type Server struct {
	Machine Machine
	// Starter starts processes; nil starts them as children that this program's own code waits for.
	Starter Starter

	out     *wire.Writer
	gate    sync.Mutex // around a look at whether a connection is over and the write that depends on it
	session *session
}

// session is what one connection of the agent's started.
type session struct {
	server *Server
	nonce  string
	mu     sync.Mutex
	over   bool
	procs  map[uint32]*process
}

// Serve handles what comes until reading fails, with io.EOF when the agent is gone; it may then be called again. What was
// started for an earlier connection is hung up.
func (s *Server) Serve(port io.ReadWriter) error {
	if s.out == nil {
		s.out = wire.NewWriter(port)
	}
	in := wire.NewReader(port)
	for {
		f, err := in.Next()
		if err != nil {
			s.hangUp()
			return err
		}
		s.handle(f)
	}
}

func (s *Server) hangUp() {
	if s.session != nil {
		s.session.end()
		s.session = nil
	}
}

// handle never blocks on what a process does.
func (s *Server) handle(f wire.Frame) {
	if f.Type == wire.TypeHello {
		s.hello(f)
		return
	}
	ses := s.session
	if ses == nil {
		return // of an earlier connection
	}
	switch f.Type {
	case wire.TypeRequest:
		var r wire.Request
		if err := json.Unmarshal(f.Payload, &r); err != nil {
			ses.message(wire.TypeReply, f.Stream, wire.Reply{Error: err.Error()})
			return
		}
		go func() { ses.message(wire.TypeReply, f.Stream, s.answer(ses, r)) }()
	case wire.TypeExec:
		ses.exec(f)
	case wire.TypeReply, wire.TypeStarted, wire.TypeStdout, wire.TypeStderr, wire.TypeExit:
		// The guest's own; nobody sends them here.
	default:
		if p := ses.process(f.Stream); p != nil {
			p.handle(f)
		}
	}
}

// hello begins a connection, unless it is repeated within one.
func (s *Server) hello(f wire.Frame) {
	var h wire.Hello
	if json.Unmarshal(f.Payload, &h) != nil {
		return
	}
	if s.session == nil || s.session.nonce != h.Nonce {
		s.hangUp()
		s.session = &session{server: s, nonce: h.Nonce, procs: map[uint32]*process{}}
	}
	w := wire.Welcome{Version: wire.Version, Nonce: h.Nonce, Capabilities: []string{wire.CallIdentify, wire.CallShutdown, wire.CallStats, wire.CallConnect, wire.CallPages}}
	s.Machine.Welcome(&w)
	s.session.message(wire.TypeHello, 0, w)
}

func (s *Server) answer(ses *session, r wire.Request) wire.Reply {
	fail := func(err error) wire.Reply { return wire.Reply{Error: err.Error()} }
	switch {
	case r.Call == wire.CallIdentify && r.Identity != nil:
		if len(r.Identity.Entropy) < wire.MinEntropy {
			return fail(fmt.Errorf("fewer than %d random bytes", wire.MinEntropy))
		}
		return s.Machine.Identify(*r.Identity)
	case r.Call == wire.CallShutdown && r.Shutdown != nil:
		if err := s.Machine.Shutdown(r.Shutdown.Reboot); err != nil {
			return fail(err)
		}
		return wire.Reply{}
	case r.Call == wire.CallConnect && r.Interface != nil:
		if err := s.Machine.Connect(*r.Interface); err != nil {
			return fail(err)
		}
		return wire.Reply{}
	case r.Call == wire.CallStats:
		st, err := s.Machine.Stats()
		if err != nil {
			return fail(err)
		}
		st.Processes = ses.count()
		return wire.Reply{Stats: &st}
	case r.Call == wire.CallPages && r.Pages != nil:
		pages, err := s.Machine.Pages(*r.Pages)
		if err != nil {
			return fail(err)
		}
		return wire.Reply{Pages: &pages}
	}
	return wire.Reply{Error: fmt.Sprintf("unknown or incomplete call %q", r.Call)}
}

// bytes writes for the connection, and nothing once another one has begun: its streams have the same numbers.
func (s *session) bytes(t wire.Type, stream uint32, b []byte) error {
	s.server.gate.Lock()
	defer s.server.gate.Unlock()
	if s.ended() {
		return wire.ErrClosed
	}
	return s.server.out.Bytes(t, stream, b)
}

func (s *session) message(t wire.Type, stream uint32, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.bytes(t, stream, b)
}

func (s *session) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

func (s *session) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.procs)
}

func (s *session) process(id uint32) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.procs[id]
}

// end hangs up what the connection started.
func (s *session) end() {
	s.mu.Lock()
	procs := s.procs
	s.over, s.procs = true, map[uint32]*process{}
	s.mu.Unlock()
	for _, p := range procs {
		p.hangUp()
	}
}
