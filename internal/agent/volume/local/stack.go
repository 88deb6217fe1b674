package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/qcow2"
	"github.com/nacre-cloud/nacre/internal/agent/volume/sums"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	sumsSuffix = ".sums"
	// keptStacks bounds how many snapshots are kept open for who reads them block by block, stackAge for how long.
	keptStacks = 8
	stackAge   = time.Minute

	perBlock = volume.BlockSize / qcow2.Cluster
)

// layer is a frozen file that is open.
type layer struct {
	name string
	file *os.File
	ino  uint64
	q    *qcow2.File
	sums *sums.Sums // nil while there are none
	also *os.File   // the sums'
}

func (l *layer) close() error {
	err := l.file.Close()
	if l.also != nil {
		err = errors.Join(err, l.also.Close())
	}
	return err
}

// openLayer opens a frozen file, and its sums if it has some: then nothing of it is read that isn't what it was.
func openLayer(dir, name string, raw bool) (l *layer, err error) {
	l = &layer{name: name}
	if l.file, err = os.Open(filepath.Join(dir, name)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open the layer %s: %w", name, err), l.close())
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(int(l.file.Fd()), &st); err != nil {
		return nil, err
	}
	l.ino = st.Ino
	var r io.ReaderAt = l.file
	l.also, err = os.Open(filepath.Join(dir, name+sumsSuffix))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.also = nil
	case err != nil:
		return nil, err
	default:
		if l.sums, err = sums.Open(l.also); err != nil {
			return nil, err
		}
		r = sums.Reader{R: l.file, S: l.sums}
	}
	if raw {
		l.q = qcow2.Raw(r, st.Size, l.file)
		return l, nil
	}
	l.q, err = qcow2.Open(r, st.Size)
	return l, err
}

// stack is a snapshot's layers, open.
type stack struct {
	size   int64
	opened time.Time

	users   int // and whether it is among the kept ones; of the backend's
	dropped bool

	mu     sync.Mutex // layers' tables are for one at a time
	layers []*layer   // the uppermost first
}

