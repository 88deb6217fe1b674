// Package guest talks to the program inside a virtual machine (cmd/nacre-guest): it tells the machine who it is, runs
// processes in it and asks it to go down. What comes from the guest is outside bytes: a guest that breaks the protocol loses
// its connection, and can hold up nothing but the calls that concern itself.
package guest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

const (
	// writeTimeout ends the connection to a guest that reads nothing.
	writeTimeout = 30 * time.Second
	// helloEvery is how often the first message is repeated to a guest that is still booting, whose port drops what comes.
	helloEvery = 500 * time.Millisecond
	// tolerate is how many broken frames of an earlier connection are skipped before the first answer.
	tolerate = 64
)

// ErrLost is returned by calls whose connection ended.
var ErrLost = errors.New("the connection to the guest ended")

// Client is a connection to the program in one machine. All methods may be called at any time, also at once.
type Client struct {
	// Welcome is what the guest said of itself.
	Welcome wire.Welcome

	conn io.ReadWriteCloser
	out  *wire.Writer
	done chan struct{} // closed when the connection ended

	mu        sync.Mutex
	next      uint32
	calls     map[uint32]chan wire.Reply
	processes map[uint32]*process
	err       error
}

// Dial connects to the guest behind a unix socket and waits, as long as ctx allows, until it answers: a machine that boots
// may take a while.
func Dial(ctx context.Context, socketPath string) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socketPath)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest: %w", err)
	}
	return New(ctx, conn)
}

// New begins on a connection that is there. It closes conn on an error.
func New(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	c := &Client{conn: conn, done: make(chan struct{}), calls: map[uint32]chan wire.Reply{}, processes: map[uint32]*process{}}
	c.out = wire.NewWriter(timed{conn})
	in := wire.NewReader(conn)
	in.Tolerate = tolerate
	// Reads end by closing: not every kind of connection has deadlines.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := c.greet(ctx, in)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("greet the guest: %w", err)
	}
	in.Strict = true
	go c.read(in)
	return c, nil
}

// timed ends writes to a guest that does not read.
type timed struct{ io.ReadWriteCloser }

