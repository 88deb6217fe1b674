package agent

import (
	"context"
	"io"
	"sync"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
)

// export is an image on its way out. It ends with its reader.
type export struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// exportImage begins to send an image.
func (a *Agent) exportImage(ctx context.Context, x agentrpc.Export) (io.ReadWriteCloser, error) {
	if _, err := a.cfg.Images.Get(ctx, x.Digest); err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	out := &export{PipeReader: r, cancel: cancel}
	out.done.Go(func() {
		err := agentrpc.SendWhole(w, func(w io.Writer) error { return a.cfg.Images.Export(ctx, x.Digest, x.Format, w) })
		if err != nil && ctx.Err() == nil {
			a.log.Error("an image was not exported", "digest", x.Digest, "format", x.Format, "error", err)
		}
		w.Close()
	})
	return out, nil
}

// Write takes nothing: an export is not talked to.
func (e *export) Write(b []byte) (int, error) { return len(b), nil }

// Close gives the export up, if it has not ended.
func (e *export) Close() error {
	e.cancel()
	err := e.PipeReader.Close()
	e.done.Wait()
	return err
}
