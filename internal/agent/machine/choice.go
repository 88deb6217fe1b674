package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Choice is the drivers of a node as one: a machine is its specification's isolation's, from its first start until it is removed.
type Choice struct {
	Containers Driver
	VMs        Driver // nil where the node runs none

	once   sync.Once
	events chan Status
}

var _ Driver = (*Choice)(nil)

// of is the driver that knows a machine; the containers' when none does.
func (c *Choice) of(ctx context.Context, id cloud.InstanceID) Driver {
	if c.VMs != nil {
		if _, err := c.VMs.Status(ctx, id); err == nil {
			return c.VMs
		}
	}
	return c.Containers
}

// Recover implements Driver.
func (c *Choice) Recover(ctx context.Context) ([]Status, error) {
	found, err := c.Containers.Recover(ctx)
	if err != nil || c.VMs == nil {
		return found, err
	}
	more, err := c.VMs.Recover(ctx)
	return append(found, more...), err
}

// Start implements Driver.
func (c *Choice) Start(ctx context.Context, s Spec) (Status, error) {
	switch {
	case s.VM == nil:
		return c.Containers.Start(ctx, s)
	case c.VMs == nil:
		return Status{}, fmt.Errorf("machine %s: this server runs no virtual machines; `nacre doctor` tells why", s.ID)
	}
	return c.VMs.Start(ctx, s)
}

// Stop implements Driver.
func (c *Choice) Stop(ctx context.Context, id cloud.InstanceID, grace time.Duration) error {
	return c.of(ctx, id).Stop(ctx, id, grace)
}

// Remove implements Driver.
func (c *Choice) Remove(ctx context.Context, id cloud.InstanceID) error {
	err := c.Containers.Remove(ctx, id)
	if c.VMs != nil {
		err = errors.Join(err, c.VMs.Remove(ctx, id))
	}
	return err
}

// Status implements Driver.
func (c *Choice) Status(ctx context.Context, id cloud.InstanceID) (Status, error) {
	return c.of(ctx, id).Status(ctx, id)
}

// Update implements Driver.
func (c *Choice) Update(ctx context.Context, id cloud.InstanceID, r Resources) error {
	return c.of(ctx, id).Update(ctx, id, r)
}

// Exec implements Driver.
func (c *Choice) Exec(ctx context.Context, id cloud.InstanceID, spec ExecSpec) (Process, error) {
	return c.of(ctx, id).Exec(ctx, id, spec)
}

// Console implements Driver.
func (c *Choice) Console(ctx context.Context, id cloud.InstanceID, limit int) ([]byte, time.Time, error) {
	return c.of(ctx, id).Console(ctx, id, limit)
}

// Attach implements Driver.
func (c *Choice) Attach(ctx context.Context, id cloud.InstanceID) (Terminal, error) {
	return c.of(ctx, id).Attach(ctx, id)
}

// Events implements Driver.
func (c *Choice) Events() <-chan Status {
	if c.VMs == nil {
		return c.Containers.Events()
	}
	c.once.Do(func() {
		c.events = make(chan Status)
		var both sync.WaitGroup
		for _, d := range []Driver{c.Containers, c.VMs} {
			both.Go(func() {
				for st := range d.Events() {
					c.events <- st
				}
			})
		}
		go func() {
			both.Wait()
			close(c.events)
		}()
	})
	return c.events
}

// Close implements Driver.
func (c *Choice) Close() error {
	err := c.Containers.Close()
	if c.VMs != nil {
		err = errors.Join(err, c.VMs.Close())
	}
	return err
}
