package volumetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const blockBytes = volume.BlockSize

// blocksOf is the backend as one whose snapshots are read block by block.
func (b *bench) blocksOf() volume.Blocks {
	b.Helper()
	store, ok := b.backend.(volume.Blocks)
	if !ok {
		b.Skip("its snapshots are not read block by block")
	}
	return store
}

// indices lists all that a snapshot has, a few at a time.
func (b *bench) indices(list func(from int64) (volume.BlockList, error)) []volume.ListedBlock {
	b.Helper()
	var all []volume.ListedBlock
	for from := int64(0); from >= 0; {
		l, err := list(from)
		b.must(err)
		all, from = append(all, l.Blocks...), l.Next
	}
	return all
}

func only(blocks []volume.ListedBlock) (list []int64) {
	for _, b := range blocks {
		list = append(list, b.Index)
	}
	return list
}

func (b *bench) same(what string, got []int64, want ...int64) {
	b.Helper()
	if len(got) != len(want) {
		b.Errorf("%s: there are the blocks %v, not %v", what, got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			b.Errorf("%s: there are the blocks %v, not %v", what, got, want)
			return
		}
	}
}

// readsBlocks reads snapshots block by block, and what changed between two.
func readsBlocks(t *testing.T, b *bench) {
	ctx := t.Context()
	store := b.blocksOf()
	raw := b.dir + "/base"
	b.must(os.WriteFile(raw, bytes.Repeat([]byte{5}, blockBytes), 0o400))
	id := NewVolume()
	_, err := b.backend.Create(ctx, volume.Spec{ID: id, Size: 8 * mib, Base: volume.Base{Path: raw, Format: "raw"}})
	b.must(err)
	b.must(os.Remove(raw))
	d := b.open(id)
	b.write(d, 3*blockBytes+8192, 1)
	first, second, copied := newSnapshot(), newSnapshot(), newSnapshot()
	b.must(b.backend.Snapshot(ctx, id, first, b.server.Door(id)))
	b.write(d, 3*blockBytes, 2)
	b.write(d, 5*blockBytes, 3)
	b.write(d, 15*blockBytes, 4)
	b.must(b.backend.Grow(ctx, id, 16*mib, b.server.Door(id)))
	b.must(b.server.Grown(ctx, id))
	b.write(d, 31*blockBytes, 6)
	b.must(b.backend.Snapshot(ctx, id, second, b.server.Door(id)))
	b.write(d, 0, 9)
	b.shut(id)
	b.must(b.backend.CopySnapshot(ctx, first, copied, false))
	list := func(id cloud.SnapshotID) []int64 {
		return only(b.indices(func(from int64) (volume.BlockList, error) { return store.ListBlocks(ctx, id, from, 2) }))
	}
	b.same("the first", list(first), 0, 3)
	b.same("the second", list(second), 0, 3, 5, 15, 31)
	changes := b.indices(func(from int64) (volume.BlockList, error) {
		return store.ListChanges(ctx, first, second, false, from, 2)
	})
	b.same("what changed", only(changes), 3, 5, 15, 31)
	if changes[0] != (volume.ListedBlock{Index: 3, First: true, Second: true}) || changes[1] != (volume.ListedBlock{Index: 5, Second: true}) {
		t.Errorf("the changed blocks are %+v", changes)
	}
	b.same("between a snapshot and its copy", only(b.indices(func(from int64) (volume.BlockList, error) {
		return store.ListChanges(ctx, first, copied, false, from, 2)
	})))
	for at, want := range map[int64]byte{0: 5, 3*blockBytes + 8192: 1, 3 * blockBytes: 2, 3*blockBytes + 4096: 0, 5 * blockBytes: 3, 7 * blockBytes: 0, 31 * blockBytes: 6} {
		got, err := store.ReadBlock(ctx, second, at/blockBytes)
		b.must(err)
		if !bytes.Equal(got[at%blockBytes:][:4096], bytes.Repeat([]byte{want}, 4096)) {
			t.Errorf("at %d there is %x, not %x", at, got[at%blockBytes], want)
		}
	}
	for _, index := range []int64{-1, 32} {
		if _, err := store.ReadBlock(ctx, second, index); !errors.Is(err, volume.ErrNoBlock) {
			t.Errorf("the block %d: %v", index, err)
		}
	}
	other := b.create(8*mib, "")
	alone := newSnapshot()
	b.must(b.backend.Snapshot(ctx, other, alone, nil))
	if _, err := store.ListChanges(ctx, alone, second, false, 0, 2); !errors.Is(err, volume.ErrUnrelated) {
		t.Errorf("a comparison with a stranger: %v", err)
	}
	b.must(b.backend.DeleteSnapshot(ctx, first))
	if _, err := store.ReadBlock(ctx, first, 0); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a deleted snapshot is read: %v", err)
	}
	b.same("the copy", list(copied), 0, 3)
}

