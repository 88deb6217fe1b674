package oci

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
	"github.com/nacre-cloud/nacre/internal/agent/namespace"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	testBase   = 0x20000000
	cgroupRoot = "/sys/fs/cgroup"
)

// unified tells whether the host's control groups are version 2 only.
var unified = func() bool { _, err := os.Stat(cgroupRoot + "/cgroup.controllers"); return err == nil }()

// host is where a test's machines live.
type host struct {
	*machinetest.Fixture
	cfg Config
	d   *Driver // the one that is open
}

func newPlace(t testing.TB) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests run real containers and need root")
	}
	dir, err := os.MkdirTemp("", "nacre-oci-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 3)
	rand.Read(raw)
	h := &host{cfg: Config{CloudID: hex.EncodeToString(raw), MachinesDir: filepath.Join(dir, "machines"), StateDir: filepath.Join(dir, "run"),
		Dir: filepath.Join(dir, "engine"), Logger: slog.New(slog.DiscardHandler)}}
	if err := os.MkdirAll(h.cfg.MachinesDir, 0o711); err != nil {
		t.Fatal(err)
	}
	return h
}

// newHost is a place with a driver open on it.
func newHost(t testing.TB) *host {
	t.Helper()
	h := newPlace(t)
	h.Fixture = machinetest.NewFixture(t, h.host(t))
	return h
}

func (h *host) host(t testing.TB) machinetest.Host {
	return machinetest.Host{
		Open: func() (machine.Driver, error) {
			d, err := New(context.Background(), h.cfg)
			h.d = d
			return d, err
		},
		Spec:      func() machine.Spec { return h.spec(t) },
		Leftovers: func() []string { return h.leftovers(t) },
	}
}

// leftovers looks for the host's names in processes, mounts and control groups, and for files of the driver's.
func (h *host) leftovers(t testing.TB) []string {
	var left []string
	root := filepath.Dir(h.cfg.Dir)
	for _, line := range processes(t) {
		if strings.Contains(line, root) {
			left = append(left, "process "+line)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, root) {
			left = append(left, "mount "+line)
		}
	}
	groups, err := exec.Command("find", cgroupRoot, "-type", "d", "-name", "nacre-"+h.cfg.CloudID).Output()
	if err != nil {
		t.Fatal(err)
	}
	left = append(left, strings.Fields(string(groups))...)
	for _, pattern := range []string{filepath.Join(h.cfg.MachinesDir, "*", bundleDir), filepath.Join(h.cfg.StateDir, "*", "*"), filepath.Join(h.cfg.Dir, "exits", "*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

// processes are the command lines of the host's processes, each after its id.
func processes(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, dir := range dirs {
		if b, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
			out = append(out, filepath.Base(dir)+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// monitor is the process id of a machine's monitor.
func (h *host) monitor(t testing.TB, id cloud.InstanceID) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.d.Bundle(id), "monitor.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		t.Fatalf("its monitor is process %q", b)
	}
	return pid
}

// spec is a system machine on a busybox root, with namespaces of its own.
func (h *host) spec(t testing.TB) machine.Spec {
	t.Helper()
	id := cloud.NewID[cloud.InstanceID](rand.Reader)
	dir := filepath.Join(h.cfg.MachinesDir, string(id))
	root := filepath.Join(dir, "rootfs")
	machinetest.Busybox(t, root, testBase)
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	user, net, err := namespace.Pair(testBase)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close(); net.Close() })
	path := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
	return machine.Spec{ID: id, Boot: 1, Dir: dir, Hostname: "ip-10-0-0-5", FQDN: "ip-10-0-0-5.ec2.internal", Address: "10.0.0.5", Resolvers: []string{"10.0.0.2", "10.0.0.3"}, Domain: "ec2.internal",
		RootFS: root, UserNS: path(user), NetNS: path(net), IDBase: testBase, System: true, Resources: machine.Resources{VCPUs: 1, Weight: 100, Memory: 256 << 20, PIDs: 64}}
}

func TestDriverConforms(t *testing.T) {
	machinetest.Run(t, func(t *testing.T) machinetest.Host {
		return newPlace(t).host(t)
	})
}

func TestRootInsideIsNobodyOutside(t *testing.T) {
	h := newHost(t)
	s := h.Spec()
	st := h.Start(s)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("\nUid:\t%d\t", testBase), fmt.Sprintf("\nGid:\t%d\t", testBase), "\nSeccomp:\t2\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the first process has no %q:\n%s", want, b)
		}
	}
	for _, c := range []struct{ what, command string }{
		{"a kernel setting was changed", "echo 1 > /proc/sys/kernel/panic"},
		{"a file system was mounted", "mount -t tmpfs none /tmp"},
		{"the host's block device was made", "busybox mknod /tmp/disk b 254 0 && cat /tmp/disk"},
		{"the limits were written", "for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do test -e $f && echo 999999999 > $f && exit 0; done; false"},
		{"the host's processes are seen", "test $(ls -d /proc/[0-9]* | wc -l) -gt 20"},
		{"the init was written", "echo > /run/nacre/init"},
		{"another user namespace was made", "busybox unshare -U true"},
	} {
		if out, code := h.Run(s.ID, c.command); code == 0 {
			t.Errorf("%s: %s", c.what, out)
		}
	}
	var out bytes.Buffer
	if code := h.Exec(s.ID, machine.ExecSpec{Args: []string{"cat", "/run/nacre/init.json"}, User: "admin", Stdout: &out}); code == 0 {
		t.Errorf("an ordinary user reads the init's configuration: %s", out.String())
	}
}

