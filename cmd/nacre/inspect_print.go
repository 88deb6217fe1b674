package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// page is what is printed: sections with a title, and tables below.
type page struct {
	bytes.Buffer
	rows *tabwriter.Writer
}

func (p *page) section(title string) {
	if p.Len() > 0 {
		p.WriteByte('\n')
	}
	fmt.Fprintln(p, title)
	p.rows = tabwriter.NewWriter(p, 0, 8, 2, ' ', 0)
}

// row adds cells to the section's table.
func (p *page) row(cells ...any) {
	for i, c := range cells {
		if i == 0 {
			fmt.Fprint(p.rows, "  ")
		} else {
			fmt.Fprint(p.rows, "\t")
		}
		fmt.Fprint(p.rows, strings.ReplaceAll(fmt.Sprint(c), "\t", " "))
	}
	fmt.Fprintln(p.rows)
}

func (p *page) end() { p.rows.Flush() }

// plain writes text without what would steer a terminal: names of processes and files are the guest's to choose.
func plain(w io.Writer, text []byte) error {
	_, err := w.Write(bytes.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text))
	return err
}

// printInspection prints what was found for people.
func printInspection(w io.Writer, i instanceView, found cloud.Inspection) error {
	p := &page{}
	p.section("INSTANCE")
	p.row("id", found.Instance)
	p.row("name", dash(i.Name))
	p.row("isolation", found.Isolation)
	p.row("engine", found.Engine)
	p.row("image", dash(string(found.ImageID)))
	if i.Mounts != "" {
		p.row("host directories", i.Mounts)
	}
	p.end()
	if t := found.Translation; t != nil {
		p.translation(*t)
		return plain(w, p.Bytes())
	}
	if found.VM != nil {
		p.machine(*found.VM)
	}
	if found.Footprint != nil {
		p.footprint(*found.Footprint)
	}
	if found.ControlGroup != nil {
		p.controlGroup(*found.ControlGroup)
	}
	if found.Confinement != nil {
		title := "CONFINEMENT"
		if found.VM != nil {
			title = "CONFINEMENT OF THE HYPERVISOR"
		}
		p.confinement(title, *found.Confinement)
	}
	if len(found.Processes) > 0 {
		p.processes(found.Processes, found.MoreRunning)
	}
	if found.Root != nil {
		p.root(*found.Root)
	}
	return plain(w, p.Bytes())
}

func (p *page) machine(vm cloud.InsideVM) {
	p.section("VIRTUAL MACHINE")
	p.row("executed by", map[string]string{"kvm": "KVM: the processor itself", "tcg": "TCG: QEMU's translator"}[vm.Accelerator])
	p.row("because", dash(vm.Reason))
	p.row("processor", vm.Architecture+", as QEMU's "+vm.Model)
	p.row("devices", vm.Devices)
	p.row("began", vm.Started)
	starts := vm.Firmware
	if vm.KernelID != "" {
		starts = fmt.Sprint(vm.KernelID)
		if vm.RamdiskID != "" {
			starts += ", " + string(vm.RamdiskID)
		}
	}
	p.row("starts with", starts)
	p.row("guest program", vm.Guest)
	p.row("state", vm.State)
	p.end()

	p.section("PROCESSORS")
	p.row("NUMBER", "PRIVILEGE", "MODE", "HALTED", "NEXT INSTRUCTION", "PAGE TABLES", "HOST THREAD", "CPU TIME")
	for _, c := range vm.Processors {
		halted := "-"
		if c.Halted != nil {
			halted = map[bool]string{true: "yes", false: "no"}[*c.Halted]
		}
		p.row(c.Number, c.Privilege, c.Mode, halted, dash(string(c.At)), dash(string(c.Tables)), orDash(c.Thread), milliseconds(c.CPUTime))
	}
	p.end()
	if t := vm.Translator; t != nil {
		p.section("TRANSLATOR")
		p.row("blocks translated", t.Blocks)
		p.row("code", size(t.CodeBytes)+" of "+size(t.CacheBytes))
		p.row("invalidated, flushed", fmt.Sprint(t.Invalidated, ", ", t.Flushes, " times"))
		p.end()
	}
	if len(vm.Exits) > 0 {
		p.section("EXITS TO THE HOST")
		for _, e := range vm.Exits {
			p.row(e.Name, e.Value)
		}
		p.end()
	}
	m := vm.Memory
	p.section("GUEST MEMORY")
	p.row("size", size(m.Size))
	if m.Balloon > 0 {
		p.row("after the balloon", size(m.Balloon))
	}
	if m.Resident > 0 {
		p.row("on the server", size(m.Resident))
		p.row("the template's, unwritten", size(m.Shared))
		p.row("its own", size(m.Copied))
		p.row("forked beside", instances(m.SharedWith))
	}
	p.end()
	p.section("BUS")
	for _, d := range vm.Bus {
		p.row(d.Slot, d.ID, map[bool]string{true: "paravirtual", false: "emulated"}[d.Paravirtual], d.Class)
	}
	p.end()
}

