package volumetest

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	blockSize = 4096
	blocks    = 64
)

// history is what one writer did: each block has a number that grows with each write of it.
type history struct {
	mu    sync.Mutex
	begun [blocks]uint64 // what was given to the kernel
	acked [blocks]uint64 // what is on the disk for certain
}

// write writes until it fails or stop is closed.
func (h *history) write(device string, stop <-chan struct{}) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	for {
		select {
		case <-stop:
			return
		default:
		}
		n := rand.IntN(blocks)
		h.mu.Lock()
		h.begun[n]++
		number := h.begun[n]
		h.mu.Unlock()
		b := make([]byte, blockSize)
		for i := 0; i < blockSize; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], number)
		}
		if _, err := f.WriteAt(b, int64(n)*blockSize); err != nil {
			return
		}
		if f.Sync() != nil {
			return
		}
		h.mu.Lock()
		h.acked[n] = number
		h.mu.Unlock()
	}
}

func (h *history) now() (begun, acked [blocks]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begun, h.acked
}

// between is what a block may hold.
type between struct{ least, most [blocks]uint64 }

// check reads a volume and holds every block against what it may hold.
func (b *bench) check(what string, id cloud.VolumeID, may between) {
	b.Helper()
	d := b.open(id)
	defer b.shut(id)
	f, err := os.Open(d)
	b.must(err)
	defer f.Close()
	block := make([]byte, blockSize)
	for n := range blocks {
		_, err := f.ReadAt(block, int64(n)*blockSize)
		b.must(err)
		got := binary.LittleEndian.Uint64(block)
		for i := 0; i < blockSize; i += 8 {
			if v := binary.LittleEndian.Uint64(block[i:]); v != got {
				b.Errorf("%s: block %d is torn: %d and %d", what, n, got, v)
				break
			}
		}
		if got < may.least[n] || got > may.most[n] {
			b.Errorf("%s: block %d is the %d. write of it; acknowledged were %d, begun %d", what, n, got, may.least[n], may.most[n])
		}
	}
}

// survives kills the daemon under a writer, with snapshots being taken, and looks for every write that was acknowledged.
func survives(t *testing.T, b *bench) {
	ctx := t.Context()
	id := b.create(8*mib, "")
	h := &history{}
	taken := map[cloud.SnapshotID]between{}
	for range 3 {
		device := b.open(id)
		stop := make(chan struct{})
		var writer sync.WaitGroup
		writer.Go(func() { h.write(device, stop) })
		for range 2 {
			time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond) // so that there is something to lose
			var may between
			_, may.least = h.now()
			snap := newSnapshot()
			b.must(b.backend.Snapshot(ctx, id, snap, b.server.Door(id)))
			may.most, _ = h.now()
			taken[snap] = may
		}
		b.killDaemon(id)
		close(stop)
		writer.Wait()
		b.shut(id)
		var may between
		may.most, may.least = h.now()
		b.check("the volume", id, may)
	}
	if _, acked := h.now(); acked == [blocks]uint64{} {
		t.Error("nothing was written")
	}
	for snap, may := range taken {
		of := b.create(8*mib, snap)
		b.check("the snapshot", of, may)
		b.must(b.backend.Delete(ctx, of))
	}
	b.must(b.backend.Delete(ctx, id))
	for snap := range maps.Keys(taken) {
		b.must(b.backend.DeleteSnapshot(ctx, snap))
	}
}
