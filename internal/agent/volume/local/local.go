// Package local keeps volumes on the node's own disk: a directory a volume, with the qcow2 files that are laid over one another,
// and a directory a snapshot, with hard links to those it is made of.
//
// It implements volume.Backend; see there for terms, order of calls and promises. A snapshot freezes the file that the volume was
// writing to and lays an empty one over it. Files are shared by links alone: the file system counts who needs one, so that
// volumes and snapshots end in any order and the last one takes the bytes along. Nobody ever writes to a file with a second link.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// MaxLayers bounds how many files a volume is made of: each snapshot of it, or of what it was made of, adds one.
const MaxLayers = 64

const (
	volumesDir   = "volumes"
	snapshotsDir = "snapshots"
	makingDir    = "making" // what is not finished or on its way out; emptied by Recover
	recordFile   = "record.json"
	suffix       = ".qcow2"
	baseFile     = "base"
	movedOut     = "it" // what is on its way out, in a directory of its own
)

// Config says where the volumes are.
type Config struct {
	Dir string
	// User may write the files that volumes write to, and read the others: the daemon that serves them to containers.
	User int
	// Keys seals the keys of encrypted volumes.
	Keys *keyring.Ring
}

// Backend keeps volumes on the node's disk. Make it with Open.
type Backend struct {
	cfg Config
	img string // qemu-img

	mu    sync.Mutex
	locks map[string]*sync.Mutex
	held  map[cloud.InstanceID]map[cloud.VolumeID]bool // what the records say

	shredding sync.Mutex

	stacks stacks
}

var _ volume.Backend = (*Backend)(nil)

// Open makes the directories. It starts nothing.
func Open(cfg Config) (*Backend, error) {
	b := &Backend{cfg: cfg, locks: map[string]*sync.Mutex{}, held: map[cloud.InstanceID]map[cloud.VolumeID]bool{}}
	var err error
	if b.img, err = exec.LookPath("qemu-img"); err != nil {
		return nil, errors.New("volumes need qemu-img, which is not installed; `nacre doctor --install` installs it")
	}
	for _, dir := range []string{"", volumesDir, snapshotsDir, stagingDir, makingDir} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, dir), 0o711); err != nil {
			return nil, fmt.Errorf("make the volumes' directory: %w", err)
		}
	}
	return b, nil
}

// record is what is kept of a volume or a snapshot, in its directory.
type record struct {
	ID     string
	Size   int64
	Limits cloud.VolumeLimits
	Holder cloud.InstanceID
	// Base is the format of the file baseFile that the layers lie over, "" for none.
	Base   string   `json:",omitempty"`
	Layers []string // the lowest first
	Next   int      // the number of the next layer
	// Encrypted says that layers are encrypted from now on; Keyed are those that are. What an image or its template brought lies below as it lies among the images.
	Encrypted bool     `json:",omitempty"`
	Keyed     []string `json:",omitempty"`
	// Pending is a snapshot that is being made: its layers are Layers, and Fresh is to be laid over them.
	Pending cloud.SnapshotID `json:",omitempty"`
	Fresh   string           `json:",omitempty"`
	// Together says that the pending snapshot is to be of the same instant as those of other volumes.
	Together bool `json:",omitempty"`
}

// Dir is a volume's own directory.
func (b *Backend) Dir(id cloud.VolumeID) string {
	return filepath.Join(b.cfg.Dir, volumesDir, string(id))
}

func (b *Backend) snapshotDir(id cloud.SnapshotID) string {
	return filepath.Join(b.cfg.Dir, snapshotsDir, string(id))
}

