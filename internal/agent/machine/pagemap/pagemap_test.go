package pagemap

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestMappingsAreReadAsTheKernelWritesThem(t *testing.T) {
	list, err := ParseMaps(strings.NewReader(`55b7529f2000-55b752df9000 r--p 00000000 fe:00 10166304                   /usr/bin/qemu-system-x86_64
7f0000000000-7f000c000000 rw-p 00001000 00:01 4099                       /memfd:nacre memory (deleted)
7ffd1c000000-7ffd1c021000 rw-s 00000000 00:00 0
7ffd1d000000-7ffd1d021000 rw-p 00000000 00:00 0                          [stack]
`))
	if err != nil || len(list) != 4 {
		t.Fatal(list, err)
	}
	want := Mapping{Start: 0x7f0000000000, End: 0x7f000c000000, Permissions: "rw-p", Offset: 0x1000, Device: "00:01", Inode: 4099, Name: "/memfd:nacre memory (deleted)"}
	if list[1] != want || !list[1].File() || !list[1].Private() || list[2].Private() || list[2].Name != "" || list[3].Name != "[stack]" || list[3].File() {
		t.Errorf("%+v", list)
	}
	if m, ok := Find(list, 0x7f0000000fff); !ok || m != want {
		t.Errorf("%+v, %v", m, ok)
	}
	if _, ok := Find(list, 0x7f000c000000); ok {
		t.Error("the end of a mapping belongs to it")
	}
	for _, bad := range []string{"x", "1000-2000 rw-p", "2000-1000 rw-p 0 00:00 0", "1000-1000 rw-p 0 00:00 0", "1001-2000 rw-p 0 00:00 0", "1000-2000 rw 0 00:00 0",
		"1000-2000 rw-p x 00:00 0", "1000-2000 rw-p 0 00:00 -1"} {
		if _, err := ParseMaps(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is a mapping", bad)
		}
	}
}

func TestAPageLeadsFromTheVirtualToThePhysicalOne(t *testing.T) {
	mem, err := unix.Mmap(-1, 0, 4*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	copy(mem[PageSize+16:], "a marker")
	at := uint64(uintptr(unsafe.Pointer(&mem[0])))
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	list, err := p.Entries(at, 4)
	if err != nil {
		t.Fatal(err)
	}
	if list[0].Present() || !list[1].Present() || list[1].File() || !list[1].Exclusive() || list[2].Present() {
		t.Errorf("%x", list)
	}
	if os.Geteuid() == 0 && !list[1].Hidden() {
		if n, err := MappedTimes(list[1].Frame()); err == nil && n != 1 {
			t.Errorf("its page is mapped %d times", n)
		}
	}
	b := make([]byte, 8)
	if err := p.Read(at+PageSize+16, b); err != nil || string(b) != "a marker" {
		t.Errorf("%q, %v", b, err)
	}
	var found []uint64
	err = p.Words([]uint64{at, at + PageSize, 8, at + PageSize}, 16, func(page, word uint64) {
		if word == binary.LittleEndian.Uint64([]byte("a marker")) {
			found = append(found, page)
		}
	})
	if err != nil || len(found) != 2 || found[0] != at+PageSize || found[1] != found[0] {
		t.Errorf("%x, %v", found, err)
	}
	maps, err := p.Mappings()
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := Find(maps, at+PageSize); !ok || m.File() {
		t.Errorf("%+v, %v", m, ok)
	}
	if f, err := FootprintOf(os.Getpid()); err != nil || f.Resident < f.Share || f.Share < f.Private || f.Private == 0 {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestAHiddenPageIsNoPageZero(t *testing.T) {
	if e := Entry(1 << 63); !e.Hidden() || !e.Present() {
		t.Error("a page whose number isn't shown")
	}
	if e := Entry(1<<62 | 77); e.Hidden() || e.Frame() != 0 || !e.Swapped() {
		t.Error("a swapped page")
	}
}

func FuzzWhatProcTells(f *testing.F) {
	f.Add([]byte("55b7529f2000-55b752df9000 r--p 00000000 fe:00 10166304                   /usr/bin/a b\n"))
	f.Add([]byte("Rss: 12 kB\nPss:\t3 kB\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseMaps(bytes.NewReader(b))
		for _, m := range list {
			if err == nil && (m.Start >= m.End || len(m.Permissions) != 4) {
				t.Errorf("%+v", m)
			}
		}
		if p, err := parseRollup(bytes.NewReader(b)); err == nil && (p.Resident < 0 || p.Share < 0 || p.Private < 0) {
			t.Errorf("%+v", p)
		}
	})
}
