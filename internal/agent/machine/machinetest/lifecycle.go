package machinetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

func startsOnce(t *testing.T, f *Fixture) {
	s := f.Spec()
	begin := time.Now()
	first := f.Start(s)
	if first.ID != s.ID || first.Boot != s.Boot || first.State != machine.Running || first.PID == 0 || first.Engine == "" || first.Started.Before(begin.Add(-time.Second)) {
		t.Errorf("started as %+v", first)
	}
	if again := f.Start(s); again.PID != first.PID {
		t.Errorf("a second start made process %d, the first %d", again.PID, first.PID)
	}
	if st := f.Status(s.ID); st != first {
		t.Errorf("its status is %+v, it was started as %+v", st, first)
	}
}

func startsAgain(t *testing.T, f *Fixture) {
	s := f.Spec()
	first := f.Start(s)
	f.Run(s.ID, "echo kept > /root/note")
	f.Stop(s.ID, 10*time.Second)
	s.Boot++
	if next := f.Start(s); next.PID == first.PID || next.Boot != s.Boot {
		t.Errorf("started again as %+v", next)
	}
	if out, code := f.Run(s.ID, "cat /root/note"); code != 0 || out != "kept" {
		t.Errorf("exit %d: %q", code, out)
	}
	f.NoEnd()
}

func bootsAnew(t *testing.T, f *Fixture) {
	s := f.Spec()
	first := f.Start(s)
	s.Boot++
	next := f.Start(s)
	if next.PID == first.PID || next.Boot != s.Boot || next.State != machine.Running {
		t.Errorf("booted anew as %+v", next)
	}
	// The old boot's end must not be taken for the new one's.
	f.NoEnd()
	if out, code := f.Run(s.ID, "echo alive"); out != "alive" {
		t.Errorf("exit %d: %q", code, out)
	}
}

func failsToStart(t *testing.T, f *Fixture) {
	s := f.Spec()
	s.RootFS += "/not/there"
	if st, err := f.Driver.Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), string(s.ID)) {
		t.Errorf("started as %+v, %v", st, err)
	}
	if _, err := f.Driver.Status(t.Context(), s.ID); !errors.Is(err, machine.ErrNotFound) {
		t.Errorf("its status: %v", err)
	}
	if found := f.Reopen(nil); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
}

func stopsInOrder(t *testing.T, f *Fixture) {
	s := f.Application("/bin/sh", "-c", "trap '' TERM; touch /tmp/deaf; while true; do sleep 1; done")
	f.Start(s)
	f.Eventually("it is deaf", func() bool { _, code := f.Run(s.ID, "test -e /tmp/deaf"); return code == 0 })
	begin := time.Now()
	f.Stop(s.ID, time.Second)
	if took := time.Since(begin); took < 900*time.Millisecond {
		t.Errorf("it was killed after %v, before its grace was over", took)
	}
	if st := f.Status(s.ID); st.State != machine.Exited || !st.Exit.Requested || st.Exit.Code != 137 || st.Exit.Reboot || st.PID != 0 {
		t.Errorf("stopped as %+v", st)
	}
	f.Stop(s.ID, time.Second)
	f.NoEnd()

	heeds := f.Application("/bin/sh", "-c", "trap 'echo bye; exit 5' QUIT; touch /tmp/set; while true; do sleep 0.1; done")
	heeds.StopSignal = "SIGQUIT"
	f.Start(heeds)
	f.Eventually("its trap is set", func() bool { _, code := f.Run(heeds.ID, "test -e /tmp/set"); return code == 0 })
	f.Stop(heeds.ID, 10*time.Second)
	if st := f.Status(heeds.ID); st.Exit.Code != 5 || !st.Exit.Requested {
		t.Errorf("ended by its own signal as %+v", st)
	}
}

func stopsAtOnce(t *testing.T, f *Fixture) {
	for range 3 {
		s := f.Spec()
		f.Start(s)
		begin := time.Now()
		f.Stop(s.ID, 15*time.Second)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("the request was lost: it took %v", took)
		}
	}
}

func exitCode(t *testing.T, f *Fixture) {
	s := f.Application("/bin/sh", "-c", "exit 9")
	f.Start(s)
	st := f.End()
	if st.ID != s.ID || st.Exit.Code != 9 || st.Exit.Requested || st.Exit.Reboot || st.Exit.OOMKilled || time.Since(st.Exit.At) > time.Minute {
		t.Errorf("ended as %+v", st)
	}
	if now := f.Status(s.ID); now != st {
		t.Errorf("its status is %+v, it was told as %+v", now, st)
	}
}

func endsAtOnce(t *testing.T, f *Fixture) {
	for range 5 {
		s := f.Application("/bin/true")
		f.Start(s)
		if st := f.End(); st.ID != s.ID || st.Exit.Code != 0 {
			t.Errorf("ended as %+v", st)
		}
	}
	missing := f.Application("/bin/no-such-program")
	f.Start(missing)
	if st := f.End(); st.Exit.Code != 127 {
		t.Errorf("without a program it ended as %+v", st)
	}
	if out, _, err := f.Driver.Console(t.Context(), missing.ID, 1000); err != nil || !strings.Contains(string(out), "no-such-program") {
		t.Errorf("its console says %q, %v", out, err)
	}
}

