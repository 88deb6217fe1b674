// Package qcow2 tells where the clusters of a layer's file lie, and writes new layers.
//
// It knows the files that nacre's volumes are made of and no others: whole raw disks, and qcow2 of version 2 or 3 with clusters of 64 KiB, without
// compression, subclusters, external data or encryption; anything else is ErrForm. A file that it reads is one that nobody writes any more.
// What a header says of other files is never looked at. A file's bytes are taken for what they are: offsets that lead out of it are an error of that
// table, found where it is needed, and no table makes the package read or keep more than a cluster at a time beside the first one's megabyte.
//
// QEMU's block layer does everything with layers that are written to; this package is for what it has no words for: where a block of a snapshot
// comes from, so that it can be compared with what it was, and files that are put together of verified clusters.
package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"
)

const (
	// Cluster is the unit of copy-on-write, in bytes.
	Cluster = 1 << clusterBits

	clusterBits = 16
	entries     = Cluster / 8 // of a table of the second level
	maxL1       = 1 << 17     // entries of the first: 64 TiB

	magic      = 0x514649fb
	headerSize = 104
	offsetMask = 0x00fffffffffffe00
	zeroFlag   = 1
	copiedFlag = 1 << 63
	compressed = 1 << 62

	incompatibleDirty = 1 // its counts of references may be wrong, which only a writer needs
)

// ErrForm is returned for files that are not of the kinds that layers have, or are damaged.
var ErrForm = errors.New("it is no layer of a volume, or a damaged one")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrForm, fmt.Sprintf(format, args...))
}

// Kind is what a layer has of a cluster.
type Kind int

const (
	Absent Kind = iota // what is below shows
	Zero               // zeros, whatever is below
	Data               // bytes in the file
)

// Place is where a cluster is.
type Place struct {
	Kind   Kind
	Offset int64 // of Data, in the file
}

// File is a layer. It is for one goroutine at a time.
type File struct {
	r    io.ReaderAt
	size int64 // virtual
	long int64 // of the file

	hole interface{ Fd() uintptr } // of a raw file: where holes are asked for
	data [2]int64                  // of a raw file: from where to where the last range of data was found

	l1    []uint64
	table [entries]uint64 // of the second level
	at    int64           // which that is; -1 for none
}

// Raw takes a file as a disk's own bytes. holes is the file, where its holes are seen; nil when there are none.
func Raw(r io.ReaderAt, size int64, holes interface{ Fd() uintptr }) *File {
	return &File{r: r, size: size, long: size, hole: holes, at: -1}
}

// Open reads the header and the first table of a qcow2 of so many bytes.
func Open(r io.ReaderAt, long int64) (*File, error) {
	f := &File{r: r, long: long, at: -1}
	var h [headerSize]byte
	n, err := r.ReadAt(h[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	be := binary.BigEndian
	if n < 72 || be.Uint32(h[0:]) != magic {
		return nil, malformed("it does not begin as a qcow2")
	}
	version := be.Uint32(h[4:])
	f.size = int64(min(be.Uint64(h[24:]), math.MaxInt64))
	l1, at := be.Uint32(h[36:]), be.Uint64(h[40:])
	var features uint64
	if version == 3 && n == headerSize {
		features = be.Uint64(h[72:]) &^ incompatibleDirty
	}
	switch {
	case version != 2 && (version != 3 || n < headerSize):
		return nil, malformed("its version is %d", version)
	case be.Uint32(h[20:]) != clusterBits:
		return nil, malformed("its clusters are not of 64 KiB")
	case be.Uint32(h[32:]) != 0:
		return nil, malformed("it is encrypted")
	case features != 0:
		return nil, malformed("it has the features %#x", features)
	case l1 > maxL1 || uint64(l1)*entries<<clusterBits < uint64(f.size):
		return nil, malformed("its first table has %d entries for %d bytes", l1, f.size)
	case at%Cluster != 0 || at > uint64(long) || uint64(long)-at < uint64(l1)*8:
		return nil, malformed("its first table is not in the file")
	}
	table := make([]byte, 8*l1)
	if err := readFull(r, table, int64(at)); err != nil {
		return nil, err
	}
	f.l1 = make([]uint64, l1)
	for i := range f.l1 {
		f.l1[i] = be.Uint64(table[8*i:])
	}
	return f, nil
}

// readFull reads what a table has; the file must have all of it.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		if errors.Is(err, io.EOF) {
			return malformed("it ends at a table")
		}
		return err
	}
	return nil
}

// Size is how large the disk is, in bytes.
func (f *File) Size() int64 { return f.size }

