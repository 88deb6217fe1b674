package agent

import (
	"context"
	"errors"
	"io"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/relay"
)

// openTunnel opens what a tunnel leads to and the tunnel, and has bytes go both ways until one of them, or the stream that asked
// for it, ends.
func (a *Agent) openTunnel(ctx context.Context, q agentrpc.TunnelQuery) error {
	end, err := a.reach(ctx, q.To)
	if err != nil {
		return err
	}
	t, err := agentrpc.OpenTunnel(ctx, a.cfg.Control, q.Token)
	if err != nil {
		end.Close()
		return err
	}
	a.wg.Go(func() { relay.Both(ctx, t, end) })
	return nil
}

var errNoScreens = errors.New("this server runs no virtual machines, and nothing else has a screen")

// reach connects to what a tunnel leads to.
func (a *Agent) reach(ctx context.Context, to agentrpc.Target) (io.ReadWriteCloser, error) {
	switch {
	case to.Console != "":
		return a.cfg.Driver.Attach(ctx, to.Console)
	case to.Block != nil:
		return a.volumes.blockEnd(ctx, *to.Block)
	case to.Screen != "":
		if a.cfg.VMs == nil {
			return nil, errNoScreens
		}
		return a.cfg.VMs.Screen(ctx, to.Screen)
	case to.Export != nil:
		return a.exportImage(ctx, *to.Export)
	}
	return nil, errors.New("the agent does not know what this tunnel leads to")
}

// sendBreak sends a break down a virtual machine's serial line.
func (a *Agent) sendBreak(ctx context.Context, id cloud.InstanceID) error {
	if a.cfg.VMs == nil {
		return errors.New("this server runs no virtual machines, and nothing else has a serial line")
	}
	return a.cfg.VMs.Break(ctx, id)
}