// writesBlocks makes snapshots of blocks, over another, as a new process at each step.
func writesBlocks(t *testing.T, b *bench) {
	ctx := t.Context()
	b.blocksOf()
	id := b.create(8*mib, "")
	d := b.open(id)
	b.write(d, 0, 1)
	b.write(d, mib, 2)
	b.shut(id)
	parent := newSnapshot()
	b.must(b.backend.Snapshot(ctx, id, parent, nil))
	b.must(b.backend.Delete(ctx, id))
	snap := newSnapshot()
	staging := volume.Staging{ID: snap, Size: 16 * mib, Parent: parent, Idle: time.Hour}
	b.must(b.blocksOf().Begin(ctx, staging))
	b.must(b.backend.DeleteSnapshot(ctx, parent))
	random := make([]byte, blockBytes)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	zeros := make([]byte, blockBytes)
	put := func(index int64, block []byte) {
		t.Helper()
		b.backend = b.reopen(t)
		b.must(b.blocksOf().Begin(ctx, staging))
		b.must(b.blocksOf().WriteBlock(ctx, snap, index, block))
	}
	put(31, zeros)
	put(31, random)
	put(2, zeros)
	put(2, zeros)
	b.backend = b.reopen(t)
	store := b.blocksOf()
	for index, block := range map[int64][]byte{-1: zeros, 32: zeros} {
		if err := store.WriteBlock(ctx, snap, index, block); !errors.Is(err, volume.ErrNoBlock) {
			t.Errorf("the block %d: %v", index, err)
		}
	}
	if err := store.WriteBlock(ctx, snap, 1, zeros[1:]); err == nil {
		t.Error("a part of a block was written")
	}
	z, r := sha256.Sum256(zeros), sha256.Sum256(random)
	n, linear, err := store.Written(ctx, snap)
	if err != nil || n != 2 || linear != sha256.Sum256(append(z[:], r[:]...)) {
		t.Errorf("%d blocks were written: %v", n, err)
	}
	if _, snaps, err := b.backend.Recover(ctx); err != nil || len(snaps) != 0 {
		t.Errorf("before it is complete there are the snapshots %v, %v", snaps, err)
	}
	b.must(store.Complete(ctx, snap))
	b.must(store.Complete(ctx, snap))
	if err := store.WriteBlock(ctx, snap, 1, zeros); !errors.Is(err, volume.ErrSealed) {
		t.Errorf("a complete snapshot was written to: %v", err)
	}
	b.same("it", only(b.indices(func(from int64) (volume.BlockList, error) { return store.ListBlocks(ctx, snap, from, 100) })), 0, 31)
	of := b.create(16*mib, snap)
	d = b.open(of)
	b.reads(d, 0, 1)
	b.reads(d, mib, 0)
	got := make([]byte, blockBytes)
	f, err := os.Open(d)
	b.must(err)
	_, err = f.ReadAt(got, 31*blockBytes)
	b.must(errors.Join(err, f.Close()))
	if !bytes.Equal(got, random) {
		t.Error("a volume of it has another block")
	}
	b.write(d, mib, 7)
	b.shut(of)
}

// givesUp gives a snapshot up that nobody writes any more.
func givesUp(t *testing.T, b *bench) {
	ctx := t.Context()
	store := b.blocksOf()
	idle, busy := newSnapshot(), newSnapshot()
	b.must(store.Begin(ctx, volume.Staging{ID: idle, Size: mib, Idle: time.Minute}))
	b.must(store.Begin(ctx, volume.Staging{ID: busy, Size: mib, Idle: 3 * time.Hour}))
	b.must(store.WriteBlock(ctx, idle, 0, make([]byte, blockBytes)))
	if over, err := store.Idle(ctx, time.Now()); err != nil || len(over) != 0 {
		t.Errorf("%v were given up at once, %v", over, err)
	}
	for range 2 {
		if over, err := store.Idle(ctx, time.Now().Add(time.Hour)); err != nil || len(over) != 1 || over[0] != idle {
			t.Errorf("%v were given up, %v", over, err)
		}
	}
	if err := store.WriteBlock(ctx, idle, 0, make([]byte, blockBytes)); !errors.Is(err, volume.ErrSealed) {
		t.Errorf("it is written to: %v", err)
	}
	if err := store.Complete(ctx, idle); !errors.Is(err, volume.ErrSealed) {
		t.Errorf("it is complete: %v", err)
	}
	for _, id := range []cloud.SnapshotID{idle, busy} {
		b.must(b.backend.DeleteSnapshot(ctx, id))
	}
	if over, err := store.Idle(ctx, time.Now().Add(time.Hour)); err != nil || len(over) != 0 {
		t.Errorf("%v are still given up, %v", over, err)
	}
}
