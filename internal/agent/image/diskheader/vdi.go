package diskheader

import (
	"encoding/binary"
	"io"
)

const (
	vdiMagic  = 0xbeda107f
	vdiHeader = 512
	vdiBlock  = 1 << 20 // bytes; the only size that is in use
	vdiFree   = 0xfffffffe
)

func readVDI(r io.ReaderAt, size int64) (int64, error) {
	b, err := at(r, size, 0, vdiHeader, "header")
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	version, kind := le.Uint32(b[68:]), le.Uint32(b[76:])
	mapAt, dataAt := int64(le.Uint32(b[340:])), int64(le.Uint32(b[344:]))
	virtual, block, blocks, used := le.Uint64(b[368:]), le.Uint32(b[376:]), le.Uint32(b[384:]), le.Uint32(b[388:])
	switch {
	case version != 0x00010001:
		return 0, refused("it is VDI of version %d.%d; 1.1 is taken", version>>16, version&0xffff)
	case kind != 1 && kind != 2:
		return 0, refused("it is a VDI of the kind %d, which stands on another image; dynamic and fixed ones are taken", kind)
	case !zero(b[424:456]): // of the image that it was linked to, and of its parent
		return 0, refused("it names a parent image; an image must be whole")
	case virtual > MaxVirtual:
		return 0, refused("it is a disk of %d bytes; %d are the most", virtual, int64(MaxVirtual))
	case block != vdiBlock:
		return 0, refused("its blocks have %d bytes; %d are taken", block, vdiBlock)
	case uint64(blocks) < (virtual+vdiBlock-1)/vdiBlock || blocks > MaxVirtual/vdiBlock:
		return 0, refused("its map has %d blocks, which a disk of %d bytes has not: it is corrupt", blocks, virtual)
	case used > blocks:
		return 0, refused("it has more blocks in use (%d) than it has blocks (%d): it is corrupt", used, blocks)
	case mapAt < vdiHeader || mapAt%sector != 0 || dataAt%sector != 0 || dataAt < mapAt+4*int64(blocks):
		return 0, refused("its map and its data lie in the same place, or in its header: it refers to itself")
	}
	list, err := at(r, size, mapAt, 4*int(blocks), "map")
	if err != nil {
		return 0, err
	}
	seen := make([]bool, used)
	for n := range blocks {
		to := le.Uint32(list[4*n:])
		switch {
		case to >= vdiFree:
			continue
		case to >= used:
			return 0, refused("entry %d of its map leads to block %d, and it has %d: it is corrupt", n, to, used)
		case seen[to]:
			return 0, refused("entry %d of its map leads where another does: it refers to itself", n)
		case dataAt+(int64(to)+1)*vdiBlock > size:
			return 0, refused("entry %d of its map leads outside of its %d bytes: it is corrupt or cut off", n, size)
		}
		seen[to] = true
	}
	return int64(virtual), nil
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