func openStack(dir string, r record) (s *stack, err error) {
	s = &stack{size: r.Size, opened: time.Now()}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	add := func(name string, raw bool) error {
		l, err := openLayer(dir, name, raw)
		if err == nil {
			s.layers = append([]*layer{l}, s.layers...)
		}
		return err
	}
	if r.Base != "" {
		if err := add(baseFile, r.Base == "raw"); err != nil {
			return nil, err
		}
	}
	for _, l := range r.Layers {
		if err := add(l+suffix, false); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *stack) close() error {
	var problems []error
	for _, l := range s.layers {
		problems = append(problems, l.close())
	}
	return errors.Join(problems...)
}

// find tells which layer has a cluster, and where; nil for zeros. The stack is locked.
func (s *stack) find(cluster int64) (*layer, int64, error) {
	for _, l := range s.layers {
		p, err := l.q.At(cluster)
		switch {
		case err != nil:
			return nil, 0, fmt.Errorf("the layer %s: %w", l.name, err)
		case p.Kind == qcow2.Zero:
			return nil, 0, nil
		case p.Kind == qcow2.Data:
			return l, p.Offset, nil
		}
	}
	return nil, 0, nil
}

// next is the first cluster from one on that some layer may have.
func (s *stack) next(cluster int64) int64 {
	least := s.clusters()
	for _, l := range s.layers {
		if n := l.q.Next(cluster); n < l.q.Clusters() {
			least = min(least, n)
		}
	}
	return max(least, cluster)
}

func (s *stack) clusters() int64 { return s.size / qcow2.Cluster }

func (s *stack) blocks() int64 { return (s.size + volume.BlockSize - 1) / volume.BlockSize }

// stacks are snapshots that are kept open, by their ids.
type stacks struct {
	mu   sync.Mutex
	open map[cloud.SnapshotID]*stack
}

// stackOf opens a snapshot. done must be called after its use.
func (b *Backend) stackOf(id cloud.SnapshotID) (s *stack, done func(), err error) {
	if s = b.kept(id); s == nil {
		// Not under the stacks' lock: a snapshot's own comes before it.
		if s, err = b.openSnapshot(id); err != nil {
			return nil, nil, err
		}
		s = b.keep(id, s)
	}
	return s, sync.OnceFunc(func() {
		b.stacks.mu.Lock()
		defer b.stacks.mu.Unlock()
		if s.users--; s.users == 0 && s.dropped {
			s.close()
		}
	}), nil
}

// kept is a snapshot that is open, with one user more, or nil. Those that were open for long are closed.
func (b *Backend) kept(id cloud.SnapshotID) *stack {
	b.stacks.mu.Lock()
	defer b.stacks.mu.Unlock()
	for other, s := range b.stacks.open {
		if time.Since(s.opened) > stackAge || len(b.stacks.open) > keptStacks && other != id {
			b.drop(other)
		}
	}
	s := b.stacks.open[id]
	if s != nil {
		s.users++
	}
	return s
}

// keep keeps a snapshot open, unless somebody else has opened it meanwhile.
func (b *Backend) keep(id cloud.SnapshotID, s *stack) *stack {
	b.stacks.mu.Lock()
	defer b.stacks.mu.Unlock()
	if other := b.stacks.open[id]; other != nil {
		s.close()
		s = other
	}
	if b.stacks.open == nil {
		b.stacks.open = map[cloud.SnapshotID]*stack{}
	}
	b.stacks.open[id] = s
	s.users++
	return s
}

func (b *Backend) openSnapshot(id cloud.SnapshotID) (*stack, error) {
	if !cloud.ValidID[cloud.SnapshotID](string(id)) {
		return nil, fmt.Errorf("%q: %w", id, volume.ErrNotFound)
	}
	defer b.lock(string(id))()
	r, err := load(b.snapshotDir(id), string(id))
	if err != nil {
		return nil, err
	}
	return openStack(b.snapshotDir(id), r)
}

// drop closes a kept snapshot when nobody reads it any more. The stacks are locked.
func (b *Backend) drop(id cloud.SnapshotID) {
	s := b.stacks.open[id]
	if s == nil {
		return
	}
	delete(b.stacks.open, id)
	if s.dropped = true; s.users == 0 {
		s.close()
	}
}

// forget closes a snapshot that is deleted or whose files have become others.
func (b *Backend) forget(id cloud.SnapshotID) {
	b.stacks.mu.Lock()
	defer b.stacks.mu.Unlock()
	b.drop(id)
}

// rot says what a snapshot's reader found in the words of the seam.
func rot(err error) error {
	if errors.Is(err, sums.ErrRot) || errors.Is(err, sums.ErrNoSums) || errors.Is(err, qcow2.ErrForm) {
		return fmt.Errorf("%w: %w", volume.ErrRotten, err)
	}
	return err
}

// ReadBlock implements volume.Blocks.
func (b *Backend) ReadBlock(ctx context.Context, id cloud.SnapshotID, index int64) ([]byte, error) {
	s, done, err := b.stackOf(id)
	if err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", id, rot(err))
	}
	defer done()
	if index < 0 || index >= s.blocks() {
		return nil, fmt.Errorf("the block %d of snapshot %s, of %d: %w", index, id, s.blocks(), volume.ErrNoBlock)
	}
	out := make([]byte, volume.BlockSize)
	for i := range int64(perBlock) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.read((*[qcow2.Cluster]byte)(out[i*qcow2.Cluster:]), index*perBlock+i); err != nil {
			return nil, fmt.Errorf("the block %d of snapshot %s: %w", index, id, rot(err))
		}
	}
	return out, nil
}

// read reads a cluster of zeros' buffer, verified where its layer has sums.
func (s *stack) read(b *[qcow2.Cluster]byte, cluster int64) error {
	s.mu.Lock()
	l, at, err := s.find(cluster)
	s.mu.Unlock()
	if err != nil || l == nil {
		return err
	}
	return l.q.Read(b, at)
}

