package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/pagemap"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// guestPages asks the guest's program where a process's memory is; nil when no process is asked for.
func (v *view) guestPages(ctx context.Context, look cloud.Look) (*wire.ProcessPages, error) {
	if look.Process == "" {
		return nil, nil
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("machine %s: %w: %s", v.id, machine.ErrLook, fmt.Sprintf(format, args...))
	}
	if !v.vm.GuestAgent {
		return nil, fail("its image has no guest program that could tell of processes; give an --address, which the processor's present tables translate")
	}
	c := v.d.guestOf(v.id)
	if c == nil {
		return nil, fail("its guest is still booting, or its program has ended; try again, or give an --address alone")
	}
	want := wire.Pages{Process: look.Process, Count: int(look.Pages)}
	if look.Address != "" {
		from, err := look.Address.Value()
		if err != nil {
			return nil, fail("%v", err)
		}
		want.From = &from
	}
	got, err := c.Pages(ctx, want)
	if err != nil {
		return nil, fail("%v", err)
	}
	return &got, nil
}

// translate follows the addresses that a look asks for.
func (v *view) translate(ctx context.Context, look cloud.Look, guest *wire.ProcessPages) (*cloud.Translation, error) {
	r, ok := v.registers[look.Processor]
	if !ok {
		return nil, fmt.Errorf("machine %s: %w: it has no processor %d; it has %d, counted from 0", v.id, machine.ErrLook, look.Processor, len(v.registers))
	}
	out := &cloud.Translation{Processor: look.Processor}
	p, none := pagingOf(r)
	read := v.tables(ctx)
	if guest != nil {
		return v.ofProcess(ctx, out, p, none, read, guest, look)
	}
	from, err := look.Address.Value()
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w: %w", v.id, machine.ErrLook, err)
	}
	out.Found = fmt.Sprintf("those of processor %d, as they were when it was looked at", look.Processor)
	if none != nil {
		out.Found = none.Error()
	} else {
		out.Tables = cloud.HexAddressOf(p.root)
	}
	for i := range uint64(max(1, look.Pages)) {
		at := from + i*cloud.PageSize
		if i > 0 {
			at &^= cloud.PageSize - 1
		}
		if at < from {
			break
		}
		chain := cloud.PageChain{Virtual: cloud.HexAddressOf(at)}
		if none != nil {
			if err := v.asked(ctx, &chain, at, look.Processor); err != nil {
				return nil, err
			}
		} else {
			chain = p.walk(read, at)
		}
		if err := v.toServer(ctx, &chain); err != nil {
			return nil, err
		}
		out.Pages = append(out.Pages, chain)
	}
	return out, nil
}

// ofProcess follows pages that the guest told of. Its word on where they are is held against the tables, where these are found.
func (v *view) ofProcess(ctx context.Context, out *cloud.Translation, p paging, none error, read tables, guest *wire.ProcessPages, look cloud.Look) (*cloud.Translation, error) {
	out.PID, out.Process = int64(guest.PID), fmt.Sprintf("%.64s", guest.Name)
	var anchors []placed
	for _, a := range guest.Anchors {
		if e := pagemap.Entry(a.Entry); e.Frame() != 0 {
			anchors = append(anchors, placed{a.Virtual &^ (cloud.PageSize - 1), e.Frame() * cloud.PageSize})
		}
	}
	known := none == nil
	if known {
		root, err := findRoot(ctx, words(v.host, v.regions), read, p, anchors)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			known, out.Found = false, "its tables were not found: "+err.Error()
		default:
			p.root, out.Tables = root, cloud.HexAddressOf(root)
			out.Found = "the process's own, found in the guest's memory by pages that only it has"
		}
	} else {
		out.Found = "the guest's kernel tells the pages; the levels of its tables are shown for x86_64 alone"
	}
	for n, page := range guest.Pages {
		e := pagemap.Entry(page.Entry)
		if at, err := look.Address.Value(); n == 0 && err == nil && at&^(cloud.PageSize-1) == page.Virtual {
			page.Virtual = at
		}
		chain := cloud.PageChain{Virtual: cloud.HexAddressOf(page.Virtual)}
		told := cloud.HexAddress("")
		if e.Frame() != 0 {
			told = cloud.HexAddressOf(e.Frame()*cloud.PageSize + page.Virtual%cloud.PageSize)
		}
		if known {
			chain = p.walk(read, page.Virtual)
			if chain.Problem == "" && chain.Physical != told {
				chain.Problem = fmt.Sprintf("changing: its tables lead to %s, and its kernel just said %s", chain.Physical, orNone(told))
			}
		} else {
			chain.Size, chain.Physical, chain.Flags = cloud.PageSize, told, guestFlags(e)
		}
		chain.Mapping = fmt.Sprintf("%.80s", page.Mapping)
		switch {
		case page.Mapping == "":
			chain.Problem = "nothing is mapped there"
		case e.Swapped():
			chain.Problem = "the guest has it in its swap space"
		case !e.Present():
			chain.Problem = "mapped, and not touched yet: the guest has no page for it"
		case e.Hidden():
			chain.Problem = "the guest's kernel does not tell where it is"
		}
		if err := v.toServer(ctx, &chain); err != nil {
			return nil, err
		}
		out.Pages = append(out.Pages, chain)
	}
	return out, nil
}

