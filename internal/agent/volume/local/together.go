package local

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// SnapshotAll implements volume.Backend. Its steps are those of Snapshot, each for all volumes; the one at which the process that has them open goes over to
// the fresh layers is one transaction of QEMU's. A crash before it leaves snapshots that are undone, one after it such that are finished.
func (b *Backend) SnapshotAll(ctx context.Context, list map[cloud.VolumeID]cloud.SnapshotID, open volume.Door) error {
	var records []*record
	for _, id := range slices.Sorted(maps.Keys(list)) {
		if !cloud.ValidID[cloud.SnapshotID](string(list[id])) {
			return fmt.Errorf("%q is no snapshot's id", list[id])
		}
		defer b.lock(string(id))()
		r, err := b.volumeOf(id)
		if err != nil {
			return err
		}
		records = append(records, &r)
	}
	for _, r := range records {
		if err := b.begin(ctx, r, list[cloud.VolumeID(r.ID)], true, open); err != nil {
			return err
		}
	}
	records = slices.DeleteFunc(records, func(r *record) bool { return r.Pending == "" }) // those that are there
	if len(records) == 0 {
		return nil
	}
	if open != nil {
		if err := open.Do(ctx, func(m *qmp.Client) error { return b.layAll(ctx, m, open, records) }); err != nil {
			return fmt.Errorf("snapshots of %d volumes at one instant: %w", len(records), err)
		}
	}
	for _, r := range records {
		if err := b.settle(ctx, r, open); err != nil {
			return err
		}
	}
	return nil
}

// layAll has the process that has several volumes open write to their fresh layers from one instant on.
func (b *Backend) layAll(ctx context.Context, m *qmp.Client, d volume.Door, records []*record) error {
	var actions []map[string]any
	for _, r := range records {
		id := cloud.VolumeID(r.ID)
		layer, err := b.fresh(r)
		if err != nil {
			return err
		}
		if err := volume.AddLayer(ctx, m, d, id, layer, "", true); err != nil {
			return err
		}
		actions = append(actions, map[string]any{"type": "blockdev-snapshot",
			"data": map[string]any{"node": volume.Node(id, r.Layers[len(r.Layers)-1]), "overlay": volume.Node(id, r.Fresh)}})
	}
	return m.Run(ctx, "transaction", map[string]any{"actions": actions}, nil)
}
