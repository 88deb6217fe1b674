package local

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/qcow2"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A snapshot that is written block by block is a directory of its own until it is complete: a file to whose end each new block is
// appended, and a file of marks that says by a block's index where it is. A block counts when its mark is on the disk. Completing writes a layer of them, puts it over
// the parent's, and shows the snapshot as others are shown, whole. Nothing of it is kept in memory, however large it is.
const (
	stagingDir = "staging"
	markFile   = "marks"
	// markSize is what a block's place, of 8 bytes, and its digest have room in: a power cut tears no sector.
	markSize = 64
)

// staged is what is kept of one.
type staged struct {
	volume.Staging
	Becomes record // what is kept of the snapshot that it is going to be
	// Over says that it was given up: nothing of it is left, and it is told until it is deleted.
	Over bool
}

// mark is where a block is.
type mark struct {
	at     int64 // 0 for one that was not written
	digest volume.BlockDigest
}

func (b *Backend) stagingDir(id cloud.SnapshotID) string {
	return filepath.Join(b.cfg.Dir, stagingDir, string(id))
}

func (b *Backend) loadStaged(id cloud.SnapshotID) (staged, error) {
	var s staged
	if !cloud.ValidID[cloud.SnapshotID](string(id)) {
		return s, fmt.Errorf("%q: %w", id, volume.ErrNotFound)
	}
	raw, err := os.ReadFile(filepath.Join(b.stagingDir(id), recordFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("snapshot %s: %w", id, volume.ErrSealed)
	case err != nil:
		return s, err
	}
	if err := json.Unmarshal(raw, &s); err != nil || s.ID != id || s.Size <= 0 || len(s.Becomes.Layers) == 0 {
		return s, fmt.Errorf("the record of %s, which is being written, is damaged: %w", id, err)
	}
	return s, nil
}

func saveStaged(dir string, s staged) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, recordFile), raw, 0o600)
}

// Begin implements volume.Blocks.
func (b *Backend) Begin(_ context.Context, s volume.Staging) error {
	defer b.lock(string(s.ID))()
	_, err := b.loadStaged(s.ID)
	if !errors.Is(err, volume.ErrSealed) {
		return err
	}
	if _, err := os.Stat(b.snapshotDir(s.ID)); err == nil {
		return nil
	}
	if err := b.stage(s); err != nil {
		return fmt.Errorf("begin snapshot %s: %w", s.ID, err)
	}
	return nil
}

