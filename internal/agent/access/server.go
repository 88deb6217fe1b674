package access

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/sshdoor"
)

// Config is what a Server works with.
type Config struct {
	Logger *slog.Logger
	Limits Limits
}

// Limits bound what the clients of an instance may take together. Zero values mean the defaults.
// A session or a forwarded connection holds up to 2 MiB of the agent's memory when its client sends what
// nobody inside reads; hence the limits on both.
type Limits struct {
	Unauthenticated int           // connections that have not logged in; 64
	Connections     int           // connections; 500
	Sessions        int           // shells, commands and file transfers at a time; 200
	Forwards        int           // forwarded connections at a time; 300
	Listeners       int           // ports forwarded from inside; 100
	LoginGrace      time.Duration // from the connection to the login; 120 s
	Keepalive       time.Duration // between questions whether the client lives; 30 s
	KeepaliveWait   time.Duration // for the answer; 60 s
	HangupGrace     time.Duration // from SIGHUP until a process is no longer waited for; 5 s
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		limit *int
		value int
	}{{&l.Unauthenticated, 64}, {&l.Connections, 500}, {&l.Sessions, 200}, {&l.Forwards, 300}, {&l.Listeners, 100}} {
		if *d.limit == 0 {
			*d.limit = d.value
		}
	}
	for _, d := range []struct {
		limit *time.Duration
		value time.Duration
	}{{&l.LoginGrace, 120 * time.Second}, {&l.Keepalive, 30 * time.Second}, {&l.KeepaliveWait, 60 * time.Second}, {&l.HangupGrace, 5 * time.Second}} {
		if *d.limit == 0 {
			*d.limit = d.value
		}
	}
	return l
}

// Server answers SSH clients for instances. It is safe for concurrent use.
type Server struct {
	log    *slog.Logger
	limits Limits
}

// New makes a Server.
func New(cfg Config) *Server {
	return &Server{log: cfg.Logger, limits: cfg.Limits.withDefaults()}
}

// Serve answers the connections that come in at l, which it closes, on behalf of target, until ctx
// ends; then it hangs up on the clients, waits for everything it began, and returns nil. The limits
// hold for each call of Serve.
func (s *Server) Serve(ctx context.Context, l net.Listener, target Target) error {
	ctx, cancel := context.WithCancel(ctx)
	e := &endpoint{
		Target: target, limits: s.limits,
		log:       s.log.With("instance", target.Instance),
		logins:    make(sshdoor.Tokens, s.limits.Unauthenticated),
		conns:     make(sshdoor.Tokens, s.limits.Connections),
		sessions:  make(sshdoor.Tokens, s.limits.Sessions),
		forwards:  make(sshdoor.Tokens, s.limits.Forwards),
		listeners: make(sshdoor.Tokens, s.limits.Listeners),
	}
	defer e.wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	if len(target.HostKeys) == 0 {
		return fmt.Errorf("serve SSH for %s: it has no host key", target.Instance)
	}
	return e.accept(ctx, l)
}

// endpoint is one Serve.
type endpoint struct {
	Target
	limits Limits
	log    *slog.Logger
	wg     sync.WaitGroup

	logins    sshdoor.Tokens // one is held by each connection that has not logged in
	conns     sshdoor.Tokens // by each connection
	sessions  sshdoor.Tokens // by each session
	forwards  sshdoor.Tokens // by each forwarded connection, in either direction
	listeners sshdoor.Tokens // by each port forwarded from inside
}

// accept takes connections in until ctx ends.
func (e *endpoint) accept(ctx context.Context, l net.Listener) error {
	for {
		conn, err := sshdoor.Accept(ctx, l, e.log)
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept SSH connections for %s: %w", e.Instance, err)
		}
		if !e.admit() {
			e.log.Warn("SSH connection dropped: too many", "source", conn.RemoteAddr().String())
			conn.Close()
			continue
		}
		e.wg.Go(func() {
			defer e.conns.GiveBack()
			e.serve(ctx, conn)
		})
	}
}

// admit takes the tokens for a new connection, both or none.
func (e *endpoint) admit() bool {
	if !e.conns.Take() {
		return false
	}
	if !e.logins.Take() {
		e.conns.GiveBack()
		return false
	}
	return true
}

// handshake agrees on keys and logs the client in, within the grace for that. It notes in attempted the
// user that the client last asked for.
func (e *endpoint) handshake(conn net.Conn, attempted *string) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	defer e.logins.GiveBack()
	if err := conn.SetDeadline(time.Now().Add(e.limits.LoginGrace)); err != nil {
		return nil, nil, nil, err
	}
	quick := newQuickAck(conn)
	defer quick.loggedIn()
	sc, channels, requests, err := ssh.NewServerConn(quick, e.config(attempted))
	if err != nil {
		return nil, nil, nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		sc.Close()
		return nil, nil, nil, err
	}
	return sc, channels, requests, nil
}
