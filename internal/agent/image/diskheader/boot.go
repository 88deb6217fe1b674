package diskheader

import (
	"bytes"
	"encoding/binary"
)

// BootBytes is how many of a disk's first bytes Boot wants: the old partition table, the new one's header and its usual 128 entries.
const BootBytes = 34 * sector

const (
	bootCode   = 440 // bytes of code in the first sector
	oldTable   = 446
	oldESP     = 0xef
	oldCover   = 0xee // the entry that stands for a table of the new kind
	entrySize  = 128
	maxEntries = 128
)

// espType is the type of an EFI system partition as it lies on the disk: C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
var espType = []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

// Boot tells from a disk's first bytes by which firmware it can be booted: by BIOS when its first sector has code, by UEFI when it has
// an EFI system partition. Sectors have 512 bytes.
func Boot(first []byte) (bios, uefi bool) {
	if len(first) < sector || first[510] != 0x55 || first[511] != 0xaa {
		return false, false
	}
	bios = !zero(first[:bootCode])
	cover := false
	for n := range 4 {
		switch first[oldTable+16*n+4] {
		case oldESP:
			uefi = true
		case oldCover:
			cover = true
		}
	}
	if !cover || len(first) < 2*sector || !bytes.HasPrefix(first[sector:], []byte("EFI PART")) {
		return bios, uefi
	}
	head := first[sector:]
	at, count, size := binary.LittleEndian.Uint64(head[72:]), binary.LittleEndian.Uint32(head[80:]), binary.LittleEndian.Uint32(head[84:])
	if size != entrySize || at < 2 || at > uint64(len(first)/sector) {
		return bios, uefi
	}
	for n := range min(count, maxEntries) {
		from := int(at)*sector + int(n)*entrySize
		if from+entrySize > len(first) {
			break
		}
		uefi = uefi || bytes.Equal(first[from:from+16], espType)
	}
	return bios, uefi
}
