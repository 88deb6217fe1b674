// Package qmp speaks QEMU's machine protocol over a unix socket: a JSON value a line, commands answered in their order,
// events in between (QEMU's docs/interop/qmp-spec). The libraries for it can't hand descriptors over, which is how a
// hypervisor gets the devices of the host that it may not open.
//
// The process behind the socket is confined because it may fall to its guest: what it says is outside bytes. A line is
// bounded, and one that is none of the protocol's ends the connection.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxLine bounds a message, in bytes.
	MaxLine = 1 << 20
	// maxWaiting is how many events may wait for their reader; the oldest are dropped, as only the newest state counts.
	maxWaiting = 256
	// writeLimit ends the connection to a process that reads nothing.
	writeLimit = 10 * time.Second
)

// ErrClosed is returned by calls on a connection that has ended.
var ErrClosed = errors.New("the connection to the hypervisor has ended")

// Error is what QEMU answers a command that it does not carry out.
type Error struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

func (e *Error) Error() string { return e.Description }

// Event is something that happened in the machine.
type Event struct {
	Name string
	Data json.RawMessage
	At   time.Time
}

// Client is a connection. Its methods may be called at any time, also at once.
type Client struct {
	Version string // QEMU's, such as "7.2.22"

	conn *net.UnixConn
	done chan struct{}

	commands sync.Mutex // one at a time: answers come in order
	mu       sync.Mutex
	waiting  chan message // of the command under way
	events   []Event
	happened chan struct{} // has room for one: something was added to events
	err      error
}

// message is any line that QEMU writes.
type message struct {
	Greeting *struct {
		Version struct {
			QEMU struct{ Major, Minor, Micro int } `json:"qemu"`
		} `json:"version"`
	} `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
	ID *uint64 `json:"id"`
}

// parse reads a line.
func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("the hypervisor said %.80q: %w", line, err)
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return m, fmt.Errorf("the hypervisor said %.80q, which is no message", line)
	}
	return m, nil
}

// New begins on a connection and waits, as long as ctx allows, for the greeting. It closes conn on an error.
func New(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{conn: conn, done: make(chan struct{}), happened: make(chan struct{}, 1)}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	in := bufio.NewReaderSize(conn, 64<<10)
	err := c.greet(in)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, errors.Join(err, ctx.Err())
	}
	go c.read(in)
	if err := c.Run(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) greet(in *bufio.Reader) error {
	line, err := readLine(in)
	if err != nil {
		return fmt.Errorf("wait for the hypervisor's greeting: %w", err)
	}
	m, err := parse(line)
	if err != nil {
		return err
	}
	if m.Greeting == nil {
		return fmt.Errorf("the hypervisor greets with %.80q", line)
	}
	v := m.Greeting.Version.QEMU
	c.Version = fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
	return nil
}

// readLine reads a bounded line.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > MaxLine:
			return nil, fmt.Errorf("a line of the hypervisor's has more than %d bytes", MaxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && len(line) > 0 && errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		}
		return line, err
	}
}

func (c *Client) read(in *bufio.Reader) {
	for {
		line, err := readLine(in)
		if err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
		m, err := parse(line)
		if err != nil {
			c.fail(err)
			return
		}
		c.mu.Lock()
		if m.Event != "" {
			c.events = append(c.events, Event{Name: m.Event, Data: m.Data, At: time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)})
			c.events = c.events[max(0, len(c.events)-maxWaiting):]
			select {
			case c.happened <- struct{}{}:
			default:
			}
		} else if c.waiting != nil {
			c.waiting <- m // it has room
			c.waiting = nil
		}
		c.mu.Unlock()
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
		c.conn.Close()
	}
}

// Close ends the connection; the machine goes on.
func (c *Client) Close() { c.fail(ErrClosed) }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Run carries a command out. Arguments are any value that JSON makes an object of, or nil; the answer is read into result
// unless that is nil. A refusal is an *Error.
func (c *Client) Run(ctx context.Context, command string, arguments, result any) error {
	return c.RunWith(ctx, command, arguments, result, nil)
}

// RunWith is Run with a descriptor that goes along, for getfd and add-fd.
func (c *Client) RunWith(ctx context.Context, command string, arguments, result any, file *os.File) error {
	c.commands.Lock()
	defer c.commands.Unlock()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	answer := make(chan message, 1)
	c.mu.Lock()
	if err := c.err; err != nil {
		c.mu.Unlock()
		return fmt.Errorf("%s: %w", command, err)
	}
	c.waiting = answer
	c.mu.Unlock()
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	c.conn.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, _, err := c.conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrClosed, err))
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case m := <-answer:
		switch {
		case m.Error != nil:
			return fmt.Errorf("%s: %w", command, m.Error)
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(m.Return, result); err != nil {
			return fmt.Errorf("%s: its answer: %w", command, err)
		}
		return nil
	case <-c.done:
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("%s: %w", command, c.err)
	case <-ctx.Done():
		// An answer that still comes must not be taken for the next command's.
		c.fail(fmt.Errorf("%w: %s was given up", ErrClosed, command))
		return fmt.Errorf("%s: %w", command, ctx.Err())
	}
}

// Next waits for the next event. It is for one reader.
func (c *Client) Next(ctx context.Context) (Event, error) {
	for {
		c.mu.Lock()
		if len(c.events) > 0 {
			e := c.events[0]
			c.events = c.events[1:]
			c.mu.Unlock()
			return e, nil
		}
		c.mu.Unlock()
		select {
		case <-c.happened:
		case <-c.done:
			return Event{}, ErrClosed
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}