func orNone(a cloud.HexAddress) string {
	if a == "" {
		return "nothing"
	}
	return string(a)
}

// guestFlags are what a guest's page map tells where its tables aren't known.
func guestFlags(e pagemap.Entry) []string {
	if !e.Present() {
		return nil
	}
	flags := []string{"present"}
	if e.File() {
		flags = append(flags, "file")
	}
	if e.Exclusive() {
		flags = append(flags, "exclusive")
	}
	return flags
}

// asked has the hypervisor itself translate.
func (v *view) asked(ctx context.Context, chain *cloud.PageChain, at uint64, processor int64) error {
	text, err := v.text(ctx, fmt.Sprintf("gva2gpa %#x", at), processor)
	if err != nil {
		return fmt.Errorf("machine %s: %w", v.id, err)
	}
	if physical, ok := parseGuestPhysical(text); ok {
		chain.Size, chain.Physical = cloud.PageSize, cloud.HexAddressOf(physical)
	} else {
		chain.Problem = fmt.Sprintf("not present: %.80s", text)
	}
	return nil
}

// tables reads the guest's page tables, each page of them once.
func (v *view) tables(ctx context.Context) tables {
	type answer struct {
		page []byte
		err  error
	}
	seen := map[uint64]answer{}
	return func(physical uint64) (uint64, error) {
		at := physical &^ (pagemap.PageSize - 1)
		a, ok := seen[at]
		if !ok {
			var host uint64
			if host, a.err = v.toHost(ctx, at); a.err == nil {
				a.page = make([]byte, pagemap.PageSize)
				a.err = v.host.Read(host, a.page)
			}
			seen[at] = a
		}
		if a.err != nil {
			return 0, a.err
		}
		return word(a.page, physical), nil
	}
}

// toServer goes on from the guest physical address: the hypervisor's, and the server's own.
func (v *view) toServer(ctx context.Context, chain *cloud.PageChain) error {
	if chain.Physical == "" {
		return nil
	}
	physical, err := chain.Physical.Value()
	if err != nil {
		return err
	}
	host, err := v.toHost(ctx, physical)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		chain.Problem = "no memory: " + err.Error() // a device's, or nothing
		return nil
	}
	m, ok := pagemap.Find(v.mappings, host)
	if !ok {
		chain.Problem = "the hypervisor says that it is where it has nothing"
		return nil
	}
	e, err := v.host.Entry(host)
	if err != nil {
		return fmt.Errorf("machine %s: %w", v.id, err)
	}
	chain.HostVirtual = cloud.HexAddressOf(host)
	chain.Backing, chain.HostFlags = backing(m, e), hostFlags(m, e)
	switch {
	case e.Hidden():
		chain.HostFlags = append(chain.HostFlags, "address hidden: nacre has no CAP_SYS_ADMIN")
	case e.Present():
		chain.HostPhysical = cloud.HexAddressOf(e.Frame()*pagemap.PageSize + host%pagemap.PageSize)
		n, err := pagemap.MappedTimes(e.Frame())
		if err == nil {
			chain.Mapped = n
		} else if !errors.Is(err, errors.ErrUnsupported) {
			v.d.log.Debug("a page's mappings can't be counted", "instance", v.id, "error", err)
		}
	}
	if chain.Backing == "template" {
		for _, n := range v.others {
			if n.shares(m, host) {
				chain.SharedWith = append(chain.SharedWith, n.id)
			}
		}
		slices.Sort(chain.SharedWith)
	}
	return nil
}

// backing tells what a page of the hypervisor's is.
func backing(m pagemap.Mapping, e pagemap.Entry) string {
	switch {
	case m.File() && m.Private() && !copied(e):
		return "template"
	case e.Swapped():
		return "swapped"
	case !e.Present():
		return "absent"
	case e.File():
		return "file"
	case m.File():
		return "copied"
	}
	return "anonymous"
}

func hostFlags(m pagemap.Mapping, e pagemap.Entry) []string {
	var flags []string
	for _, f := range []struct {
		is   bool
		name string
	}{{e.Present(), "present"}, {e.Swapped(), "swapped"}, {e.File(), "file"}, {e.Exclusive(), "exclusive"}, {m.Private(), "private"}} {
		if f.is {
			flags = append(flags, f.name)
		}
	}
	return flags
}