// lock serialises what is done with one volume or snapshot.
func (b *Backend) lock(id string) (unlock func()) {
	b.mu.Lock()
	l := b.locks[id]
	if l == nil {
		l = &sync.Mutex{}
		b.locks[id] = l
	}
	b.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// load reads a record; its own id is what makes it trusted.
func load(dir, id string) (record, error) {
	var r record
	raw, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%s: %w", id, volume.ErrNotFound)
	}
	if err != nil {
		return r, fmt.Errorf("read what is kept of %s: %w", id, err)
	}
	if err := json.Unmarshal(raw, &r); err != nil || r.ID != id || len(r.Layers) == 0 {
		return r, fmt.Errorf("the record of %s in %s is damaged: %w", id, dir, err)
	}
	return r, nil
}

// save replaces a record, for certain on the disk.
func save(dir string, r record) error {
	raw, err := json.Marshal(r)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(dir, recordFile), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the record of %s: %w", r.ID, err)
	}
	return nil
}

// volumeOf reads a volume's record.
func (b *Backend) volumeOf(id cloud.VolumeID) (record, error) {
	if !cloud.ValidID[cloud.VolumeID](string(id)) {
		return record{}, fmt.Errorf("%q: %w", id, volume.ErrNotFound)
	}
	return load(b.Dir(id), string(id))
}

func info(r record) volume.Info {
	return volume.Info{ID: cloud.VolumeID(r.ID), Size: r.Size, Limits: r.Limits, Holder: r.Holder, Encrypted: r.Encrypted}
}

// Capacity implements volume.Backend.
func (b *Backend) Capacity() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(b.cfg.Dir, &st); err != nil {
		return 0, fmt.Errorf("ask for the size of the disk under %s: %w", b.cfg.Dir, err)
	}
	return int64(st.Blocks) * st.Bsize, nil
}

// Info implements volume.Backend.
func (b *Backend) Info(id cloud.VolumeID) (volume.Info, error) {
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	return info(r), err
}

// Usage implements volume.Backend.
func (b *Backend) Usage(id cloud.VolumeID) (layers, base int64, err error) {
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	if err != nil {
		return 0, 0, err
	}
	weigh := func(name string) (int64, error) {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(b.Dir(id), name), &st); err != nil {
			return 0, fmt.Errorf("weigh volume %s: %w", id, &os.PathError{Op: "stat", Path: name, Err: err})
		}
		return st.Blocks * 512, nil
	}
	for _, l := range r.Layers {
		n, err := weigh(l + suffix)
		if err != nil {
			return 0, 0, err
		}
		layers += n
	}
	if r.Base != "" {
		base, err = weigh(baseFile)
	}
	return layers, base, err
}

// Recover implements volume.Backend.
func (b *Backend) Recover(context.Context) ([]volume.Info, []cloud.SnapshotID, error) {
	making := filepath.Join(b.cfg.Dir, makingDir)
	left, err := os.ReadDir(making)
	if err != nil {
		return nil, nil, fmt.Errorf("look for volumes that a crash left: %w", err)
	}
	for _, e := range left {
		dir := filepath.Join(making, e.Name())
		if err := errors.Join(b.shred(dir), b.shred(filepath.Join(dir, movedOut)), os.RemoveAll(dir)); err != nil {
			return nil, nil, fmt.Errorf("remove what a crash left: %w", err)
		}
	}
	var volumes []volume.Info
	kept, err := b.all()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range kept {
		volumes = append(volumes, info(r))
		b.note("", r.Holder, cloud.VolumeID(r.ID))
	}
	var snapshots []cloud.SnapshotID
	entries, err := os.ReadDir(filepath.Join(b.cfg.Dir, snapshotsDir))
	if err != nil {
		return nil, nil, fmt.Errorf("list the snapshots: %w", err)
	}
	for _, e := range entries {
		if cloud.ValidID[cloud.SnapshotID](e.Name()) {
			snapshots = append(snapshots, cloud.SnapshotID(e.Name()))
		}
	}
	return volumes, snapshots, nil
}

