package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// roomy is a machine with enough memory for its guest to live on with less.
func (h *host) roomy() machine.Spec {
	s := h.spec()
	s.Resources.Memory = 256 << 20
	return s
}

// clone starts a machine from a template that was made of the machine s.
func (h *host) clone(s machine.Spec, from machine.Template) machine.Spec {
	h.t.Helper()
	frozen, err := os.ReadFile(s.VM.Disks[0].Path)
	if err != nil {
		h.t.Fatal(err)
	}
	c := h.spec()
	if err := os.WriteFile(c.VM.Disks[0].Path, frozen, 0o600); err != nil {
		h.t.Fatal(err)
	}
	c.VM.Kernel, c.VM.Initrd, c.Resources = s.VM.Kernel, s.VM.Initrd, s.Resources
	if _, err := h.d.StartFrom(within(h.t), c, from); err != nil {
		h.t.Fatal(err)
	}
	h.await(c.ID)
	return c
}

// free is how much memory a guest says that nobody uses, in MiB.
func (h *host) free(id cloud.InstanceID) (mib int) {
	h.t.Helper()
	if _, err := fmt.Sscan(h.sh(id, "sed -n 's/^MemFree: *//p' /proc/meminfo"), &mib); err != nil {
		h.t.Fatal(err)
	}
	return mib >> 10
}

// gains waits until a guest has as much more memory than before as it was given, less what its kernel keeps account of it in.
func (h *host) gains(id cloud.InstanceID, before int, want int64) {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		got := int64(h.free(id) - before)
		if got > want-16-want/20 && got < want+16 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Errorf("with %+d MiB the guest has %+d", want, got)
			return
		}
	}
}

// limit is the memory that a machine's hypervisor may use at most, in MiB.
func (h *host) limit(id cloud.InstanceID) (bytes int64) {
	h.t.Helper()
	for _, path := range []string{"/sys/fs/cgroup" + h.d.Group(id) + "/memory.max", "/sys/fs/cgroup/memory" + h.d.Group(id) + "/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(path); err == nil {
			if _, err := fmt.Sscan(string(b), &bytes); err != nil {
				h.t.Fatal(err)
			}
			return bytes >> 20
		}
	}
	h.t.Fatal("its control group has no limit")
	return 0
}

func (h *host) give(s machine.Spec, cpus int, mib int64) {
	h.t.Helper()
	r := s.Resources
	r.VCPUs, r.Memory = cpus, mib<<20
	if err := h.d.Update(within(h.t), s.ID, r); err != nil {
		h.t.Fatal(err)
	}
	if got, want := h.limit(s.ID), mib+overhead>>20; got != want {
		h.t.Errorf("with %d MiB its hypervisor may use %d, not %d", mib, got, want)
	}
}

// changes gives a running machine more and less, and looks at it from inside.
func (h *host) changes(s machine.Spec) {
	h.t.Helper()
	if most := maxCPUs(s); most < 2 {
		h.t.Fatalf("it can have %d processors", most)
	}
	start := s.Resources.Memory >> 20
	for _, want := range []int{2, 1, 2} {
		h.give(s, want, start)
		if got := h.sh(s.ID, "cat /sys/devices/system/cpu/online"); got != map[int]string{1: "0", 2: "0-1"}[want] {
			h.t.Errorf("with %d processors the guest has %s", want, got)
		}
	}
	defer func() {
		if h.t.Failed() {
			out, _, _ := h.d.Console(h.t.Context(), s.ID, 1<<14)
			h.t.Logf("%s", out)
		}
	}()
	before := h.free(s.ID)
	for _, want := range []int64{start + 128, start - 64, start + 64, start, 3 * start, 2 * start, start - 32, start} {
		h.give(s, 2, want)
		h.gains(s.ID, before, want-start)
	}
	time.Sleep(time.Second) // nothing follows
	h.gains(s.ID, before, 0)
	r := s.Resources
	r.Memory *= 100
	if err := h.d.Update(within(h.t), s.ID, r); err == nil || !strings.Contains(err.Error(), "stop it") {
		h.t.Errorf("more memory: %v", err)
	}
}

// private is how much memory a machine's hypervisor has, in MiB, that is nobody else's.
func (h *host) private(id cloud.InstanceID) (mib int) {
	h.t.Helper()
	st, err := h.d.Status(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(st.PID), "smaps_rollup"))
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "Private_Dirty: %d kB", &kib); n == 1 {
			mib = kib >> 10
		}
	}
	return mib
}

func TestARunningMachinesProcessorsAndMemoryChangeBothWays(t *testing.T) {
	h := newHost(t)
	s := h.roomy()
	h.start(s)
	h.changes(s)
}

func TestAForkedMachinesProcessorsAndMemoryChangeBothWays(t *testing.T) {
	h := newHost(t)
	s := h.roomy()
	template, err := h.d.Freeze(within(t), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer template.Close()
	c := h.clone(s, template)
	h.changes(c)
	// What it gives back is given back, though it began as a copy of the template's: 60 MiB written, and freed.
	h.sh(c.ID, "mount -t tmpfs tmpfs /tmp; head -c 60m /dev/urandom >/tmp/fill")
	full := h.private(c.ID)
	h.sh(c.ID, "rm /tmp/fill")
	h.give(c, 2, 256-90)
	if now := h.private(c.ID); now > full-50 {
		t.Errorf("it held %d MiB of its own and with 90 MiB less it holds %d", full, now)
	}
}

func TestAMachineHibernatesWithTheSizeThatItHasAndGoesOnWithIt(t *testing.T) {
	h := newHost(t)
	s := h.roomy()
	template, err := h.d.Freeze(within(t), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer template.Close()
	c := h.clone(s, template)
	before := h.free(c.ID)
	for i, size := range []struct {
		cpus  int
		grown int64
	}{{2, 200}, {1, -50}} {
		mib := s.Resources.Memory>>20 + size.grown
		h.give(c, size.cpus, mib)
		h.gains(c.ID, before, size.grown)
		boot := h.sh(c.ID, "cat /proc/sys/kernel/random/boot_id")
		if err := h.d.Hibernate(within(t), c.ID); err != nil {
			t.Fatal(err)
		}
		c.Boot = i + 2
		c.Resources.VCPUs, c.Resources.Memory = size.cpus, mib<<20
		if _, err := h.d.Resume(within(t), c); err != nil {
			t.Fatal(err)
		}
		h.await(c.ID)
		if got := h.sh(c.ID, "cat /proc/sys/kernel/random/boot_id"); got != boot {
			t.Error("it was booted anew")
		}
		h.gains(c.ID, before, size.grown)
	}
	// And it changes as before.
	h.give(c, 2, s.Resources.Memory>>20+100)
	h.gains(c.ID, before, 100)
}
