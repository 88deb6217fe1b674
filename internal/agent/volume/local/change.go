package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Grow implements volume.Backend.
func (b *Backend) Grow(ctx context.Context, id cloud.VolumeID, size int64, open volume.Door) error {
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	if err != nil {
		return err
	}
	if err := b.settle(ctx, &r, open); err != nil {
		return err
	}
	most, err := b.Capacity()
	switch {
	case err != nil:
		return err
	case size == r.Size:
		return nil
	case size < r.Size:
		return fmt.Errorf("volume %s has %d MiB and can't be made smaller", id, r.Size>>20)
	case size > most:
		return fmt.Errorf("grow volume %s to %d MiB on a disk of %d MiB: %w", id, size>>20, most>>20, volume.ErrTooLarge)
	}
	if open != nil {
		err = open.Do(ctx, func(m *qmp.Client) error {
			return m.Run(ctx, "block_resize", map[string]any{"node-name": volume.Top(id), "size": size}, nil)
		})
	} else {
		var layers []volume.Layer
		if layers, err = b.layers(b.Dir(id), r); err == nil {
			err = b.enlarge(ctx, layers[len(layers)-1], size)
		}
	}
	if err != nil {
		return fmt.Errorf("grow volume %s: %w", id, err)
	}
	r.Size = size
	return save(b.Dir(id), r)
}

// Limit implements volume.Backend.
func (b *Backend) Limit(ctx context.Context, id cloud.VolumeID, l cloud.VolumeLimits, open volume.Door) error {
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	if err != nil || r.Limits == l {
		return err
	}
	if open != nil {
		if err := open.Do(ctx, func(m *qmp.Client) error { return volume.SetLimits(ctx, m, id, l) }); err != nil {
			return fmt.Errorf("limit volume %s: %w", id, err)
		}
	}
	r.Limits = l
	return save(b.Dir(id), r)
}

// Snapshot implements volume.Backend. Its steps: an empty layer; the note that it is to be the top; the process that has the
// volume open lays it over; the snapshot's directory; the note that it is done. Each may be the last before a crash.
func (b *Backend) Snapshot(ctx context.Context, id cloud.VolumeID, snapshot cloud.SnapshotID, open volume.Door) error {
	if !cloud.ValidID[cloud.SnapshotID](string(snapshot)) {
		return fmt.Errorf("%q is no snapshot's id", snapshot)
	}
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	if err != nil {
		return err
	}
	if err := b.begin(ctx, &r, snapshot, false, open); err != nil {
		return err
	}
	return b.settle(ctx, &r, open)
}

// begin notes that a snapshot is to be made, unless it is there, and makes the layer that is to be written to after it.
func (b *Backend) begin(ctx context.Context, r *record, snapshot cloud.SnapshotID, together bool, open volume.Door) error {
	id := cloud.VolumeID(r.ID)
	if err := b.settle(ctx, r, open); err != nil {
		return err
	}
	if _, err := os.Stat(b.snapshotDir(snapshot)); err == nil {
		return nil
	}
	if len(r.Layers) >= MaxLayers {
		return fmt.Errorf("snapshot %s of volume %s, of %d layers: %w", snapshot, id, len(r.Layers), volume.ErrTooManyLayers)
	}
	r.Pending, r.Fresh, r.Together = snapshot, volume.LayerName(r.Next), together
	r.Next++
	path := filepath.Join(b.Dir(id), r.Fresh+suffix)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := b.newLayer(ctx, b.Dir(id), r, r.Fresh, r.Size); err != nil {
		return fmt.Errorf("snapshot %s of volume %s: %w", snapshot, id, err)
	}
	return save(b.Dir(id), *r)
}

// settle finishes a snapshot that was begun.
func (b *Backend) settle(ctx context.Context, r *record, open volume.Door) error {
	if r.Pending == "" {
		return nil
	}
	id := cloud.VolumeID(r.ID)
	head := r.Layers[len(r.Layers)-1]
	if open != nil {
		if undone, err := b.layOpen(ctx, r, open); undone || err != nil {
			return err
		}
	}
	if err := b.freeze(filepath.Join(b.Dir(id), head+suffix)); err != nil {
		return fmt.Errorf("snapshot %s of volume %s: %w", r.Pending, id, err)
	}
	target := b.snapshotDir(r.Pending)
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		err := b.make(target, func(dir string) error {
			if err := link(b.Dir(id), dir, *r); err != nil {
				return err
			}
			return save(dir, record{ID: string(r.Pending), Size: r.Size, Base: r.Base, Layers: r.Layers, Next: r.Next, Encrypted: r.Encrypted, Keyed: r.of(r.Layers)})
		})
		if err != nil {
			return fmt.Errorf("snapshot %s of volume %s: %w", r.Pending, id, err)
		}
	}
	r.Layers = append(r.Layers, r.Fresh)
	r.Pending, r.Fresh, r.Together = "", "", false
	return save(b.Dir(id), *r)
}

