package qemu

import (
	"context"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// templateBoot is the boot number of a machine that is to become a template: it is told no identity.
const templateBoot = -1

// sources are where a machine's memory and devices come from: nowhere, for one that boots.
type sources struct{}

func (d *Driver) sources(id cloud.InstanceID) sources {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.from[id]
}

// memory is the object of a machine's memory, size in bytes.
func (sources) memory(_ *line, size int64) string {
	return fmt.Sprintf("memory-backend-ram,id=%s,size=%d", memoryID, size)
}

// state says on the command line where the state of the devices comes from.
func (sources) state(l *line) { l.add("-S") }

// receive takes the state in.
func (sources) receive(context.Context, *qmp.Client) error { return nil }
