package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/agent/machine/pagemap"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A process that runs on no processor has its page tables in the guest's memory and nowhere else: only the guest's kernel knows where they
// begin. They are found from below. The guest's program tells of a page that only this process has; the table that has an entry for it at
// the right index is its lowest one, the table that leads to that one is the next, and so on up to the topmost, from which all pages that
// the program told of must be found, and the kernel's half must be the one that the processors use.

// placed is a page of a process, guest virtual and guest physical.
type placed struct{ virtual, physical uint64 }

// memoryWords reads the words at the same offset of all pages of a guest's memory that are there.
type memoryWords func(ctx context.Context, offset uint64, f func(physical, word uint64)) error

// largePage is the size of a page that an entry of a PD names: programs have no larger ones that they didn't ask for.
const largePage = 2 << 20

// maxCandidates bounds the tables that may be the next one up: more are no trace.
const maxCandidates = 64

// findRoot finds where the tables begin that have all of these pages. kernel is how a processor translates now.
func findRoot(ctx context.Context, words memoryWords, read tables, kernel paging, pages []placed) (uint64, error) {
	if len(pages) == 0 {
		return 0, errors.New("the process has no page of its own to know them by")
	}
	anchor := pages[0]
	want := map[uint64]bool{}
	for level := range kernel.levels {
		found := map[uint64]bool{}
		err := words(ctx, index(anchor.virtual, level)*8, func(physical, word uint64) {
			if word&entryPresent == 0 || word&entryUser == 0 || len(found) > maxCandidates {
				return
			}
			switch {
			case level == 0:
				if word&entryAddress == anchor.physical&^4095 {
					found[physical] = true
				}
			case level == 1 && word&entryLarge != 0:
				if word&entryAddress&^4096 == anchor.physical&^(largePage-1) { // bit 12 is a flag there
					found[physical] = true
				}
			case want[word&entryAddress]:
				found[physical] = true
			}
		})
		if err != nil {
			return 0, err
		}
		if len(found) > maxCandidates {
			return 0, fmt.Errorf("more than %d tables could be its %s", maxCandidates, levelNames[level])
		}
		want = found
	}
	var roots []uint64
	for root := range want {
		if kernel.sharesKernel(read, root) && (paging{root, kernel.levels}).has(read, pages) {
			roots = append(roots, root)
		}
	}
	slices.Sort(roots)
	switch {
	case len(roots) == 1, len(roots) == 2 && roots[1] == roots[0]+4096 && roots[0]&4096 == 0: // the kernel's, and beside it the one that it leaves for its programs
		return roots[0], nil
	case len(roots) == 0:
		return 0, errors.New("no tables in its memory lead to all of its pages; it may just have ended, or changed them")
	}
	return 0, fmt.Errorf("%d tables lead to its pages", len(roots))
}

// sharesKernel tells whether a topmost table has the kernel's text where this one has it.
func (p paging) sharesKernel(read tables, root uint64) bool {
	mine, err1 := read(p.root + 511*8)
	its, err2 := read(root + 511*8)
	return err1 == nil && err2 == nil && its&entryPresent != 0 && mine&entryAddress == its&entryAddress
}

// has tells whether these tables lead to all of the pages.
func (p paging) has(read tables, pages []placed) bool {
	for _, page := range pages {
		if p.walk(read, page.virtual).Physical != cloud.HexAddressOf(page.physical) {
			return false
		}
	}
	return true
}

// region is a part of a guest's physical memory that is one range of the hypervisor's addresses.
type region struct{ physical, host, size uint64 }

// chunk is how many pages are looked at at a time.
const chunk = 64 << 10

// words is memoryWords of a hypervisor's process.
func words(host *pagemap.Process, regions []region) memoryWords {
	return func(ctx context.Context, offset uint64, f func(physical, word uint64)) error {
		for _, r := range regions {
			for at := uint64(0); at < r.size; at += chunk * pagemap.PageSize {
				if err := ctx.Err(); err != nil {
					return err
				}
				entries, err := host.Entries(r.host+at, int(min(chunk, (r.size-at)/pagemap.PageSize)))
				if err != nil {
					return err
				}
				var pages []uint64
				for i, e := range entries {
					if e.Present() {
						pages = append(pages, r.host+at+uint64(i)*pagemap.PageSize)
					}
				}
				if err := host.Words(pages, offset, func(page, word uint64) { f(page-r.host+r.physical, word) }); err != nil {
					return err
				}
			}
		}
		return nil
	}
}