func (b *Backend) stage(s volume.Staging) error {
	most, err := b.Capacity()
	if err != nil {
		return err
	}
	if s.Size <= 0 || s.Size > most {
		return fmt.Errorf("%d MiB on a disk of %d MiB: %w", s.Size>>20, most>>20, volume.ErrTooLarge)
	}
	return b.make(b.stagingDir(s.ID), func(dir string) error {
		r := record{ID: string(s.ID), Size: s.Size}
		if s.Parent != "" {
			defer b.lock(string(s.Parent))()
			from, err := load(b.snapshotDir(s.Parent), string(s.Parent))
			switch {
			case err != nil:
				return err
			case from.Size > s.Size:
				return fmt.Errorf("%d MiB over a parent of %d MiB: %w", s.Size>>20, from.Size>>20, volume.ErrTooLarge)
			case len(from.Layers) >= MaxLayers:
				return fmt.Errorf("over snapshot %s, of %d layers: %w", s.Parent, len(from.Layers), volume.ErrTooManyLayers)
			}
			// The parent may end while its child is written.
			if err := link(b.snapshotDir(s.Parent), dir, from); err != nil {
				return err
			}
			r.Base, r.Layers, r.Next = from.Base, from.Layers, from.Next
		}
		r.Layers = append(slices.Clone(r.Layers), volume.LayerName(r.Next))
		r.Next++
		for _, name := range []string{r.Layers[len(r.Layers)-1] + suffix, markFile} {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
		return saveStaged(dir, staged{Staging: s, Becomes: r})
	})
}

// writing is a snapshot that is being written, with its files open.
type writing struct {
	dir  string
	s    staged
	r    record
	data *os.File
	log  *os.File // the marks
}

func (w *writing) close() error { return errors.Join(w.data.Close(), w.log.Close()) }

// write opens a snapshot that is being written. Its lock is held.
func (b *Backend) write(id cloud.SnapshotID) (*writing, error) {
	w := &writing{dir: b.stagingDir(id)}
	var err error
	if w.s, err = b.loadStaged(id); err != nil {
		return nil, err
	}
	if w.s.Over {
		return nil, fmt.Errorf("snapshot %s was given up, as nothing was written for %s: %w", id, w.s.Idle, volume.ErrSealed)
	}
	w.r = w.s.Becomes
	if w.data, err = os.OpenFile(filepath.Join(w.dir, w.r.Layers[len(w.r.Layers)-1]+suffix), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if w.log, err = os.OpenFile(filepath.Join(w.dir, markFile), os.O_RDWR, 0); err != nil {
		return nil, errors.Join(err, w.data.Close())
	}
	return w, nil
}

// marks tells all blocks that were written, by ascending index.
func (w *writing) marks(visit func(index int64, m mark) error) error {
	in := bufio.NewReaderSize(io.NewSectionReader(w.log, 0, math.MaxInt64), 1<<20)
	slot := make([]byte, markSize)
	for index := int64(0); ; index++ {
		if _, err := io.ReadFull(in, slot); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
		if m := markOf(slot); m.at != 0 {
			if err := visit(index, m); err != nil {
				return err
			}
		}
	}
}

func markOf(slot []byte) mark {
	return mark{int64(binary.BigEndian.Uint64(slot)), volume.BlockDigest(slot[8:])}
}

// WriteBlock implements volume.Blocks.
func (b *Backend) WriteBlock(_ context.Context, id cloud.SnapshotID, index int64, block []byte) error {
	defer b.lock(string(id))()
	w, err := b.write(id)
	if err == nil {
		err = errors.Join(w.put(index, block), w.close())
	}
	if err != nil {
		return fmt.Errorf("write the block %d of snapshot %s: %w", index, id, err)
	}
	return nil
}

func (w *writing) put(index int64, block []byte) error {
	if index < 0 || index*volume.BlockSize >= w.s.Size {
		return fmt.Errorf("of %d: %w", w.s.Size/volume.BlockSize, volume.ErrNoBlock)
	}
	if len(block) != volume.BlockSize {
		return fmt.Errorf("a block has %d bytes, not %d", volume.BlockSize, len(block))
	}
	digest := sha256.Sum256(block)
	slot := make([]byte, markSize)
	if _, err := w.log.ReadAt(slot, index*markSize); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if m := markOf(slot); m.at != 0 && m.digest == digest {
		return nil
	}
	// Never over the block that is there: a crash in the middle would leave neither.
	info, err := w.data.Stat()
	if err != nil {
		return err
	}
	at := max(volume.BlockSize, (info.Size()+volume.BlockSize-1)/volume.BlockSize*volume.BlockSize)
	if _, err := w.data.WriteAt(block, at); err != nil {
		return err
	}
	if err := w.data.Sync(); err != nil {
		return err
	}
	binary.BigEndian.PutUint64(slot, uint64(at))
	copy(slot[8:], digest[:])
	if _, err := w.log.WriteAt(slot, index*markSize); err != nil {
		return err
	}
	return w.log.Sync()
}

// Written implements volume.Blocks.
func (b *Backend) Written(_ context.Context, id cloud.SnapshotID) (blocks int64, linear volume.BlockDigest, err error) {
	defer b.lock(string(id))()
	w, err := b.write(id)
	if err != nil {
		return 0, linear, err
	}
	defer w.close()
	h := sha256.New()
	err = w.marks(func(_ int64, m mark) error {
		blocks++
		h.Write(m.digest[:])
		return nil
	})
	return blocks, volume.BlockDigest(h.Sum(nil)), err
}

// Complete implements volume.Blocks. The last step shows the snapshot; all before may be done again.
func (b *Backend) Complete(ctx context.Context, id cloud.SnapshotID) error {
	defer b.lock(string(id))()
	if _, err := os.Stat(b.snapshotDir(id)); err == nil {
		return b.remove(b.stagingDir(id))
	}
	if err := b.complete(ctx, id); err != nil {
		return fmt.Errorf("complete snapshot %s: %w", id, err)
	}
	return b.remove(b.stagingDir(id))
}

func (b *Backend) complete(ctx context.Context, id cloud.SnapshotID) error {
	w, err := b.write(id)
	if err != nil {
		return err
	}
	defer w.close()
	return b.make(b.snapshotDir(id), func(dir string) error {
		head := w.r.Layers[len(w.r.Layers)-1] + suffix
		below := w.r
		below.Layers = w.r.Layers[:len(w.r.Layers)-1]
		if err := link(w.dir, dir, below); err != nil {
			return err
		}
		// Written anew, in order: each block is read back and held against its digest, and what was written twice takes no room twice.
		out, err := os.OpenFile(filepath.Join(dir, head), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer out.Close()
		layer, err := qcow2.NewWriter(out, w.s.Size)
		if err != nil {
			return err
		}
		block := make([]byte, volume.BlockSize)
		err = w.marks(func(index int64, m mark) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := w.data.ReadAt(block, m.at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if sha256.Sum256(block) != m.digest {
				return fmt.Errorf("the block %d: %w", index, volume.ErrRotten)
			}
			return appendBlock(layer, index, block)
		})
		if err != nil {
			return err
		}
		if err := layer.Finish(); err != nil {
			return err
		}
		if err := b.freeze(filepath.Join(dir, head)); err != nil {
			return err
		}
		return save(dir, w.r)
	})
}

// appendBlock puts a block into a layer, zeros as such.
func appendBlock(w *qcow2.Writer, index int64, block []byte) error {
	for c := range int64(perBlock) {
		part := block[c*qcow2.Cluster : (c+1)*qcow2.Cluster]
		p := qcow2.Place{Kind: qcow2.Zero}
		if slices.ContainsFunc(part, func(x byte) bool { return x != 0 }) {
			at, err := w.Append(part)
			if err != nil {
				return err
			}
			p = qcow2.Place{Kind: qcow2.Data, Offset: at}
		}
		if err := w.Map(index*perBlock+c, p); err != nil {
			return err
		}
	}
	return nil
}

// Idle implements volume.Blocks.
func (b *Backend) Idle(_ context.Context, now time.Time) ([]cloud.SnapshotID, error) {
	entries, err := os.ReadDir(filepath.Join(b.cfg.Dir, stagingDir))
	if err != nil {
		return nil, err
	}
	var over []cloud.SnapshotID
	for _, e := range entries {
		id := cloud.SnapshotID(e.Name())
		gone, err := b.idle(id, now)
		if err != nil {
			return over, fmt.Errorf("look whether snapshot %s is still being written: %w", id, err)
		}
		if gone {
			over = append(over, id)
		}
	}
	return over, nil
}

func (b *Backend) idle(id cloud.SnapshotID, now time.Time) (bool, error) {
	defer b.lock(string(id))()
	s, err := b.loadStaged(id)
	if errors.Is(err, volume.ErrSealed) || errors.Is(err, volume.ErrNotFound) {
		return false, nil
	}
	if err != nil || s.Over {
		return s.Over, err
	}
	dir := b.stagingDir(id)
	info, err := os.Stat(filepath.Join(dir, markFile))
	if err != nil || now.Sub(info.ModTime()) < s.Idle {
		return false, err
	}
	s.Over = true
	if err := saveStaged(dir, s); err != nil {
		return false, err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != recordFile {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return true, err
}