func (p *page) footprint(f cloud.Footprint) {
	p.section("MEMORY ON THE SERVER")
	p.row("resident (RSS)", size(f.Resident))
	p.row("share (PSS)", size(f.Share))
	p.row("private", size(f.Private))
	p.row("swapped", size(f.Swapped))
	p.row("processes", fmt.Sprint(f.Processes, ", the first is ", f.PID))
	p.end()
}

func (p *page) controlGroup(c cloud.ControlGroup) {
	p.section(fmt.Sprintf("CONTROL GROUP (version %d)", c.Version))
	if c.Path != "" {
		p.row("path", c.Path)
	}
	quota := "no quota"
	if c.CPUQuota > 0 {
		quota = fmt.Sprintf("%g processors", c.CPUQuota)
	}
	p.row("CPU", quota, fmt.Sprint("weight ", c.CPUWeight), "used "+milliseconds(c.CPUTime))
	p.row("throttled", fmt.Sprintf("%d of %d periods", c.Throttled, c.Periods), milliseconds(c.ThrottledMs))
	p.row("memory", limit(c.MemoryLimit, size), "used "+size(c.Memory), "peak "+size(c.MemoryPeak), fmt.Sprint(c.OOMKills, " killed for it"))
	p.row("processes", limit(c.PIDLimit, func(n int64) string { return fmt.Sprint(n) }), fmt.Sprint("used ", c.PIDs))
	p.row("disks", fmt.Sprintf("%d reads, %s", c.Reads, size(c.BytesRead)), fmt.Sprintf("%d writes, %s", c.Writes, size(c.BytesWrote)))
	p.end()
}

func limit(n int64, show func(int64) string) string {
	if n == 0 {
		return "no limit"
	}
	return "limit " + show(n)
}

func (p *page) confinement(title string, c cloud.Confinement) {
	p.section(title)
	for _, n := range c.Namespaces {
		whose := "its own"
		if !n.Own {
			whose = "the server's"
		}
		if len(n.SharedWith) > 0 {
			whose = "shared with " + instances(n.SharedWith)
		}
		p.row(n.Kind+" namespace", whose, orDash(n.Inode))
	}
	for _, ids := range []struct {
		name string
		list []cloud.IDMapping
	}{{"users", c.UserIDs}, {"groups", c.GroupIDs}} {
		for _, m := range ids.list {
			host := ""
			if m.Host > 0 {
				host = fmt.Sprintf("are %d to %d on the server", m.Host, m.Host+m.Count-1)
			}
			p.row(ids.name, fmt.Sprintf("%d to %d", m.Inside, m.Inside+m.Count-1), host)
		}
	}
	p.row("system calls", c.Seccomp, map[bool]string{true: "no new privileges", false: ""}[c.NoNewPrivileges])
	p.end()
	fmt.Fprintf(p, "  capabilities: %s\n", names(c.Capabilities))
	if !sameNames(c.Capabilities, c.Bounding) {
		fmt.Fprintf(p, "  at most:      %s\n", names(c.Bounding))
	}
}

func names(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.ToLower(strings.ReplaceAll(strings.Join(list, " "), "CAP_", ""))
}

func sameNames(a, b []string) bool { return strings.Join(a, " ") == strings.Join(b, " ") }

func (p *page) processes(list []cloud.Process, more int64) {
	p.section("PROCESSES")
	p.row("PID", "PARENT", "ON THE SERVER", "PSS", "NAME")
	for _, c := range list {
		p.row(c.PID, orDash(c.Parent), orDash(c.HostPID), size(c.Share), c.Name)
	}
	p.end()
	if more > 0 {
		fmt.Fprintf(p, "  and %d more\n", more)
	}
}

