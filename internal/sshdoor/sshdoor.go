// Package sshdoor is what nacre's SSH servers share: how connections are taken in, counted, and given up when their client is gone.
//
// It promises that a client that vanished holds nothing for ever, and that a shortage of descriptors or memory does not end a
// server. It never decides who may come in.
package sshdoor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// Tokens bound how many there are of something at a time.
type Tokens chan struct{}

// Take returns false when all are held.
func (t Tokens) Take() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// GiveBack returns a token that was taken.
func (t Tokens) GiveBack() { <-t }

const (
	acceptRetryFirst = 5 * time.Millisecond
	acceptRetryLast  = time.Second
)

// Accept waits for a connection until l is closed or ctx ends. Other errors pass: descriptors or memory run
// short for a while, or a client goes before it is accepted.
func Accept(ctx context.Context, l net.Listener, log *slog.Logger) (net.Conn, error) {
	for pause := acceptRetryFirst; ; pause = min(2*pause, acceptRetryLast) {
		conn, err := l.Accept()
		if err == nil || ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		log.Warn("connection not accepted", "address", l.Addr().String(), "error", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Watch asks now and then, until ctx ends, whether a client lives, and ends its connection when no answer comes: a
// client whose machine was switched off would otherwise hold what it has for ever.
func Watch(ctx context.Context, client ssh.Conn, every, wait time.Duration, log *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		dead := time.AfterFunc(wait, func() {
			log.Info("SSH client does not answer; hanging up", "waited", wait)
			client.Close()
		})
		_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
		dead.Stop()
		if err != nil {
			return
		}
	}
}
