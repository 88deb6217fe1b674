package diskheader

import (
	"bytes"
	"encoding/binary"
	"io"
	"regexp"
	"strings"
)

const (
	vmdkHeader = 79 // bytes that are used
	// vmdkText is where QEMU looks for the text of an image of one file, whatever the header says, and how much of it.
	vmdkText      = 512
	maxDescriptor = 20 << 10
	atEnd         = ^uint64(0) // the directory is told of by a footer
	maxGrainTable = 512        // entries
	maxVMDKTable  = 16 << 20   // entries of the directory
)

// extentLine describes a piece of the disk: its access, sectors, kind, file.
var extentLine = regexp.MustCompile(`(?m)^[ \t]*(RW|RDONLY|NOACCESS)[ \t]+([0-9]+)[ \t]+([A-Z0-9]+)\b`)

func readVMDK(r io.ReaderAt, size int64) (int64, error) {
	b, err := at(r, size, 0, vmdkHeader, "header")
	if err != nil {
		return 0, err
	}
	capacity, err := sparse(b)
	if err != nil {
		return 0, err
	}
	directed := b // the header that tells where the directory is
	if binary.LittleEndian.Uint64(b[56:]) == atEnd {
		footer, err := at(r, size, size-1024, vmdkHeader, "footer")
		if err != nil {
			return 0, err
		}
		if !bytes.HasPrefix(footer, []byte("KDMV")) {
			return 0, refused("its footer is not where it must be: it is corrupt or cut off")
		}
		directed = footer
		again, err := sparse(footer)
		if err != nil {
			return 0, err
		}
		if again != capacity {
			return 0, refused("its header tells of a disk of %d sectors and its footer of %d", capacity, again)
		}
	}
	where, length := binary.LittleEndian.Uint64(b[28:]), binary.LittleEndian.Uint64(b[36:])
	if where == 0 || length == 0 || length > maxDescriptor/sector || where > uint64(size)/sector {
		return 0, refused("it has no descriptor of its own (%d sectors at %d): an image must be one file", length, where)
	}
	text, err := at(r, size, int64(where)*sector, int(length)*sector, "descriptor")
	if err != nil {
		return 0, err
	}
	if err := describedAlone(r, size, text); err != nil {
		return 0, err
	}
	return int64(capacity) * sector, directory(r, size, directed)
}

// directory checks that the grain tables lie in the file: what lies outside would be read as empty.
func directory(r io.ReaderAt, size int64, b []byte) error {
	le := binary.LittleEndian
	span, table, where := le.Uint64(b[20:])*uint64(le.Uint32(b[44:])), 4*int64(le.Uint32(b[44:])), le.Uint64(b[56:])
	entries := (le.Uint64(b[12:]) + span - 1) / span
	if where == 0 || where > uint64(size)/sector {
		return refused("its directory lies at sector %d, outside of its %d bytes: it is corrupt or cut off", where, size)
	}
	list, err := at(r, size, int64(where)*sector, int(4*entries), "directory")
	if err != nil {
		return err
	}
	for n := range entries {
		to := int64(le.Uint32(list[4*n:])) * sector
		switch {
		case to == 0:
		case to > size-table:
			return refused("entry %d of its directory leads outside of its %d bytes: it is corrupt or cut off", n, size)
		case to < int64(where)*sector+4*int64(entries) && int64(where)*sector < to+table:
			return refused("entry %d of its directory leads into the directory: it refers to itself", n)
		}
	}
	return nil
}

// sparse reads a sparse extent's header.
func sparse(b []byte) (capacity uint64, err error) {
	le := binary.LittleEndian
	capacity = le.Uint64(b[12:])
	grain, perTable := le.Uint64(b[20:]), le.Uint32(b[44:])
	switch version := le.Uint32(b[4:]); {
	case version < 1 || version > 3:
		return 0, refused("it is VMDK of version %d; 1 to 3 are taken", version)
	case capacity == 0:
		return 0, refused("its header tells of no disk and leaves that to other files")
	case capacity > MaxVirtual/sector:
		return 0, refused("it is a disk of %d sectors; %d are the most", capacity, MaxVirtual/sector)
	case grain < 8 || grain > 4096 || grain&(grain-1) != 0:
		return 0, refused("its grains have %d sectors; powers of 2 from 8 to 4096 are taken", grain)
	case perTable == 0 || perTable > maxGrainTable:
		return 0, refused("its tables have %d entries; 1 to %d are taken", perTable, maxGrainTable)
	case capacity/(grain*uint64(perTable)) > maxVMDKTable:
		return 0, refused("its directory has more than %d entries", maxVMDKTable)
	}
	return capacity, nil
}

// describedAlone refuses a descriptor that names more than the file that it is in.
func describedAlone(r io.ReaderAt, size int64, text []byte) error {
	text = bytes.TrimRight(text, "\x00")
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, "="); ok {
			fields[strings.TrimSpace(name)] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	switch kind := fields["createType"]; kind {
	case "monolithicSparse", "streamOptimized":
	default:
		return refused("it is of the kind %.40q, which lies in other files; monolithicSparse and streamOptimized are taken", kind)
	}
	if parent := strings.ToLower(fields["parentCID"]); parent != "" && parent != "ffffffff" {
		return refused("it stands on a parent image (%.20q); an image must be whole", parent)
	}
	pieces := extentLine.FindAllSubmatch(text, -1)
	if len(pieces) != 1 || string(pieces[0][3]) != "SPARSE" {
		return refused("it describes %d pieces; an image must be one sparse file", len(pieces))
	}
	// Readers look for a parent's name wherever the text usually is.
	usual := make([]byte, min(maxDescriptor, max(0, size-vmdkText)))
	if n, err := r.ReadAt(usual, vmdkText); n < len(usual) {
		return err
	}
	for _, t := range [][]byte{text, usual} {
		if bytes.Contains(t, []byte("parentFileNameHint")) {
			return refused("it names a parent image; an image must be whole")
		}
	}
	return nil
}
