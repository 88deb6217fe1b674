package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// RemoveAll stops and removes every machine of this server and takes its network down, without a
// control plane. It goes on after a failure and returns all of them.
func (a *Agent) RemoveAll(ctx context.Context) error {
	ids := map[cloud.InstanceID]bool{}
	known, err := a.knownMachines()
	problems := []error{err}
	for _, id := range known {
		ids[id] = true
	}
	for id := range a.statuses {
		ids[id] = true
	}
	roots, err := a.cfg.Images.Roots(ctx)
	problems = append(problems, err)
	for _, key := range roots {
		ids[cloud.InstanceID(key)] = true
	}
	disks, err := a.cfg.Images.Disks(ctx)
	problems = append(problems, err)
	for _, key := range disks {
		ids[cloud.InstanceID(key)] = true
	}
	for id := range ids {
		w := a.newWorker(id)
		problems = append(problems, w.remove(ctx))
	}
	if err := a.cfg.Network.Destroy(ctx); err != nil {
		problems = append(problems, fmt.Errorf("take the network down: %w", err))
	}
	return errors.Join(problems...)
}