func shutdownFromInside(t *testing.T, f *Fixture) {
	for _, c := range []struct {
		command string
		reboot  bool
	}{{"/usr/sbin/poweroff", false}, {"/usr/sbin/shutdown -h now", false}, {"/usr/sbin/reboot", true}, {"/usr/sbin/shutdown -r now", true}} {
		s := f.Spec()
		f.Start(s)
		// The commands are put in place as the machine comes up.
		f.Eventually("it has "+c.command, func() bool { _, code := f.Run(s.ID, c.command); return code != 127 })
		if st := f.End(); st.ID != s.ID || st.Exit.Requested || st.Exit.Reboot != c.reboot {
			t.Errorf("%s: %+v", c.command, st)
		}
	}
	// An application can't ask for it by its exit code, whatever that is.
	for _, code := range []int{193, 194, 195, 255} {
		s := f.Application("/bin/sh", "-c", fmt.Sprintf("exit %d", code))
		f.Start(s)
		if st := f.End(); st.Exit.Reboot {
			t.Errorf("exit code %d was taken for a reboot", code)
		}
	}
}

func outOfMemory(t *testing.T, f *Fixture) {
	s := f.Application("/bin/tail", "/dev/zero")
	s.Resources.Memory = 32 << 20
	f.Start(s)
	if st := f.End(); !st.Exit.OOMKilled || st.Exit.Code != 137 {
		t.Errorf("ended as %+v", st)
	}
	killed := f.Application("/bin/sh", "-c", "kill -9 $$")
	f.Start(killed)
	if st := f.End(); st.Exit.OOMKilled || st.Exit.Code != 137 {
		t.Errorf("one that killed itself ended as %+v", st)
	}
}

func keepsEvents(t *testing.T, f *Fixture) {
	want := map[cloud.InstanceID]int{}
	for n := range 4 {
		s := f.Application("/bin/sh", "-c", fmt.Sprintf("exit %d", n+1))
		f.Start(s)
		want[s.ID] = n + 1
	}
	for id := range want {
		f.Eventually("it ended", func() bool { return f.Status(id).State == machine.Exited })
	}
	for range len(want) {
		st := f.End()
		if want[st.ID] != st.Exit.Code {
			t.Errorf("told of %+v", st)
		}
		delete(want, st.ID)
	}
}

func removesTwice(t *testing.T, f *Fixture) {
	s := f.Spec()
	f.Start(s)
	for range 2 {
		if err := f.Driver.Remove(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Driver.Status(t.Context(), s.ID); !errors.Is(err, machine.ErrNotFound) {
			t.Errorf("its status: %v", err)
		}
	}
	f.NoEnd()
	if found := f.Reopen(nil); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
}

func unknown(t *testing.T, f *Fixture) {
	id := f.Spec().ID
	if _, err := f.Driver.Status(t.Context(), id); !errors.Is(err, machine.ErrNotFound) {
		t.Errorf("status: %v", err)
	}
	if _, err := f.Driver.Exec(t.Context(), id, machine.ExecSpec{Args: []string{"true"}}); !errors.Is(err, machine.ErrNotFound) {
		t.Errorf("exec: %v", err)
	}
	if _, _, err := f.Driver.Console(t.Context(), id, 10); !errors.Is(err, machine.ErrNotFound) {
		t.Errorf("console: %v", err)
	}
	if err := f.Driver.Update(t.Context(), id, machine.Resources{Memory: 1 << 28, PIDs: 10}); !errors.Is(err, machine.ErrNotFound) {
		t.Errorf("update: %v", err)
	}
	if err := f.Driver.Stop(t.Context(), id, time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := f.Driver.Remove(t.Context(), id); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func recovers(t *testing.T, f *Fixture) {
	lives, ends, stopped, gone := f.Spec(), f.Application("/bin/sh", "-c", "sleep 1; exit 6"), f.Spec(), f.Spec()
	alive := f.Start(lives)
	f.Start(ends)
	f.Start(stopped)
	f.Start(gone)
	f.Stop(stopped.ID, 10*time.Second)
	if err := f.Driver.Remove(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	found := f.Reopen(func() { time.Sleep(1500 * time.Millisecond) })
	if st := found[lives.ID]; st != alive {
		t.Errorf("the living one was %+v and is %+v", alive, st)
	}
	if st := found[ends.ID]; st.State != machine.Exited || st.Exit.Code != 6 || st.Exit.Requested {
		t.Errorf("the one that ended meanwhile: %+v", st)
	}
	if st := found[stopped.ID]; st.State != machine.Exited || !st.Exit.Requested {
		t.Errorf("the one that was stopped: %+v", st)
	}
	if len(found) != 3 {
		t.Errorf("found %+v", found)
	}
	if again := f.Start(lives); again.PID != alive.PID {
		t.Errorf("the living one was started again: %+v", again)
	}
	if out, code := f.Run(lives.ID, "echo adopted"); out != "adopted" {
		t.Errorf("exit %d: %q", code, out)
	}
	f.Run(lives.ID, "/usr/sbin/poweroff")
	if st := f.End(); st.ID != lives.ID || st.Exit.Requested {
		t.Errorf("an adopted machine's end was told as %+v", st)
	}
	if again := f.Reopen(nil); len(again) != 3 || again[lives.ID].State != machine.Exited || again[ends.ID].Exit.Code != 6 {
		t.Errorf("after another return: %+v", again)
	}
}

func sideBySide(t *testing.T, f *Fixture) {
	var wg sync.WaitGroup
	specs := make([]machine.Spec, 6)
	for n := range specs {
		specs[n] = f.Spec()
	}
	for _, s := range specs {
		wg.Go(func() {
			if _, err := f.Driver.Start(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range specs {
		wg.Go(func() {
			if err := f.Driver.Remove(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
