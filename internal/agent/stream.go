package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	reconnectFirst = 50 * time.Millisecond
	reconnectLast  = 5 * time.Second
)

// stayConnected keeps a stream to the control plane open until ctx ends.
func (a *Agent) stayConnected(ctx context.Context) error {
	wait := reconnectFirst
	for {
		welcomed, err := a.converse(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if welcomed {
			wait = reconnectFirst
		}
		a.log.Warn("the stream to the control plane ended; machines go on", "error", err, "retry", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		wait = min(2*wait, reconnectLast)
	}
}

// converse is one stream from hello to its end.
func (a *Agent) converse(ctx context.Context) (welcomed bool, err error) {
	// Workers belong to the agent's life, not to one stream's.
	life := ctx
	group, ctx := errgroup.WithContext(ctx)
	stream, err := agentrpc.Connect(ctx, a.cfg.Control)
	if err != nil {
		return false, err
	}
	a.out.clear()
	if err := stream.Send(&agentrpc.FromAgent{Hello: a.hello()}); err != nil {
		return false, fmt.Errorf("say hello to the control plane: %w", err)
	}
	group.Go(func() error {
		for {
			m, err := a.out.take(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(m); err != nil {
				return fmt.Errorf("report to the control plane: %w", err)
			}
		}
	})
	group.Go(func() error {
		c := conversation{a: a, machines: map[cloud.InstanceID]bool{}, vpcs: map[cloud.VPCID]bool{}, alongside: group.Go}
		for {
			m, err := stream.Recv()
			if err != nil {
				return fmt.Errorf("hear from the control plane: %w", err)
			}
			welcomed = welcomed || m.Welcome != nil
			if err := c.handle(life, ctx, m); err != nil {
				return err
			}
		}
	})
	err = group.Wait()
	return welcomed, err
}

func (a *Agent) hello() *agentrpc.Hello {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := &agentrpc.Hello{Node: a.node}
	for _, st := range a.statuses {
		h.Machines = append(h.Machines, st)
	}
	return h
}

// conversation is what one stream has said so far.
type conversation struct {
	a        *Agent
	machines map[cloud.InstanceID]bool
	vpcs     map[cloud.VPCID]bool
	// alongside does something while the stream is heard; its error ends the stream too.
	alongside func(func() error)
}

// handle acts on one message. life is the agent's context, ctx the stream's. An error ends the
// stream; the next one starts over with everything.
func (c *conversation) handle(life, ctx context.Context, m *agentrpc.ToAgent) error {
	a := c.a
	switch {
	case m.Welcome != nil:
		a.mu.Lock()
		a.region = m.Welcome.Region
		a.mu.Unlock()
	case m.VPC != nil:
		c.vpcs[m.VPC.VPC.ID] = true
		// Machines don't wait for a VPC before their network needs it, nor for its packet filter: until that lets their
		// interfaces in, it drops what they send.
		open := a.vpcs.inTurn(m.VPC.VPC.ID, func() error { return a.vpcs.open(m.VPC) })
		c.alongside(func() error {
			if err := open(); err != nil {
				return err
			}
			if err := a.vpcs.filter(ctx, m.VPC.VPC.ID); err != nil {
				return err
			}
			a.vpcs.report(m.VPC)
			return nil
		})
	case m.ForgetVPC != "":
		delete(c.vpcs, m.ForgetVPC)
		c.alongside(a.vpcs.inTurn(m.ForgetVPC, func() error { return a.vpcs.forget(ctx, m.ForgetVPC) }))
	case m.Machine != nil:
		c.machines[m.Machine.Instance.ID] = true
		a.vpcs.index(m.Machine)
		a.assign(life, m.Machine.Instance.ID, m.Machine)
	case m.ForgetMachine != "":
		delete(c.machines, m.ForgetMachine)
		a.vpcs.unindex(m.ForgetMachine)
		a.assign(life, m.ForgetMachine, nil)
	case m.Images != nil:
		a.imports.keep(m.Images.Keep)
	case m.Import != nil:
		a.imports.order(life, *m.Import)
	case m.Volume != nil:
		a.volumes.want(life, string(m.Volume.ID), m.Volume)
	case m.ForgetVolume != "":
		a.volumes.want(life, string(m.ForgetVolume), nil)
	case m.Snapshot != nil:
		a.volumes.want(life, string(m.Snapshot.ID), m.Snapshot)
	case m.Query != nil:
		a.wg.Go(func() { a.answer(ctx, *m.Query) })
	case m.Synced:
		return c.sweep(life, ctx)
	}
	return nil
}

// sweep removes what this server holds and the control plane didn't name.
func (c *conversation) sweep(life, ctx context.Context) error {
	a := c.a
	for id := range c.vpcs {
		if err := a.vpcs.settled(ctx, id); err != nil {
			return err
		}
	}
	known, err := a.knownMachines()
	if err != nil {
		return err
	}
	a.mu.Lock()
	for id := range a.workers {
		known = append(known, id)
	}
	a.mu.Unlock()
	roots, err := a.cfg.Images.Roots(ctx)
	if err != nil {
		return fmt.Errorf("list the root file systems of this server: %w", err)
	}
	for _, key := range roots {
		known = append(known, cloud.InstanceID(key))
	}
	disks, err := a.cfg.Images.Disks(ctx)
	if err != nil {
		return err
	}
	for _, key := range disks {
		known = append(known, cloud.InstanceID(key))
	}
	known = slices.DeleteFunc(known, a.templates.holds)
	for _, id := range known {
		if !c.machines[id] {
			a.log.Info("removing a left-over machine", "instance", id)
			a.assign(life, id, nil)
		}
	}
	keep := network.Keep{VPCs: c.vpcs, Instances: c.machines, Interfaces: a.vpcs.interfaces()}
	for _, id := range known {
		keep.Instances[id] = true // its worker removes it, in order
	}
	if err := a.cfg.Network.Sweep(ctx, keep); err != nil {
		return fmt.Errorf("sweep the network: %w", err)
	}
	a.imports.collect(life)
	return nil
}

// consoleLimit is EC2's: the last 64 KB.
const consoleLimit = 64 << 10

func (a *Agent) answer(ctx context.Context, q agentrpc.Query) {
	ans := agentrpc.Answer{Number: q.Number, Error: "the agent does not know this query"}
	done := func(err error) {
		if ans.Error = ""; err != nil {
			ans.Error = err.Error()
		}
	}
	switch {
	case q.Tunnel != nil:
		done(a.openTunnel(ctx, *q.Tunnel))
	case q.Break != "":
		done(a.sendBreak(ctx, q.Break))
	case q.Build != nil:
		done(nil)
		ans.Build = a.builds.read(*q.Build)
	case q.Console != nil:
		out, at, err := a.cfg.Driver.Console(ctx, q.Console.Instance, min(q.Console.Limit, consoleLimit))
		if err != nil {
			ans.Error = err.Error()
		} else {
			ans.Error, ans.Console = "", &agentrpc.ConsoleAnswer{Output: out, Written: at}
		}
	}
	if q.Blocks != nil {
		found, err := a.volumes.askBlocks(ctx, *q.Blocks)
		if err != nil {
			ans.Error = err.Error()
		} else {
			ans.Error, ans.Blocks = "", found
		}
	}
	if q.Inspect != nil {
		found, err := a.inspect(ctx, *q.Inspect)
		if err != nil {
			ans.Error = err.Error()
		} else {
			ans.Error, ans.Inspect = "", found
		}
	}
	if q.Images != nil {
		found, err := a.inspectImages(ctx, *q.Images)
		done(err)
		ans.Images = found
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	a.out.put(fmt.Sprintf("answer/%d", q.Number), &agentrpc.FromAgent{Answer: &ans})
}
