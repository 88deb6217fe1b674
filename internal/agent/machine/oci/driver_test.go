package oci

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/namespace"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// host is where a test's machines live.
type host struct {
	t   testing.TB
	dir string
	cfg Config
	d   *Driver
	ids []cloud.InstanceID
}

const testBase = 0x20000000

func newHost(t testing.TB) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests run real containers and need root")
	}
	dir, err := os.MkdirTemp("", "nacre-oci-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 3)
	rand.Read(raw)
	h := &host{t: t, dir: dir, cfg: Config{CloudID: hex.EncodeToString(raw), MachinesDir: filepath.Join(dir, "machines"), StateDir: filepath.Join(dir, "run"),
		Dir: filepath.Join(dir, "engine"), Logger: slog.New(slog.DiscardHandler)}}
	if err := os.MkdirAll(h.cfg.MachinesDir, 0o711); err != nil {
		t.Fatal(err)
	}
	h.open()
	t.Cleanup(h.close)
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

// reopen is the agent's death and return.
func (h *host) reopen() []machine.Status {
	h.t.Helper()
	if err := h.d.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.open()
	found, err := h.d.Recover(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

func (h *host) close() {
	for _, id := range h.ids {
		if err := h.d.Remove(context.Background(), id); err != nil {
			h.t.Error(err)
		}
	}
	if err := h.d.Close(); err != nil {
		h.t.Error(err)
	}
	out, err := exec.Command("find", "/sys/fs/cgroup", "-type", "d", "-name", "nacre-"+h.cfg.CloudID).Output()
	if err != nil || len(out) > 0 {
		h.t.Errorf("control groups are left: %v\n%s", err, out)
	}
	if out, err := exec.Command("pgrep", "-f", h.dir).Output(); err == nil {
		h.t.Errorf("processes are left: %s", out)
	}
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Error(err)
	}
}

// spec is a system machine on a busybox root, with a network namespace of its own.
func (h *host) spec() machine.Spec {
	h.t.Helper()
	id := cloud.NewID[cloud.InstanceID](rand.Reader)
	h.ids = append(h.ids, id)
	dir := filepath.Join(h.cfg.MachinesDir, string(id))
	root := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "run", "root", "home/admin", "usr/sbin", "var/lib", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		h.t.Fatal(err)
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		h.t.Fatal("Debian's busybox-static is missing; `make deps` installs it")
	}
	write := func(name string, mode os.FileMode, b []byte) {
		if err := os.WriteFile(filepath.Join(root, name), b, mode); err != nil {
			h.t.Fatal(err)
		}
	}
	write("bin/busybox", 0o755, program)
	for _, name := range []string{"sh", "sleep", "cat", "id", "echo", "stty", "dd", "tail", "ls", "kill", "true", "env"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			h.t.Fatal(err)
		}
	}
	write("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nadmin:x:1000:1000::/home/admin:/bin/sh\n"))
	write("etc/group", 0o644, []byte("root:x:0:\nadmin:x:1000:\nextra:x:2000:admin\n"))
	err = filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, testBase, testBase)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	user, net := namespaces(h.t)
	return machine.Spec{ID: id, Boot: 1, Dir: dir, Hostname: "ip-10-0-0-5", FQDN: "ip-10-0-0-5.ec2.internal", Address: "10.0.0.5", Resolver: "10.0.0.2", Domain: "ec2.internal",
		RootFS: root, UserNS: user, NetNS: net, IDBase: testBase, System: true, Resources: machine.Resources{VCPUs: 1, Weight: 100, Memory: 256 << 20, PIDs: 64}}
}

// namespaces are a machine's, for as long as the test lasts.
func namespaces(t testing.TB) (user, net string) {
	t.Helper()
	u, n, err := namespace.Pair(testBase)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(); n.Close() })
	path := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
	return path(u), path(n)
}

func (h *host) start(s machine.Spec) machine.Status {
	h.t.Helper()
	st, err := h.d.Start(context.Background(), s)
	if err != nil {
		h.t.Fatal(err)
	}
	return st
}

