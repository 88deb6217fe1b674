package oci

import (
	"context"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

var _ machine.Inspector = (*Driver)(nil)

// Inspect implements machine.Inspector.
func (d *Driver) Inspect(ctx context.Context, id cloud.InstanceID, look cloud.Look) (cloud.Inspection, error) {
	if _, err := d.Running(id); err != nil {
		return cloud.Inspection{}, err
	}
	if look.Wants() {
		return cloud.Inspection{}, fmt.Errorf("machine %s: %w: it is a container, whose addresses are the server's own kernel's to translate; addresses and processes are for virtual machines", id, machine.ErrLook)
	}
	out, err := d.Keeper.Inspect(ctx, id)
	out.Isolation = cloud.IsolationContainer
	return out, err
}
