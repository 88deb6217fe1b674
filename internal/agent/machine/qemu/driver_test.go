package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/program"
	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const testBase = 0x21000000

// host is a place for one test's machines.
type host struct {
	t    testing.TB
	cfg  Config
	d    *Driver
	dir  string
	next int
}

func newHost(t testing.TB) *host {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines")
	}
	dir, err := os.MkdirTemp("", "nacre-qemu-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 3)
	rand.Read(raw)
	h := &host{t: t, dir: dir, cfg: Config{CloudID: hex.EncodeToString(raw), MachinesDir: filepath.Join(dir, "machines"), StateDir: filepath.Join(dir, "run"),
		Dir: filepath.Join(dir, "engine"), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}}
	t.Cleanup(func() {
		h.close()
		if left := h.processes(); len(left) > 0 {
			t.Errorf("processes are left: %q", left)
		}
		os.RemoveAll(dir)
	})
	h.open()
	return h
}

func (h *host) open() {
	h.t.Helper()
	d, err := New(context.Background(), h.cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	h.d = d
}

// die is what becomes of a driver whose process is killed.
func (h *host) die() { h.d.Keeper.Close(); h.d = nil }

func (h *host) close() {
	if h.d == nil {
		return
	}
	entries, _ := os.ReadDir(h.cfg.MachinesDir)
	for _, e := range entries {
		if err := h.d.Remove(context.Background(), cloud.InstanceID(e.Name())); err != nil {
			h.t.Error(err)
		}
	}
	h.d.Close()
	h.d = nil
}

// processes are those that name this host's directory.
func (h *host) processes() []string {
	var left []string
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		if b, err := os.ReadFile(l); err == nil && bytes.Contains(b, []byte(h.dir)) {
			left = append(left, string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return left
}

// spec is a small machine of the test's own kernel and root.
func (h *host) spec() machine.Spec {
	h.t.Helper()
	h.next++
	id := cloud.NewID[cloud.InstanceID](rand.Reader)
	dir := filepath.Join(h.cfg.MachinesDir, string(id))
	if err := os.MkdirAll(dir, 0o711); err != nil {
		h.t.Fatal(err)
	}
	files, err := program.Files("x86_64")
	if err != nil {
		h.t.Fatal(err)
	}
	machinetest.MakeRoot(h.t, dir+"/disk", files[0].Content)
	kernel := machinetest.MakeInitrd(h.t, dir+"/initrd")
	return machine.Spec{ID: id, Boot: 1, Dir: dir, Hostname: fmt.Sprintf("vm-%d", h.next), IDBase: uint32(testBase + 65536*h.next),
		Args: []string{"sh", "-c", "trap 'echo told to end; exit 0' TERM; trap '' HUP; while :; do sleep 0.1; done"}, StopSignal: "SIGTERM",
		Resources: machine.Resources{VCPUs: 1, Weight: 100, Memory: 192 << 20, PIDs: 100},
		VM: &machine.VM{Architecture: "x86_64", Kernel: kernel, Initrd: dir + "/initrd", Cmdline: "quiet panic=-1 memhp_default_state=online memory_hotplug.online_policy=auto-movable", Accelerator: "tcg", GuestAgent: true,
			Product: "t3.micro", Disks: []machine.Disk{{Path: dir + "/disk", Format: "raw"}}}}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// start starts a machine and waits for its guest.
func (h *host) start(s machine.Spec) machine.Status {
	h.t.Helper()
	st, err := h.d.Start(within(h.t), s)
	if err != nil {
		h.t.Fatal(err)
	}
	h.await(s.ID)
	return st
}

func (h *host) await(id cloud.InstanceID) {
	h.t.Helper()
	if err := h.d.AwaitGuest(within(h.t), id); err != nil {
		out, _, _ := h.d.Console(context.Background(), id, 1<<16)
		h.t.Fatalf("%v\n%s", err, out)
	}
}

func (h *host) sh(id cloud.InstanceID, script string) string {
	h.t.Helper()
	var out bytes.Buffer
	p, err := h.d.Exec(within(h.t), id, machine.ExecSpec{Args: []string{"/bin/sh", "-c", script}, Stdout: &out, Stderr: &out})
	if err != nil {
		h.t.Fatal(err)
	}
	if code, err := p.Wait(); err != nil || code != 0 {
		h.t.Fatalf("%s: %d, %v, %s", script, code, err, &out)
	}
	return strings.TrimSpace(out.String())
}

func TestAVirtualMachineBootsIsToldWhoItIsSurvivesItsDriverAndStops(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	st := h.start(s)
	if !strings.HasPrefix(st.Engine, "QEMU 7.") && !strings.HasSuffix(st.Engine, " (tcg)") || st.State != machine.Running {
		t.Errorf("%+v", st)
	}
	if again, err := h.d.Start(within(t), s); err != nil || again.PID != st.PID {
		t.Errorf("started twice: %+v, %v", again, err)
	}
	if got := h.sh(s.ID, "hostname"); got != s.Hostname {
		t.Errorf("it is called %q", got)
	}
	confinement(t, st.PID, s.IDBase)
	boot := h.sh(s.ID, "cat /proc/sys/kernel/random/boot_id; echo kept >/tmp/kept")

	h.die()
	h.open()
	found, err := h.d.Recover(within(t))
	if err != nil || len(found) != 1 || found[0].PID != st.PID || found[0].State != machine.Running {
		t.Fatalf("%+v, %v", found, err)
	}
	h.await(s.ID)
	if got := h.sh(s.ID, "cat /proc/sys/kernel/random/boot_id /tmp/kept"); got != boot+"\nkept" {
		t.Errorf("%q is not the machine that was there", got)
	}
	if err := h.d.Stop(within(t), s.ID, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	st, err = h.d.Status(t.Context(), s.ID)
	if err != nil || st.State != machine.Exited || !st.Exit.Requested || st.Exit.Code != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	out, _, err := h.d.Console(t.Context(), s.ID, 1<<16)
	if err != nil || !strings.Contains(string(out), "told to end") || !strings.Contains(string(out), "is up") {
		t.Errorf("%v, the console:\n%s", err, out)
	}
	s.Boot = 2
	h.start(s)
	if got := h.sh(s.ID, "cat /proc/sys/kernel/random/boot_id"); got == boot {
		t.Error("it did not boot anew")
	}
}

// confinement checks what a hypervisor may.
func confinement(t *testing.T, pid int, base uint32) {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{fmt.Sprintf("Uid:\t%d\t", base+user), "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(b), line) {
			t.Errorf("the hypervisor's status lacks %q", line)
		}
	}
	for _, ns := range []string{"user", "net", "mnt", "pid", "ipc", "uts"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if its, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + ns); err != nil || its == own {
			t.Errorf("the hypervisor shares the host's %s namespace (%v)", ns, err)
		}
	}
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/root/")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains("proc dev sys tmp boot etc usr bin lib lib64", e.Name()) {
			continue
		}
		t.Errorf("the hypervisor sees /%s", e.Name())
	}
}

func TestClonesOfATemplateAreStrangersThatShareMemory(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	began := time.Now()
	template, err := h.d.Freeze(within(t), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer template.Close()
	t.Logf("frozen after %v, %d MiB", time.Since(began).Round(time.Millisecond), template.Memory()>>20)
	frozen, err := os.ReadFile(s.VM.Disks[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	var ids []cloud.InstanceID
	for range 3 {
		c := h.spec()
		if err := os.WriteFile(c.VM.Disks[0].Path, frozen, 0o600); err != nil {
			t.Fatal(err)
		}
		c.VM.Kernel, c.VM.Initrd, c.Resources = s.VM.Kernel, s.VM.Initrd, s.Resources
		began := time.Now()
		st, err := h.d.StartFrom(within(t), c, template)
		if err != nil {
			t.Fatal(err)
		}
		running := time.Since(began)
		h.await(c.ID)
		t.Logf("running after %v, told who it is after %v", running.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		if !strings.HasSuffix(st.Engine, "forked)") {
			t.Error(st.Engine)
		}
		for what, script := range map[string]string{"host name": "hostname", "boot id": "cat /proc/sys/kernel/random/boot_id", "machine id": "cat /etc/machine-id",
			"random bytes": "head -c 16 /dev/urandom | sed 's/x/x/g' | cat -v", "uuid": "cat /proc/sys/kernel/random/uuid"} {
			got := h.sh(c.ID, script)
			if other := seen[what+got]; other != "" || got == "" {
				t.Errorf("two machines have the %s %q", what, got)
			}
			seen[what+got] = string(c.ID)
		}
		h.sh(c.ID, "echo "+string(c.ID)+" > /tmp/mine; sleep 0.1")
		ids = append(ids, c.ID)
	}
	for _, id := range ids {
		if got := h.sh(id, "cat /tmp/mine"); got != string(id) {
			t.Errorf("%s finds %q", id, got)
		}
		st, err := h.d.Status(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", st.PID))
		if err != nil {
			t.Fatal(err)
		}
		var rss, pss int
		for line := range strings.Lines(string(b)) {
			fmt.Sscanf(line, "Rss: %d kB", &rss)
			fmt.Sscanf(line, "Pss: %d kB", &pss)
		}
		t.Logf("RSS %d MiB, PSS %d MiB", rss>>10, pss>>10)
		if pss >= rss*5/6 {
			t.Errorf("of %d KiB it has %d for itself: nothing is shared", rss, pss)
		}
	}
	// A clone that is stopped boots from its own disk.
	if err := h.d.Stop(within(t), ids[0], 20*time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestAMachineHibernatesAndGoesOnWhereItWas(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	h.start(s)
	boot := h.sh(s.ID, "cat /proc/sys/kernel/random/boot_id; (i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.1; done) >/dev/null 2>&1 </dev/null & sleep 0.5; echo counting >/tmp/kept")
	if err := h.d.Hibernate(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	if st, err := h.d.Status(t.Context(), s.ID); err != nil || st.State != machine.Exited || !st.Exit.Requested {
		t.Fatalf("%+v, %v", st, err)
	}
	h.die() // whoever comes next finds what is saved
	h.open()
	if _, err := h.d.Recover(within(t)); err != nil {
		t.Fatal(err)
	}
	if !h.d.Hibernated(s.Dir) {
		t.Fatal("nothing is saved")
	}
	s.Boot = 2
	if _, err := h.d.Resume(within(t), s); err != nil {
		t.Fatal(err)
	}
	h.await(s.ID)
	if got := h.sh(s.ID, "cat /proc/sys/kernel/random/boot_id /tmp/kept"); got != strings.Fields(boot)[0]+"\ncounting" {
		t.Errorf("it says %q", got)
	}
	one := h.sh(s.ID, "cat /tmp/count")
	if two := h.sh(s.ID, "sleep 1; cat /tmp/count"); two == one || two == "1" {
		t.Errorf("its process counted from %s to %s", one, two)
	}
	if now, err := strconv.ParseInt(h.sh(s.ID, "date +%s"), 10, 64); err != nil || time.Since(time.Unix(now, 0)).Abs() > 30*time.Second {
		t.Errorf("its clock says %d, %v", now, err)
	}
	if h.d.Hibernated(s.Dir) {
		t.Error("what was saved is left")
	}

	// What is cut off is not used, and not kept.
	if err := h.d.Hibernate(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(s.Dir, savedMemory), 1<<20); err != nil {
		t.Fatal(err)
	}
	s.Boot = 3
	if _, err := h.d.Resume(within(t), s); err == nil {
		t.Error("half a memory was resumed")
	}
	if h.d.Hibernated(s.Dir) {
		t.Error("half a memory is left")
	}
	h.start(s)
}

func TestAMachineThatCanNotStartSaysWhyAndLeavesNothing(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	s.VM.Disks[0].Format = "qcow2" // it is raw
	_, err := h.d.Start(within(t), s)
	if err == nil || !strings.Contains(err.Error(), "qcow2") {
		t.Errorf("%v", err)
	}
	if _, err := h.d.Status(t.Context(), s.ID); !errors.Is(err, machine.ErrNotFound) {
		t.Error(err)
	}
	if left := h.processes(); len(left) > 0 {
		t.Errorf("%q", left)
	}
}

func TestAMachineOfUEFINeedsTheFirmware(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	s.VM.Firmware = cloud.FirmwareUEFI
	had := boards[s.VM.Architecture]
	without := had
	without.uefi = "/usr/share/none/OVMF.fd"
	boards[s.VM.Architecture] = without
	defer func() { boards[s.VM.Architecture] = had }()
	if _, err := h.d.Start(within(t), s); err == nil || !strings.Contains(err.Error(), "/usr/share/none/OVMF.fd is not installed; `nacre doctor --install`") {
		t.Error(err)
	}
}

func TestAHypervisorThatIsKilledFromOutsideIsAnEnd(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	st, err := h.d.Start(within(t), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case end := <-h.d.Events():
		if end.ID != s.ID || end.Exit.Code != 128+int(unix.SIGKILL) || end.Exit.Requested {
			t.Errorf("%+v", end)
		}
	case <-within(t).Done():
		t.Fatal("nobody told")
	}
}