// laid tells whether the process that has a volume open writes to the fresh layer already. If not, nothing of that is left in it.
func laid(ctx context.Context, m *qmp.Client, r *record) (bool, error) {
	fresh := volume.Node(cloud.VolumeID(r.ID), r.Fresh)
	// A node that was added and not laid over can be taken away again; one that is written to can't.
	err := m.Run(ctx, "blockdev-del", map[string]any{"node-name": fresh}, nil)
	var refused *qmp.Error
	switch {
	case err == nil:
		return false, m.Run(ctx, "blockdev-del", map[string]any{"node-name": fresh + "f"}, nil)
	case !errors.As(err, &refused):
		return false, err
	case strings.Contains(refused.Description, "is in use") || strings.Contains(refused.Description, "busy"):
		return true, nil
	}
	return false, nil
}

// layOpen has the process that has a volume open write to the fresh layer from now on, unless it does already. A snapshot that was to be made together
// with others and has missed their instant is undone: they are made again, together.
func (b *Backend) layOpen(ctx context.Context, r *record, open volume.Door) (undone bool, err error) {
	err = open.Do(ctx, func(m *qmp.Client) error {
		done, err := laid(ctx, m, r)
		switch undone = r.Together && !done && err == nil; {
		case err != nil, done, undone:
			return err
		}
		return b.layOver(ctx, m, open, r)
	})
	if err != nil {
		return false, fmt.Errorf("snapshot %s of volume %s: %w", r.Pending, r.ID, err)
	}
	if !undone {
		return false, nil
	}
	err = os.Remove(filepath.Join(b.Dir(cloud.VolumeID(r.ID)), r.Fresh+suffix))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	r.Pending, r.Fresh, r.Together = "", "", false
	return true, errors.Join(err, save(b.Dir(cloud.VolumeID(r.ID)), *r))
}

// layOver has the process that has a volume open write to the fresh layer.
func (b *Backend) layOver(ctx context.Context, m *qmp.Client, d volume.Door, r *record) error {
	id := cloud.VolumeID(r.ID)
	fresh, head := volume.Node(id, r.Fresh), volume.Node(id, r.Layers[len(r.Layers)-1])
	layer, err := b.fresh(r)
	if err != nil {
		return err
	}
	if err := volume.AddLayer(ctx, m, d, id, layer, "", true); err != nil {
		return err
	}
	// QEMU lets no request pass meanwhile and flushes the old layer: what was answered as written is in the snapshot.
	return m.Run(ctx, "blockdev-snapshot", map[string]any{"node": head, "overlay": fresh}, nil)
}

// fresh is the layer that a snapshot lays over a volume.
func (b *Backend) fresh(r *record) (volume.Layer, error) {
	dir := b.Dir(cloud.VolumeID(r.ID))
	key, err := b.keyOf(dir, *r, r.Fresh)
	return volume.Layer{Name: r.Fresh, Path: filepath.Join(dir, r.Fresh+suffix), Key: key}, err
}

// CopySnapshot implements volume.Backend.
func (b *Backend) CopySnapshot(ctx context.Context, from, to cloud.SnapshotID, encrypted bool) error {
	if !cloud.ValidID[cloud.SnapshotID](string(from)) || !cloud.ValidID[cloud.SnapshotID](string(to)) || from == to {
		return fmt.Errorf("copy snapshot %q to %q: %w", from, to, volume.ErrNotFound)
	}
	defer b.lock(string(from))()
	if _, err := os.Stat(b.snapshotDir(to)); err == nil {
		return nil
	}
	r, err := load(b.snapshotDir(from), string(from))
	if err == nil {
		err = b.make(b.snapshotDir(to), func(dir string) error {
			if encrypted && !r.Encrypted {
				copied := record{ID: string(to), Size: r.Size}
				if err := b.encipher(ctx, dir, &copied, b.snapshotDir(from), r); err != nil {
					return err
				}
				return save(dir, copied)
			}
			if err := link(b.snapshotDir(from), dir, r); err != nil {
				return err
			}
			r.ID = string(to)
			return save(dir, r)
		})
	}
	if err != nil {
		return fmt.Errorf("copy snapshot %s to %s: %w", from, to, err)
	}
	return nil
}

// link gives a directory the files of another.
func link(from, to string, r record) error {
	var names []string
	if r.Base != "" {
		names = append(names, baseFile)
	}
	for _, l := range r.Layers {
		names = append(names, l+suffix)
		if slices.Contains(r.Keyed, l) {
			names = append(names, l+keySuffix)
		}
	}
	for _, name := range names {
		if err := os.Link(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
		// Its sums are made some time after it.
		if err := os.Link(filepath.Join(from, name+sumsSuffix), filepath.Join(to, name+sumsSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// DeleteSnapshot implements volume.Backend.
func (b *Backend) DeleteSnapshot(_ context.Context, id cloud.SnapshotID) error {
	if !cloud.ValidID[cloud.SnapshotID](string(id)) {
		return nil
	}
	defer b.lock(string(id))()
	defer b.forget(id)
	for _, dir := range []string{b.snapshotDir(id), b.stagingDir(id)} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := b.remove(dir); err != nil {
			return fmt.Errorf("delete snapshot %s: %w", id, err)
		}
	}
	return nil
}
