package machinetest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
)

func application(t *testing.T, f *Fixture) {
	s := f.Application("show", "an argument")
	s.User, s.WorkingDir = "admin", "/var/data/deep"
	s.Env = []string{"PATH=/opt:/bin", "GREETING=hello"}
	s.UserData = []byte("#!/bin/sh\n/bin/busybox mkdir -p /opt; /bin/busybox printf '#!/bin/sh\\nid; pwd; echo $GREETING $HOME $1; env' > /opt/show; /bin/busybox chmod 755 /opt/show\n")
	f.Start(s)
	if st := f.End(); st.Exit.Code != 0 {
		t.Errorf("ended as %+v", st)
	}
	out, _, err := f.Driver.Console(t.Context(), s.ID, 10000)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"uid=1000(admin)", "2000(extra)", "\n/var/data/deep\n", "hello /home/admin an argument\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in its console: %s", want, out)
		}
	}
	if strings.Contains(string(out), string(s.ID)+"=") || strings.Contains(string(out), "busybox mkdir") {
		t.Errorf("it sees what is the init's: %s", out)
	}
}

func execStreams(t *testing.T, f *Fixture) {
	s := f.Spec()
	f.Start(s)
	var out, errOut bytes.Buffer
	code := f.Exec(s.ID, machine.ExecSpec{Args: []string{"sh", "-c", "id; echo $HOME $USER $SHELL $EXTRA; pwd; echo oops >&2; exit 7"}, User: "admin", Env: []string{"EXTRA=more"},
		Stdout: &out, Stderr: &errOut})
	if code != 7 || errOut.String() != "oops\n" {
		t.Errorf("exit %d, errors %q", code, errOut.String())
	}
	for _, want := range []string{"uid=1000(admin)", "2000(extra)", "\n/home/admin admin /bin/sh more\n/home/admin\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %q", want, out.String())
		}
	}
	if code := f.Exec(s.ID, machine.ExecSpec{Args: []string{"sh", "-c", "test $(id -u) = 4242"}, User: "4242"}); code != 0 {
		t.Errorf("a user by number: exit %d", code)
	}
	if _, err := f.Driver.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"true"}, User: "nobody-knows"}); err == nil {
		t.Error("an unknown user was accepted")
	}
	if code := f.Exec(s.ID, machine.ExecSpec{Args: []string{"sh", "-c", "kill -9 $$"}}); code != 137 {
		t.Errorf("a killed process: exit %d", code)
	}
	// A stream that never ends must not hold Wait up.
	never, _ := io.Pipe()
	out.Reset()
	if code := f.Exec(s.ID, machine.ExecSpec{Args: []string{"echo", "done"}, Stdin: never, Stdout: &out}); code != 0 || out.String() != "done\n" {
		t.Errorf("exit %d: %q", code, out.String())
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	out.Reset()
	if code := f.Exec(s.ID, machine.ExecSpec{Args: []string{"cat"}, Stdin: bytes.NewReader(data), Stdout: &out}); code != 0 || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("exit %d: %d of %d bytes came back", code, out.Len(), len(data))
	}
}

func execNeedsRunning(t *testing.T, f *Fixture) {
	s := f.Spec()
	f.Start(s)
	f.Stop(s.ID, 0)
	if _, err := f.Driver.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"true"}}); err == nil {
		t.Error("a process was started in a stopped machine")
	}
	if err := f.Driver.Update(t.Context(), s.ID, s.Resources); err == nil {
		t.Error("a stopped machine's limits were changed in place")
	}
}

func terminal(t *testing.T, f *Fixture) {
	s := f.Spec()
	f.Start(s)
	in, feed := io.Pipe()
	out := &output{}
	p, err := f.Driver.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"sh"}, TTY: true, Cols: 100, Rows: 30, Term: "vt100", Stdin: in, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	says := func(command, want string) {
		t.Helper()
		f.Eventually(want, func() bool {
			io.WriteString(feed, command+"\n")
			time.Sleep(20 * time.Millisecond)
			return strings.Contains(out.String(), want)
		})
	}
	says("stty size", "30 100")
	says("echo term=$TERM", "term=vt100")
	if err := p.Resize(120, 40); err != nil {
		t.Fatal(err)
	}
	says("stty size", "40 120")
	io.WriteString(feed, "exit 3\n")
	if code, err := p.Wait(); err != nil || code != 3 {
		t.Errorf("exit %d, %v", code, err)
	}
	if err := p.Resize(1, 1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("resizing what has ended: %v", err)
	}
}

