package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// paging is how a guest's addresses are translated: where its page tables begin, and how many levels they have.
type paging struct {
	root   uint64
	levels int // 4 or 5
}

// errNoTables is for processors whose tables can't be walked here; the hypervisor is asked for the result alone.
var errNoTables = errors.New("the processor does not translate by four or five levels of tables now (it is starting up, or not of x86_64); what the hypervisor itself finds is shown")

// Bits of x86_64's control registers, and of entries of its page tables (Intel SDM, volume 3, chapter 4).
const (
	cr0Paging  = 1 << 31
	cr4Levels5 = 1 << 12
	eferLong   = 1 << 10

	entryPresent, entryWritable, entryUser                    = 1 << 0, 1 << 1, 1 << 2
	entryAccessed, entryDirty, entryLarge, entryGlobal        = 1 << 5, 1 << 6, 1 << 7, 1 << 8
	entryNoExecute                                            = 1 << 63
	entryAddress                                       uint64 = 0x000f_ffff_ffff_f000
)

func pagingOf(r registers) (paging, error) {
	if r.cr0&cr0Paging == 0 || r.efer&eferLong == 0 {
		return paging{}, errNoTables
	}
	p := paging{root: r.cr3 & entryAddress, levels: 4}
	if r.cr4&cr4Levels5 != 0 {
		p.levels = 5
	}
	return p, nil
}

// levelNames are those of the levels, the lowest first.
var levelNames = [...]string{"PT", "PD", "PDPT", "PML4", "PML5"}

// tables reads an entry of a guest's page tables: 8 bytes of its physical memory.
type tables func(physical uint64) (uint64, error)

// shift is by how many bits an address is shifted to be an index on a level, counted from the lowest one, 0.
func shift(level int) int { return 12 + 9*level }

// index is the entry of a level that an address goes through.
func index(address uint64, level int) uint64 { return address >> shift(level) & 511 }

// canonical tells whether an address is one: its upper bits are all like the highest that counts.
func (p paging) canonical(address uint64) bool {
	top := shift(p.levels)
	return int64(address<<(64-top))>>(64-top) == int64(address)
}

// walk goes an address's way through the tables. The chain's Problem says where it ends early.
func (p paging) walk(read tables, address uint64) cloud.PageChain {
	chain := cloud.PageChain{Virtual: cloud.HexAddressOf(address)}
	if !p.canonical(address) {
		chain.Problem = fmt.Sprintf("no address of a processor with %d levels of tables", p.levels)
		return chain
	}
	table := p.root
	all := uint64(entryWritable | entryUser) // of the whole way; the other flags are the last entry's
	var never uint64
	for level := p.levels - 1; level >= 0; level-- {
		i := index(address, level)
		entry, err := read(table + 8*i)
		if err != nil {
			chain.Problem = fmt.Sprintf("the %s at %#x can't be read: %v", levelNames[level], table, err)
			return chain
		}
		chain.Levels = append(chain.Levels, cloud.TableEntry{Level: levelNames[level], Table: cloud.HexAddressOf(table), Index: int64(i), Entry: cloud.HexAddressOf(entry),
			Flags: entryFlags(entry, level)})
		if entry&entryPresent == 0 {
			chain.Problem = fmt.Sprintf("not present: the entry of the %s says so", levelNames[level])
			return chain
		}
		all &= entry
		never |= entry & entryNoExecute
		if level == 0 || level <= 2 && entry&entryLarge != 0 {
			size := uint64(1) << shift(level)
			chain.Size = int64(size)
			chain.Physical = cloud.HexAddressOf(entry&entryAddress&^(size-1) | address&(size-1))
			chain.Flags = entryFlags(entry&^(entryWritable|entryUser)|all|never, level)
			return chain
		}
		table = entry & entryAddress
	}
	return chain
}

// entryFlags names an entry's flags.
func entryFlags(entry uint64, level int) []string {
	if entry&entryPresent == 0 {
		return nil
	}
	flags := []string{"present"}
	for _, f := range []struct {
		bit  uint64
		name string
	}{{entryWritable, "writable"}, {entryUser, "user"}, {entryAccessed, "accessed"}, {entryDirty, "dirty"}, {entryGlobal, "global"}} {
		leaf := level == 0 || entry&entryLarge != 0
		if entry&f.bit != 0 && (leaf || f.bit != entryDirty && f.bit != entryGlobal) {
			flags = append(flags, f.name)
		}
	}
	if level > 0 && entry&entryLarge != 0 {
		flags = append(flags, "large")
	}
	if entry&entryNoExecute != 0 {
		flags = append(flags, "no-execute")
	}
	return flags
}

// word reads an entry out of a page.
func word(page []byte, offset uint64) uint64 {
	return binary.LittleEndian.Uint64(page[offset&4095&^7:])
}
