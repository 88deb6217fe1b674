package access_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/nacre-cloud/nacre/internal/agent/access"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
)

func TestACommandsOutputAndExitStatusComeThrough(t *testing.T) {
	b := serve(t)
	for _, c := range []struct {
		command, stdout, stderr string
		code                    int
	}{
		{"echo hello", "hello\n", "", 0},
		{"exit 3", "", "", 3},
		{"echo out; echo err >&2; exit 255", "out\n", "err\n", 255},
		{"echo $LOGNAME $SHELL; pwd", "admin /bin/bash\n" + filepath.Join(b.root, "/home/admin") + "\n", "", 0},
		{"sh -c 'kill -SEGV $$'; exit $?", "", "", 139},
	} {
		stdout, stderr, code := run(b.ssh("admin", c.command))
		if c.code == 139 {
			stderr = "" // the shell's remark
		}
		if stdout != c.stdout || stderr != c.stderr || code != c.code {
			t.Errorf("%s: exit %d, %q, %q", c.command, code, stdout, stderr)
		}
	}
}

func TestDeathByASignalIsToldAsSuch(t *testing.T) {
	b := serve(t)
	cmd := b.ssh("root", "exec sleep 100")
	cmd.Args = append([]string{"ssh", "-o", "LogLevel=DEBUG1"}, cmd.Args[1:]...) // the first value counts
	done := make(chan string, 1)
	go func() {
		_, stderr, code := run(cmd)
		done <- fmt.Sprint(code, stderr)
	}()
	eventually(t, "the process runs", func() bool { return b.host.processes() == 1 })
	time.Sleep(100 * time.Millisecond) // the shell gives way to sleep
	b.host.mu.Lock()
	for p := range b.host.running {
		p.Signal(syscall.SIGKILL)
	}
	b.host.mu.Unlock()
	if got := <-done; !strings.HasPrefix(got, "255") && !strings.HasPrefix(got, "-1") || !strings.Contains(got, "exit-signal") {
		t.Errorf("the client says: %s", got)
	}
}

func TestTenMegabytesGoInAndComeBackUnchanged(t *testing.T) {
	b := serve(t)
	data := make([]byte, 10<<20)
	rand.Read(data)
	cmd := b.ssh("admin", "cat")
	cmd.Stdin = bytes.NewReader(data)
	stdout, stderr, code := run(cmd)
	if code != 0 || sha256.Sum256([]byte(stdout)) != sha256.Sum256(data) {
		t.Errorf("exit %d, %d bytes came back: %s", code, len(stdout), stderr)
	}
}

func TestACommandThatReadsNothingEndsAllTheSame(t *testing.T) {
	b := serve(t)
	cmd := b.ssh("admin", "echo done")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if stdout, _, code := run(cmd); stdout != "done\n" || code != 0 {
		t.Errorf("exit %d: %q", code, stdout)
	}
}

func TestATerminalHasItsTypeAndFollowsTheWindow(t *testing.T) {
	b := serve(t)
	cmd := b.ssh("admin", "-tt")
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.SysProcAttr = nil
	window, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 101, Rows: 33})
	if err != nil {
		t.Fatal(err)
	}
	defer window.Close()
	var out logBuffer
	var copied sync.WaitGroup
	copied.Go(func() { io.Copy(&out, window) })
	io.WriteString(window, "stty size; echo $TERM; shopt -q login_shell && echo log''in; [ -t 0 ] && echo term''inal\n")
	for _, want := range []string{"33 101", "xterm-256color", "login\r", "terminal\r"} {
		eventually(t, "the shell says "+want, func() bool { return strings.Contains(out.String(), want) })
	}
	if err := pty.Setsize(window, &pty.Winsize{Cols: 77, Rows: 22}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new size arrives", func() bool {
		io.WriteString(window, "stty size\n")
		time.Sleep(50 * time.Millisecond)
		return strings.Contains(out.String(), "22 77")
	})
	io.WriteString(window, "exit 5\n")
	cmd.Wait()
	copied.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d", code)
	}
}

func TestOnlyTheLocaleIsTakenFromTheClientsEnvironment(t *testing.T) {
	b := serve(t, func(target *access.Target, _ *access.Limits) {
		target.Env = []string{"PATH=/usr/bin:/bin:/image", "IMAGE=1"}
	})
	cmd := b.ssh("admin", "-o", "SendEnv=LC_TEST LD_EVIL", "env")
	cmd.Env = append(os.Environ(), "LC_TEST=yes", "LD_EVIL=yes")
	stdout, stderr, _ := run(cmd)
	for _, want := range []string{"LC_TEST=yes\n", "PATH=/usr/bin:/bin:/image\n", "IMAGE=1\n", "SSH_CONNECTION=127.0.0.1 "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in %s%s", want, stdout, stderr)
		}
	}
	if strings.Contains(stdout, "LD_EVIL") {
		t.Errorf("a variable came through: %s", stdout)
	}
}

