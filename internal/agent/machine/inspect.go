package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// ErrLook is wrapped by errors about what a look asks for: an address that is none, a process that isn't there, a machine without tables.
// Their text is for whoever asked.
var ErrLook = errors.New("it can't be looked up")

// Inspector is a Driver that shows what its machines are made of and what they do. It changes nothing and stops nothing: a machine goes on
// while it is looked at, and what it changes meanwhile shows as before or as after. It may be asked at any time, also several times at once.
type Inspector interface {
	// Inspect tells about a running machine. What can't be found out is left empty; what a look asks for and can't be is an error that
	// wraps ErrLook and says what to do, or the Problem of one page. The root's makeup is not the driver's to know.
	Inspect(ctx context.Context, id cloud.InstanceID, look cloud.Look) (cloud.Inspection, error)
}

// Inspect implements Inspector.
func (c *Choice) Inspect(ctx context.Context, id cloud.InstanceID, look cloud.Look) (cloud.Inspection, error) {
	i, ok := c.of(ctx, id).(Inspector)
	if !ok {
		return cloud.Inspection{}, fmt.Errorf("machine %s: its driver does not look inside", id)
	}
	return i.Inspect(ctx, id, look)
}
