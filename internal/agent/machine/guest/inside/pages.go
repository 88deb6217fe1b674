package inside

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/pagemap"
)

// Pages implements Machine.
func (m *ThisMachine) Pages(want wire.Pages) (wire.ProcessPages, error) { return PagesOf(want) }

// PagesOf finds where a process's memory is.
func PagesOf(want wire.Pages) (wire.ProcessPages, error) {
	var out wire.ProcessPages
	if want.Count < 0 || want.Count > wire.MaxPages {
		return out, fmt.Errorf("%d pages; at most %d can be asked for", want.Count, wire.MaxPages)
	}
	var err error
	if out.PID, out.Name, err = findProcess("/proc", want.Process); err != nil {
		return out, err
	}
	p, err := pagemap.Open(out.PID)
	if err != nil {
		return out, err
	}
	defer p.Close()
	mappings, err := p.Mappings()
	if err != nil {
		return out, err
	}
	if len(mappings) == 0 {
		return out, fmt.Errorf("process %d (%s) is a thread of the kernel and has no memory of its own", out.PID, out.Name)
	}
	if out.Anchors, err = anchors(p, mappings); err != nil {
		return out, err
	}
	if want.From != nil {
		out.Pages, err = rangeOf(p, mappings, *want.From, max(1, want.Count))
	} else {
		out.Pages, err = firstOf(p, mappings, want.Count)
	}
	return out, err
}

// rangeOf are n pages from an address on, those that are not mapped included.
func rangeOf(p *pagemap.Process, mappings []pagemap.Mapping, from uint64, n int) ([]wire.Page, error) {
	from &^= pagemap.PageSize - 1
	entries, err := p.Entries(from, n)
	if err != nil {
		return nil, err
	}
	var out []wire.Page
	for i, e := range entries {
		at := from + uint64(i)*pagemap.PageSize
		if at < from {
			break // past the end of all addresses
		}
		m, ok := pagemap.Find(mappings, at)
		page := wire.Page{Virtual: at, Entry: uint64(e)}
		if ok {
			page.Mapping = nameOf(m)
		}
		out = append(out, page)
	}
	return out, nil
}

// firstOf are the first n pages that are there, or with n 0 the first of each mapping.
func firstOf(p *pagemap.Process, mappings []pagemap.Mapping, n int) ([]wire.Page, error) {
	most := n
	if n == 0 {
		most = wire.MaxPages
	}
	var out []wire.Page
	for _, m := range mappings {
		err := present(p, m, func(at uint64, e pagemap.Entry) bool {
			out = append(out, wire.Page{Virtual: at, Entry: uint64(e), Mapping: nameOf(m)})
			return n != 0 && len(out) < most
		})
		if err != nil {
			return nil, err
		}
		if len(out) >= most {
			break
		}
	}
	return out, nil
}

// look is how many entries are read at a time, lookAt how many of a mapping are looked at: mappings may be terabytes of nothing.
const (
	look   = 4096
	lookAt = 1 << 20
)

// present calls f for the pages of a mapping that are there, until it returns false.
func present(p *pagemap.Process, m pagemap.Mapping, f func(at uint64, e pagemap.Entry) bool) error {
	end := min(m.End, m.Start+lookAt*pagemap.PageSize)
	for at := m.Start; at < end; at += look * pagemap.PageSize {
		entries, err := p.Entries(at, int(min(look, (end-at)/pagemap.PageSize)))
		if err != nil {
			return err
		}
		for i, e := range entries {
			if e.Present() && !f(at+uint64(i)*pagemap.PageSize, e) {
				return nil
			}
		}
	}
	return nil
}

// anchors are pages of the process's own that nobody else maps: its stack has some.
func anchors(p *pagemap.Process, mappings []pagemap.Mapping) ([]wire.Page, error) {
	var out []wire.Page
	for i := len(mappings) - 1; i >= 0 && len(out) < wire.MaxAnchors; i-- { // the stack is near the end
		m := mappings[i]
		if m.File() || !m.Private() {
			continue
		}
		err := present(p, m, func(at uint64, e pagemap.Entry) bool {
			if e.Exclusive() && !e.File() && !e.Hidden() {
				out = append(out, wire.Page{Virtual: at, Entry: uint64(e), Mapping: nameOf(m)})
			}
			return len(out) < wire.MaxAnchors
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func nameOf(m pagemap.Mapping) string {
	name := m.Name
	if len(name) > 60 {
		name = "…" + name[len(name)-59:]
	}
	return strings.TrimSpace(m.Permissions + " " + name)
}

// findProcess finds a process by its id or its name.
func findProcess(proc, word string) (pid int, name string, err error) {
	if n, err := strconv.Atoi(word); err == nil {
		name, err := commandOf(proc, n)
		if err != nil {
			return 0, "", fmt.Errorf("there is no process %d", n)
		}
		return n, name, nil
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return 0, "", err
	}
	var found []string
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if name, err := commandOf(proc, n); err == nil && name == word {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return 0, "", fmt.Errorf("no process is called %.80q", word)
	case 1:
		n, _ := strconv.Atoi(found[0])
		return n, word, nil
	}
	if len(found) > 10 {
		found = append(found[:10], "…")
	}
	return 0, "", fmt.Errorf("several processes are called %.80q: %s; give the id of one", word, strings.Join(found, ", "))
}

func commandOf(proc string, pid int) (string, error) {
	b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "comm"))
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(string(b))
	if name == "" {
		return "", errors.New("a process without a name")
	}
	return name, nil
}