// ListBlocks implements volume.Blocks.
func (b *Backend) ListBlocks(ctx context.Context, id cloud.SnapshotID, from int64, most int) (volume.BlockList, error) {
	s, done, err := b.stackOf(id)
	if err == nil {
		defer done()
		var list volume.BlockList
		if list, err = listed(ctx, nil, s, from, most); err == nil {
			return list, nil
		}
	}
	return volume.BlockList{}, fmt.Errorf("list the blocks of snapshot %s: %w", id, rot(err))
}

// ListChanges implements volume.Blocks.
func (b *Backend) ListChanges(ctx context.Context, first, second cloud.SnapshotID, related bool, from int64, most int) (volume.BlockList, error) {
	list, err := b.listChanges(ctx, first, second, related, from, most)
	if err != nil {
		return list, fmt.Errorf("compare the snapshots %s and %s: %w", first, second, rot(err))
	}
	return list, nil
}

func (b *Backend) listChanges(ctx context.Context, first, second cloud.SnapshotID, related bool, from int64, most int) (list volume.BlockList, err error) {
	one, done, err := b.stackOf(first)
	if err != nil {
		return list, err
	}
	defer done()
	other, doneToo, err := b.stackOf(second)
	if err != nil {
		return list, err
	}
	defer doneToo()
	if !related && !one.shares(other) {
		return list, volume.ErrUnrelated
	}
	if one == other {
		return volume.BlockList{Next: -1}, nil
	}
	return listed(ctx, one, other, from, most)
}

// shares tells whether two snapshots have a file in common.
func (s *stack) shares(other *stack) bool {
	for _, l := range s.layers {
		for _, o := range other.layers {
			if l.ino == o.ino {
				return true
			}
		}
	}
	return false
}

// listed lists the blocks of second that may hold something, or, with a first, those that may differ from its.
func listed(ctx context.Context, first, second *stack, from int64, most int) (volume.BlockList, error) {
	list := volume.BlockList{Next: -1}
	// Always in one order: two comparisons may go on at once.
	for _, s := range ordered(first, second) {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	for index := max(0, from); index < second.blocks(); index++ {
		if err := ctx.Err(); err != nil {
			return list, err
		}
		next := second.next(index * perBlock)
		if first != nil {
			next = min(next, max(first.next(index*perBlock), index*perBlock))
		}
		if index = next / perBlock; index >= second.blocks() {
			break
		}
		b := volume.ListedBlock{Index: index}
		changed := first == nil
		for c := index * perBlock; c < (index+1)*perBlock && c < second.clusters(); c++ {
			its, at, err := second.find(c)
			if err != nil {
				return list, err
			}
			b.Second = b.Second || its != nil
			if first == nil {
				continue
			}
			old, was, err := first.find(c)
			if err != nil {
				return list, err
			}
			b.First = b.First || old != nil
			if !changed {
				if changed, err = differ(old, was, its, at); err != nil {
					return list, err
				}
			}
		}
		if !changed || !b.First && !b.Second {
			continue
		}
		if len(list.Blocks) == most {
			list.Next = index
			break
		}
		list.Blocks = append(list.Blocks, b)
	}
	return list, nil
}

func ordered(one, other *stack) []*stack {
	switch {
	case one == nil || one == other:
		return []*stack{other}
	case one.opened.Before(other.opened) || one.opened.Equal(other.opened) && fmt.Sprintf("%p", one) < fmt.Sprintf("%p", other):
		return []*stack{one, other}
	}
	return []*stack{other, one}
}

// differ tells whether two clusters may differ: another place counts as another content unless both have sums that say otherwise.
func differ(one *layer, at int64, other *layer, where int64) (bool, error) {
	switch {
	case one == nil && other == nil:
		return false, nil
	case one != nil && other != nil && one.ino == other.ino && at == where:
		return false, nil
	}
	digest := func(l *layer, at int64) (sums.Digest, bool, error) {
		if l == nil {
			return sums.ZeroDigest, true, nil
		}
		if l.sums == nil {
			return sums.Digest{}, false, nil
		}
		d, err := l.sums.Digest(at / qcow2.Cluster)
		return d, err == nil, err
	}
	a, known, err := digest(one, at)
	if err != nil || !known {
		return true, err
	}
	b, known, err := digest(other, where)
	return !known || a != b, err
}