func (p *page) root(r cloud.RootMakeup) {
	p.section("ROOT")
	p.row("written by it", size(r.Written), "copied on the first write, or new")
	if r.Disk != "" {
		p.row("over", size(r.DiskSize), r.Disk+", for all instances of the image")
	}
	p.end()
	if len(r.Layers) == 0 {
		return
	}
	p.section("LAYERS, the topmost first")
	p.row("CONTENT", "SIZE", "IMAGES", "SHARED WITH")
	for n := len(r.Layers) - 1; n >= 0; n-- {
		l := r.Layers[n]
		digest := strings.TrimPrefix(l.Digest, "sha256:")
		p.row(digest[:min(12, len(digest))], size(l.Size), dash(strings.Join(l.Images, " ")), instances(l.SharedWith))
	}
	p.end()
}

// translation draws a page's whole way, or a table of several.
func (p *page) translation(t cloud.Translation) {
	p.section("PAGE TABLES")
	if t.PID > 0 {
		p.row("process", fmt.Sprintf("%d (%s)", t.PID, t.Process))
	} else {
		p.row("processor", t.Processor)
	}
	p.row("begin at", dash(string(t.Tables)))
	p.row("found", t.Found)
	p.end()
	if len(t.Pages) == 1 {
		p.chain(t.Pages[0])
		return
	}
	p.section("PAGES")
	p.row("GUEST VIRTUAL", "GUEST PHYSICAL", "HOST VIRTUAL", "HOST PHYSICAL", "FLAGS", "PAGE", "SHARED WITH", "MAPPING")
	for _, c := range t.Pages {
		what := dash(c.Backing)
		if c.Problem != "" {
			what = c.Problem
		}
		p.row(c.Virtual, dash(string(c.Physical)), dash(string(c.HostVirtual)), dash(string(c.HostPhysical)), dash(short(c.Flags)), what, instances(c.SharedWith), dash(c.Mapping))
	}
	p.end()
	fmt.Fprintln(p, "  p present, w writable, u user, a accessed, d dirty, g global, l large, x no-execute, f file, e exclusive")
}

// short is flags as letters.
func short(flags []string) string {
	var b strings.Builder
	for _, f := range flags {
		if f == "no-execute" || f == "exclusive" {
			b.WriteByte(map[string]byte{"no-execute": 'x', "exclusive": 'e'}[f])
			continue
		}
		b.WriteByte(f[0])
	}
	return b.String()
}

func (p *page) chain(c cloud.PageChain) {
	if len(c.Levels) > 0 {
		p.section("GUEST'S LEVELS")
		p.row("LEVEL", "TABLE AT", "INDEX", "ENTRY", "FLAGS")
		for _, l := range c.Levels {
			p.row(l.Level, l.Table, l.Index, l.Entry, strings.Join(l.Flags, " "))
		}
		p.end()
	}
	p.section("CHAIN")
	p.row("guest virtual", c.Virtual, c.Mapping)
	if c.Physical != "" {
		p.row("guest physical", c.Physical, strings.Join(append([]string{"page of " + size(c.Size)}, c.Flags...), " "))
	}
	if c.HostVirtual != "" {
		p.row("host virtual", c.HostVirtual, "in the hypervisor's process")
		mapped := ""
		if c.Mapped > 0 {
			mapped = fmt.Sprintf("mapped %d times", c.Mapped)
		}
		p.row("host physical", dash(string(c.HostPhysical)), strings.TrimSpace(strings.Join(c.HostFlags, " ")+"  "+mapped))
		p.row("the page is", backings[c.Backing])
		p.row("shared with", instances(c.SharedWith))
	}
	p.end()
	if c.Problem != "" {
		fmt.Fprintf(p, "  ends here: %s\n", c.Problem)
	}
}

// backings say what a page of the hypervisor's is.
var backings = map[string]string{
	"template":  "the template's: not written since the fork",
	"copied":    "its own: copied from the template when it was written",
	"anonymous": "its own",
	"file":      "a file's",
	"absent":    "not there: never touched since the start",
	"swapped":   "in the server's swap space",
}

func instances(ids []cloud.InstanceID) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = string(id)
	}
	return dash(strings.Join(list, " "))
}

func orDash(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func milliseconds(n int64) string { return (time.Duration(n) * time.Millisecond).String() }

// size is bytes as people read them.
func size(n int64) string {
	switch {
	case n == 0:
		return "0"
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	case n < 10<<30:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}
