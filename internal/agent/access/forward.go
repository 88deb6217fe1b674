package access

import (
	"context"
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"
)

// copyBuffer suits SSH's packets of 32 KiB.
const copyBuffer = 64 << 10

// join copies both ways between a channel and a connection. The end of one direction is passed on and leaves the
// other open, so that a request that ends with its last byte still gets its answer. It returns, with both
// closed, when both directions have ended, one has failed, or ctx ends.
func join(ctx context.Context, ch ssh.Channel, conn net.Conn) {
	closeBoth := func() {
		ch.Close()
		conn.Close()
	}
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	defer closeBoth()
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := io.CopyBuffer(writer{ch}, reader{conn}, make([]byte, copyBuffer)); err != nil {
			closeBoth()
			return
		}
		ch.CloseWrite()
	})
	both.Go(func() {
		if _, err := io.CopyBuffer(writer{conn}, reader{ch}, make([]byte, copyBuffer)); err != nil {
			closeBoth()
			return
		}
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	})
	both.Wait()
}

// reader and writer hide the methods by which io.CopyBuffer would go around its buffer: through a fresh
// one of half the size for every connection.
type (
	reader struct{ io.Reader }
	writer struct{ io.Writer }
)

// discard answers the requests on a forwarded channel, of which there are none to serve.
func discard(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply {
			r.Reply(false, nil)
		}
	}
}
