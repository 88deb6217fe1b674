package diskheader

import (
	"encoding/binary"
	"io"
	"math/bits"
)

const (
	qcowHeader    = 72       // bytes of version 2
	qcowHeader3   = 104      // of version 3
	maxL1         = 32 << 20 // bytes of the first table; QEMU's limit
	maxRefcounts  = 8 << 20  // bytes of the table of reference counts; QEMU's limit
	maxExtensions = 64       // header extensions
	qcowOffset    = 0x00fffffffffffe00
)

// Incompatible features of version 3. Unknown ones make an image unreadable by definition.
const (
	featureDirty    = 1 << 0 // reference counts may be behind, which nobody reads who doesn't write
	featureCorrupt  = 1 << 1
	featureDataFile = 1 << 2
	featureZstd     = 1 << 3
	featureExtended = 1 << 4 // extended table entries
)

// extensionDataFile is the header extension that names an external data file.
const extensionDataFile = 0x44415441

func readQCOW2(r io.ReaderAt, size int64) (int64, error) {
	b, err := at(r, size, 0, qcowHeader, "header")
	if err != nil {
		return 0, err
	}
	be := binary.BigEndian
	version := be.Uint32(b[4:])
	virtual, clusterBits, length := be.Uint64(b[24:]), be.Uint32(b[20:]), uint32(qcowHeader)
	var features uint64
	switch {
	case version == 3:
		more, err := at(r, size, 0, qcowHeader3, "header")
		if err != nil {
			return 0, err
		}
		features, length = be.Uint64(more[72:]), be.Uint32(more[100:])
	case version != 2:
		return 0, refused("it is qcow2 of version %d; 2 and 3 are taken", version)
	}
	switch {
	case be.Uint64(b[8:]) != 0 || be.Uint32(b[16:]) != 0:
		return 0, refused("it names a backing file; an image must be whole: `qemu-img convert -O qcow2` makes one")
	case features&featureDataFile != 0:
		return 0, refused("its data lie in an external file; an image must be whole: `qemu-img convert -O qcow2` makes one")
	case features&featureCorrupt != 0:
		return 0, refused("it is marked as corrupt; `qemu-img check` tells more")
	case features&^uint64(featureDirty|featureZstd|featureExtended) != 0:
		return 0, refused("it has features that are not known here (%#x)", features)
	case be.Uint32(b[32:]) != 0:
		return 0, refused("it is encrypted; `qemu-img convert` makes a plain one")
	case be.Uint32(b[60:]) != 0:
		return 0, refused("it has %d snapshots inside, which would be lost; `qemu-img convert -O qcow2` makes an image of one state", be.Uint32(b[60:]))
	case clusterBits < 9 || clusterBits > 21:
		return 0, refused("it has clusters of 2^%d bytes; 2^9 to 2^21 are taken", clusterBits)
	case virtual > MaxVirtual:
		return 0, refused("it is a disk of %d bytes; %d are the most", virtual, int64(MaxVirtual))
	}
	cluster := int64(1) << clusterBits
	if int64(length) < qcowHeader || int64(length) > cluster || version == 3 && (length < qcowHeader3 || length%8 != 0) {
		return 0, refused("it has a header of %d bytes", length)
	}
	if err := extensions(r, size, int64(length), cluster); err != nil {
		return 0, err
	}
	return int64(virtual), tables(r, size, b, int64(virtual), cluster, features&featureExtended != 0)
}

// extensions looks through the header's extensions for one that names a file.
func extensions(r io.ReaderAt, size, from, cluster int64) error {
	for range maxExtensions {
		if from+8 > min(size, cluster) {
			return nil
		}
		b, err := at(r, size, from, 8, "header extension")
		if err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint32(b[4:]))
		switch {
		case kind == 0:
			return nil
		case kind == extensionDataFile:
			return refused("it names an external data file; an image must be whole")
		case length > cluster-from-8:
			return refused("a header extension of %d bytes does not fit into its first cluster", length)
		}
		from += 8 + (length+7)&^7
	}
	return refused("it has more than %d header extensions", maxExtensions)
}

// tables checks where the image's tables lie, and that each part of the first leads to a table of its own.
func tables(r io.ReaderAt, size int64, b []byte, virtual, cluster int64, extended bool) error {
	be := binary.BigEndian
	entries, firstAt := int64(be.Uint32(b[36:])), int64(be.Uint64(b[40:]))
	countsAt, countsLen := int64(be.Uint64(b[48:])), int64(be.Uint32(b[56:]))*cluster
	perTable := cluster / 8
	if extended {
		perTable = cluster / 16
	}
	span := perTable << bits.TrailingZeros64(uint64(cluster)) // bytes of the disk that one entry stands for
	needed := (virtual + span - 1) / span
	switch {
	case entries*8 > maxL1:
		return refused("its first table has %d entries; %d are the most", entries, maxL1/8)
	case entries < needed:
		return refused("its first table has %d entries, and a disk of %d bytes needs %d: it is corrupt", entries, virtual, needed)
	case countsLen == 0 || countsLen > maxRefcounts:
		return refused("its table of reference counts has %d bytes; 1 to %d are taken", countsLen, maxRefcounts)
	case firstAt%cluster != 0 || countsAt%cluster != 0:
		return refused("its tables do not lie at whole clusters: it is corrupt")
	}
	taken := []extent{{0, cluster, "header"}, {countsAt, countsAt + countsLen, "table of reference counts"}}
	if _, err := at(r, size, countsAt, int(countsLen), "table of reference counts"); err != nil {
		return err
	}
	if entries == 0 {
		return apart(taken)
	}
	first, err := at(r, size, firstAt, int(entries*8), "first table")
	if err != nil {
		return err
	}
	taken = append(taken, extent{firstAt, firstAt + entries*8, "first table"})
	if err := apart(taken); err != nil {
		return err
	}
	seen := map[int64]bool{}
	for n := range entries {
		to := int64(be.Uint64(first[8*n:]) & qcowOffset)
		switch {
		case to == 0:
			continue
		case to%cluster != 0:
			return refused("entry %d of its first table leads to no whole cluster: it is corrupt", n)
		case to > size-8: // the last table may be cut short: what is not there is empty
			return refused("entry %d of its first table leads to byte %d, outside of its %d bytes: it is corrupt or cut off", n, to, size)
		case seen[to]:
			return refused("entry %d of its first table leads where another does: it refers to itself", n)
		}
		seen[to] = true
		for _, t := range taken {
			if to < t.to && t.from < to+cluster {
				return refused("entry %d of its first table leads into its own %s: it refers to itself", n, t.what)
			}
		}
	}
	return nil
}