// all reads the records of all volumes.
func (b *Backend) all() ([]record, error) {
	entries, err := os.ReadDir(filepath.Join(b.cfg.Dir, volumesDir))
	if err != nil {
		return nil, fmt.Errorf("list the volumes: %w", err)
	}
	var list []record
	for _, e := range entries {
		r, err := b.volumeOf(cloud.VolumeID(e.Name()))
		if errors.Is(err, volume.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// Held implements volume.Backend.
func (b *Backend) Held(holder cloud.InstanceID) ([]cloud.VolumeID, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.held[holder])), nil
}

// note keeps in memory that a volume has another holder.
func (b *Backend) note(before, after cloud.InstanceID, id cloud.VolumeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before != "" {
		if delete(b.held[before], id); len(b.held[before]) == 0 {
			delete(b.held, before)
		}
	}
	if after != "" {
		if b.held[after] == nil {
			b.held[after] = map[cloud.VolumeID]bool{}
		}
		b.held[after][id] = true
	}
}

// make builds a directory out of sight and shows it whole.
func (b *Backend) make(target string, fill func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(filepath.Join(b.cfg.Dir, makingDir), filepath.Base(target)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.shred(dir), os.RemoveAll(dir))
		}
	}()
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	if err := fill(dir); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, target); err != nil {
		return err
	}
	return syncDir(filepath.Dir(target))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// remove takes a directory out of sight and deletes it.
func (b *Backend) remove(dir string) error {
	out, err := os.MkdirTemp(filepath.Join(b.cfg.Dir, makingDir), "out-")
	if err != nil {
		return err
	}
	it := filepath.Join(out, movedOut)
	if err := os.Rename(dir, it); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(out))
	}
	return errors.Join(syncDir(filepath.Dir(dir)), b.shred(it), os.RemoveAll(out))
}

// empty makes a layer without content.
func (b *Backend) empty(ctx context.Context, path string, size int64) error {
	out, err := exec.CommandContext(ctx, b.img, "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=off,cluster_size=65536", path, fmt.Sprint(size)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make %s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	if err := errors.Join(os.Chown(path, b.cfg.User, b.cfg.User), os.Chmod(path, 0o600)); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// layOn lays a volume that is being made over a base. The file is shared by a link, as layers are: whoever made it may delete it.
func (b *Backend) layOn(dir string, r *record, base volume.Base) error {
	if base.Format != "raw" && base.Format != "qcow2" {
		return fmt.Errorf("%s has the format %q, which is neither raw nor qcow2", base.Path, base.Format)
	}
	r.Base = base.Format
	path := filepath.Join(dir, baseFile)
	if err := os.Link(base.Path, path); err != nil {
		return err
	}
	return b.freeze(path)
}

// copyTo makes a layer with the content of another file.
func (b *Backend) copyTo(path, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chown(b.cfg.User, b.cfg.User), out.Sync(), out.Close())
}

// freeze makes a layer one that nobody writes any more.
func (b *Backend) freeze(path string) error {
	return errors.Join(os.Chown(path, 0, b.cfg.User), os.Chmod(path, 0o440))
}

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, s volume.Spec) (volume.Info, error) {
	defer b.lock(string(s.ID))()
	r, err := b.volumeOf(s.ID)
	if err == nil || !errors.Is(err, volume.ErrNotFound) {
		return info(r), err
	}
	if err := b.create(ctx, s); err != nil {
		return volume.Info{}, fmt.Errorf("make volume %s: %w", s.ID, err)
	}
	r, err = b.volumeOf(s.ID)
	return info(r), err
}

