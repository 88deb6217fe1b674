package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/attachments"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// wantVolumes adds the volumes and snapshots that a node keeps, or has still to be rid of.
func (d desired) wantVolumes(r store.Reader, node cloud.NodeID) {
	needed := map[cloud.SnapshotID]bool{}
	for _, v := range store.ListBy(r, store.VolumesByNode, node) {
		if v.State == cloud.VolumeCreating && v.Snapshot != "" {
			needed[v.Snapshot] = true
		}
		if v.State == cloud.VolumeError || v.Layer || v.Root && v.State == cloud.VolumeCreating { // a root is made with its machine
			continue
		}
		goes := v.State == cloud.VolumeDeleting
		for _, s := range store.ListBy(r, store.SnapshotsByVolume, v.ID) {
			goes = goes && s.State != cloud.SnapshotPending // which still needs it
		}
		wish := volumeOf(v)
		wish.Delete = goes
		d.volumes[v.ID] = wish
	}
	list := store.ListBy(r, store.SnapshotsByNode, node)
	for _, s := range list {
		if s.State == cloud.SnapshotPending {
			needed[s.Source] = true
		}
	}
	for _, s := range list {
		if s.Captured != "" {
			continue // its instance's machine makes it
		}
		if s.State == cloud.SnapshotPending && !s.Writing || s.State == cloud.SnapshotDeleting && !needed[s.ID] {
			d.snapshots[s.ID] = agentrpc.Snapshot{ID: s.ID, Volume: s.Volume, Source: s.Source, Complete: s.Written, Delete: s.State == cloud.SnapshotDeleting, Encrypted: s.Encrypted}
		}
	}
}

func volumeOf(v *cloud.Volume) agentrpc.Volume {
	return agentrpc.Volume{ID: v.ID, Make: v.State == cloud.VolumeCreating, Size: int64(v.SizeGiB) << 30, Snapshot: v.Snapshot, Limits: v.Shape().Limits(), Wished: v.Wished, Encrypted: v.Encrypted}
}

// rootOf is the volume that an instance has as its root, nil for one that is its machine's own.
func rootOf(r store.Reader, i *cloud.Instance) *agentrpc.Volume {
	if v := attachments.Root(r, i); v != nil && !v.Layer && v.Attach != cloud.Detaching {
		return new(volumeOf(v))
	}
	return nil
}

// attachmentsOf are the volumes that an instance should have beside its root, by device, and those that don't wait for its guest to leave.
func attachmentsOf(r store.Reader, i *cloud.Instance) (list []agentrpc.Attachment, forced []cloud.VolumeID) {
	for _, v := range attachments.Beside(r, i) {
		switch {
		case v.Attach != cloud.Detaching:
			list = append(list, agentrpc.Attachment{Volume: v.ID, Device: v.Device, Mount: v.Tags[cloud.TagMount]})
		case v.Forced:
			forced = append(forced, v.ID)
		}
	}
	slices.SortFunc(list, func(a, b agentrpc.Attachment) int { return strings.Compare(a.Device, b.Device) })
	slices.Sort(forced)
	return list, forced
}

// applyVolumeStatus turns a node's fact about a volume into its state.
func applyVolumeStatus(ctx context.Context, s *store.Store, node cloud.NodeID, st agentrpc.VolumeStatus, now time.Time) error {
	if v, ok := store.Get(s.View(), store.Volumes, st.Volume); !ok || !advanceVolume(new(*v), node, st, now) {
		return nil
	}
	err := s.Update(ctx, func(tx *store.Tx) error {
		v, ok := store.Get(tx, store.Volumes, st.Volume)
		if !ok || !advanceVolume(v, node, st, now) {
			return nil
		}
		if st.Phase == agentrpc.VolumeGone {
			store.Delete(tx, store.Volumes, v.ID)
			return nil
		}
		store.Put(tx, store.Volumes, v)
		return nil
	})
	if err != nil {
		return fmt.Errorf("volume %s: note that it is %s: %w", st.Volume, st.Phase, err)
	}
	return nil
}

// advanceVolume is the step that one fact causes.
func advanceVolume(v *cloud.Volume, node cloud.NodeID, st agentrpc.VolumeStatus, now time.Time) (changed bool) {
	if v.Node != node {
		return false
	}
	switch st.Phase {
	case agentrpc.VolumeGone:
		return v.State == cloud.VolumeDeleting
	case agentrpc.VolumeFailed:
		if v.State == cloud.VolumeCreating {
			v.State, v.Failure = cloud.VolumeError, st.Error
			return true
		}
	case agentrpc.VolumeReady:
		changed = v.Made()
	}
	c := v.Change
	if c == nil || !c.Ended.IsZero() || st.Wished != c.Wished || c.Wished != v.Wished {
		return changed
	}
	change := *c
	change.Ended, change.Failure = now, st.Error
	v.Change = &change
	if st.Phase == agentrpc.VolumeFailed { // it is as it was
		v.Type, v.SizeGiB, v.IOPS, v.Throughput = c.OldType, c.OldSize, c.OldIOPS, c.OldThroughput
		v.Wished++
	}
	return true
}

// applySnapshotStatus turns a node's fact about a snapshot into its state.
func applySnapshotStatus(ctx context.Context, s *store.Store, node cloud.NodeID, st agentrpc.SnapshotStatus) error {
	err := s.Update(ctx, func(tx *store.Tx) error {
		snap, ok := store.Get(tx, store.Snapshots, st.Snapshot)
		switch {
		case !ok || snap.Node != node || snap.Captured != "":
		case st.Gone && snap.State == cloud.SnapshotDeleting:
			store.Delete(tx, store.Snapshots, snap.ID)
		case !st.Gone && snap.State == cloud.SnapshotPending:
			snap.State, snap.Failure, snap.Writing = cloud.SnapshotCompleted, st.Error, false
			if st.Error != "" {
				snap.State = cloud.SnapshotError
			}
			store.Put(tx, store.Snapshots, snap)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("snapshot %s: note how far it is: %w", st.Snapshot, err)
	}
	return nil
}