// Clusters is how many clusters that is.
func (f *File) Clusters() int64 { return (f.size + Cluster - 1) >> clusterBits }

// At tells where a cluster is. Beyond the disk's end all are absent.
func (f *File) At(cluster int64) (Place, error) {
	switch {
	case cluster < 0 || cluster >= f.Clusters():
		return Place{}, nil
	case f.l1 == nil:
		return f.rawAt(cluster << clusterBits)
	}
	n := cluster / entries
	if n != f.at {
		if err := f.load(n); err != nil {
			return Place{}, err
		}
	}
	e := f.table[cluster%entries]
	offset := int64(e & offsetMask)
	switch {
	case e&compressed != 0:
		return Place{}, malformed("the cluster %d is compressed", cluster)
	case e&zeroFlag != 0:
		return Place{Kind: Zero}, nil
	case offset == 0:
		return Place{}, nil
	case offset%Cluster != 0 || offset >= f.long:
		return Place{}, malformed("the cluster %d is at %#x of %#x bytes", cluster, offset, f.long)
	}
	return Place{Data, offset}, nil
}

// load reads a table of the second level.
func (f *File) load(n int64) error {
	offset := int64(f.l1[n] & offsetMask)
	f.at = -1
	clear(f.table[:])
	if offset == 0 {
		f.at = n
		return nil
	}
	if offset%Cluster != 0 || offset >= f.long {
		return malformed("the table %d is at %#x of %#x bytes", n, offset, f.long)
	}
	var b [Cluster]byte
	if err := readFull(f.r, b[:], offset); err != nil {
		return err
	}
	for i := range f.table {
		f.table[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	f.at = n
	return nil
}

// Next is the first cluster from one on that may be present: whole tables that are absent are passed over.
func (f *File) Next(cluster int64) int64 {
	for f.l1 != nil && cluster < f.Clusters() && f.l1[cluster/entries]&offsetMask == 0 {
		cluster = (cluster/entries + 1) * entries
	}
	return cluster
}

// rawAt tells whether a raw disk has something at an offset.
func (f *File) rawAt(offset int64) (Place, error) {
	if f.hole == nil {
		return Place{Data, offset}, nil
	}
	if offset >= f.data[1] || offset < f.data[0] {
		fd := int(f.hole.Fd())
		from, err := unix.Seek(fd, offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole to the end
			from, err = f.long, nil
		}
		to := f.long
		if err == nil && from < f.long {
			to, err = unix.Seek(fd, from, unix.SEEK_HOLE)
		}
		if err != nil {
			return Place{}, fmt.Errorf("look for holes: %w", err)
		}
		f.data = [2]int64{offset, to}
		if from = from >> clusterBits << clusterBits; from > offset {
			f.data = [2]int64{from, max(to, from)}
			return Place{}, nil
		}
	}
	return Place{Data, offset}, nil
}

// Read reads a cluster's bytes at a place of Data. What the file doesn't have of its last one is zeros.
func (f *File) Read(b *[Cluster]byte, offset int64) error {
	n, err := f.r.ReadAt(b[:], offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(b[n:])
	return nil
}

// Tables tells the clusters of a qcow2 that are not its disk's: header, tables, and counts of references. Those that a damaged table names outside
// the file are left out.
func (f *File) Tables(visit func(offset int64)) error {
	if f.l1 == nil {
		return nil
	}
	var h [72]byte
	if err := readFull(f.r, h[:], 0); err != nil {
		return err
	}
	be := binary.BigEndian
	span := func(at, n uint64) {
		for i := range min(n, maxL1) {
			if offset := at + i*Cluster; at%Cluster == 0 && at < uint64(f.long) && offset < uint64(f.long) {
				visit(int64(offset))
			}
		}
	}
	span(0, 1)
	span(be.Uint64(h[40:]), uint64(pad(int64(len(f.l1))*8)>>clusterBits))
	for _, e := range f.l1 {
		if e&offsetMask != 0 {
			span(e&offsetMask, 1)
		}
	}
	counts, n := be.Uint64(h[48:]), uint64(be.Uint32(h[56:]))
	span(counts, n)
	var b [Cluster]byte
	for i := range min(n, 64) {
		if counts%Cluster != 0 || counts >= uint64(f.long) {
			break
		}
		if err := f.Read(&b, int64(counts+i*Cluster)); err != nil {
			return err
		}
		for j := 0; j < Cluster; j += 8 {
			if at := be.Uint64(b[j:]); at != 0 {
				span(at, 1)
			}
		}
	}
	return nil
}
