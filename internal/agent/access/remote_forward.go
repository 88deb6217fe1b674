package access

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/relay"
	"github.com/nacre-cloud/nacre/internal/sshdoor"
)

// bindAddress is where a client asked to listen, in its own words: it names the forwarding by them later.
type bindAddress struct {
	Host string
	Port uint32
}

// remoteForwards are the ports inside the instance that a connection's client listens on.
type remoteForwards struct {
	mu        sync.Mutex
	listeners map[bindAddress]net.Listener
}

func (f *remoteForwards) has(at bindAddress) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listeners[at] != nil
}

func (f *remoteForwards) put(at bindAddress, l net.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners[at] = l
}

func (f *remoteForwards) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at, l := range f.listeners {
		l.Close()
		delete(f.listeners, at)
	}
}

// take removes a forwarding, nil when there is none.
func (f *remoteForwards) take(at bindAddress) net.Listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.listeners[at]
	delete(f.listeners, at)
	return l
}

// firstUnprivilegedPort is the first port that others than root may listen on. The agent could listen on any, so
// the rule that the kernel keeps for a user's own processes is kept here.
const firstUnprivilegedPort = 1024

// listenInside begins a forwarding from a port inside the instance to the client.
func (c *connection) listenInside(payload []byte) (ok bool, reply []byte) {
	var at bindAddress
	if err := ssh.Unmarshal(payload, &at); err != nil || at.Port > 65535 || !c.key.forwarding {
		return false, nil
	}
	if c.user.uid != 0 && at.Port != 0 && at.Port < firstUnprivilegedPort {
		c.log.Info("SSH forwarding refused: only root listens on this port", "port", at.Port)
		return false, nil
	}
	addr, ok := bindAddr(at.Host)
	if !ok {
		return false, nil
	}
	// Only this goroutine adds listeners, so a free place stays free.
	if c.remote.has(at) || !c.listeners.Take() {
		return false, nil
	}
	l, err := c.listen(addr, at.Port)
	if err != nil {
		c.listeners.GiveBack()
		c.log.Info("SSH forwarding refused", "error", err)
		return false, nil
	}
	if at.Port == 0 {
		at.Port = uint32(l.port)
		reply = ssh.Marshal(struct{ Port uint32 }{at.Port})
	}
	c.remote.put(at, l)
	if c.ctx.Err() != nil {
		c.remote.closeAll() // the connection's end may have passed by before the listener was noted
	}
	c.wg.Go(func() {
		defer c.listeners.GiveBack()
		c.acceptInside(l, at)
	})
	return true, reply
}

// insideListener is a listener whose port is known.
type insideListener struct {
	net.Listener
	port uint16
}

func (c *connection) listen(addr netip.Addr, port uint32) (insideListener, error) {
	network := "tcp4"
	if addr.Is6() {
		network = "tcp6"
	}
	l, err := c.Listen(c.ctx, network, net.JoinHostPort(addr.String(), strconv.Itoa(int(port))))
	if err != nil {
		return insideListener{}, fmt.Errorf("listen on %s port %d inside %s: %w", addr, port, c.Instance, err)
	}
	bound, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		l.Close()
		return insideListener{}, fmt.Errorf("listen on %s port %d inside %s: %w", addr, port, c.Instance, err)
	}
	return insideListener{Listener: l, port: bound.Port()}, nil
}

// bindAddr is where to listen: on the loopback, unless the client asked for more.
func bindAddr(host string) (netip.Addr, bool) {
	switch host {
	case "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	case "", "*":
		return netip.IPv4Unspecified(), true
	}
	addr, err := netip.ParseAddr(host)
	return addr.WithZone(""), err == nil
}

func (c *connection) stopListening(payload []byte) bool {
	var at bindAddress
	if err := ssh.Unmarshal(payload, &at); err != nil {
		return false
	}
	l := c.remote.take(at)
	if l == nil {
		return false
	}
	l.Close()
	return true
}

// acceptInside hands the connections that come in inside the instance to the client.
func (c *connection) acceptInside(l net.Listener, at bindAddress) {
	defer l.Close()
	for {
		conn, err := sshdoor.Accept(c.ctx, l, c.log)
		if err != nil {
			return // closed by stopListening or closeAll
		}
		if !c.forwards.Take() {
			conn.Close()
			continue
		}
		c.wg.Go(func() {
			defer c.forwards.GiveBack()
			c.forwardRemote(conn, at)
		})
	}
}

func (c *connection) forwardRemote(conn net.Conn, at bindAddress) {
	origin, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		conn.Close()
		return
	}
	ch, requests, err := c.client.OpenChannel("forwarded-tcpip", ssh.Marshal(struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}{at.Host, at.Port, origin.Addr().Unmap().String(), uint32(origin.Port())}))
	if err != nil {
		c.log.Debug("SSH client did not take a forwarded connection", "error", err)
		conn.Close()
		return
	}
	c.wg.Go(func() { discard(requests) })
	relay.Both(c.ctx, ch, conn)
}
