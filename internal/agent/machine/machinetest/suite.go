// Package machinetest is the conformance suite of machine drivers: what machine.Driver promises, as tests that every
// driver runs against the real kernel.
//
// A driver's test makes a Host and calls Run. The suite starts machines on it, ends them in every way there is, lets the driver die and
// come back, and looks after each test whether anything is left. It knows nothing of how a driver works.
package machinetest

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Host is a place for one test's machines, with directories, control groups and names of its own.
type Host struct {
	// Open makes a driver over the host's directories. The suite closes one before it opens the next.
	Open func() (machine.Driver, error)
	// Spec prepares another machine, an operating system made by Busybox, and what it stands on.
	Spec func() machine.Spec
	// Leftovers names everything of this host's machines that is still there, save for what Spec made: processes, control groups,
	// mounts, files. It is asked after every machine was removed and the driver was closed.
	Leftovers func() []string
}

// Run runs the suite, each test on a host of its own.
func Run(t *testing.T, newHost func(t *testing.T) Host) {
	for _, c := range []struct {
		behaviour string
		test      func(t *testing.T, f *Fixture)
	}{
		{"a machine runs and starts only once", startsOnce},
		{"a machine that ended starts again with its disk", startsAgain},
		{"a higher boot number boots a running machine anew", bootsAnew},
		{"a machine that can't start leaves nothing", failsToStart},
		{"stop asks first and kills then", stopsInOrder},
		{"stop reaches a machine that has only just started", stopsAtOnce},
		{"an application's exit code is the machine's", exitCode},
		{"an application runs as its image says", application},
		{"an application that ends at once is told of", endsAtOnce},
		{"a shutdown from inside is the machine's own wish", shutdownFromInside},
		{"running out of memory is named", outOfMemory},
		{"ends that nobody waits for are kept", keepsEvents},
		{"remove of what runs, and again", removesTwice},
		{"unknown machines are not found", unknown},
		{"exec has its user, code and streams", execStreams},
		{"exec is refused when the machine does not run", execNeedsRunning},
		{"a terminal has a size that changes", terminal},
		{"signals reach a process", signals},
		{"the console is kept over boots", console},
		{"the console is read by many until it ends", attachesMany},
		{"a machine waits for no reader of its console", waitsForNoReader},
		{"user data runs on the first boot only", userData},
		{"the launch key lets the ordinary user in", launchKey},
		{"processes are bounded", boundsProcesses},
		{"limits change while it runs", updates},
		{"a look inside tells what runs and what confines it", looksInside},
		{"a driver's death is survived, and ends meanwhile are seen", recovers},
		{"machines start side by side", sideBySide},
	} {
		t.Run(strings.ReplaceAll(c.behaviour, " ", "-"), func(t *testing.T) {
			f := NewFixture(t, newHost(t))
			c.test(t, f)
		})
	}
}

// Fixture is a host in use, with words for tests.
type Fixture struct {
	Driver machine.Driver
	t      testing.TB
	host   Host
	ids    []cloud.InstanceID
}

// NewFixture opens a driver on a host. When the test ends, every machine is removed and the host has to be as it was.
func NewFixture(t testing.TB, host Host) *Fixture {
	t.Helper()
	f := &Fixture{t: t, host: host}
	f.open()
	t.Cleanup(func() {
		for _, id := range f.ids {
			if err := f.Driver.Remove(context.Background(), id); err != nil {
				t.Errorf("remove: %v", err)
			}
		}
		f.close()
		for _, left := range host.Leftovers() {
			t.Errorf("left on the host: %s", left)
		}
	})
	return f
}

func (f *Fixture) open() {
	f.t.Helper()
	d, err := f.host.Open()
	if err != nil {
		f.t.Fatal(err)
	}
	f.Driver = d
}

func (f *Fixture) close() {
	f.t.Helper()
	if err := f.Driver.Close(); err != nil {
		f.t.Errorf("close: %v", err)
	}
}

// Reopen is the driver's death and return. While the driver is away, meanwhile runs.
func (f *Fixture) Reopen(meanwhile func()) map[cloud.InstanceID]machine.Status {
	f.t.Helper()
	f.close()
	if meanwhile != nil {
		meanwhile()
	}
	f.open()
	found, err := f.Driver.Recover(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	byID := map[cloud.InstanceID]machine.Status{}
	for _, st := range found {
		byID[st.ID] = st
	}
	if len(byID) != len(found) {
		f.t.Errorf("a machine was found twice: %+v", found)
	}
	return byID
}

// Spec prepares a machine that the fixture removes.
func (f *Fixture) Spec() machine.Spec {
	f.t.Helper()
	s := f.host.Spec()
	f.ids = append(f.ids, s.ID)
	return s
}

// Application prepares a machine that runs a command instead of an operating system.
func (f *Fixture) Application(args ...string) machine.Spec {
	f.t.Helper()
	s := f.Spec()
	s.System, s.Args = false, args
	return s
}

// Start starts a machine.
func (f *Fixture) Start(s machine.Spec) machine.Status {
	f.t.Helper()
	st, err := f.Driver.Start(context.Background(), s)
	if err != nil {
		f.t.Fatal(err)
	}
	return st
}

// Stop stops a machine.
func (f *Fixture) Stop(id cloud.InstanceID, grace time.Duration) {
	f.t.Helper()
	if err := f.Driver.Stop(context.Background(), id, grace); err != nil {
		f.t.Fatal(err)
	}
}

// Run runs a shell command as root inside and returns its output and exit code.
func (f *Fixture) Run(id cloud.InstanceID, command string) (string, int) {
	f.t.Helper()
	var out bytes.Buffer
	code := f.Exec(id, machine.ExecSpec{Args: []string{"/bin/sh", "-c", command}, Stdout: &out, Stderr: &out})
	return strings.TrimSpace(out.String()), code
}

// Exec runs a process inside to its end.
func (f *Fixture) Exec(id cloud.InstanceID, spec machine.ExecSpec) int {
	f.t.Helper()
	p, err := f.Driver.Exec(context.Background(), id, spec)
	if err != nil {
		f.t.Fatal(err)
	}
	code, err := p.Wait()
	if err != nil {
		f.t.Fatal(err)
	}
	return code
}

// End waits for the next end that the driver tells of.
func (f *Fixture) End() machine.Status {
	f.t.Helper()
	select {
	case st, ok := <-f.Driver.Events():
		if !ok || st.State != machine.Exited {
			f.t.Fatalf("told of %+v", st)
		}
		return st
	case <-time.After(20 * time.Second):
		f.t.Fatal("no end was told of")
		return machine.Status{}
	}
}

// NoEnd checks that none is told of.
func (f *Fixture) NoEnd() {
	f.t.Helper()
	select {
	case st := <-f.Driver.Events():
		f.t.Errorf("an end was told of that was asked for: %+v", st)
	case <-time.After(100 * time.Millisecond):
	}
}

// Status is what the driver knows of a machine that has to be there.
func (f *Fixture) Status(id cloud.InstanceID) machine.Status {
	f.t.Helper()
	st, err := f.Driver.Status(context.Background(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return st
}

// Eventually waits until something holds.
func (f *Fixture) Eventually(what string, holds func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	f.t.Fatalf("never: %s", what)
}

// output is read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
