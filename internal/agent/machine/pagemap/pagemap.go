// Package pagemap reads what /proc tells of processes' memory: their mappings, the page behind each address, and how often a page is
// mapped. The agent reads a hypervisor's by it, and nacre's program in a guest those of the guest's processes: memory is mapped twice,
// and looks the same from both ends.
//
// It only reads. A process that changes its memory meanwhile shows a mixture of before and after. Physical addresses are shown to
// those who have CAP_SYS_ADMIN; to others all of them are 0, which Hidden tells.
package pagemap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// PageSize is the unit of everything here, in bytes.
	PageSize = 4096
	// maxMappings bounds a process's mappings: the kernel's default limit is 65,530.
	maxMappings = 1 << 17
	maxLine     = 8 << 10
)

// Mapping is a range of a process's addresses.
type Mapping struct {
	Start, End  uint64
	Permissions string // such as "rw-p"; p is private, s shared
	Offset      uint64 // in the file
	Device      string // of the file, such as "00:01"
	Inode       uint64 // 0 without a file
	Name        string // the file's path, or a word in brackets; may be empty
}

// File tells whether the mapping is of a file (one without a name included).
func (m Mapping) File() bool { return m.Inode != 0 }

// Private tells whether what is written stays the process's own.
func (m Mapping) Private() bool { return strings.HasSuffix(m.Permissions, "p") }

// ParseMaps reads /proc/PID/maps.
func ParseMaps(r io.Reader) ([]Mapping, error) {
	var list []Mapping
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		m, err := parseMapping(lines.Text())
		if err != nil {
			return nil, err
		}
		if len(list) == maxMappings {
			return nil, fmt.Errorf("a process with more than %d mappings", maxMappings)
		}
		list = append(list, m)
	}
	return list, lines.Err()
}

func parseMapping(line string) (Mapping, error) {
	wrong := fmt.Errorf("%.80q is no mapping", line)
	var m Mapping
	fields := [5]string{}
	rest := line
	for i := range fields {
		rest = strings.TrimLeft(rest, " ")
		fields[i], rest, _ = strings.Cut(rest, " ")
	}
	m.Name = strings.TrimLeft(rest, " ")
	from, to, ok := strings.Cut(fields[0], "-")
	if !ok || len(fields[1]) != 4 {
		return m, wrong
	}
	m.Permissions, m.Device = fields[1], fields[3]
	for _, n := range []struct {
		text string
		base int
		to   *uint64
	}{{from, 16, &m.Start}, {to, 16, &m.End}, {fields[2], 16, &m.Offset}, {fields[4], 10, &m.Inode}} {
		v, err := strconv.ParseUint(n.text, n.base, 64)
		if err != nil {
			return m, wrong
		}
		*n.to = v
	}
	if m.Start >= m.End || m.Start%PageSize != 0 {
		return m, wrong
	}
	return m, nil
}

// Find is the mapping that an address is in; ok is false where there is none.
func Find(list []Mapping, address uint64) (m Mapping, ok bool) {
	for _, m := range list {
		if m.Start <= address && address < m.End {
			return m, true
		}
	}
	return Mapping{}, false
}

// Entry is what the kernel tells of one page of a process (Documentation/admin-guide/mm/pagemap.rst).
type Entry uint64

// Present says that there is a page; Swapped that it is in swap space; File that it is a file's, or shared memory's, and no copy;
// Exclusive that no other process maps it.
func (e Entry) Present() bool   { return e>>63&1 == 1 }
func (e Entry) Swapped() bool   { return e>>62&1 == 1 }
func (e Entry) File() bool      { return e>>61&1 == 1 }
func (e Entry) Exclusive() bool { return e>>56&1 == 1 }

// Frame is the number of the physical page, 0 when it isn't present or is hidden.
func (e Entry) Frame() uint64 {
	if !e.Present() {
		return 0
	}
	return uint64(e) & (1<<55 - 1)
}

// Hidden tells whether the page is there and its number isn't shown to this process.
func (e Entry) Hidden() bool { return e.Present() && e.Frame() == 0 }

// Process is one whose memory is looked at.
type Process struct {
	PID   int
	pages *os.File
}

// Open opens a process's page map. A process of another user needs the right to trace it.
func Open(pid int) (*Process, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, fmt.Errorf("open the page map of process %d: %w", pid, err)
	}
	return &Process{PID: pid, pages: f}, nil
}

// Close lets go of the process.
func (p *Process) Close() { p.pages.Close() }