func signals(t *testing.T, f *Fixture) {
	s := f.Spec()
	f.Start(s)
	out := &output{}
	p, err := f.Driver.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"sh", "-c", "trap 'echo caught; exit 4' USR1; echo ready; while true; do sleep 0.1; done"}, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	f.Eventually("it is ready", func() bool { return strings.Contains(out.String(), "ready") })
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); err != nil || code != 4 || !strings.Contains(out.String(), "caught") {
		t.Errorf("exit %d, %v: %q", code, err, out.String())
	}
	if err := p.Signal(syscall.SIGUSR1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to what has ended: %v", err)
	}
	// The machine's end is the end of what was started in it.
	p, err = f.Driver.Exec(t.Context(), s.ID, machine.ExecSpec{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	f.Stop(s.ID, 0)
	if code, err := p.Wait(); err != nil || code == 0 {
		t.Errorf("a process outlived its machine: exit %d, %v", code, err)
	}
}

func console(t *testing.T, f *Fixture) {
	s := f.Application("/bin/sh", "-c", "echo first line; echo an error >&2; busybox printf 'no newline at the end'")
	f.Start(s)
	f.End()
	begin := time.Now()
	out, last, err := f.Driver.Console(t.Context(), s.ID, 10000)
	if err != nil || !strings.Contains(string(out), "first line\n") || !strings.Contains(string(out), "an error\n") || !strings.Contains(string(out), "no newline at the end") {
		t.Errorf("%q, %v", out, err)
	}
	if last.After(begin) || begin.Sub(last) > time.Minute {
		t.Errorf("the last byte is from %v", last)
	}
	if some, _, err := f.Driver.Console(t.Context(), s.ID, 7); err != nil || len(some) != 7 || !bytes.HasSuffix(out, some) {
		t.Errorf("%q, %v", some, err)
	}
	s.Args, s.Boot = []string{"/bin/sh", "-c", "seq 1 20000"}, s.Boot+1
	f.Start(s)
	f.End()
	out, _, err = f.Driver.Console(t.Context(), s.ID, 1<<20)
	if err != nil || !strings.Contains(string(out), "first line\n") || !strings.HasSuffix(string(out), "\n19999\n20000\n") {
		t.Errorf("after another boot it ends with %q, %v", out[max(0, len(out)-100):], err)
	}
}

func userData(t *testing.T, f *Fixture) {
	s := f.Spec()
	s.UserData = []byte("#!/bin/sh\necho ran >> /root/runs\nexit 3\n")
	f.Start(s)
	ran := func() string { out, _ := f.Run(s.ID, "cat /root/runs"); return out }
	f.Eventually("the user data runs", func() bool { return ran() == "ran" })
	said := func(want string) bool {
		out, _, err := f.Driver.Console(t.Context(), s.ID, 10000)
		return err == nil && strings.Contains(string(out), want)
	}
	f.Eventually("its end is on the console", func() bool { return said("code 3") })
	f.Stop(s.ID, 10*time.Second)
	s.Boot++
	f.Start(s)
	time.Sleep(300 * time.Millisecond)
	if got := ran(); got != "ran" {
		t.Errorf("after two boots: %q", got)
	}
	out, _ := f.Run(s.ID, "cat /etc/hostname /etc/resolv.conf /etc/hosts; busybox hostname")
	for _, want := range []string{s.Hostname + "\n", "nameserver " + strings.Join(s.Resolvers, "\nnameserver "), "search " + s.Domain, s.Address + " " + s.FQDN + " " + s.Hostname} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %q", want, out)
		}
	}
	other := f.Spec()
	other.UserData = []byte("#cloud-config\npackages: [hello]\n")
	f.Start(other)
	f.Eventually("what can't be run is told of", func() bool {
		out, _, err := f.Driver.Console(t.Context(), other.ID, 10000)
		return err == nil && strings.Contains(string(out), "cloud-init")
	})
}

func launchKey(t *testing.T, f *Fixture) {
	s := f.Spec()
	s.PublicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOoB launch"
	f.Start(s)
	f.Eventually("the key is in place", func() bool {
		out, _ := f.Run(s.ID, "cat /root/.ssh/authorized_keys /home/admin/.ssh/authorized_keys")
		return out == s.PublicKey+"\n"+s.PublicKey
	})
	if out, _ := f.Run(s.ID, "ls -ln /home/admin/.ssh/authorized_keys"); !strings.HasPrefix(out, "-rw------- ") || !strings.Contains(out, " 1000 ") {
		t.Errorf("the file is %q", out)
	}
}

func boundsProcesses(t *testing.T, f *Fixture) {
	s := f.Spec()
	s.Resources.PIDs = 32
	f.Start(s)
	out, _ := f.Run(s.ID, "for i in $(seq 100); do sleep 20 >/dev/null 2>&1 & done; busybox ps | wc -l")
	if !strings.Contains(out, "fork") {
		t.Errorf("a hundred processes were started within a limit of 32: %s", out)
	}
}

func updates(t *testing.T, f *Fixture) {
	s := f.Spec()
	f.Start(s)
	r := s.Resources
	r.PIDs, r.VCPUs, r.Weight, r.Memory = 24, 2, 200, 128<<20
	if err := f.Driver.Update(t.Context(), s.ID, r); err != nil {
		t.Fatal(err)
	}
	if out, _ := f.Run(s.ID, "for i in $(seq 40); do sleep 20 >/dev/null 2>&1 & done"); !strings.Contains(out, "fork") {
		t.Errorf("forty processes were started within a new limit of 24: %s", out)
	}
	if err := f.Driver.Update(t.Context(), s.ID, machine.Resources{}); err == nil {
		t.Error("the limits that are always set were taken away")
	}
}