func (b *Backend) create(ctx context.Context, s volume.Spec) error {
	most, err := b.Capacity()
	if err != nil {
		return err
	}
	if s.Size > most {
		return fmt.Errorf("%d MiB on a disk of %d MiB: %w", s.Size>>20, most>>20, volume.ErrTooLarge)
	}
	if err := b.encrypts(s.Encrypted, s.ID); err != nil {
		return err
	}
	r := record{ID: string(s.ID), Size: s.Size, Limits: s.Limits, Encrypted: s.Encrypted}
	var from record
	if s.Snapshot != "" {
		defer b.lock(string(s.Snapshot))()
		if from, err = load(b.snapshotDir(s.Snapshot), string(s.Snapshot)); err != nil {
			return err
		}
		if len(from.Layers) >= MaxLayers {
			return fmt.Errorf("of snapshot %s, of %d layers: %w", s.Snapshot, len(from.Layers), volume.ErrTooManyLayers)
		}
		r.Base, r.Layers, r.Next, r.Keyed = from.Base, from.Layers, from.Next, from.Keyed
		r.Encrypted = s.Encrypted || from.Encrypted
		r.Size = max(s.Size, from.Size)
	}
	return b.make(b.Dir(s.ID), func(dir string) error {
		if s.Snapshot != "" && r.Encrypted && !from.Encrypted { // nothing of it may lie below as it is
			if err := b.encipher(ctx, dir, &r, b.snapshotDir(s.Snapshot), from); err != nil {
				return err
			}
		} else if s.Base.Path == "" {
			if err := link(b.snapshotDir(s.Snapshot), dir, r); err != nil {
				return err
			}
		} else if err := b.layOn(dir, &r, s.Base); err != nil {
			return err
		}
		if s.Base.Written != "" {
			path := filepath.Join(dir, r.another()+suffix)
			if err := b.copyTo(path, s.Base.Written); err != nil || !r.Encrypted {
				return errors.Join(err, save(dir, r))
			}
			if err := b.freeze(path); err != nil { // which is the image's, and goes on being laid under
				return err
			}
		}
		if err := b.newLayer(ctx, dir, &r, r.another(), r.Size); err != nil {
			return err
		}
		return save(dir, r)
	})
}

// another adds a layer to a record and tells its name.
func (r *record) another() string {
	name := volume.LayerName(r.Next)
	r.Next++
	r.Layers = append(slices.Clone(r.Layers), name)
	return name
}

// Delete implements volume.Backend.
func (b *Backend) Delete(_ context.Context, id cloud.VolumeID) error {
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err == nil && r.Holder != "" {
		return fmt.Errorf("delete volume %s: %w: %s", id, volume.ErrHeld, r.Holder)
	}
	if err := b.remove(b.Dir(id)); err != nil {
		return fmt.Errorf("delete volume %s: %w", id, err)
	}
	return nil
}

// Hold implements volume.Backend.
func (b *Backend) Hold(_ context.Context, id cloud.VolumeID, holder cloud.InstanceID) error {
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	switch {
	case err != nil:
		return err
	case r.Holder == holder:
		return nil
	case r.Holder != "":
		return fmt.Errorf("volume %s: %w: %s", id, volume.ErrHeld, r.Holder)
	}
	r.Holder = holder
	if err := save(b.Dir(id), r); err != nil {
		return err
	}
	b.note("", holder, id)
	return nil
}

// Release implements volume.Backend.
func (b *Backend) Release(ctx context.Context, id cloud.VolumeID, holder cloud.InstanceID) error {
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	if errors.Is(err, volume.ErrNotFound) || err == nil && r.Holder != holder {
		return nil
	}
	if err != nil {
		return err
	}
	if err := b.settle(ctx, &r, nil); err != nil {
		return err
	}
	r.Holder = ""
	if err := save(b.Dir(id), r); err != nil {
		return err
	}
	b.note(holder, "", id)
	return nil
}

// Graph implements volume.Backend.
func (b *Backend) Graph(id cloud.VolumeID) (volume.Graph, error) {
	defer b.lock(string(id))()
	r, err := b.volumeOf(id)
	if err != nil {
		return volume.Graph{}, err
	}
	// Nobody has it open: whatever a snapshot that was cut off had got to, the new layer is right on top.
	if err := b.settle(context.Background(), &r, nil); err != nil {
		return volume.Graph{}, err
	}
	g := volume.Graph{ID: id, Limits: r.Limits}
	g.Layers, err = b.layers(b.Dir(id), r)
	return g, err
}