func TestFiftySessionsRunSideBySide(t *testing.T) {
	b := serve(t)
	control := filepath.Join(b.dir, "c")
	master := exec.Command("ssh", append(b.options(b.key), "-l", "admin", "-M", "-N", "-S", control, "127.0.0.1")...)
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	defer master.Wait()
	defer master.Process.Kill()
	eventually(t, "the master connection is up", func() bool { _, err := os.Stat(control); return err == nil })
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			args := append(b.options(b.key), "-l", "admin", "127.0.0.1", fmt.Sprintf("echo %d; exec cat >/dev/null", i))
			if i%2 == 0 { // half of them on one connection
				args = append([]string{"-S", control}, args...)
			}
			cmd := exec.Command("ssh", args...)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Error(err)
				return
			}
			time.AfterFunc(3*time.Second, func() { stdin.Close() })
			if stdout, stderr, code := run(cmd); stdout != fmt.Sprintln(i) || code != 0 {
				t.Errorf("session %d: exit %d, %q, %q", i, code, stdout, stderr)
			}
		})
	}
	all.Wait()
}

func TestProcessesAreHungUpWhenTheirClientIsKilled(t *testing.T) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // under nohup, what is started would take no notice of hang-ups
	b := serve(t)
	for _, options := range [][]string{{"-T"}, {"-tt"}} {
		told := filepath.Join(b.dir, "told"+options[0])
		cmd := b.ssh("admin", append(options, "trap 'echo hup > "+told+"; exit' HUP; while :; do sleep 0.1; done")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the process runs", func() bool { return b.host.processes() == 1 })
		time.Sleep(200 * time.Millisecond) // the shell sets its trap
		cmd.Process.Kill()
		cmd.Wait()
		eventually(t, "the process is gone", func() bool { return b.host.processes() == 0 })
		if data, err := os.ReadFile(told); err != nil || string(data) != "hup\n" {
			t.Errorf("%v: the process was not told: %v", options, err)
		}
	}
}

func TestNobodyWaitsForAProcessThatIgnoresTheHangup(t *testing.T) {
	b := serve(t, func(_ *access.Target, limits *access.Limits) { limits.HangupGrace = 200 * time.Millisecond })
	cmd := b.ssh("admin", "trap '' HUP; while :; do sleep 0.1; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process runs", func() bool { return b.host.processes() == 1 })
	time.Sleep(200 * time.Millisecond)
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "Exec's context has ended", func() bool { return b.host.processes() == 0 })
}

func TestServeEndsWithItsContextAlsoUnderLoad(t *testing.T) {
	b := serve(t)
	var clients sync.WaitGroup
	for range 5 {
		clients.Go(func() { run(b.ssh("admin", "cat /dev/zero")) })
	}
	eventually(t, "all run", func() bool { return b.host.processes() == 5 })
	b.hangUp()
	clients.Wait()
}

func TestFilesGoThereAndBack(t *testing.T) {
	b := serve(t)
	home := filepath.Join(b.root, "/home/admin")
	local, back := filepath.Join(b.dir, "local"), filepath.Join(b.dir, "back")
	data := make([]byte, 3<<20+17)
	rand.Read(data)
	if err := os.WriteFile(local, data, 0o640); err != nil {
		t.Fatal(err)
	}
	same := func(name string) {
		t.Helper()
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s differs: %d bytes, %v", name, len(got), err)
		}
		os.Remove(name)
	}
	remote := "admin@127.0.0.1:"
	for _, old := range [][]string{nil, {"-O"}} {
		for _, c := range []struct{ from, to, file string }{
			{local, remote + "there", filepath.Join(home, "there")},
			{remote + "kept", back, back},
		} {
			if err := os.WriteFile(filepath.Join(home, "kept"), data, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, stderr, code := run(exec.Command("scp", append(append(old, b.options(b.key)...), c.from, c.to)...)); code != 0 {
				t.Fatalf("scp %v %s %s: exit %d: %s", old, c.from, c.to, code, stderr)
			}
			same(c.file)
		}
	}

	batch := "pwd\nmkdir d\nput " + local + " d/f\nls -l d\nrename d/f d/g\nget d/g " + back + "\nrm d/g\nrmdir d\nls\n"
	cmd := exec.Command("sftp", append(b.options(b.key), "-b", "-", "admin@127.0.0.1")...)
	cmd.Stdin = strings.NewReader(batch)
	stdout, stderr, code := run(cmd)
	if code != 0 || !strings.Contains(stdout, "Remote working directory: "+home) || !strings.Contains(stdout, fmt.Sprint(len(data))) {
		t.Errorf("sftp: exit %d: %s%s", code, stdout, stderr)
	}
	same(back)
	if _, err := os.Stat(filepath.Join(home, "d")); err == nil {
		t.Error("the removed directory is still there")
	}
}

func TestSFTPIsRefusedWhereNothingServesIt(t *testing.T) {
	b := serve(t, func(target *access.Target, _ *access.Limits) { target.SFTPServer = nil })
	if _, stderr, code := run(b.ssh("admin", "-s", "sftp")); code == 0 || !strings.Contains(stderr, "subsystem request failed") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestTheImagesOwnSFTPServerIsPreferred(t *testing.T) {
	commands := make(chan []string, 1)
	b := serve(t, func(target *access.Target, _ *access.Limits) {
		target.Exec = func(_ context.Context, spec machine.ExecSpec) (machine.Process, error) {
			commands <- spec.Args
			return nil, errors.New("it was only asked")
		}
	})
	own := "/usr/libexec/sftp-server"
	b.file(own, 0o755, "")
	_, stderr, code := run(b.ssh("admin", "-s", "sftp"))
	if got := <-commands; len(got) != 1 || got[0] != own {
		t.Errorf("%v runs", got)
	}
	if code != 127 || !strings.Contains(stderr, own+" could not be started in "+string(instance)) {
		t.Errorf("what can't be started: exit %d: %s", code, stderr)
	}
}