func (t timed) Write(b []byte) (int, error) {
	if d, ok := t.ReadWriteCloser.(interface{ SetWriteDeadline(time.Time) error }); ok {
		d.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	return t.ReadWriteCloser.Write(b)
}

// greet says Hello until the guest repeats its nonce.
func (c *Client) greet(ctx context.Context, in *wire.Reader) error {
	nonce := rand.Text()
	if err := c.out.Raw(wire.Preamble()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		tick := time.NewTicker(helloEvery)
		defer tick.Stop()
		for c.out.Message(wire.TypeHello, 0, wire.Hello{Version: wire.Version, Nonce: nonce}) == nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		f, err := in.Next()
		if err != nil {
			return err
		}
		var w wire.Welcome
		if f.Type != wire.TypeHello || json.Unmarshal(f.Payload, &w) != nil || w.Nonce != nonce {
			continue // of an earlier connection
		}
		if w.Version != wire.Version {
			return fmt.Errorf("the guest speaks version %d, not %d", w.Version, wire.Version)
		}
		c.Welcome = w
		return nil
	}
}

// Close ends the connection. Processes that it started are hung up.
func (c *Client) Close() error {
	c.fail(ErrLost)
	return nil
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// fail ends everything that waits. The first reason counts.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	processes := c.processes
	c.processes = nil
	c.mu.Unlock()
	close(c.done)
	c.conn.Close()
	for _, p := range processes {
		p.lost(err)
	}
}

func (c *Client) read(in *wire.Reader) {
	for {
		f, err := in.Next()
		if err == nil {
			err = c.handle(f)
		} else {
			err = fmt.Errorf("%w: %w", ErrLost, err)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// handle never blocks, least of all on writing: the guest may be waiting for this end to read.
func (c *Client) handle(f wire.Frame) error {
	switch f.Type {
	case wire.TypeHello:
		return nil // the answer to a repeated one
	case wire.TypeReply:
		var r wire.Reply
		if err := json.Unmarshal(f.Payload, &r); err != nil {
			return fmt.Errorf("the guest's reply: %w", err)
		}
		c.mu.Lock()
		answer := c.calls[f.Stream]
		delete(c.calls, f.Stream)
		c.mu.Unlock()
		if answer != nil {
			answer <- r
		}
		return nil
	}
	c.mu.Lock()
	p := c.processes[f.Stream]
	if f.Type == wire.TypeExit {
		delete(c.processes, f.Stream)
	}
	c.mu.Unlock()
	if p == nil {
		return nil // ended, or given up
	}
	return p.handle(f)
}

// call asks the guest for something and waits for its reply.
func (c *Client) call(ctx context.Context, r wire.Request) (wire.Reply, error) {
	answer := make(chan wire.Reply, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return wire.Reply{}, c.err
	}
	c.next++
	id := c.next
	c.calls[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
	}()
	if err := c.out.Message(wire.TypeRequest, id, r); err != nil {
		return wire.Reply{}, fmt.Errorf("ask the guest to %s: %w", r.Call, err)
	}
	select {
	case reply := <-answer:
		if reply.Error != "" {
			return reply, fmt.Errorf("the guest can't %s: %s", r.Call, reply.Error)
		}
		return reply, nil
	case <-c.done:
		return wire.Reply{}, fmt.Errorf("ask the guest to %s: %w", r.Call, c.err)
	case <-ctx.Done():
		return wire.Reply{}, fmt.Errorf("ask the guest to %s: %w", r.Call, ctx.Err())
	}
}

// Identified is what became of an identity.
type Identified struct {
	HostKeys []string // public, in authorized_keys form; none where the image has no SSH server
	Notes    []string // what could not be put in force, for the console and the log
}

// Identify tells the guest who it is, and returns when that is in force. Said again with the same instance and boot it
// changes nothing.
func (c *Client) Identify(ctx context.Context, id wire.Identity) (Identified, error) {
	if len(id.Entropy) < wire.MinEntropy {
		return Identified{}, fmt.Errorf("identify: %d random bytes, fewer than %d", len(id.Entropy), wire.MinEntropy)
	}
	r, err := c.call(ctx, wire.Request{Call: wire.CallIdentify, Identity: &id})
	return Identified{HostKeys: r.HostKeys, Notes: r.Notes}, err
}

// Shutdown asks the guest to go down in order; it returns when the guest has begun.
func (c *Client) Shutdown(ctx context.Context, reboot bool) error {
	_, err := c.call(ctx, wire.Request{Call: wire.CallShutdown, Shutdown: &wire.Shutdown{Reboot: reboot}})
	return err
}

// Connect has a guest that knows who it is put an interface in force: one that was plugged in, or has other addresses now.
func (c *Client) Connect(ctx context.Context, i wire.Interface) error {
	_, err := c.call(ctx, wire.Request{Call: wire.CallConnect, Interface: &i})
	return err
}

// Stats returns the guest's figures, as the guest has them.
func (c *Client) Stats(ctx context.Context) (wire.Stats, error) {
	r, err := c.call(ctx, wire.Request{Call: wire.CallStats})
	if err == nil && r.Stats == nil {
		err = errors.New("the guest's reply holds no figures")
	}
	if err != nil {
		return wire.Stats{}, err
	}
	return *r.Stats, nil
}

// Pages returns where a process's memory is, as the guest has it: it may lie about its own. The page entries are not checked.
func (c *Client) Pages(ctx context.Context, want wire.Pages) (wire.ProcessPages, error) {
	if !slices.Contains(c.Welcome.Capabilities, wire.CallPages) {
		return wire.ProcessPages{}, errors.New("the guest's program is of an older version that can't tell; instances that are launched from now on can, and --address works without it")
	}
	r, err := c.call(ctx, wire.Request{Call: wire.CallPages, Pages: &want})
	switch {
	case r.Error != "":
		return wire.ProcessPages{}, fmt.Errorf("the guest says: %.300s", printable(r.Error))
	case err != nil:
		return wire.ProcessPages{}, err
	case r.Pages == nil || len(r.Pages.Pages) > wire.MaxPages || len(r.Pages.Anchors) > wire.MaxAnchors:
		return wire.ProcessPages{}, errors.New("the guest's reply holds no pages, or too many")
	}
	return *r.Pages, nil
}

// printable is a guest's text without what would steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
