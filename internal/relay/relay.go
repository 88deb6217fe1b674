// Package relay copies bytes both ways between two streams.
//
// It promises that the end of one direction is passed on where the receiver can be told and leaves the other open, so that a
// request that ends with its last byte still gets its answer; and that both streams are closed when it returns. What it copied
// is bounded by a buffer a direction: who doesn't read holds up whoever writes to it, and nobody else.
package relay

import (
	"context"
	"io"
	"sync"
)

// copyBuffer suits SSH's packets of 32 KiB.
const copyBuffer = 64 << 10

// Both copies until both directions have ended, one has failed, or ctx ends.
func Both(ctx context.Context, one, other io.ReadWriteCloser) {
	closeBoth := func() {
		one.Close()
		other.Close()
	}
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	defer closeBoth()
	var both sync.WaitGroup
	for _, way := range []struct{ from, to io.ReadWriteCloser }{{one, other}, {other, one}} {
		both.Go(func() {
			if _, err := io.CopyBuffer(writer{way.to}, reader{way.from}, make([]byte, copyBuffer)); err != nil {
				closeBoth()
				return
			}
			if half, ok := way.to.(interface{ CloseWrite() error }); ok {
				half.CloseWrite()
			}
		})
	}
	both.Wait()
}

// reader and writer hide the methods by which io.CopyBuffer would go around its buffer: through a fresh
// one of half the size for every connection.
type (
	reader struct{ io.Reader }
	writer struct{ io.Writer }
)
