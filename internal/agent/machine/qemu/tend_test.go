package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// until looks after a machine until it is as wanted.
func (h *host) until(id cloud.InstanceID, what string, right func(c machine.Condition) bool) machine.Condition {
	h.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		c, err := h.d.Tend(within(h.t), id)
		if err != nil {
			h.t.Fatal(err)
		}
		if right(c) {
			return c
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: it never came to that: %+v", what, c)
		}
	}
}

func TestAMachineWhoseServerHasNoRoomStandsStillAndGoesOnWithAllThatItWrote(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	small := filepath.Join(h.dir, "small")
	if err := os.Mkdir(small, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", small, "tmpfs", 0, "size=200m,mode=711"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.close()
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	disk, err := os.ReadFile(s.VM.Disks[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	s.VM.Disks[0].Path = small + "/disk"
	for name, content := range map[string][]byte{"disk": disk[:64<<20], "ballast": make([]byte, 134<<20)} {
		if err := os.WriteFile(filepath.Join(small, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The upper half of the disk is nowhere yet, and 2 MiB of room are left for it.
	if err := os.Truncate(small+"/disk", machinetest.DiskSize); err != nil {
		t.Fatal(err)
	}
	h.start(s)
	h.sh(s.ID, "echo before >/tmp/before; sync; (head -c 48m /dev/zero | tr '\\000' x | dd of=/dev/vda bs=1M seek=70 2>/dev/null; sync; echo done >/run/done) >/dev/null 2>&1 </dev/null &")
	c := h.until(s.ID, "it stands still", func(c machine.Condition) bool { return c.Stalled != "" })
	if !strings.Contains(c.Stalled, "no room") {
		t.Errorf("it stands still for %q", c.Stalled)
	}
	// Also for whoever looks after a restart.
	h.die()
	h.open()
	if _, err := h.d.Recover(within(t)); err != nil {
		t.Fatal(err)
	}
	h.until(s.ID, "it still stands still", func(c machine.Condition) bool { return c.Stalled != "" })
	if err := os.Remove(small + "/ballast"); err != nil {
		t.Fatal(err)
	}
	h.until(s.ID, "it goes on", func(c machine.Condition) bool { return c.Stalled == "" })
	h.await(s.ID)
	if got := h.sh(s.ID, "n=0; while [ ! -e /run/done ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; cat /run/done /tmp/before"); got != "done\nbefore" {
		t.Errorf("it says %q", got)
	}
	b, err := os.ReadFile(small + "/disk")
	if err != nil {
		t.Fatal(err)
	}
	for at := 70 << 20; at < 118<<20; at++ {
		if b[at] != 'x' {
			t.Fatalf("what it wrote at %d is %q", at, b[at])
		}
	}
}

func TestAnIdleMachineLendsMemoryAndGetsItAgain(t *testing.T) {
	h := newHost(t)
	s := h.roomy()
	h.start(s)
	h.sh(s.ID, "mount -t tmpfs tmpfs /tmp; head -c 60m /dev/urandom >/tmp/fill; rm /tmp/fill")
	c := h.until(s.ID, "its guest tells of its memory", func(c machine.Condition) bool { return c.Available > 0 })
	if c.First != s.Resources.Memory || c.Held != c.First {
		t.Errorf("it starts with %+v", c)
	}
	full, free := h.private(s.ID), h.free(s.ID)
	if err := h.d.LeaveMemory(within(t), s.ID, 190<<20); err != nil {
		t.Fatal(err)
	}
	h.until(s.ID, "it lends", func(c machine.Condition) bool { return c.Held < 195<<20 })
	if now := h.private(s.ID); now > full-30 {
		t.Errorf("it held %d MiB and holds %d", full, now)
	}
	if now := h.free(s.ID); now > free-50 {
		t.Errorf("its guest had %d MiB free and has %d", free, now)
	}
	if err := h.d.LeaveMemory(within(t), s.ID, 1<<40); err != nil {
		t.Fatal(err)
	}
	h.until(s.ID, "it has its memory again", func(c machine.Condition) bool { return c.Held == s.Resources.Memory })
	h.gains(s.ID, free, 0)
	// What its guest uses is not taken, by a change of its size either.
	r := s.Resources
	r.Memory = 100 << 20
	if err := h.d.Update(within(t), s.ID, r); err == nil || !strings.Contains(err.Error(), "its guest uses") {
		t.Errorf("less than its guest uses: %v", err)
	}
	h.gains(s.ID, free, 0)
}

func TestAMachineThatDoesNotListenIsEndedAfterItsGrace(t *testing.T) {
	h := newHost(t)
	s := h.spec()
	h.start(s)
	if err := h.d.run(within(t), s.ID, "stop", nil, nil); err != nil { // its guest does nothing any more
		t.Fatal(err)
	}
	if err := h.d.Stop(within(t), s.ID, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	if st, err := h.d.Status(t.Context(), s.ID); err != nil || st.State != machine.Exited || !st.Exit.Requested || st.Exit.Code != 128+int(unix.SIGKILL) {
		t.Errorf("%+v, %v", st, err)
	}
	s.Boot = 2
	h.start(s)
}
