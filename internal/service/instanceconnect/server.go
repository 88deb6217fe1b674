// Package instanceconnect is EC2 Instance Connect: keys that are pushed for a minute, and the SSH server of the endpoint that they let
// in to, which carries the consoles of instances.
//
// It promises that nobody reaches a console but with a key that its instance's owner has pushed and while the owner's account allows
// consoles; that many share a console; and that what a client holds is bounded. It serves no shell and no other forwarding: the way
// into an instance's own system is the instance's.
package instanceconnect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/sshdoor"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Nodes reaches instances on their nodes.
type Nodes interface {
	// Open connects to a console or screen. The error says why there is none.
	Open(ctx context.Context, node cloud.NodeID, to agentrpc.Target) (io.ReadWriteCloser, error)
	// Break sends a break down a virtual machine's serial line.
	Break(ctx context.Context, node cloud.NodeID, id cloud.InstanceID) error
}

// Config is what the service works with.
type Config struct {
	Store  *store.Store
	Nodes  Nodes
	Rand   io.Reader
	Now    func() time.Time
	Logger *slog.Logger
}

// Service answers EC2 Instance Connect's actions and the SSH clients of consoles.
type Service struct {
	cfg   Config
	store *store.Store

	mu       sync.Mutex
	sessions map[cloud.InstanceID]int
}

// New makes the service.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, store: cfg.Store, sessions: map[cloud.InstanceID]int{}}
}

const (
	maxSessions        = 16  // on the consoles and screens of one instance at a time
	maxConnections     = 512 // to the endpoint
	maxUnauthenticated = 64
	loginGrace         = 20 * time.Second
	awayLimit          = 15 * time.Second       // for a node that is not connected
	pause              = 200 * time.Millisecond // between looks whether something is there again
	keepalive          = 30 * time.Second       // between questions whether a client lives
	keepaliveWait      = 60 * time.Second       // for the answer
)

// Serve answers the SSH clients that come in at l, which it closes, until ctx ends; then it hangs up on them.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	key, err := s.hostKey(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	conns, logins := make(sshdoor.Tokens, maxConnections), make(sshdoor.Tokens, maxUnauthenticated)
	for {
		conn, err := sshdoor.Accept(ctx, l, s.cfg.Logger)
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept connections to consoles: %w", err)
		}
		if !conns.Take() {
			conn.Close()
			continue
		}
		if !logins.Take() {
			conns.GiveBack()
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer conns.GiveBack()
			s.serve(ctx, conn, key, sync.OnceFunc(logins.GiveBack))
		})
	}
}

// serve sees a connection through.
func (s *Service) serve(ctx context.Context, conn net.Conn, key ssh.Signer, decided func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer decided()
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(loginGrace)); err != nil {
		return
	}
	client, channels, requests, err := ssh.NewServerConn(conn, s.sshConfig(key))
	decided()
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		s.cfg.Logger.Debug("no login to a console", "source", conn.RemoteAddr().String(), "error", err)
		return
	}
	who := client.Permissions.ExtraData[loginKey{}].(login)
	c := &connection{Service: s, login: who, ctx: ctx, client: client,
		log: s.cfg.Logger.With("instance", who.instance, "source", conn.RemoteAddr().String())}
	c.log.Info("login to the consoles of an instance", "key", who.print)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait
	defer client.Close()
	wg.Go(func() { ssh.DiscardRequests(requests) })
	wg.Go(func() { sshdoor.Watch(ctx, client, keepalive, keepaliveWait, c.log) })
	for ch := range channels { // closed when the connection ends
		wg.Go(func() { c.open(ch) })
	}
}

// connection is a client that has logged in.
type connection struct {
	*Service
	login
	ctx    context.Context // ends with the connection
	client *ssh.ServerConn
	log    *slog.Logger
}

func (c *connection) open(ch ssh.NewChannel) {
	serve := map[string]func(ssh.NewChannel){"session": c.console, "direct-tcpip": c.forward}[ch.ChannelType()]
	if serve == nil {
		ch.Reject(ssh.UnknownChannelType, "this channel type is not served")
		return
	}
	if !c.begin(c.instance) {
		ch.Reject(ssh.ResourceShortage, fmt.Sprintf("%s has %d console sessions, which are the most", c.instance, maxSessions))
		return
	}
	defer c.end(c.instance)
	serve(ch)
}

// begin counts a session in; it returns false when there are enough.
func (s *Service) begin(id cloud.InstanceID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[id] >= maxSessions {
		return false
	}
	s.sessions[id]++
	return true
}

func (s *Service) end(id cloud.InstanceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[id]--; s.sessions[id] == 0 {
		delete(s.sessions, id)
	}
}

// full tells whether an instance has as many sessions as it can.
func (s *Service) full(id cloud.InstanceID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id] >= maxSessions
}

// reach connects to a console or screen of the instance.
func (c *connection) reach(to agentrpc.Target) (io.ReadWriteCloser, error) {
	i, ok := store.Get(c.store.View(), store.Instances, c.instance)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s is not there any more", c.instance)
	case i.State != cloud.StateRunning || i.Node == "":
		return nil, fmt.Errorf("%s is %s; only running instances have consoles", c.instance, i.State)
	}
	t, err := c.dial(i.Node, to)
	if err != nil {
		c.log.Info("a console can't be reached", "error", err)
		return nil, err
	}
	return t, nil
}

// dial connects to something on a node, for which it waits a while: it may be about to connect itself.
func (c *connection) dial(node cloud.NodeID, to agentrpc.Target) (io.ReadWriteCloser, error) {
	look := time.NewTicker(pause)
	defer look.Stop()
	for limit := time.Now().Add(awayLimit); ; {
		t, err := c.cfg.Nodes.Open(c.ctx, node, to)
		if !errors.Is(err, agentrpc.ErrNodeAway) || time.Now().After(limit) {
			return t, err
		}
		select {
		case <-look.C:
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
}

var errConsolesOff = errors.New("the account does not allow serial consoles")
