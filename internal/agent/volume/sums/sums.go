// Package sums keeps what the bytes of a frozen file were: the SHA-256 of each of its clusters, and a second copy of its tables.
//
// Whoever reads such a file through a Reader gets the bytes that were there when the sums were made, or ErrRot: never others. Sums are a file of their
// own, made once and never changed, whose pages carry their own checksums, so that rot in them is not taken for rot in what they tell of. The package
// repairs nothing and decides nothing.
package sums

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/volume/qcow2"
)

// Digest is the SHA-256 of a cluster. A file's last cluster counts as filled up with zeros.
type Digest [sha256.Size]byte

// ZeroDigest is that of a cluster of zeros.
var ZeroDigest = Digest(sha256.Sum256(make([]byte, qcow2.Cluster)))

var (
	// ErrRot is returned for bytes that are not those which the sums were made of.
	ErrRot = errors.New("its bytes are not what was written")
	// ErrNoSums is returned for a file that is no sums, is not whole, or whose own pages have changed.
	ErrNoSums = errors.New("the sums are damaged")
)

const (
	magic   = "nacre sums 1\n\x00\x00\x00"
	page    = 4096
	perPage = page/sha256.Size - 1 // the last is the page's own
	// maxSpare bounds the copies of tables, in bytes: those of 64 TiB are less.
	maxSpare = 1 << 30
)

// Sum is a cluster's digest.
func Sum(b *[qcow2.Cluster]byte) Digest { return sha256.Sum256(b[:]) }

func clusters(long int64) int64 { return (long + qcow2.Cluster - 1) / qcow2.Cluster }

// Make reads a frozen file of so many bytes and writes its sums to an empty file, for certain to the disk. pace is asked before each cluster is read.
func Make(ctx context.Context, f *os.File, long int64, raw bool, out *os.File, pace func(ctx context.Context, bytes int) error) error {
	n := clusters(long)
	head := make([]byte, page)
	copy(head, magic)
	binary.BigEndian.PutUint64(head[16:], uint64(long))
	spare := page * (1 + (n+perPage-1)/perPage)
	p := make([]byte, page)
	var b [qcow2.Cluster]byte
	data := int64(0) // the next byte from which there may be more than a hole
	for i := range n {
		d := ZeroDigest
		if at := i * qcow2.Cluster; at >= data || at+qcow2.Cluster > data {
			if at >= data {
				next, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
				switch {
				case errors.Is(err, unix.ENXIO):
					next = long
				case err != nil:
					next = at
				}
				data = next
			}
			if at+qcow2.Cluster > data {
				if err := pace(ctx, qcow2.Cluster); err != nil {
					return err
				}
				if err := readCluster(f, &b, at); err != nil {
					return err
				}
				d = Sum(&b)
				data = at + qcow2.Cluster
			}
		}
		copy(p[i%perPage*sha256.Size:], d[:])
		if i%perPage == perPage-1 || i == n-1 {
			seal(p)
			if _, err := out.WriteAt(p, page*(1+i/perPage)); err != nil {
				return err
			}
			clear(p)
		}
	}
	if !raw {
		copies, err := tables(f, long)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(copies)
		binary.BigEndian.PutUint64(head[24:], uint64(spare))
		binary.BigEndian.PutUint64(head[32:], uint64(len(copies)))
		copy(head[40:], sum[:])
		if _, err := out.WriteAt(copies, spare); err != nil {
			return err
		}
	}
	seal(head)
	_, err := out.WriteAt(head, 0)
	return errors.Join(err, out.Sync())
}

// readCluster reads a cluster, filled up with zeros at the file's end.
func readCluster(r io.ReaderAt, b *[qcow2.Cluster]byte, at int64) error {
	n, err := r.ReadAt(b[:], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(b[n:])
	return nil
}

func seal(p []byte) {
	sum := sha256.Sum256(p[:page-sha256.Size])
	copy(p[page-sha256.Size:], sum[:])
}

func sealed(p []byte) bool {
	sum := sha256.Sum256(p[:page-sha256.Size])
	return bytes.Equal(sum[:], p[page-sha256.Size:])
}

// tables packs the clusters of a qcow2 that are not its disk's: offset, packed length, packed bytes.
func tables(f *os.File, long int64) ([]byte, error) {
	q, err := qcow2.Open(f, long)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	var b [qcow2.Cluster]byte
	var problem error
	seen := map[int64]bool{}
	err = q.Tables(func(offset int64) {
		if seen[offset] || problem != nil {
			return
		}
		seen[offset] = true
		var packed bytes.Buffer
		if problem = readCluster(f, &b, offset); problem != nil {
			return
		}
		w, err := flate.NewWriter(&packed, flate.BestSpeed)
		if err == nil {
			_, err = w.Write(b[:])
		}
		if problem = errors.Join(err, w.Close()); problem != nil {
			return
		}
		out.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, uint64(offset)), uint32(packed.Len())))
		out.Write(packed.Bytes())
	})
	return out.Bytes(), errors.Join(err, problem)
}

