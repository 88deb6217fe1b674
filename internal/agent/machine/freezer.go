package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Freezer is a driver whose running machines can be made to stand still, so that what is on their disks is of one instant. Both calls may be repeated. A machine
// that was frozen when the agent was killed stays so: whoever froze it thaws it after Recover, and before Stop.
type Freezer interface {
	// Freeze returns when none of the machine's processes runs.
	Freeze(ctx context.Context, id cloud.InstanceID) error
	// Thaw lets them go on. Of a machine that is not frozen, has ended or is unknown it does nothing.
	Thaw(ctx context.Context, id cloud.InstanceID) error
}

var errNoFreezer = errors.New("the driver can't make machines stand still")

// Freeze implements Freezer, for containers: a hypervisor's disks are read at one instant without.
func (c *Choice) Freeze(ctx context.Context, id cloud.InstanceID) error {
	if f, ok := c.Containers.(Freezer); ok {
		return f.Freeze(ctx, id)
	}
	return fmt.Errorf("machine %s: %w", id, errNoFreezer)
}

// Thaw implements Freezer.
func (c *Choice) Thaw(ctx context.Context, id cloud.InstanceID) error {
	if f, ok := c.Containers.(Freezer); ok {
		return f.Thaw(ctx, id)
	}
	return nil
}
