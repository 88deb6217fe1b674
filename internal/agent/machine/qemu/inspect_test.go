package qemu

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
	"github.com/nacre-cloud/nacre/internal/agent/machine/pagemap"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

func (h *host) inspect(id cloud.InstanceID, look cloud.Look) cloud.Inspection {
	h.t.Helper()
	got, err := h.d.Inspect(within(h.t), id, look)
	if err != nil {
		h.t.Fatal(err)
	}
	return got
}

// value reads an address that has to be there.
func value(t *testing.T, a cloud.HexAddress) uint64 {
	t.Helper()
	v, err := a.Value()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAnAddressOfAProcessLeadsToTheServersMemory(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	st := h.start(s)
	machinetest.Inspection(t, h.inspect(s.ID, cloud.Look{}), st)

	vm := h.inspect(s.ID, cloud.Look{}).VM
	if vm.Accelerator != "tcg" || vm.Started != "booted" || vm.State != "running" || vm.Guest != "in touch" || len(vm.Processors) != 1 || vm.Translator == nil || vm.Translator.Blocks == 0 {
		t.Errorf("%+v", vm)
	}
	if p := vm.Processors[0]; p.Thread == 0 || p.CPUTime == 0 || p.Halted == nil || !strings.HasPrefix(p.Privilege, "ring ") || p.Tables == "" {
		t.Errorf("%+v", p)
	}
	if m := vm.Memory; m.Size != s.Resources.Memory || m.Resident == 0 || m.Shared != 0 || m.Copied != m.Resident {
		t.Errorf("%+v", m)
	}
	if !slices.ContainsFunc(vm.Bus, func(d cloud.PCIDevice) bool { return d.Class == "disk" && d.Paravirtual }) {
		t.Errorf("%+v", vm.Bus)
	}

	// A process with a marker in its environment, whose address the guest's kernel tells (field 50 of its stat).
	marker := "MARK=" + string(s.ID) + "-is-here"
	out := h.sh(s.ID, "/bin/busybox mkfifo /tmp/f; "+marker+" /bin/head -c 1 /tmp/f >/dev/null 2>&1 </dev/null & while [ $(cat /proc/$!/comm) != head ]; do sleep 0.1; done; echo $!; cat /proc/$!/stat; cat /proc/$!/environ")
	pid, rest, _ := strings.Cut(out, "\n")
	stat, environ, _ := strings.Cut(rest, "\n")
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	env, err := strconv.ParseUint(fields[50-3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	within := strings.Index(environ, marker)
	if within < 0 {
		t.Fatalf("%q", environ)
	}
	at := env + uint64(within)
	for _, process := range []string{pid, "head"} {
		look := cloud.Look{Process: process, Address: cloud.HexAddressOf(at)}
		tr := h.inspect(s.ID, look).Translation
		if tr == nil || tr.Process != "head" || strconv.FormatInt(tr.PID, 10) != pid || len(tr.Pages) != 1 {
			t.Fatalf("%+v", tr)
		}
		page := tr.Pages[0]
		if page.Problem != "" || page.Mapping != "rw-p [stack]" || page.Backing != "anonymous" || tr.Tables == "" || len(page.Levels) < 4 {
			t.Errorf("%+v, %+v", tr, page)
		}
		b := make([]byte, 16)
		p := pagemap.Process{PID: st.PID}
		if page.Virtual != look.Address || value(t, page.Physical)%4096 != at%4096 {
			t.Errorf("%+v is not at %s", page, look.Address)
		}
		if err := p.Read(value(t, page.HostVirtual), b); err != nil || string(b) != marker[:16] && at&4095 < 4080 {
			t.Errorf("where the chain ends is %q, %v", b, err)
		}
		if page.HostPhysical == "" && !slices.ContainsFunc(page.HostFlags, func(f string) bool { return strings.Contains(f, "CAP_SYS_ADMIN") }) {
			t.Errorf("no physical address, and no word why: %+v", page)
		}
	}

	// The kernel's text, by the processor's tables, is where the hypervisor itself finds it.
	text := "0x" + h.sh(s.ID, "sed -n 's/ T _text$//p' /proc/kallsyms")
	tr := h.inspect(s.ID, cloud.Look{Address: cloud.HexAddress(text), Pages: 3}).Translation
	if len(tr.Pages) != 3 || tr.Pages[2].Virtual != cloud.HexAddressOf(value(t, cloud.HexAddress(text))+8192) {
		t.Fatalf("%+v", tr)
	}
	for _, page := range tr.Pages {
		var said string
		err := h.d.withMonitor(t.Context(), s.ID, func(m *qmp.Client) error {
			return m.Run(t.Context(), "human-monitor-command", map[string]any{"command-line": "gva2gpa " + string(page.Virtual)}, &said)
		})
		if physical, ok := parseGuestPhysical(said); err != nil || !ok || cloud.HexAddressOf(physical) != page.Physical || page.Problem != "" || slices.Contains(page.Flags, "user") {
			t.Errorf("%+v, and the hypervisor says %q, %v", page, said, err)
		}
	}

	// One page of each mapping, and the first ones that are there.
	if tr := h.inspect(s.ID, cloud.Look{Process: pid}).Translation; len(tr.Pages) < 3 || tr.Pages[0].Mapping == tr.Pages[1].Mapping {
		t.Errorf("%+v", tr.Pages)
	}
	if tr := h.inspect(s.ID, cloud.Look{Process: pid, Pages: 5}).Translation; len(tr.Pages) != 5 {
		t.Errorf("%+v", tr.Pages)
	}
	if tr := h.inspect(s.ID, cloud.Look{Process: pid, Address: "0x10"}).Translation; len(tr.Pages) != 1 || tr.Pages[0].Problem != "nothing is mapped there" || tr.Pages[0].HostVirtual != "" {
		t.Errorf("%+v", tr.Pages)
	}
	for look, why := range map[cloud.Look]string{{Process: "nobody"}: "no process is called", {Process: "99999"}: "no process 99999", {Process: "2"}: "thread of the kernel",
		{Address: "0x1", Processor: 9}: "no processor 9", {Address: "here"}: "hexadecimal"} {
		if _, err := h.d.Inspect(t.Context(), s.ID, look); !errors.Is(err, machine.ErrLook) || !strings.Contains(err.Error(), why) {
			t.Errorf("%+v: %v", look, err)
		}
	}
	if err := h.d.Stop(t.Context(), s.ID, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.d.Inspect(t.Context(), s.ID, cloud.Look{}); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("stopped: %v", err)
	}
}

func TestAPageIsSharedWithACloneUntilItIsWritten(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	template, err := h.d.Freeze(within(t), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer template.Close()
	frozen, err := os.ReadFile(s.VM.Disks[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	var ids []cloud.InstanceID
	for range 2 {
		c := h.spec()
		if err := os.WriteFile(c.VM.Disks[0].Path, frozen, 0o600); err != nil {
			t.Fatal(err)
		}
		c.VM.Kernel, c.VM.Initrd, c.Resources = s.VM.Kernel, s.VM.Initrd, s.Resources
		if _, err := h.d.StartFrom(within(t), c, template); err != nil {
			t.Fatal(err)
		}
		h.await(c.ID)
		ids = append(ids, c.ID)
	}
	one, two := ids[0], ids[1]
	vm := h.inspect(one, cloud.Look{}).VM
	if vm.Started != "forked" || vm.Memory.Shared == 0 || vm.Memory.Copied == 0 || !slices.Equal(vm.Memory.SharedWith, []cloud.InstanceID{two}) {
		t.Errorf("%+v", vm.Memory)
	}
	// The guest's program runs in both since before they were told apart: of its data some pages are still the same.
	data := func(id cloud.InstanceID, look cloud.Look) []cloud.PageChain {
		look.Process = "nacre-guest"
		return h.inspect(id, look).Translation.Pages
	}
	var page cloud.PageChain
	first := data(one, cloud.Look{})
	writable := slices.IndexFunc(first, func(p cloud.PageChain) bool {
		return strings.HasPrefix(p.Mapping, "rw-p") && strings.HasSuffix(p.Mapping, "/nacre-guest")
	})
	if writable < 0 {
		t.Fatalf("%+v", first)
	}
	for _, p := range data(one, cloud.Look{Address: first[writable].Virtual, Pages: 128}) {
		if slices.Equal(p.SharedWith, []cloud.InstanceID{two}) && p.HostPhysical != "" {
			page = p
		}
	}
	if page.Virtual == "" {
		t.Fatal("no page of the guest's program is shared")
	}
	its := data(two, cloud.Look{Address: page.Virtual})[0]
	if its.HostPhysical != "" && its.HostPhysical != page.HostPhysical || its.Physical != page.Physical || !slices.Equal(its.SharedWith, []cloud.InstanceID{one}) || page.Backing != "template" {
		t.Errorf("the same page is two:\n%+v\n%+v", page, its)
	}
	// Written, with what it holds already, by one of them.
	at := value(t, page.Virtual)
	h.sh(one, fmt.Sprintf("cd /bin; b='busybox dd bs=1 count=1'; $b if=/proc/1/mem skip=%d of=/tmp/byte 2>/dev/null && $b if=/tmp/byte of=/proc/1/mem seek=%d conv=notrunc 2>/dev/null", at, at))
	after := data(one, cloud.Look{Address: page.Virtual})[0]
	if after.Backing != "copied" || len(after.SharedWith) != 0 || after.HostPhysical == page.HostPhysical || after.HostVirtual != page.HostVirtual || after.Physical != page.Physical {
		t.Errorf("written, it is\n%+v\nand was\n%+v", after, page)
	}
	if its := data(two, cloud.Look{Address: page.Virtual})[0]; its.Backing != "template" || len(its.SharedWith) != 0 {
		t.Errorf("the other's is\n%+v", its)
	}
}
