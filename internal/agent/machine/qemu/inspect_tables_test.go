package qemu

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// paper is a guest's memory that a test writes tables into.
type paper struct {
	words map[uint64]uint64
	next  uint64
}

func newPaper() *paper { return &paper{words: map[uint64]uint64{}, next: 0x100000} }

func (p *paper) read(physical uint64) (uint64, error) {
	if physical >= 1<<32 {
		return 0, errors.New("Memory at address is not RAM")
	}
	return p.words[physical], nil
}

func (p *paper) table() uint64 {
	p.next += 4096
	return p.next
}

// put maps a page of a size level below a root.
func (p *paper) put(root uint64, levels int, virtual, physical uint64, level int, flags uint64) {
	table := root
	for l := levels - 1; l > level; l-- {
		at := table + 8*index(virtual, l)
		if p.words[at] == 0 {
			p.words[at] = p.table() | entryPresent | entryWritable | entryUser | entryAccessed
		}
		table = p.words[at] & entryAddress
	}
	if level > 0 {
		flags |= entryLarge
	}
	p.words[table+8*index(virtual, level)] = physical | flags
}

func (p *paper) all(_ context.Context, offset uint64, f func(physical, word uint64)) error {
	for at, word := range p.words {
		if at&4095 == offset {
			f(at&^4095, word)
		}
	}
	return nil
}

func TestAnAddressIsFollowedThroughAllLevels(t *testing.T) {
	for _, levels := range []int{4, 5} {
		mem := newPaper()
		p := paging{mem.table(), levels}
		mem.put(p.root, levels, 0x7f1234567000, 0xabc000, 0, entryPresent|entryUser|entryAccessed|entryDirty|entryNoExecute)
		mem.put(p.root, levels, 0xffffffff81000000, 0x2000000, 1, entryPresent|entryWritable|entryGlobal)
		mem.put(p.root, levels, 0xffff888000000000, 0x40000000, 2, entryPresent|entryWritable)
		for _, c := range []struct {
			virtual  uint64
			physical cloud.HexAddress
			size     int64
			entries  int
			flags    string
		}{
			{0x7f1234567123, "0xabc123", 4096, levels, "present user accessed dirty no-execute"},
			{0xffffffff81012345, "0x2012345", 2 << 20, levels - 1, "present writable global large"},
			{0xffff888012345678, "0x52345678", 1 << 30, levels - 2, "present writable large"},
		} {
			got := p.walk(mem.read, c.virtual)
			if got.Problem != "" || got.Physical != c.physical || got.Size != c.size || len(got.Levels) != c.entries || strings.Join(got.Flags, " ") != c.flags {
				t.Errorf("%d levels, %#x: %+v", levels, c.virtual, got)
			}
			if first := got.Levels[0]; first.Level != levelNames[levels-1] || first.Table != cloud.HexAddressOf(p.root) {
				t.Errorf("it begins at %+v", first)
			}
		}
	}
}

func TestAWayThatEndsEarlySaysWhere(t *testing.T) {
	mem := newPaper()
	p := paging{mem.table(), 4}
	mem.put(p.root, 4, 0x400000, 0xabc000, 0, entryPresent)
	for virtual, why := range map[uint64]string{0x401000: "entry of the PT", 0x800000: "entry of the PD ", 0x8000000000: "entry of the PML4", 0x1000000000000: "no address"} {
		if got := p.walk(mem.read, virtual); got.Physical != "" || !strings.Contains(got.Problem+" ", why) {
			t.Errorf("%#x: %+v", virtual, got)
		}
	}
	mem.words[p.root+8*5] = 1<<40 | entryPresent // a table where there is no memory
	if got := p.walk(mem.read, 5<<39); !strings.Contains(got.Problem, "can't be read") {
		t.Errorf("%+v", got)
	}
	mem.words[p.root+8*6] = p.root | entryPresent // one that leads to itself
	if got := p.walk(mem.read, 6<<39|6<<30|6<<21|6<<12); got.Problem != "" || len(got.Levels) != 4 {
		t.Errorf("%+v", got)
	}
}

func TestAProcessesTablesAreFoundFromItsOwnPages(t *testing.T) {
	for _, levels := range []int{4, 5} {
		mem := newPaper()
		kernel := paging{mem.table(), levels}
		mem.put(kernel.root, levels, 0xffffffff81000000, 0x2000000, 1, entryPresent)
		text := mem.words[kernel.root+511*8]
		process := func(own uint64) uint64 {
			root := mem.table()
			mem.words[root+511*8] = text
			mem.put(root, levels, 0x400000, 0x5000, 0, entryPresent|entryUser) // the program, which all share
			mem.put(root, levels, 0x7ffffffde000, own, 0, entryPresent|entryUser|entryWritable)
			return root
		}
		one, two := process(0x7000), process(0x8000)
		find := func(pages ...placed) (uint64, error) {
			return findRoot(t.Context(), mem.all, mem.read, kernel, pages)
		}
		if got, err := find(placed{0x7ffffffde000, 0x7000}, placed{0x400000, 0x5000}); err != nil || got != one {
			t.Errorf("%#x is not %#x: %v", got, one, err)
		}
		if got, err := find(placed{0x7ffffffde000, 0x8000}); err != nil || got != two {
			t.Errorf("%#x is not %#x: %v", got, two, err)
		}
		if _, err := find(placed{0x400000, 0x5000}); err == nil {
			t.Error("a page that two have tells them apart")
		}
		if _, err := find(placed{0x7ffffffde000, 0x9000}); err == nil {
			t.Error("a page that nobody has")
		}
		if _, err := find(placed{0x7ffffffde000, 0x7000}, placed{0x400000, 0x6000}); err == nil {
			t.Error("tables without all pages")
		}
		if _, err := find(); err == nil {
			t.Error("no page at all")
		}
		// What looks like a table and isn't, because the kernel is not in it.
		delete(mem.words, one+511*8)
		if _, err := find(placed{0x7ffffffde000, 0x7000}); err == nil {
			t.Error("tables without the kernel")
		}
	}
}

func TestALargePageLeadsToItsTablesToo(t *testing.T) {
	mem := newPaper()
	kernel := paging{mem.table(), 4}
	mem.put(kernel.root, 4, 0xffffffff81000000, 0x2000000, 1, entryPresent)
	mem.put(kernel.root, 4, 0x600000000000, 0x40000000, 1, entryPresent|entryUser)
	got, err := findRoot(t.Context(), mem.all, mem.read, kernel, []placed{{0x600000003000, 0x40003000}})
	if err != nil || got != kernel.root {
		t.Errorf("%#x, %v", got, err)
	}
}

// Tables are the guest's to write: whatever is in them, the way through them ends.
func FuzzTables(f *testing.F) {
	f.Add(uint64(0x7f1234567123), uint64(0xabc025), uint64(0x1003), uint64(7))
	f.Fuzz(func(t *testing.T, virtual, a, b, c uint64) {
		read := func(physical uint64) (uint64, error) {
			return slices.Max([]uint64{a, b &^ physical, c ^ physical}), nil
		}
		for _, levels := range []int{4, 5} {
			chain := paging{a & entryAddress, levels}.walk(read, virtual)
			if len(chain.Levels) > levels || chain.Problem == "" && chain.Physical == "" || chain.Problem != "" && chain.Physical != "" {
				t.Errorf("%+v", chain)
			}
		}
	})
}