// Sums are those of one file.
type Sums struct {
	r     io.ReaderAt
	long  int64 // of the file that they tell of
	spare int64
	size  int64 // of the spare copies
	sum   Digest
}

// Open takes sums that Make wrote.
func Open(r io.ReaderAt) (*Sums, error) {
	head := make([]byte, page)
	if n, err := r.ReadAt(head, 0); n < page || string(head[:len(magic)]) != magic || !sealed(head) {
		return nil, errors.Join(ErrNoSums, err)
	}
	be := binary.BigEndian
	s := &Sums{r: r, long: int64(be.Uint64(head[16:])), spare: int64(be.Uint64(head[24:])), size: int64(be.Uint64(head[32:])), sum: Digest(head[40:])}
	if s.long < 0 || s.size < 0 || s.size > maxSpare || s.spare < 0 {
		return nil, ErrNoSums
	}
	return s, nil
}

// Clusters is how many there are.
func (s *Sums) Clusters() int64 { return clusters(s.long) }

// Long is how many bytes the file has.
func (s *Sums) Long() int64 { return s.long }

// Digest is what a cluster of the file was.
func (s *Sums) Digest(cluster int64) (Digest, error) {
	if cluster < 0 || cluster >= s.Clusters() {
		return Digest{}, fmt.Errorf("%w: there is no cluster %d of %d", ErrRot, cluster, s.Clusters())
	}
	p, err := s.page(cluster / perPage)
	if err != nil {
		return Digest{}, err
	}
	return Digest(p[cluster%perPage*sha256.Size:]), nil
}

func (s *Sums) page(n int64) ([]byte, error) {
	p := make([]byte, page)
	if n, err := s.r.ReadAt(p, page*(1+n)); n < page || !sealed(p) {
		return nil, errors.Join(ErrNoSums, err)
	}
	return p, nil
}

// Check tells whether a cluster is what it was.
func (s *Sums) Check(b *[qcow2.Cluster]byte, offset int64) error {
	d, err := s.Digest(offset / qcow2.Cluster)
	if err == nil && Sum(b) != d {
		err = fmt.Errorf("at %#x of a layer: %w", offset, ErrRot)
	}
	return err
}

// Spare is the second copy of a cluster of tables, if there is one.
func (s *Sums) Spare(offset int64, b *[qcow2.Cluster]byte) (bool, error) {
	all := make([]byte, s.size)
	if n, _ := s.r.ReadAt(all, s.spare); int64(n) < s.size || sha256.Sum256(all) != s.sum {
		return false, ErrNoSums
	}
	for len(all) >= 12 {
		at, n := int64(binary.BigEndian.Uint64(all)), int(binary.BigEndian.Uint32(all[8:]))
		if all = all[12:]; n > len(all) {
			return false, ErrNoSums
		}
		if at == offset {
			_, err := io.ReadFull(flate.NewReader(bytes.NewReader(all[:n])), b[:])
			return err == nil, err
		}
		all = all[n:]
	}
	return false, nil
}

// Reader reads a file and holds every byte against its sums. It may be used by several at once.
type Reader struct {
	R io.ReaderAt
	S *Sums
}

// ReadAt implements io.ReaderAt.
func (r Reader) ReadAt(p []byte, off int64) (n int, err error) {
	var b [qcow2.Cluster]byte
	for n < len(p) {
		if off >= r.S.long {
			return n, io.EOF
		}
		at := off / qcow2.Cluster * qcow2.Cluster
		if err := readCluster(r.R, &b, at); err != nil {
			return n, err
		}
		if err := r.S.Check(&b, at); err != nil {
			return n, err
		}
		end := min(qcow2.Cluster, r.S.long-at)
		c := copy(p[n:], b[off-at:end])
		n, off = n+c, off+int64(c)
	}
	return n, nil
}
