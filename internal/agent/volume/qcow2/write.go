package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

const (
	countsBits  = 4           // of the header: counts of references have 1<<4 bits
	countsBlock = Cluster / 2 // counts in a block of them
)

// Writer makes a layer: clusters are appended in any order, then mapped in ascending order, then Finish makes a qcow2 of it. Before that the file is none.
// Each appended cluster must be mapped once. A Writer that goes on with a file of another process's is the same as the first.
type Writer struct {
	f    *os.File
	size int64
	next int64 // where the next cluster is appended

	l1    []uint64
	table [entries]uint64
	at    int64 // the table of the second level that is being filled; -1 for none
	last  int64 // the last cluster mapped
}

// NewWriter writes a layer of a disk of size bytes to an empty file.
func NewWriter(f *os.File, size int64) (*Writer, error) {
	n := (size + entries<<clusterBits - 1) / (entries << clusterBits)
	if size <= 0 || n > maxL1 {
		return nil, fmt.Errorf("a layer of %d bytes can't be written", size)
	}
	w := &Writer{f: f, size: size, l1: make([]uint64, n), at: -1, last: -1}
	w.next = w.First()
	return w, nil
}

// First is where the first cluster is appended.
func (w *Writer) First() int64 { return Cluster + pad(int64(len(w.l1))*8) }

// Resume says where clusters that were appended before end.
func (w *Writer) Resume(next int64) { w.next = max(w.next, next) }

func pad(n int64) int64 { return (n + Cluster - 1) >> clusterBits << clusterBits }

// Append writes clusters to the end of the file, and tells where they are.
func (w *Writer) Append(b []byte) (int64, error) {
	if len(b) == 0 || len(b)%Cluster != 0 {
		return 0, fmt.Errorf("append %d bytes: clusters have %d", len(b), Cluster)
	}
	at := w.next
	if _, err := w.f.WriteAt(b, at); err != nil {
		return 0, err
	}
	w.next += int64(len(b))
	return at, nil
}

// Map says where a cluster is. Clusters come in ascending order.
func (w *Writer) Map(cluster int64, p Place) error {
	if cluster <= w.last || cluster>>(clusterBits-3) >= int64(len(w.l1)) {
		return fmt.Errorf("map the cluster %d after %d of %d bytes", cluster, w.last, w.size)
	}
	w.last = cluster
	if n := cluster / entries; n != w.at {
		if err := w.flush(); err != nil {
			return err
		}
		w.at = n
	}
	switch p.Kind {
	case Zero:
		w.table[cluster%entries] = zeroFlag
	case Data:
		w.table[cluster%entries] = uint64(p.Offset) | copiedFlag
	}
	return nil
}

// flush writes the table that is being filled.
func (w *Writer) flush() error {
	if w.at < 0 {
		return nil
	}
	var b [Cluster]byte
	for i, e := range w.table {
		binary.BigEndian.PutUint64(b[8*i:], e)
	}
	at, err := w.Append(b[:])
	if err != nil {
		return err
	}
	w.l1[w.at] = uint64(at) | copiedFlag
	w.at = -1
	clear(w.table[:])
	return nil
}

// Finish writes the tables and the header, for certain to the disk.
func (w *Writer) Finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	// The counts count themselves too: blocks of them, and the table of those blocks.
	used := w.next >> clusterBits
	blocks, tables := int64(0), int64(0)
	for {
		all := used + blocks + tables
		b := (all + countsBlock - 1) / countsBlock
		t := pad(b*8) >> clusterBits
		if b == blocks && t == tables {
			break
		}
		blocks, tables = b, t
	}
	be := binary.BigEndian
	table := make([]byte, tables<<clusterBits)
	block := make([]byte, Cluster)
	left := used + blocks + tables
	for i := range blocks {
		clear(block)
		for n := range min(left, countsBlock) {
			be.PutUint16(block[2*n:], 1)
		}
		left -= min(left, countsBlock)
		at, err := w.Append(block)
		if err != nil {
			return err
		}
		be.PutUint64(table[8*i:], uint64(at))
	}
	counts, err := w.Append(table)
	if err != nil {
		return err
	}
	first := make([]byte, w.First())
	be.PutUint32(first[0:], magic)
	be.PutUint32(first[4:], 3)
	be.PutUint32(first[20:], clusterBits)
	be.PutUint64(first[24:], uint64(w.size))
	be.PutUint32(first[36:], uint32(len(w.l1)))
	be.PutUint64(first[40:], Cluster)
	be.PutUint64(first[48:], uint64(counts))
	be.PutUint32(first[56:], uint32(tables))
	be.PutUint32(first[96:], countsBits)
	be.PutUint32(first[100:], headerSize)
	for i, e := range w.l1 {
		be.PutUint64(first[Cluster+8*i:], e)
	}
	// The tables before the header that makes a qcow2 of the file.
	if err := w.f.Sync(); err != nil {
		return err
	}
	_, err = w.f.WriteAt(first, 0)
	return errors.Join(err, w.f.Sync())
}
