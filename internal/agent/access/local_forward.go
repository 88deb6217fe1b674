package access

import (
	"context"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/relay"
)

// dialTimeout bounds the search for somebody who answers at a forwarded connection's end.
const dialTimeout = 30 * time.Second

// forwardLocal connects a client's channel to an address as seen from inside the instance.
func (c *connection) forwardLocal(nc ssh.NewChannel) {
	var m struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(nc.ExtraData(), &m); err != nil || m.Port == 0 || m.Port > 65535 {
		nc.Reject(ssh.ConnectionFailed, "malformed request")
		return
	}
	if !c.key.forwarding {
		nc.Reject(ssh.Prohibited, "the key may not forward ports")
		return
	}
	conn, err := c.dialInside(m.Host, m.Port)
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	ch, requests, err := nc.Accept()
	if err != nil {
		conn.Close()
		return
	}
	c.wg.Go(func() { discard(requests) })
	relay.Both(c.ctx, ch, conn)
}

// dialInside tries the addresses of a host in order.
func (c *connection) dialInside(host string, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	addrs, err := c.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	for _, addr := range addrs {
		network := "tcp4"
		if addr.Is6() {
			network = "tcp6"
		}
		conn, err = c.Dial(ctx, network, net.JoinHostPort(addr.String(), strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
	}
	return nil, err
}
