package qemu

import (
	"context"
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/pagemap"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Where the boards have their memory (QEMU's hw/i386/pc_piix.c, hw/arm/virt.c). What has no room below the devices of a PC begins at 4 GiB.
const (
	armMemory  = 1 << 30
	pcMost     = 0xe0000000 // from this size on …
	pcLow      = 0xc0000000 // … this much is below the devices
	pcHigh     = 4 << 30
	maxPlugged = 64 // devices that are looked at
	// maxMemorySize is more than any machine has, in bytes: the hypervisor's word is an outside one.
	maxMemorySize = 1 << 45
)

// findRegions finds where the guest's memory is in the hypervisor's.
func (v *view) findRegions(ctx context.Context, size uint64) error {
	var list []region
	switch {
	case v.vm.Architecture != "x86_64":
		list = []region{{physical: armMemory, size: size}}
	case size >= pcMost:
		list = []region{{size: pcLow}, {physical: pcHigh, size: size - pcLow}}
	default:
		list = []region{{size: size}}
	}
	var plugged []struct {
		Data struct {
			Address uint64 `json:"memaddr"`
			Size    uint64 `json:"max-size"`
		}
	}
	var extra []region
	if err := v.m.Run(ctx, "query-memory-devices", nil, &plugged); err == nil && len(plugged) <= maxPlugged {
		for _, p := range plugged {
			if p.Data.Size > 0 && p.Data.Size <= maxMemorySize {
				extra = append(extra, region{physical: p.Data.Address, size: p.Data.Size})
			}
		}
	}
	list = append(list, extra...)
	boards := len(list) - len(extra)
	for i, r := range list {
		host, err := v.toHost(ctx, r.physical)
		if err == nil {
			if _, ok := pagemap.Find(v.mappings, host); !ok || host%pagemap.PageSize != 0 {
				err = fmt.Errorf("the hypervisor has none at %#x", host)
			}
		}
		switch {
		case err == nil:
			v.regions = append(v.regions, region{physical: r.physical, host: host, size: r.size &^ (pagemap.PageSize - 1)})
		case i < boards || ctx.Err() != nil:
			return fmt.Errorf("find its memory: %w", err)
		}
	}
	return nil
}

// toHost is the hypervisor's address of a guest physical one.
func (v *view) toHost(ctx context.Context, physical uint64) (uint64, error) {
	text, err := v.text(ctx, fmt.Sprintf("gpa2hva %#x", physical), -1)
	if err != nil {
		return 0, err
	}
	return parseHostAddress(text)
}

// memory sums up where the guest's memory is.
func (v *view) memory(ctx context.Context, s machine.Spec) (cloud.GuestMemory, error) {
	size := s.VM.Memory
	if size == 0 {
		size = s.Resources.Memory
	}
	out := cloud.GuestMemory{Size: size}
	var balloon struct{ Actual int64 }
	if v.m.Run(ctx, "query-balloon", nil, &balloon) == nil {
		out.Balloon = balloon.Actual
	}
	if err := v.findRegions(ctx, uint64(size)); err != nil {
		return out, fmt.Errorf("machine %s: %w", v.id, err)
	}
	for _, r := range v.regions {
		for at := uint64(0); at < r.size; at += chunk * pagemap.PageSize {
			if err := ctx.Err(); err != nil {
				return out, err
			}
			entries, err := v.host.Entries(r.host+at, int(min(chunk, (r.size-at)/pagemap.PageSize)))
			if err != nil {
				return out, fmt.Errorf("machine %s: %w", v.id, err)
			}
			for _, e := range entries {
				if e.Present() {
					out.Resident += pagemap.PageSize
					if e.File() {
						out.Shared += pagemap.PageSize
					} else {
						out.Copied += pagemap.PageSize
					}
				}
			}
		}
	}
	for _, n := range v.others {
		if slices.ContainsFunc(v.mappings, func(m pagemap.Mapping) bool { return v.isTemplate(m) && n.has(m) }) {
			out.SharedWith = append(out.SharedWith, n.id)
		}
	}
	slices.Sort(out.SharedWith)
	return out, nil
}

// isTemplate tells whether a mapping of the hypervisor's is of a template's memory: a file mapped privately, where the guest's memory is.
func (v *view) isTemplate(m pagemap.Mapping) bool {
	return m.File() && m.Private() && slices.ContainsFunc(v.regions, func(r region) bool { return m.Start < r.host+r.size && r.host < m.End })
}

// has tells whether another machine maps the same file.
func (n neighbour) has(m pagemap.Mapping) bool {
	return slices.ContainsFunc(n.mappings, func(o pagemap.Mapping) bool { return o.Inode == m.Inode && o.Device == m.Device })
}

// copied tells whether a page of a private mapping of a file is the process's own by now.
func copied(e pagemap.Entry) bool { return (e.Present() || e.Swapped()) && !e.File() }

// shares tells whether a page of a file is still the same for another machine, which maps the file too.
func (n neighbour) shares(m pagemap.Mapping, address uint64) bool {
	at := m.Offset + (address - m.Start)
	for _, o := range n.mappings {
		if o.Inode != m.Inode || o.Device != m.Device || at < o.Offset || at-o.Offset >= o.End-o.Start {
			continue
		}
		e, err := n.host.Entry(o.Start + (at - o.Offset))
		return err == nil && !copied(e)
	}
	return false
}