func TestLimitsAreSeenFromInsideAndOutside(t *testing.T) {
	h := newHost(t)
	s := h.Spec()
	h.Start(s)
	check := func(memory, pids int64, cpus int) {
		t.Helper()
		for _, want := range []struct {
			v1, v2, value string
		}{
			{"memory/memory.limit_in_bytes", "memory.max", fmt.Sprint(memory)},
			{"pids/pids.max", "pids.max", fmt.Sprint(pids)},
			{"cpu/cpu.cfs_quota_us", "cpu.max", fmt.Sprint(cpus * confined.CPUPeriod)},
		} {
			inside, outside := "/sys/fs/cgroup/"+want.v1, filepath.Join(cgroupRoot, filepath.Dir(want.v1), h.d.Group(s.ID), filepath.Base(want.v1))
			if unified {
				inside, outside = "/sys/fs/cgroup/"+want.v2, filepath.Join(cgroupRoot, h.d.Group(s.ID), want.v2)
			}
			b, err := os.ReadFile(outside)
			if got, _, _ := strings.Cut(strings.TrimSpace(string(b)), " "); err != nil || got != want.value {
				t.Errorf("%s is %q, not %s: %v", outside, b, want.value, err)
			}
			if got, code := h.Run(s.ID, "cat "+inside); code != 0 || !strings.HasPrefix(got, want.value) {
				t.Errorf("%s is %q inside, not %s", inside, got, want.value)
			}
		}
	}
	check(256<<20, 64, 1)
	if err := h.d.Update(t.Context(), s.ID, machine.Resources{VCPUs: 2, Weight: 200, Memory: 128 << 20, PIDs: 32}); err != nil {
		t.Fatal(err)
	}
	check(128<<20, 32, 2)
	if err := h.d.Update(t.Context(), s.ID, machine.Resources{VCPUs: 4, Weight: 400, Memory: 512 << 20, PIDs: 100}); err != nil {
		t.Fatal(err)
	}
	check(512<<20, 100, 4)
}

func TestMemoryIsNotTakenAwayThatProcessesHold(t *testing.T) {
	h := newHost(t)
	s := h.Spec()
	s.Resources.Memory = 256 << 20
	h.Start(s)
	if out, code := h.Run(s.ID, "head -c 50m /dev/zero > /dev/shm/held"); code != 0 {
		t.Fatalf("hold memory: %s", out)
	}
	less := s.Resources
	less.Memory = 32 << 20
	if err := h.d.Update(t.Context(), s.ID, less); err == nil || !strings.Contains(err.Error(), "hold 5") {
		t.Errorf("50 MiB that are held in 32: %v", err)
	}
	if out, code := h.Run(s.ID, "wc -c < /dev/shm/held"); code != 0 || strings.TrimSpace(out) != "52428800" {
		t.Errorf("afterwards it reads %q", out)
	}
	if out, code := h.Run(s.ID, "rm /dev/shm/held; head -c 90m /dev/zero > /tmp/file"); code != 0 { // a file's copies in memory can go
		t.Fatalf("let go of memory: %s", out)
	}
	if err := h.d.Update(t.Context(), s.ID, less); err != nil {
		t.Error(err)
	}
}

