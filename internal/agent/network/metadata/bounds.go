package metadata

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// What one instance may ask of the service. EC2 has such bounds too, and doesn't tell them.
const (
	// Rate and Burst are requests a second, and at once after a pause; those beyond are answered with 503.
	Rate  = 200
	Burst = 400
	// Connections are open at a time; those beyond are closed unanswered.
	Connections = 64
	// manyCallers is how many callers are remembered before those that rest are forgotten.
	manyCallers = 256
)

// callers bounds what each instance asks. The zero value is ready.
type callers struct {
	mu    sync.Mutex
	known map[cloud.InstanceID]*caller
}

type caller struct {
	open  int
	asked *rate.Limiter
}

// of returns a caller. c.mu is held.
func (c *callers) of(id cloud.InstanceID, now time.Time) *caller {
	found := c.known[id]
	if found != nil {
		return found
	}
	if len(c.known) >= manyCallers {
		for old, x := range c.known {
			if x.open == 0 && x.asked.TokensAt(now) >= Burst {
				delete(c.known, old)
			}
		}
	}
	if c.known == nil {
		c.known = map[cloud.InstanceID]*caller{}
	}
	found = &caller{asked: rate.NewLimiter(Rate, Burst)}
	c.known[id] = found
	return found
}

// ask tells whether an instance may ask now.
func (c *callers) ask(id cloud.InstanceID, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(id, now).asked.AllowN(now, 1)
}

// connect tells whether an instance may have one more connection, which is then counted until the answer is called.
func (c *callers) connect(id cloud.InstanceID, now time.Time) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.of(id, now)
	if x.open >= Connections {
		return nil, false
	}
	x.open++
	var once sync.Once
	return func() {
		once.Do(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			x.open--
		})
	}, true
}

// bounded accepts connections of instances that have not too many.
type bounded struct {
	net.Listener
	s *Server
}

func (b bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if remote, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
			if i, known := b.s.Lookup(remote.Addr().Unmap()); known {
				if leave, ok := b.s.callers.connect(i.Instance.ID, b.s.Now()); ok {
					return &counted{conn, leave}, nil
				}
			}
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // nothing of it stays
		}
		conn.Close()
	}
}

// counted is a connection that an instance has.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
