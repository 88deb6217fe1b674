// Package volumetest holds the promises of a volume.Backend as a test suite, which every backend's own tests run. Volumes are opened
// by real processes: a qemu-storage-daemon, kept by package daemon, whose device is written and read.
package volumetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/daemon"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const mib = 1 << 20

// Run tests a backend. reopen opens it, each time as a new process would, with what it kept.
func Run(t *testing.T, reopen func(t *testing.T) volume.Backend) {
	for name, test := range map[string]func(*testing.T, *bench){
		"a volume has one holder, and is not deleted while it has":            oneHolder,
		"a volume grows and is never made smaller":                            grows,
		"what was written is there again":                                     keeps,
		"an open volume grows and gets other limits":                          growsOpen,
		"a snapshot is the volume as it was, and so is what is made of it":    snapshots,
		"snapshots of several volumes are made at once or not at all":         together,
		"every acknowledged write is there after a kill, also in snapshots":   survives,
		"a volume is laid over a disk that may go afterwards":                 overBase,
		"snapshots and volumes end in any order":                              anyOrder,
		"a snapshot is read block by block, and compared with another":        readsBlocks,
		"a snapshot is written block by block, over another":                  writesBlocks,
		"a snapshot that nobody writes any more is given up":                  givesUp,
		"what a call that was cut off made is finished or gone after Recover": recovers,
		"encrypted, a volume grows and gets other limits":                     encrypted(growsOpen),
		"encrypted, a snapshot is the volume as it was":                       encrypted(snapshots),
		"encrypted, every acknowledged write is there after a kill":           encrypted(survives),
		"encrypted, a volume is laid over a disk":                             encrypted(overBase),
		"encrypted, snapshots and volumes end in any order":                   encrypted(anyOrder),
		"encrypted, what was cut off is finished or gone":                     encrypted(recovers),
		"what was not encrypted is, as a copy or a volume of a snapshot":      becomesEncrypted,
	} {
		t.Run(name, func(t *testing.T) {
			dir := Dir(t)
			test(t, &bench{T: t, backend: reopen(t), reopen: reopen, server: NewServer(t, dir), dir: dir})
		})
	}
}

// encrypted is a test with volumes that are.
func encrypted(test func(*testing.T, *bench)) func(*testing.T, *bench) {
	return func(t *testing.T, b *bench) {
		b.encrypted = true
		test(t, b)
		infos, _, err := b.backend.Recover(t.Context())
		b.must(err)
		for _, in := range infos {
			if !in.Encrypted {
				t.Errorf("volume %s is not encrypted", in.ID)
			}
		}
	}
}