// run runs a command inside and returns its output and exit code.
func (h *host) run(id cloud.InstanceID, user string, args ...string) (string, int) {
	h.t.Helper()
	var out bytes.Buffer
	p, err := h.d.Exec(context.Background(), id, machine.ExecSpec{Args: args, User: user, Stdout: &out, Stderr: &out})
	if err != nil {
		h.t.Fatal(err)
	}
	code, err := p.Wait()
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(out.String()), code
}

func (h *host) event() machine.Status {
	h.t.Helper()
	select {
	case st := <-h.d.Events():
		return st
	case <-time.After(15 * time.Second):
		h.t.Fatal("no end was told of")
		return machine.Status{}
	}
}

func TestAMachineRunsAndStartsOnlyOnce(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	first := h.start(s)
	if first.State != machine.Running || first.PID == 0 || !strings.HasPrefix(first.Engine, "runc ") {
		t.Errorf("%+v", first)
	}
	if again := h.start(s); again.PID != first.PID {
		t.Errorf("a second start made process %d, the first %d", again.PID, first.PID)
	}
	s.Boot = 2
	if err := h.d.Stop(t.Context(), s.ID, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if next := h.start(s); next.PID == first.PID || next.Boot != 2 {
		t.Errorf("after a stop: %+v", next)
	}
}

func TestRootInsideIsNobodyOutsideAndLimitsHold(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	st := h.start(s)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.PID))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), fmt.Sprintf("Uid:\t%d", testBase)) {
		t.Errorf("the first process is not of the machine's id range:\n%s", b)
	}
	if out, _ := h.run(s.ID, "", "id", "-u"); out != "0" {
		t.Errorf("inside root is %q", out)
	}
	if out, code := h.run(s.ID, "", "sh", "-c", "echo 1 > /proc/sys/kernel/panic"); code == 0 {
		t.Errorf("a kernel setting was changed: %s", out)
	}
	if out, code := h.run(s.ID, "", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 0; do for j in 1 2 3 4 5 6 7 8 9 0; do sleep 20 & done; done"); code == 0 && !strings.Contains(out, "fork") {
		t.Errorf("a hundred processes were started within a limit of 64: %s", out)
	}
}

func TestExecHasItsUserCodeAndStreams(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	h.start(s)
	if out, code := h.run(s.ID, "admin", "sh", "-c", "id; echo $HOME; exit 7"); code != 7 || !strings.Contains(out, "uid=1000(admin)") || !strings.Contains(out, "2000(extra)") || !strings.Contains(out, "/home/admin") {
		t.Errorf("exit %d: %s", code, out)
	}
	if _, err := h.d.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"true"}, User: "nobody-knows"}); err == nil {
		t.Error("an unknown user was accepted")
	}
	// A stream that never ends must not hold Wait up.
	open, _ := io.Pipe()
	var out bytes.Buffer
	p, err := h.d.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"echo", "done"}, Stdin: open, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); err != nil || code != 0 || out.String() != "done\n" {
		t.Errorf("exit %d, %v: %q", code, err, out.String())
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var back bytes.Buffer
	p, err = h.d.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"cat"}, Stdin: bytes.NewReader(data), Stdout: &back})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); err != nil || code != 0 || !bytes.Equal(back.Bytes(), data) {
		t.Errorf("exit %d, %v: %d of %d bytes", code, err, back.Len(), len(data))
	}
}

// syncBuffer is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestATerminalHasASizeThatChanges(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	h.start(s)
	in, feed := io.Pipe()
	out := &syncBuffer{}
	p, err := h.d.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"sh"}, TTY: true, Cols: 100, Rows: 30, Stdin: in, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		for range 200 {
			if strings.Contains(out.String(), want) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%q did not come: %q", want, out.String())
	}
	io.WriteString(feed, "stty size\n")
	expect("30 100")
	if err := p.Resize(120, 40); err != nil {
		t.Fatal(err)
	}
	for range 100 { // the runtime passes the size on when its own signal arrives
		io.WriteString(feed, "stty size\n")
		time.Sleep(20 * time.Millisecond)
		if strings.Contains(out.String(), "40 120") {
			break
		}
	}
	expect("40 120")
	io.WriteString(feed, "exit 3\n")
	if code, err := p.Wait(); err != nil || code != 3 {
		t.Errorf("exit %d, %v", code, err)
	}
	if err := p.Resize(1, 1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("resizing what has ended: %v", err)
	}
}