func TestAnApplicationThatIsNotRootGainsNoPrivileges(t *testing.T) {
	h := newHost(t)
	for user, want := range map[string]string{"admin": "1", "": "0", "0:0": "0"} {
		s := h.Application("/bin/sh", "-c", "grep NoNewPrivs /proc/self/status")
		s.User = user
		h.Start(s)
		h.End()
		if out, _, err := h.d.Console(t.Context(), s.ID, 1000); err != nil || !strings.Contains(string(out), "NoNewPrivs:\t"+want) {
			t.Errorf("as %q: %q, %v", user, out, err)
		}
	}
	system := h.Spec()
	h.Start(system)
	if out, _ := h.Run(system.ID, "grep NoNewPrivs /proc/self/status"); out != "NoNewPrivs:\t0" {
		t.Errorf("sudo can't work in an operating system: %q", out)
	}
}

func TestAKilledMonitorLeavesItsMachineRunning(t *testing.T) {
	h := newHost(t)
	s, ends := h.Spec(), h.Spec()
	h.Start(s)
	st := h.Start(ends)
	for _, id := range []cloud.InstanceID{s.ID, ends.ID} {
		if err := syscall.Kill(h.monitor(t, id), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if out, code := h.Run(s.ID, "echo alive"); code != 0 || out != "alive" {
		t.Errorf("exit %d: %s", code, out)
	}
	h.Stop(s.ID, 5*time.Second)
	// An end without a monitor is an end all the same, also when the driver was away.
	found := h.Reopen(func() {
		if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		time.Sleep(100 * time.Millisecond)
	})
	if st := found[ends.ID]; st.State != machine.Exited || st.Exit.Code != confined.UnknownCode {
		t.Errorf("found %+v", st)
	}
}

// crashVariable makes the test's own binary start a machine, to be killed while it does.
const crashVariable = "NACRE_OCI_TEST_CRASH"

func TestMain(m *testing.M) {
	if file := os.Getenv(crashVariable); file != "" {
		startAndWait(file)
	}
	os.Exit(m.Run())
}

// startAndWait starts the machine that a file describes and never returns.
func startAndWait(file string) {
	var job struct {
		Config Config
		Spec   machine.Spec
	}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &job)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	job.Config.Logger = slog.New(slog.DiscardHandler)
	d, err := New(context.Background(), job.Config)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if _, err := d.Start(context.Background(), job.Spec); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

func TestADriverKilledAtAnyMomentOfAStartLeavesAMachineOrNothing(t *testing.T) {
	h := newHost(t)
	const kills = 24
	ran, absent := 0, 0
	var whole time.Duration // from the process's start to the machine's, as the first one took it that is not killed before
	for n := range kills {
		s := h.Spec()
		b, err := json.Marshal(struct {
			Config struct{ CloudID, MachinesDir, StateDir, Dir string }
			Spec   machine.Spec
		}{struct{ CloudID, MachinesDir, StateDir, Dir string }{h.cfg.CloudID, h.cfg.MachinesDir, h.cfg.StateDir, h.cfg.Dir}, s})
		if err != nil {
			t.Fatal(err)
		}
		job := filepath.Join(t.TempDir(), "job.json")
		if err := os.WriteFile(job, b, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashVariable+"="+job)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		found := h.Reopen(func() {
			begin := time.Now()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				said, err := bufio.NewReader(out).ReadString('\n')
				if err != nil || said != "started\n" {
					t.Errorf("it said %q, %v", said, err)
				}
				whole = time.Since(begin)
			}
			time.Sleep(whole*time.Duration(n)/kills - time.Since(begin))
			cmd.Process.Kill()
			cmd.Wait()
		})
		st, ok := found[s.ID]
		switch {
		case !ok:
			absent++
			if left, err := os.ReadDir(filepath.Join(s.Dir, bundleDir)); err == nil {
				t.Errorf("killed after %d steps: of a machine that never ran is left %v", n, left)
			}
		case st.State == machine.Running:
			ran++
		default:
			t.Errorf("killed after %d steps: %+v", n, st)
		}
		h.Start(s) // as the agent does, whatever it found
		if out, code := h.Run(s.ID, "echo up"); code != 0 || out != "up" {
			t.Errorf("killed after %d steps, then started again: exit %d: %s", n, code, out)
		}
		if err := h.d.Remove(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
	}
	if ran == 0 || absent == 0 {
		t.Errorf("%d machines ran and %d did not; the kills came all too early or too late", ran, absent)
	}
}

func TestAChattyMachineDoesNotFillTheDisk(t *testing.T) {
	h := newHost(t)
	s := h.Application("/bin/sh", "-c", "i=0; while [ $i -lt 60 ]; do busybox head -c 200000 /dev/zero | busybox tr '\\0' x | busybox fold -w 99; i=$((i+1)); done; echo the end")
	for range 3 {
		h.Start(s)
		h.End()
		s.Boot++
	}
	var size int64
	logs, err := filepath.Glob(filepath.Join(h.d.Bundle(s.ID), "*.log*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range logs {
		info, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size == 0 || size > 3*confined.ConsoleSize {
		t.Errorf("36 MB of output take %d bytes in %v", size, logs)
	}
	if out, _, err := h.d.Console(t.Context(), s.ID, 1000); err != nil || !strings.HasSuffix(string(out), "the end\n") {
		t.Errorf("the console ends with %q, %v", out, err)
	}
}

func TestADamagedRecordDoesNotKeepTheOthersFromBeingAdopted(t *testing.T) {
	h := newHost(t)
	damaged, whole := h.Spec(), h.Spec()
	h.Start(damaged)
	h.Start(whole)
	found := h.Reopen(func() {
		if err := os.WriteFile(filepath.Join(h.d.Bundle(damaged.ID), "machine.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if len(found) != 1 || found[whole.ID].State != machine.Running {
		t.Errorf("found %+v", found)
	}
}

func TestAMissingRuntimeIsNamedWithTheNextStep(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := New(t.Context(), Config{Dir: t.TempDir(), StateDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "runc") || !strings.Contains(err.Error(), "nacre doctor --install") {
		t.Errorf("%v", err)
	}
}

func TestLaterVariablesWin(t *testing.T) {
	if got := mergeEnv([]string{"A=1", "B=2"}, []string{"A=3"}); !slices.Equal(got, []string{"A=3", "B=2"}) {
		t.Errorf("%q", got)
	}
}

func BenchmarkStart(b *testing.B) {
	h := newHost(b)
	for b.Loop() {
		b.StopTimer()
		s := h.Spec()
		b.StartTimer()
		h.Start(s)
		b.StopTimer()
		if err := h.d.Remove(b.Context(), s.ID); err != nil {
			b.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // a single launch finds the kernel at rest
		b.StartTimer()
	}
}

func BenchmarkExec(b *testing.B) {
	h := newHost(b)
	s := h.Spec()
	h.Start(s)
	for b.Loop() {
		h.Run(s.ID, "true")
	}
}

// BenchmarkIdleMemory tells what a machine takes besides its own processes' unshared memory.
func BenchmarkIdleMemory(b *testing.B) {
	h := newHost(b)
	s := h.Spec()
	st := h.Start(s)
	time.Sleep(200 * time.Millisecond)
	monitor := h.monitor(b, s.ID)
	for b.Loop() {
	}
	for name, pid := range map[string]string{"init": strconv.Itoa(st.PID), "conmon": strconv.Itoa(monitor)} {
		status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
		if err != nil {
			b.Fatal(err)
		}
		for field, unit := range map[string]string{"VmRSS:": "rss-kB", "RssAnon:": "anon-kB"} {
			_, rest, _ := strings.Cut(string(status), "\n"+field)
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(kb, name+"-"+unit)
		}
	}
}