// Dir is a directory that daemons can be shown, which ends with its test.
func Dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nacre-volumes-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// NewServer is a server of daemons that ends with its test, and all that it serves with it.
func NewServer(t *testing.T, dir string) *daemon.Server {
	t.Helper()
	s, err := daemon.New(t.Context(), daemon.Config{CloudID: "vt" + string(NewVolume())[4:8], Dir: dir, StateDir: Dir(t), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range s.Events() {
		}
	}()
	t.Cleanup(func() {
		served, err := filepath.Glob(filepath.Join(dir, "served", "i-*"))
		if err != nil {
			t.Error(err)
		}
		for _, s2 := range served {
			if err := s.Stop(context.Background(), cloud.VolumeID("vol-"+filepath.Base(s2)[2:])); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// NewVolume draws an id.
func NewVolume() cloud.VolumeID { return cloud.NewID[cloud.VolumeID](rand.Reader) }

func newSnapshot() cloud.SnapshotID { return cloud.NewID[cloud.SnapshotID](rand.Reader) }

const holder = cloud.InstanceID("i-0123456789abcdef0")

// bench is a backend with what opens its volumes.
type bench struct {
	*testing.T
	backend volume.Backend
	reopen  func(*testing.T) volume.Backend
	server  *daemon.Server
	dir     string // the server's, on the volumes' file system
	// encrypted is what the volumes are that it makes.
	encrypted bool
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) create(size int64, of cloud.SnapshotID) cloud.VolumeID {
	b.Helper()
	id := NewVolume()
	_, err := b.backend.Create(b.Context(), volume.Spec{ID: id, Size: size, Snapshot: of, Encrypted: b.encrypted})
	b.must(err)
	return id
}

// open makes a device of a volume.
func (b *bench) open(id cloud.VolumeID) string {
	b.Helper()
	b.must(b.backend.Hold(b.Context(), id, holder))
	g, err := b.backend.Graph(id)
	b.must(err)
	d, err := b.server.Serve(b.Context(), g)
	b.must(err)
	return d.Path
}

func (b *bench) shut(id cloud.VolumeID) {
	b.Helper()
	b.must(b.server.Stop(b.Context(), id))
	b.must(b.backend.Release(b.Context(), id, holder))
}

// write puts a block of one byte at a place, certain to be on the disk.
func (b *bench) write(device string, at int64, fill byte) {
	b.Helper()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	b.must(err)
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte{fill}, 4096), at)
	b.must(err)
	b.must(f.Sync())
}

// reads checks a block.
func (b *bench) reads(device string, at int64, fill byte) {
	b.Helper()
	f, err := os.Open(device)
	b.must(err)
	defer f.Close()
	got := make([]byte, 4096)
	_, err = f.ReadAt(got, at)
	b.must(err)
	if !bytes.Equal(got, bytes.Repeat([]byte{fill}, 4096)) {
		b.Errorf("at %d of %s there is %x…, not %x", at, device, got[:4], fill)
	}
}

func (b *bench) size(device string) int64 {
	b.Helper()
	f, err := os.Open(device)
	b.must(err)
	defer f.Close()
	n, err := f.Seek(0, 2)
	b.must(err)
	return n
}

func oneHolder(t *testing.T, b *bench) {
	ctx := t.Context()
	id := b.create(8*mib, "")
	if _, err := b.backend.Create(ctx, volume.Spec{ID: id, Size: 8 * mib}); err != nil {
		t.Error("made again:", err)
	}
	b.must(b.backend.Hold(ctx, id, holder))
	b.must(b.backend.Hold(ctx, id, holder))
	const other = cloud.InstanceID("i-0fedcba9876543210")
	if err := b.backend.Hold(ctx, id, other); !errors.Is(err, volume.ErrHeld) {
		t.Error("a second holder:", err)
	}
	if err := b.backend.Delete(ctx, id); !errors.Is(err, volume.ErrHeld) {
		t.Error("deleted while held:", err)
	}
	b.backend = b.reopen(t)
	b.must(b.backend.Release(ctx, id, other)) // not his
	if in, err := b.backend.Info(id); err != nil || in.Holder != holder {
		t.Error("the holder after a restart:", in, err)
	}
	b.must(b.backend.Release(ctx, id, holder))
	b.must(b.backend.Delete(ctx, id))
	b.must(b.backend.Delete(ctx, id))
	if _, err := b.backend.Info(id); !errors.Is(err, volume.ErrNotFound) {
		t.Error("a deleted volume:", err)
	}
	if err := b.backend.Hold(ctx, id, holder); !errors.Is(err, volume.ErrNotFound) {
		t.Error("a deleted volume is held:", err)
	}
}

func grows(t *testing.T, b *bench) {
	ctx := t.Context()
	id := b.create(8*mib, "")
	b.must(b.backend.Grow(ctx, id, 16*mib, nil))
	b.must(b.backend.Grow(ctx, id, 16*mib, nil))
	if err := b.backend.Grow(ctx, id, 8*mib, nil); err == nil {
		t.Error("it was made smaller")
	}
	most, err := b.backend.Capacity()
	b.must(err)
	if err := b.backend.Grow(ctx, id, most+mib, nil); !errors.Is(err, volume.ErrTooLarge) {
		t.Error("larger than the disk:", err)
	}
	if _, err := b.backend.Create(ctx, volume.Spec{ID: NewVolume(), Size: most + mib}); !errors.Is(err, volume.ErrTooLarge) {
		t.Error("made larger than the disk:", err)
	}
	d := b.open(id)
	if n := b.size(d); n != 16*mib {
		t.Errorf("the device has %d bytes", n)
	}
	b.shut(id)
}

func keeps(t *testing.T, b *bench) {
	id := b.create(8*mib, "")
	d := b.open(id)
	b.write(d, 0, 1)
	b.write(d, 8*mib-4096, 2)
	b.shut(id)
	d = b.open(id)
	b.reads(d, 0, 1)
	b.reads(d, 4*mib, 0)
	b.reads(d, 8*mib-4096, 2)
	// A daemon that is killed has not lost what was flushed.
	b.write(d, 4*mib, 3)
	b.killDaemon(id)
	b.shut(id)
	d = b.open(id)
	b.reads(d, 4*mib, 3)
	b.shut(id)
}

func (b *bench) killDaemon(id cloud.VolumeID) {
	b.Helper()
	st, err := b.server.Status(b.Context(), cloud.InstanceID("i-"+string(id)[4:]))
	b.must(err)
	b.must(unix.Kill(st.PID, unix.SIGKILL))
}

func growsOpen(t *testing.T, b *bench) {
	ctx := t.Context()
	id := b.create(8*mib, "")
	d := b.open(id)
	b.write(d, 0, 7)
	b.must(b.backend.Grow(ctx, id, 24*mib, b.server.Door(id)))
	b.must(b.server.Grown(ctx, id))
	if n := b.size(d); n != 24*mib {
		t.Errorf("the grown device has %d bytes", n)
	}
	b.write(d, 20*mib, 8)
	limits := cloud.VolumeLimits{IOPS: 3000, Bytes: 125 * mib, Unit: 256 << 10}
	b.must(b.backend.Limit(ctx, id, limits, b.server.Door(id)))
	b.must(b.backend.Limit(ctx, id, cloud.VolumeLimits{}, b.server.Door(id)))
	b.must(b.backend.Limit(ctx, id, cloud.VolumeLimits{IOPS: 100, BurstIOPS: 3000, BurstSeconds: 1800, Bytes: 128 * mib, Unit: 256 << 10}, b.server.Door(id)))
	b.reads(d, 0, 7)
	b.reads(d, 20*mib, 8)
	b.shut(id)
	d = b.open(id)
	b.reads(d, 20*mib, 8)
	b.shut(id)
}

func snapshots(t *testing.T, b *bench) {
	ctx := t.Context()
	id := b.create(8*mib, "")
	d := b.open(id)
	b.write(d, 0, 1)
	first, second := newSnapshot(), newSnapshot()
	b.must(b.backend.Snapshot(ctx, id, first, b.server.Door(id)))
	b.must(b.backend.Snapshot(ctx, id, first, b.server.Door(id)))
	b.write(d, 0, 2)
	b.write(d, mib, 2)
	b.must(b.backend.Snapshot(ctx, id, second, b.server.Door(id)))
	b.write(d, 0, 3)
	b.reads(d, mib, 2)
	b.must(b.backend.Grow(ctx, id, 16*mib, b.server.Door(id)))

	old := b.create(8*mib, first)
	o := b.open(old)
	b.reads(o, 0, 1)
	b.reads(o, mib, 0)
	b.write(o, 0, 9)
	newer := b.create(12*mib, second)
	n := b.open(newer)
	b.reads(n, 0, 2)
	b.reads(n, mib, 2)
	b.reads(n, 10*mib, 0)
	b.reads(d, 0, 3)
	b.reads(o, 0, 9)
	b.shut(old)
	b.shut(newer)
	b.shut(id)
	d = b.open(id)
	b.reads(d, 0, 3)
	b.reads(d, mib, 2)
	b.shut(id)
}

// together makes snapshots of volumes that nobody has open, and of one that a daemon has.
func together(t *testing.T, b *bench) {
	ids := []cloud.VolumeID{b.create(8*mib, ""), b.create(8*mib, "")}
	list := map[cloud.VolumeID]cloud.SnapshotID{}
	for n, id := range ids {
		list[id] = newSnapshot()
		b.write(b.open(id), 0, byte(n+1))
		b.shut(id)
	}
	for range 2 { // it may be repeated
		b.must(b.backend.SnapshotAll(t.Context(), list, nil))
	}
	for n, id := range ids {
		b.write(b.open(id), 0, 9)
		b.shut(id)
		copied := b.create(8*mib, list[id])
		b.reads(b.open(copied), 0, byte(n+1))
		b.shut(copied)
	}
	device := b.open(ids[0])
	again := newSnapshot()
	b.must(b.backend.SnapshotAll(t.Context(), map[cloud.VolumeID]cloud.SnapshotID{ids[0]: again}, b.server.Door(ids[0])))
	b.write(device, 0, 10)
	copied := b.create(8*mib, again)
	b.reads(b.open(copied), 0, 9)
	missing := map[cloud.VolumeID]cloud.SnapshotID{ids[1]: newSnapshot(), NewVolume(): newSnapshot()}
	if err := b.backend.SnapshotAll(t.Context(), missing, nil); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("of a volume that isn't there: %v", err)
	}
	_, there, err := b.reopen(t).Recover(t.Context())
	if b.must(err); slices.Contains(there, missing[ids[1]]) {
		t.Error("one of a set that could not be made was made")
	}
	for _, id := range []cloud.VolumeID{ids[0], copied} {
		b.shut(id)
	}
}

func anyOrder(t *testing.T, b *bench) {
	ctx := t.Context()
	id := b.create(8*mib, "")
	var made []cloud.SnapshotID
	for i := range 4 {
		d := b.open(id)
		b.write(d, int64(i)*mib, byte(i+1))
		b.shut(id)
		s := newSnapshot()
		b.must(b.backend.Snapshot(ctx, id, s, nil))
		made = append(made, s)
	}
	of := b.create(8*mib, made[1])
	b.must(b.backend.Delete(ctx, id))
	for _, i := range []int{1, 0, 3} {
		b.must(b.backend.DeleteSnapshot(ctx, made[i]))
		b.must(b.backend.DeleteSnapshot(ctx, made[i]))
	}
	d := b.open(of)
	b.reads(d, 0, 1)
	b.reads(d, mib, 2)
	b.reads(d, 2*mib, 0)
	b.shut(of)
	last := b.create(8*mib, made[2])
	d = b.open(last)
	for i := range 3 {
		b.reads(d, int64(i)*mib, byte(i+1))
	}
	b.reads(d, 3*mib, 0)
	b.shut(last)
	if _, err := b.backend.Create(ctx, volume.Spec{ID: NewVolume(), Size: 8 * mib, Snapshot: made[0]}); !errors.Is(err, volume.ErrNotFound) {
		t.Error("a volume of a deleted snapshot:", err)
	}
}

// overBase lays volumes over a raw disk that is smaller than they, one of them beginning with what another wrote.
func overBase(t *testing.T, b *bench) {
	ctx := t.Context()
	dir, err := os.MkdirTemp(b.dir, "base-")
	b.must(err)
	raw := filepath.Join(dir, "disk")
	b.must(os.WriteFile(raw, bytes.Repeat([]byte{5}, 2*mib), 0o400))
	over := func(base volume.Base) cloud.VolumeID {
		t.Helper()
		id := NewVolume()
		_, err := b.backend.Create(ctx, volume.Spec{ID: id, Size: 8 * mib, Base: base, Encrypted: b.encrypted})
		b.must(err)
		return id
	}
	id := over(volume.Base{Path: raw, Format: "raw"})
	d := b.open(id)
	b.reads(d, mib, 5)
	b.reads(d, 4*mib, 0)
	b.write(d, 0, 1)
	snap := newSnapshot()
	b.must(b.backend.Snapshot(ctx, id, snap, b.server.Door(id)))
	b.write(d, 0, 2)
	b.shut(id)
	// What a template wrote is never encrypted.
	encrypted := b.encrypted
	b.encrypted = false
	of := over(volume.Base{Path: raw, Format: "raw"})
	d = b.open(of)
	b.write(d, 0, 2)
	b.shut(of)
	g, err := b.backend.Graph(of)
	b.must(err)
	written := filepath.Join(dir, "written")
	qcow2, err := os.ReadFile(g.Layers[len(g.Layers)-1].Path)
	b.must(err)
	b.must(os.WriteFile(written, qcow2, 0o400))
	b.must(b.backend.Delete(ctx, of))
	b.encrypted = encrypted
	copied := over(volume.Base{Path: raw, Format: "raw", Written: written})
	b.must(os.RemoveAll(dir))
	d = b.open(copied)
	b.reads(d, 0, 2)
	b.reads(d, mib, 5)
	b.write(d, mib, 3)
	b.shut(copied)
	of = b.create(8*mib, snap)
	b.must(b.backend.Delete(ctx, id))
	b.must(b.backend.DeleteSnapshot(ctx, snap))
	d = b.open(of)
	b.reads(d, 0, 1)
	b.reads(d, mib, 5)
	b.shut(of)
	layers, base, err := b.backend.Usage(copied)
	if err != nil || layers < 4096 || base < 2*mib {
		t.Errorf("%v, it takes %d bytes over %d", err, layers, base)
	}
	d = b.open(copied)
	b.reads(d, mib, 3)
	b.shut(copied)
	if _, err := b.backend.Create(ctx, volume.Spec{ID: NewVolume(), Size: 8 * mib, Base: volume.Base{Path: raw, Format: "raw"}}); err == nil {
		t.Error("a volume over nothing was made")
	}
}

// becomesEncrypted copies a snapshot and makes a volume of it, encrypted, and ends what they were made of.
func becomesEncrypted(t *testing.T, b *bench) {
	ctx := t.Context()
	id := b.create(8*mib, "")
	d := b.open(id)
	b.write(d, 0, 1)
	first, second, copied := newSnapshot(), newSnapshot(), newSnapshot()
	b.must(b.backend.Snapshot(ctx, id, first, b.server.Door(id)))
	b.write(d, mib, 2)
	b.must(b.backend.Snapshot(ctx, id, second, b.server.Door(id)))
	b.shut(id)
	b.must(b.backend.CopySnapshot(ctx, second, copied, true))
	b.must(b.backend.CopySnapshot(ctx, second, copied, true))
	b.encrypted = true
	of := b.create(16*mib, second)
	b.encrypted = false
	clear := b.create(8*mib, second)
	b.must(b.backend.Delete(ctx, id))
	b.must(b.backend.DeleteSnapshot(ctx, first))
	b.must(b.backend.DeleteSnapshot(ctx, second))
	ofCopy := b.create(8*mib, copied)
	for v, is := range map[cloud.VolumeID]bool{of: true, ofCopy: true, clear: false} {
		if in, err := b.backend.Info(v); err != nil || in.Encrypted != is {
			t.Errorf("volume %s: %+v, %v; encrypted should be %v", v, in, err, is)
		}
		d := b.open(v)
		b.reads(d, 0, 1)
		b.reads(d, mib, 2)
		b.reads(d, 2*mib, 0)
		b.write(d, 2*mib, 3)
		b.reads(d, 2*mib, 3)
		b.shut(v)
	}
}

func recovers(t *testing.T, b *bench) {
	ctx := t.Context()
	id := b.create(8*mib, "")
	// A call whose context has ended stands for one that was cut off; its repetition finishes it.
	over, cancel := context.WithCancel(ctx)
	cancel()
	lost := NewVolume()
	if _, err := b.backend.Create(over, volume.Spec{ID: lost, Size: 8 * mib}); err == nil {
		t.Fatal("a call whose context has ended made a volume")
	}
	snap := newSnapshot()
	d := b.open(id)
	b.write(d, 0, 1)
	if err := b.backend.Snapshot(over, id, snap, b.server.Door(id)); err == nil {
		t.Error("a snapshot was made by a call that was given up")
	}
	b.backend = b.reopen(t)
	volumes, snaps, err := b.backend.Recover(ctx)
	b.must(err)
	if len(volumes) != 1 || volumes[0].ID != id || slices.Contains(snaps, snap) {
		t.Errorf("after a restart there are %v and %v", volumes, snaps)
	}
	b.must(b.backend.Snapshot(ctx, id, snap, b.server.Door(id)))
	b.write(d, 0, 2)
	b.shut(id)
	of := b.create(8*mib, snap)
	d = b.open(of)
	b.reads(d, 0, 1)
	b.shut(of)
}
