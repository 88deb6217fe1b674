// Package diskheader reads the headers of disk images that came from outside, before any other program sees them.
//
// It tells a disk image from an archive and one format from another by the bytes alone, and refuses what names other files, what is larger
// than a disk may be, what points into itself, and tables that no honest image has. It promises to read no more than tables of stated size,
// and never opens a file: what it is given is all that it looks at.
//
// Sources: QEMU's docs/interop/qcow2.txt, VMware's "Virtual Disk Format 5.0", VirtualBox's VDICore.h, the UEFI specification's chapter 5.
package diskheader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Format is the format of a disk image.
type Format string

const (
	None  Format = ""      // not a disk image: perhaps an archive
	Raw   Format = "raw"   // the disk's bytes, one after the other
	QCOW2 Format = "qcow2" // QEMU's
	VMDK  Format = "vmdk"  // VMware's, one file: monolithicSparse or streamOptimized
	VDI   Format = "vdi"   // VirtualBox's
)

const (
	// Peek is how many of an image's first bytes Detect wants.
	Peek = 4096
	// MaxVirtual bounds the bytes that a machine may see as its disk: what a partition table of the old kind reaches.
	MaxVirtual = 2 << 40
	sector     = 512
)

// ErrRefused is an image that is a disk's and is not taken.
var ErrRefused = errors.New("the disk image is not acceptable")

// refusal is an ErrRefused that says why and nothing else.
type refusal struct{ error }

func (refusal) Is(target error) bool { return target == ErrRefused }

func refused(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// Header is what an image says of itself.
type Header struct {
	Format  Format
	Virtual int64 // bytes that a machine sees
}

// others are formats that are known and not taken, by what they begin with.
var others = []struct{ magic, name string }{
	{"QFI\xfb\x00\x00\x00\x01", "qcow, the first version"}, {"QED\x00", "QED"}, {"conectix", "VHD"}, {"vhdxfile", "VHDX"}, {"COWD", "VMDK of ESX"},
	{"# Disk DescriptorFile", "a VMDK descriptor, which names other files"}, {"WithoutFreeSpace", "Parallels"}, {"WithouFreSpacExt", "Parallels"},
	{"LUKS\xba\xbe", "an encrypted volume"}, {"OOOM", "User Mode Linux's copy-on-write"},
}

// packed are compressed files, which may hold a disk but are taken only when they hold an archive; that is told elsewhere.
var packed = []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00", "BZh"}

// Detect tells the format by an image's first bytes, Peek of them unless there are fewer. A format that is known and not taken is an
// error; None is anything else.
func Detect(first []byte) (Format, error) {
	for _, o := range others {
		if bytes.HasPrefix(first, []byte(o.magic)) {
			return None, refused("it is %s; `qemu-img convert -O qcow2` makes one that is taken", o.name)
		}
	}
	switch {
	case bytes.HasPrefix(first, []byte("QFI\xfb")):
		return QCOW2, nil
	case bytes.HasPrefix(first, []byte("KDMV")):
		return VMDK, nil
	case len(first) >= 68 && binary.LittleEndian.Uint32(first[64:]) == vdiMagic:
		return VDI, nil
	}
	for _, p := range packed {
		if bytes.HasPrefix(first, []byte(p)) {
			return None, nil
		}
	}
	if len(first) >= 512 && first[510] == 0x55 && first[511] == 0xaa && !bytes.Equal(first[257:262], []byte("ustar")) {
		return Raw, nil
	}
	return None, nil
}

// Read looks at an image of a format that Detect told. size is how many bytes it has.
func Read(format Format, r io.ReaderAt, size int64) (Header, error) {
	h := Header{Format: format}
	var err error
	switch format {
	case Raw:
		h.Virtual = size
		if size%sector != 0 {
			return h, refused("a raw image has whole sectors of %d bytes, and it has %d bytes: it is cut off, or no disk", sector, size)
		}
	case QCOW2:
		h.Virtual, err = readQCOW2(r, size)
	case VMDK:
		h.Virtual, err = readVMDK(r, size)
	case VDI:
		h.Virtual, err = readVDI(r, size)
	default:
		return h, refused("it is no disk image")
	}
	if err != nil {
		return h, err
	}
	if h.Virtual < sector || h.Virtual > MaxVirtual {
		return h, refused("it is a disk of %d bytes; %d to %d are taken", h.Virtual, sector, int64(MaxVirtual))
	}
	return h, nil
}

// at reads n bytes at an offset of the image, all of them or none.
func at(r io.ReaderAt, size, offset int64, n int, what string) ([]byte, error) {
	if offset < 0 || offset > size-int64(n) {
		return nil, refused("its %s lies at byte %d, outside of its %d bytes: it is corrupt or cut off", what, offset, size)
	}
	b := make([]byte, n)
	if got, err := r.ReadAt(b, offset); got < n {
		return nil, fmt.Errorf("read the image's %s: %w", what, err)
	}
	return b, nil
}

// extent is a piece of the file that a table lies in.
type extent struct {
	from, to int64
	what     string
}

// apart refuses pieces that meet.
func apart(all []extent) error {
	for n, a := range all {
		for _, b := range all[:n] {
			if a.from < b.to && b.from < a.to {
				return refused("its %s and its %s lie in the same place: it refers to itself", b.what, a.what)
			}
		}
	}
	return nil
}
