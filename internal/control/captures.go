package control

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// applyCapture notes what came of a capture: its snapshots and its image are there from then on, or have failed.
func applyCapture(ctx context.Context, s *store.Store, node cloud.NodeID, st agentrpc.CaptureStatus) error {
	err := s.Update(ctx, func(tx *store.Tx) error {
		i, ok := store.Get(tx, store.Instances, st.Instance)
		if !ok || i.Node != node {
			return nil
		}
		at := slices.IndexFunc(i.Captures, func(c cloud.Capture) bool { return c.ID == st.Capture })
		if at < 0 {
			return nil // told before
		}
		endCapture(tx, i.Captures[at], st)
		i.Captures = slices.Delete(i.Captures, at, at+1)
		store.Put(tx, store.Instances, i)
		return nil
	})
	if err != nil {
		return fmt.Errorf("instance %s: note what came of %s: %w", st.Instance, st.Capture, err)
	}
	return nil
}

// endCapture settles what a capture was to make.
func endCapture(tx *store.Tx, c cloud.Capture, st agentrpc.CaptureStatus) {
	for _, v := range c.Volumes {
		snap, ok := store.Get(tx, store.Snapshots, v.Snapshot)
		if !ok {
			continue
		}
		snap.Captured = ""
		if snap.State == cloud.SnapshotPending {
			snap.State, snap.Failure = cloud.SnapshotCompleted, st.Error
			if st.Error != "" {
				snap.State = cloud.SnapshotError
			}
		}
		store.Put(tx, store.Snapshots, snap)
	}
	img, ok := store.Get(tx, store.Images, c.Image)
	if !ok || img.State != cloud.ImagePending {
		return // it was given up meanwhile
	}
	switch {
	case st.Error != "":
		img.State, img.Failure = cloud.ImageFailed, st.Error
	case st.Image == nil:
		img.State, img.Failure = cloud.ImageFailed, "the node says nothing of the image"
	default:
		if c.Layer != "" {
			img.Digest = st.Image.Digest
		}
		img.State, img.System, img.SizeMiB = cloud.ImageAvailable, st.Image.System, st.Image.SizeMiB
		if user := st.Image.LoginUser; user != "" && img.Tags[LoginUserTag] == "" {
			img.Tags = maps.Clone(img.Tags)
			if img.Tags == nil {
				img.Tags = cloud.Tags{}
			}
			img.Tags[LoginUserTag] = user
		}
	}
	store.Put(tx, store.Images, img)
}

// dropCaptures ends the captures of an instance that has no disks any more.
func dropCaptures(tx *store.Tx, i *cloud.Instance) {
	for _, c := range i.Captures {
		endCapture(tx, c, agentrpc.CaptureStatus{Error: fmt.Sprintf("the instance %s was terminated before its disks were read", i.ID)})
	}
	i.Captures = nil
}

// settleCopies makes images available whose snapshots are all there, of those that wait for nothing else.
func settleCopies(ctx context.Context, s *store.Store) error {
	for _, img := range store.List(s.View(), store.Images) {
		if img.State != cloud.ImagePending || img.Maker != "" {
			continue
		}
		err := s.Update(ctx, func(tx *store.Tx) error {
			img, ok := store.Get(tx, store.Images, img.ID)
			if !ok || img.State != cloud.ImagePending {
				return nil
			}
			img.State = cloud.ImageAvailable
			for _, v := range img.Volumes {
				switch snap, ok := store.Get(tx, store.Snapshots, v.Snapshot); {
				case v.Snapshot == "":
				case !ok || snap.State == cloud.SnapshotDeleting:
					img.State, img.Failure = cloud.ImageFailed, fmt.Sprintf("the snapshot %s is gone", v.Snapshot)
				case snap.State == cloud.SnapshotError:
					img.State, img.Failure = cloud.ImageFailed, fmt.Sprintf("the snapshot %s could not be made: %s", snap.ID, snap.Failure)
				case snap.State == cloud.SnapshotPending:
					if img.State == cloud.ImageAvailable {
						img.State = cloud.ImagePending
					}
				}
			}
			if img.State != cloud.ImagePending {
				store.Put(tx, store.Images, img)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("image %s: see whether its snapshots are there: %w", img.ID, err)
		}
	}
	return nil
}
