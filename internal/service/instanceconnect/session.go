package instanceconnect

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// rebootLimit is how long a session waits for an instance that boots again.
const rebootLimit = 2 * time.Minute

// console is a session on an instance's serial line. It goes on over reboots.
func (c *connection) console(nc ssh.NewChannel) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	defer ch.Close()
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer func() { ch.Close(); cancel(); wg.Wait() }()
	shell := make(chan struct{})
	wg.Go(func() {
		defer cancel() // the client closed the channel
		c.answer(ctx, requests, shell)
	})
	typed := make(chan []byte)
	wg.Go(func() { listen(ctx, ch, typed) })
	select {
	case <-shell:
	case <-ctx.Done():
		return
	}
	code := 0
	if err := c.carry(ctx, ch, typed); err != nil {
		fmt.Fprintf(ch.Stderr(), "%v\r\n", err)
		code = 1
	}
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(code)}))
}

// answer answers a session's requests. A serial line has no size, no environment and no programs.
func (c *connection) answer(ctx context.Context, requests <-chan *ssh.Request, shell chan<- struct{}) {
	begun := false
	for r := range requests {
		ok := false
		switch r.Type {
		case "pty-req", "window-change":
			ok = true
		case "shell":
			ok = !begun
		case "break": // RFC 4335
			if err := c.sendBreak(ctx); err != nil {
				c.log.Info("a break was not sent", "error", err)
			} else {
				ok = true
			}
		}
		if r.WantReply {
			r.Reply(ok, nil)
		}
		if r.Type == "shell" && ok { // after the answer: a session that ends at once closes the channel
			begun = true
			close(shell)
		}
	}
}

func (c *connection) sendBreak(ctx context.Context) error {
	i, ok := store.Get(c.store.View(), store.Instances, c.instance)
	if !ok || i.Node == "" {
		return fmt.Errorf("%s does not run", c.instance)
	}
	return c.cfg.Nodes.Break(ctx, i.Node, i.ID)
}

// listen takes in what a client types until the channel ends.
func listen(ctx context.Context, ch io.Reader, typed chan<- []byte) {
	defer close(typed)
	for {
		b := make([]byte, 4096)
		n, err := ch.Read(b)
		if err != nil {
			return
		}
		select {
		case typed <- b[:n]:
		case <-ctx.Done():
			return
		}
	}
}

// carry has the console and the client meet until the client leaves or the instance stops.
func (c *connection) carry(ctx context.Context, ch ssh.Channel, typed <-chan []byte) error {
	i, ok := store.Get(c.store.View(), store.Instances, c.instance)
	if ok && i.Isolation != cloud.IsolationVM {
		fmt.Fprintf(ch.Stderr(), "%s is a container: its console takes no input; log in with SSH\r\n", c.instance)
	}
	t, err := c.reach(agentrpc.Target{Console: c.instance})
	if err != nil {
		return err
	}
	for {
		c.meet(ctx, ch, t, typed)
		if ctx.Err() != nil {
			return nil
		}
		if t = c.again(ctx); t == nil {
			return nil
		}
	}
}

// meet copies both ways until the console ends or ctx does.
func (c *connection) meet(ctx context.Context, ch ssh.Channel, t io.ReadWriteCloser, typed <-chan []byte) {
	ctx, cancel := context.WithCancel(ctx)
	typing := make(chan struct{})
	go func() {
		defer close(typing)
		for {
			select {
			case b, ok := <-typed:
				if !ok {
					typed = nil // nothing more is typed; what the console says goes on
					continue
				}
				if _, err := t.Write(b); err != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	stop := context.AfterFunc(ctx, func() { t.Close() })
	io.Copy(ch, t)
	cancel()
	stop()
	t.Close()
	<-typing
}

// again waits for an instance whose console has ended to boot again, nil when it has stopped.
func (c *connection) again(ctx context.Context) io.ReadWriteCloser {
	limit := time.NewTimer(rebootLimit)
	defer limit.Stop()
	look := time.NewTicker(pause)
	defer look.Stop()
	for {
		i, ok := store.Get(c.store.View(), store.Instances, c.instance)
		if !ok || i.Desired != cloud.DesiredRunning || i.State != cloud.StateRunning && i.State != cloud.StatePending {
			return nil
		}
		if i.State == cloud.StateRunning {
			if t, err := c.cfg.Nodes.Open(ctx, i.Node, agentrpc.Target{Console: i.ID}); err == nil {
				return t
			}
		}
		select {
		case <-look.C:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
