package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/pagemap"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// inspectLimit is how long a look may take: the monitor is taken meanwhile.
const inspectLimit = 20 * time.Second

var _ machine.Inspector = (*Driver)(nil)

// view is one look at a machine under way.
type view struct {
	d         *Driver
	id        cloud.InstanceID
	vm        *machine.VM
	m         *qmp.Client
	host      *pagemap.Process // the hypervisor
	mappings  []pagemap.Mapping
	others    []neighbour
	regions   []region
	registers map[int64]registers // of the processors
}

// neighbour is another machine, whose memory may be the same.
type neighbour struct {
	id       cloud.InstanceID
	host     *pagemap.Process
	mappings []pagemap.Mapping
}

// Inspect implements machine.Inspector.
func (d *Driver) Inspect(ctx context.Context, id cloud.InstanceID, look cloud.Look) (cloud.Inspection, error) {
	s, err := d.Running(id)
	if err != nil {
		return cloud.Inspection{}, err
	}
	out, err := d.Keeper.Inspect(ctx, id)
	if err != nil {
		return out, err
	}
	out.Isolation, out.Processes = cloud.IsolationVM, nil // the hypervisor's own are no user's
	ctx, cancel := context.WithTimeout(ctx, inspectLimit)
	defer cancel()
	v := view{d: d, id: id, vm: s.VM}
	if v.host, err = pagemap.Open(int(out.Footprint.PID)); err != nil {
		return out, fmt.Errorf("machine %s: %w", id, err)
	}
	defer v.host.Close()
	if v.mappings, err = v.host.Mappings(); err != nil {
		return out, fmt.Errorf("machine %s: %w", id, err)
	}
	v.neighbours()
	defer func() {
		for _, n := range v.others {
			n.host.Close()
		}
	}()
	// Before the monitor is taken: the guest may take its time.
	guest, err := v.guestPages(ctx, look)
	if err != nil {
		return out, err
	}
	err = d.withMonitor(ctx, id, func(m *qmp.Client) error {
		v.m = m
		if out.VM, err = v.machine(ctx, s); err != nil {
			return err
		}
		if !look.Wants() {
			return nil
		}
		out.Translation, err = v.translate(ctx, look, guest)
		return err
	})
	return out, err
}

// text asks the hypervisor what it only tells people.
func (v *view) text(ctx context.Context, command string, processor int64) (string, error) {
	var out string
	args := map[string]any{"command-line": command}
	if processor >= 0 {
		args["cpu-index"] = processor
	}
	if err := v.m.Run(ctx, "human-monitor-command", args, &out); err != nil {
		return "", err
	}
	if len(out) > maxText {
		return "", fmt.Errorf("the hypervisor answers %q with more than %d bytes", command, maxText)
	}
	return out, nil
}

// machine tells what the virtual machine is and does. Figures that this hypervisor doesn't have are left out.
func (v *view) machine(ctx context.Context, s machine.Spec) (*cloud.InsideVM, error) {
	out := &cloud.InsideVM{Architecture: s.VM.Architecture, Accelerator: s.VM.Accelerator, Started: "booted", Firmware: "none", Model: modelOf(s.VM), Devices: "paravirtual",
		Guest: "none"}
	if s.VM.Firmware != cloud.FirmwareNone {
		out.Firmware = string(s.VM.Firmware)
	}
	if s.VM.Devices == cloud.DevicesEmulated {
		out.Devices = string(s.VM.Devices)
	}
	if s.VM.Forked {
		out.Started = "forked"
	}
	if s.VM.GuestAgent {
		out.Guest = "booting"
		if v.d.guestOf(v.id) != nil {
			out.Guest = "in touch"
		}
	}
	var st struct{ Status string }
	if err := v.m.Run(ctx, "query-status", nil, &st); err != nil {
		return nil, fmt.Errorf("machine %s: %w", v.id, err)
	}
	out.State = st.Status
	var err error
	if out.Processors, err = v.processors(ctx); err != nil {
		return nil, fmt.Errorf("machine %s: look at its processors: %w", v.id, err)
	}
	var pci buses
	if v.m.Run(ctx, "query-pci", nil, &pci) == nil {
		out.Bus = pci.list()
	}
	if s.VM.Accelerator == "kvm" {
		var st statistics
		if v.m.Run(ctx, "query-stats", map[string]any{"target": "vcpu"}, &st) == nil { // since QEMU 7.1
			out.Exits = st.exits()
		}
	} else {
		var jit struct {
			Text string `json:"human-readable-text"`
		}
		if v.m.Run(ctx, "x-query-jit", nil, &jit) == nil { // since QEMU 7.0
			out.Translator = parseTranslator(jit.Text)
		}
	}
	out.Memory, err = v.memory(ctx, s)
	return out, err
}

