package access

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/sshdoor"
)

// connection is a client that has logged in.
type connection struct {
	*endpoint
	login
	log    *slog.Logger
	client *ssh.ServerConn
	ctx    context.Context // ends with the connection
	wg     sync.WaitGroup  // everything that works for the connection
	remote remoteForwards
}

// serve sees a connection through, from the first byte until all that it began has ended.
func (e *endpoint) serve(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	var attempted string
	client, channels, requests, err := e.handshake(conn, &attempted)
	if err != nil {
		e.logNoLogin(ctx, conn, attempted, err)
		return
	}
	who := client.Permissions.ExtraData[loginKey{}].(login)
	c := &connection{
		endpoint: e, login: who, client: client, ctx: ctx,
		log: e.log.With("user", who.user.name, "source", conn.RemoteAddr().String()),
	}
	c.remote.listeners = map[bindAddress]net.Listener{}
	began := time.Now()
	c.log.Info("SSH login", "key", who.print, "client", string(client.ClientVersion()))

	c.wg.Go(func() { c.answerRequests(requests) })
	c.wg.Go(func() { sshdoor.Watch(c.ctx, client, c.limits.Keepalive, c.limits.KeepaliveWait, c.log) })
	for ch := range channels { // closed when the connection ends
		c.open(ch)
	}
	cancel()
	client.Close()
	c.remote.closeAll()
	c.wg.Wait()
	c.log.Info("SSH logout", "after", time.Since(began))
}

func (e *endpoint) logNoLogin(ctx context.Context, conn net.Conn, attempted string, err error) {
	level := slog.LevelDebug // port scans, clients that gave up, and our own end
	var auth *ssh.ServerAuthError
	if errors.As(err, &auth) && len(auth.Errors) > 1 { // the first is the question for the methods there are
		level = slog.LevelInfo
	}
	e.log.Log(ctx, level, "no SSH login", "user", attempted, "source", conn.RemoteAddr().String(), "error", err)
}

// open answers a request for a channel. Refusals and set-ups that wait for somebody run on their own, so
// that one channel never holds up another.
func (c *connection) open(ch ssh.NewChannel) {
	switch ch.ChannelType() {
	case "session":
		c.limited(c.sessions, ch, c.runSession)
	case "direct-tcpip":
		c.limited(c.forwards, ch, c.forwardLocal)
	case "direct-streamlocal@openssh.com":
		ch.Reject(ssh.Prohibited, "Unix sockets are not forwarded")
	default:
		ch.Reject(ssh.UnknownChannelType, "this channel type is not served")
	}
}

// limited runs serve while it holds one of the tokens, and refuses the channel when there is none left.
func (c *connection) limited(free sshdoor.Tokens, ch ssh.NewChannel, serve func(ssh.NewChannel)) {
	if !free.Take() {
		ch.Reject(ssh.ResourceShortage, "too many of these at a time for the instance")
		return
	}
	c.wg.Go(func() {
		defer free.GiveBack()
		serve(ch)
	})
}

// answerRequests answers what concerns the connection as a whole, in order, as the protocol wants it.
func (c *connection) answerRequests(requests <-chan *ssh.Request) {
	for r := range requests {
		ok, payload := false, []byte(nil)
		switch r.Type {
		case "tcpip-forward":
			ok, payload = c.listenInside(r.Payload)
		case "cancel-tcpip-forward":
			ok = c.stopListening(r.Payload)
		}
		if !r.WantReply {
			continue
		}
		if err := r.Reply(ok, payload); err != nil && !errors.Is(err, io.EOF) {
			c.log.Debug("SSH request not answered", "request", r.Type, "error", err)
		}
	}
}
