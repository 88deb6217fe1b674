package confined

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// attachSocket is the monitor's, in a machine's bundle: packets of a byte for the stream and what was written to it one
	// way, what is typed the other.
	attachSocket = "attach"
	// packetSize is more than a monitor puts into a packet, typedSize no more than it takes of one.
	packetSize = 16 << 10
	typedSize  = 4 << 10
	// unreadSize is how much of a console waits for a reader, in bytes.
	unreadSize = 256 << 10
)

// attachment is the one connection to a machine's monitor that all share who are attached to its console. It is always read at
// once: the monitor waits for it, and the machine for the monitor.
type attachment struct {
	conn  *net.UnixConn
	typed chan []byte   // nil for a program that takes no input
	ended chan struct{} // closed when the connection is

	mu        sync.Mutex
	terminals map[*terminal]struct{} // nil when it has ended
}

// Attach implements machine.Driver.
func (k *Keeper) Attach(_ context.Context, id cloud.InstanceID) (machine.Terminal, error) {
	if _, err := k.Running(id); err != nil {
		return nil, err
	}
	k.attaching.Lock()
	defer k.attaching.Unlock()
	if a := k.attached[id]; a != nil {
		if t := a.join(); t != nil {
			return t, nil
		}
	}
	conn, err := k.dialMonitor(id)
	if err != nil {
		return nil, fmt.Errorf("machine %s: attach to its console: %w", id, err)
	}
	a := &attachment{conn: conn, ended: make(chan struct{}), terminals: map[*terminal]struct{}{}}
	t := a.join()
	k.attached[id] = a
	if k.cfg.Input {
		a.typed = make(chan []byte)
		k.wg.Go(a.write)
	}
	stop := context.AfterFunc(k.ctx, func() { conn.Close() })
	k.wg.Go(func() {
		defer stop()
		a.read()
		k.attaching.Lock()
		if k.attached[id] == a {
			delete(k.attached, id)
		}
		k.attaching.Unlock()
	})
	return t, nil
}

// dialMonitor connects to a monitor's socket. Names of sockets may have 108 bytes only; the way through the descriptor is short.
func (k *Keeper) dialMonitor(id cloud.InstanceID) (*net.UnixConn, error) {
	dir, err := os.Open(k.Bundle(id))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: filepath.Join("/proc/self/fd", fmt.Sprint(dir.Fd()), attachSocket)})
}

// join adds one who is attached, nil when the attachment has ended.
func (a *attachment) join() *terminal {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.terminals == nil {
		return nil
	}
	t := &terminal{of: a, left: make(chan struct{}), more: make(chan struct{}, 1)}
	a.terminals[t] = struct{}{}
	return t
}

// read hands out what the machine writes until the monitor ends or nobody is attached any more.
func (a *attachment) read() {
	packet := make([]byte, packetSize)
	for {
		n, err := a.conn.Read(packet)
		if err != nil || n == 0 {
			break
		}
		a.mu.Lock()
		for t := range a.terminals {
			t.put(packet[1:n])
		}
		a.mu.Unlock()
	}
	a.conn.Close()
	a.mu.Lock()
	a.terminals = nil
	a.mu.Unlock()
	close(a.ended)
}

// write types what those who are attached type. It waits for a machine that doesn't read, which nothing else does.
func (a *attachment) write() {
	for {
		select {
		case p := <-a.typed:
			if _, err := a.conn.Write(p); err != nil {
				a.conn.Close()
			}
		case <-a.ended:
			return
		}
	}
}

// leave ends the connection with the last who is attached.
func (a *attachment) leave(t *terminal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.terminals, t)
	if a.terminals != nil && len(a.terminals) == 0 {
		a.terminals = nil
		a.conn.Close()
	}
}

// terminal implements machine.Terminal.
type terminal struct {
	of   *attachment
	once sync.Once
	left chan struct{} // closed by Close
	more chan struct{} // has room for one: something was added to unread

	mu     sync.Mutex
	unread []byte
	missed int // bytes that made room for unread
}

func (t *terminal) put(p []byte) {
	t.mu.Lock()
	if len(t.unread)+len(p) > unreadSize {
		t.missed += len(t.unread)
		t.unread = t.unread[:0]
	}
	t.unread = append(t.unread, p...)
	t.mu.Unlock()
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// take moves into p what was not read yet, beginning with a word about what was missed.
func (t *terminal) take(p []byte) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.missed > 0 {
		t.unread = append(fmt.Appendf(nil, "\r\n[%d bytes were not read in time]\r\n", t.missed), t.unread...)
		t.missed = 0
	}
	n := copy(p, t.unread)
	t.unread = t.unread[:copy(t.unread, t.unread[n:])]
	return n
}

// Read implements machine.Terminal.
func (t *terminal) Read(p []byte) (int, error) {
	for len(p) > 0 {
		select {
		case <-t.left:
			return 0, io.ErrClosedPipe
		default:
		}
		if n := t.take(p); n > 0 {
			return n, nil
		}
		select {
		case <-t.more:
		case <-t.left:
		case <-t.of.ended:
			if n := t.take(p); n > 0 {
				return n, nil
			}
			return 0, io.EOF
		}
	}
	return 0, nil
}

// errConsoleEnded is returned for what is typed to a machine that has ended.
var errConsoleEnded = errors.New("the machine has ended, and its console with it")

// Write implements machine.Terminal.
func (t *terminal) Write(p []byte) (int, error) {
	if t.of.typed == nil {
		return len(p), nil
	}
	done := 0
	for done < len(p) {
		part := p[done:min(done+typedSize, len(p))]
		select {
		case t.of.typed <- append([]byte(nil), part...):
			done += len(part)
		case <-t.left:
			return done, io.ErrClosedPipe
		case <-t.of.ended:
			return done, errConsoleEnded
		}
	}
	return done, nil
}

// Close implements machine.Terminal.
func (t *terminal) Close() error {
	t.once.Do(func() {
		close(t.left)
		t.of.leave(t)
	})
	return nil
}