// processors are the machine's, as they are now.
func (v *view) processors(ctx context.Context) ([]cloud.Processor, error) {
	var list []struct {
		Index  int64 `json:"cpu-index"`
		Thread int64 `json:"thread-id"` // as the hypervisor sees it, inside its namespace
	}
	if err := v.m.Run(ctx, "query-cpus-fast", nil, &list); err != nil {
		return nil, err
	}
	if len(list) > 1024 {
		return nil, fmt.Errorf("the hypervisor has %d of them", len(list))
	}
	threads := threadsOf(v.host.PID)
	v.registers = map[int64]registers{}
	var out []cloud.Processor
	for _, c := range list {
		p := cloud.Processor{Number: c.Index, Thread: threads[c.Thread]}
		text, err := v.text(ctx, "info registers", c.Index)
		if err != nil {
			return nil, err
		}
		r, err := parseRegisters(text)
		if err != nil {
			return nil, err
		}
		v.registers[c.Index] = r
		p.Privilege, p.Mode, p.Halted, p.At = r.privilege, "kernel", r.halted, cloud.HexAddressOf(r.at)
		if r.user {
			p.Mode = "user"
		}
		if t, err := pagingOf(r); err == nil {
			p.Tables = cloud.HexAddressOf(t.root)
		}
		if p.Thread != 0 {
			p.CPUTime = cpuTime(v.host.PID, p.Thread)
		}
		out = append(out, p)
	}
	return out, nil
}

// threadsOf are the ids of a process's threads by those that they have in the process's own namespace.
func threadsOf(pid int) map[int64]int64 {
	out := map[int64]int64{}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "task")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		tid, err := strconv.ParseInt(e.Name(), 10, 64)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "status"))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(b)) {
			ids, ok := strings.CutPrefix(line, "NSpid:")
			if f := strings.Fields(ids); ok && len(f) > 0 {
				if own, err := strconv.ParseInt(f[len(f)-1], 10, 64); err == nil {
					out[own] = tid
				}
			}
		}
	}
	return out
}

// ticks is how many clock ticks /proc counts a second: Linux has had no other number on these architectures.
const ticks = 100

// cpuTime is how long a thread ran, in milliseconds.
func cpuTime(pid int, tid int64) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid))
	if err != nil {
		return 0
	}
	return parseCPUTime(string(b))
}

func parseCPUTime(stat string) int64 {
	_, rest, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, err1 := strconv.ParseInt(f[11], 10, 48)
	system, err2 := strconv.ParseInt(f[12], 10, 48)
	if err1 != nil || err2 != nil {
		return 0
	}
	return (user + system) * (1000 / ticks)
}

// neighbours opens the other machines, whose pages may be the same as this one's. One that just ends is none.
func (v *view) neighbours() {
	for id, pid := range v.d.Others(v.id) {
		host, err := pagemap.Open(pid)
		if err != nil {
			continue
		}
		n := neighbour{id: id, host: host}
		if n.mappings, err = host.Mappings(); err != nil {
			host.Close()
			continue
		}
		v.others = append(v.others, n)
	}
}