func TestAShutdownFromInsideIsToldAsTheMachinesOwn(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct {
		command string
		reboot  bool
	}{{"/usr/sbin/poweroff", false}, {"/usr/sbin/reboot", true}} {
		s := h.spec()
		h.start(s)
		h.run(s.ID, "", c.command)
		st := h.event()
		if st.ID != s.ID || st.State != machine.Exited || st.Exit.Requested || st.Exit.Reboot != c.reboot {
			t.Errorf("%s: %+v", c.command, st)
		}
	}
}

func TestAnApplicationsExitCodeIsTheMachines(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	s.System, s.Args, s.User, s.Env = false, []string{"sh", "-c", "id -u; echo $A; exit 9"}, "admin", []string{"A=b", "PATH=/bin"}
	h.start(s)
	if st := h.event(); st.Exit.Code != 9 {
		t.Errorf("%+v", st)
	}
	out, _, err := h.d.Console(t.Context(), s.ID, 1000)
	if err != nil || !strings.Contains(string(out), "1000\nb\n") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestRunningOutOfMemoryIsNamed(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	s.System, s.Args, s.Resources.Memory = false, []string{"/bin/sh", "-c", "exec tail /dev/zero"}, 32<<20
	h.start(s)
	if st := h.event(); !st.Exit.OOMKilled {
		t.Errorf("%+v", st)
	}
}

func TestStopAsksFirstAndKillsThen(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	s.System, s.Args = false, []string{"/bin/sh", "-c", "trap '' TERM; while true; do sleep 1; done"}
	h.start(s)
	time.Sleep(200 * time.Millisecond) // the trap is set by then
	begin := time.Now()
	if err := h.d.Stop(t.Context(), s.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 900*time.Millisecond {
		t.Errorf("it was killed after %v, before its grace was over", took)
	}
	if st, err := h.d.Status(t.Context(), s.ID); err != nil || !st.Exit.Requested {
		t.Errorf("%+v, %v", st, err)
	}
	if err := h.d.Stop(t.Context(), s.ID, time.Second); err != nil {
		t.Errorf("stopping it again: %v", err)
	}
}

func TestTheAgentsDeathIsSurvivedAndEndsMeanwhileAreSeen(t *testing.T) {
	h := newHost(t)
	lives, ends, half := h.spec(), h.spec(), h.spec()
	alive := h.start(lives)
	h.start(ends)
	// A machine that was cut off between its bundle and its start.
	if err := h.d.write(half); err != nil {
		t.Fatal(err)
	}
	if err := h.d.Close(); err != nil {
		t.Fatal(err)
	}
	// The end comes while nobody watches.
	rec, _, err := h.d.load(ends.ID)
	if err != nil {
		t.Fatal(err)
	}
	awaitHandler(t.Context(), rec.PID, syscall.SIGTERM)
	if err := syscall.Kill(rec.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if _, err := os.Stat(h.d.exitFile(ends.ID)); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.open()
	found, err := h.d.Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byID := map[cloud.InstanceID]machine.Status{}
	for _, st := range found {
		byID[st.ID] = st
	}
	if st := byID[lives.ID]; st.State != machine.Running || st.PID != alive.PID {
		t.Errorf("the living one: %+v", st)
	}
	if st := byID[ends.ID]; st.State != machine.Exited || st.Exit.Requested {
		t.Errorf("the ended one: %+v", st)
	}
	if st, ok := byID[half.ID]; ok {
		t.Errorf("the half-made one was adopted: %+v", st)
	}
	h.run(lives.ID, "", "/usr/sbin/poweroff")
	if st := h.event(); st.ID != lives.ID {
		t.Errorf("an adopted machine's end was told as %+v", st)
	}
	if again := h.reopen(); len(again) != 2 {
		t.Errorf("%d machines after another return", len(again))
	}
}

func TestAKilledMonitorLeavesItsMachineRunning(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	h.start(s)
	out, err := exec.Command("pgrep", "-f", "conmon.*--cid "+string(s.ID)).Output()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	fmt.Sscan(string(out), &pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out, code := h.run(s.ID, "", "echo", "alive"); code != 0 || out != "alive" {
		t.Errorf("exit %d: %s", code, out)
	}
	if err := h.d.Stop(t.Context(), s.ID, 5*time.Second); err != nil {
		t.Error(err)
	}
}

func TestRemoveTwiceIsNoError(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	h.start(s)
	for range 2 {
		if err := h.d.Remove(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.d.Status(t.Context(), s.ID); !errors.Is(err, machine.ErrNotFound) {
		t.Errorf("its status: %v", err)
	}
}

func TestUserDataRunsOnTheFirstBootOnly(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	s.UserData = []byte("#!/bin/sh\necho ran >> /root/runs\n")
	h.start(s)
	read := func() string { out, _ := h.run(s.ID, "", "cat", "/root/runs"); return out }
	for range 300 {
		if read() == "ran" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := h.d.Stop(t.Context(), s.ID, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	s.Boot = 2
	h.start(s)
	time.Sleep(300 * time.Millisecond)
	if got := read(); got != "ran" {
		t.Errorf("after two boots: %q", got)
	}
	if out, _ := h.run(s.ID, "", "cat", "/etc/hostname", "/etc/resolv.conf", "/etc/hosts"); !strings.Contains(out, "ip-10-0-0-5") || !strings.Contains(out, "nameserver 10.0.0.2") || !strings.Contains(out, "10.0.0.5 ip-10-0-0-5.ec2.internal") {
		t.Errorf("its names: %s", out)
	}
}

func TestLimitsChangeWhileItRuns(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	h.start(s)
	if err := h.d.Update(t.Context(), s.ID, machine.Resources{VCPUs: 2, Weight: 200, Memory: 128 << 20, PIDs: 32}); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, path := range []string{"/sys/fs/cgroup/memory/nacre-%s/%s/memory.limit_in_bytes", "/sys/fs/cgroup/nacre-%s/%s/memory.max"} {
		if b, err := os.ReadFile(fmt.Sprintf(path, h.cfg.CloudID, s.ID)); err == nil {
			found = true
			if strings.TrimSpace(string(b)) != fmt.Sprint(128<<20) {
				t.Errorf("the memory limit is %s", b)
			}
		}
	}
	if !found {
		t.Error("no memory limit is found")
	}
}

func FuzzConsoleLogs(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z stdout F hello\n2026-01-01T00:00:00Z stderr P par"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if out := joinLog(b); len(out) > len(b) {
			t.Errorf("%d bytes became %d", len(b), len(out))
		}
	})
}

func TestConsoleLinesAreJoined(t *testing.T) {
	got := joinLog([]byte("T stdout F one\nT stdout P tw\nT stdout F o\nnonsense\nT stderr F three\nT stdout F cut"))
	if string(got) != "one\ntwo\nthree\n" {
		t.Errorf("%q", got)
	}
	if !slices.Equal(mergeEnv([]string{"A=1", "B=2"}, []string{"A=3"}), []string{"A=3", "B=2"}) {
		t.Error("a later variable does not win")
	}
}

func BenchmarkStart(b *testing.B) {
	h := newHost(b)
	for b.Loop() {
		b.StopTimer()
		s := h.spec()
		b.StartTimer()
		h.start(s)
		b.StopTimer()
		h.d.Remove(context.Background(), s.ID)
		b.StartTimer()
	}
}

func BenchmarkExec(b *testing.B) {
	h := newHost(b)
	s := h.spec()
	h.start(s)
	for b.Loop() {
		h.run(s.ID, "", "true")
	}
}