// Mappings are all of the process's.
func (p *Process) Mappings() ([]Mapping, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", p.PID))
	if err != nil {
		return nil, fmt.Errorf("read the mappings of process %d: %w", p.PID, err)
	}
	defer f.Close()
	list, err := ParseMaps(f)
	if err != nil {
		return nil, fmt.Errorf("read the mappings of process %d: %w", p.PID, err)
	}
	return list, nil
}

// Entries are those of n pages from an address on. Beyond the end of the process's address space they are 0.
func (p *Process) Entries(from uint64, n int) ([]Entry, error) {
	b := make([]byte, n*8)
	got, err := p.pages.ReadAt(b, int64(from/PageSize*8))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the page map of process %d: %w", p.PID, err)
	}
	out := make([]Entry, n)
	for i := range got / 8 {
		out[i] = Entry(binary.LittleEndian.Uint64(b[i*8:]))
	}
	return out, nil
}

// Entry is that of one page.
func (p *Process) Entry(address uint64) (Entry, error) {
	list, err := p.Entries(address, 1)
	if err != nil {
		return 0, err
	}
	return list[0], nil
}

// batch is how many pages one call reads.
const batch = 1024

// Words reads a word of 8 bytes at the same offset of many pages, and calls f for each page that could be read. The pages should be
// present: reading one that isn't makes it so.
func (p *Process) Words(pages []uint64, offset uint64, f func(page, word uint64)) error {
	b := make([]byte, batch*8)
	remote := make([]unix.RemoteIovec, 0, batch)
	for len(pages) > 0 {
		n := min(batch, len(pages))
		remote = remote[:0]
		for _, page := range pages[:n] {
			remote = append(remote, unix.RemoteIovec{Base: uintptr(page + offset), Len: 8})
		}
		local := unix.Iovec{Base: &b[0]}
		local.SetLen(n * 8)
		got, err := unix.ProcessVMReadv(p.PID, []unix.Iovec{local}, remote, 0)
		if err != nil && !errors.Is(err, unix.EFAULT) {
			return fmt.Errorf("read the memory of process %d: %w", p.PID, err)
		}
		got = max(got, 0) / 8
		for i := range got {
			f(pages[i], binary.LittleEndian.Uint64(b[i*8:]))
		}
		pages = pages[min(n, max(got, 1)):] // the first one that can't be read is passed over
		if got == n {
			continue
		}
		if got > 0 {
			pages = pages[1:]
		}
	}
	return nil
}

// Read fills b with the process's memory.
func (p *Process) Read(address uint64, b []byte) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.PID))
	if err != nil {
		return fmt.Errorf("read the memory of process %d: %w", p.PID, err)
	}
	defer f.Close()
	if _, err := f.ReadAt(b, int64(address)); err != nil {
		return fmt.Errorf("read the memory of process %d at %#x: %w", p.PID, address, err)
	}
	return nil
}

// MappedTimes is how many mappings of a physical page there are on this machine.
func MappedTimes(frame uint64) (int64, error) {
	f, err := os.Open("/proc/kpagecount")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [8]byte
	if _, err := f.ReadAt(b[:], int64(frame*8)); err != nil {
		return 0, err
	}
	return int64(binary.LittleEndian.Uint64(b[:])), nil
}

// Footprint is what a process takes of the machine's memory, in bytes.
type Footprint struct {
	Resident, Share, Private, Swapped int64 // Share is the PSS: a page that n processes map counts as an nth
}

// FootprintOf reads a process's.
func FootprintOf(pid int) (Footprint, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return Footprint{}, fmt.Errorf("read the footprint of process %d: %w", pid, err)
	}
	defer f.Close()
	p, err := parseRollup(f)
	if err != nil {
		return p, fmt.Errorf("read the footprint of process %d: %w", pid, err)
	}
	return p, nil
}

func parseRollup(r io.Reader) (Footprint, error) {
	var p Footprint
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		text, isSize := strings.CutSuffix(strings.TrimSpace(rest), " kB")
		if !ok || !isSize {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(text), 10, 48)
		if err != nil || kib < 0 {
			return p, fmt.Errorf("%.80q is no size", lines.Text())
		}
		switch name {
		case "Rss":
			p.Resident += kib << 10
		case "Pss":
			p.Share += kib << 10
		case "Private_Clean", "Private_Dirty":
			p.Private += kib << 10
		case "Swap":
			p.Swapped += kib << 10
		}
	}
	return p, lines.Err()
}
