package access

import (
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// quickAck acknowledges what a client sends at once, until the login is over. OpenSSH's client leaves Nagle's
// algorithm on for so long and sends some steps of the handshake as two packets: the second then waits for
// the acknowledgement of the first, which Linux delays by 40 ms. Twice in each login.
type quickAck struct {
	net.Conn
	raw  syscall.RawConn // nil when the connection isn't TCP
	over atomic.Bool
}

func newQuickAck(conn net.Conn) *quickAck {
	q := &quickAck{Conn: conn}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			q.raw = raw
		}
	}
	return q
}

func (q *quickAck) Read(p []byte) (int, error) {
	n, err := q.Conn.Read(p)
	if q.raw != nil && !q.over.Load() {
		// The kernel falls back to delays by itself, so this is said again each time. A failure costs 40 ms.
		q.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	}
	return n, err
}

// loggedIn ends the haste.
func (q *quickAck) loggedIn() { q.over.Store(true) }
