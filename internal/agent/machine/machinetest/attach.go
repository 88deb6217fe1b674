package machinetest

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Attach joins a machine's console until the test ends.
func (f *Fixture) Attach(id cloud.InstanceID) machine.Terminal {
	f.t.Helper()
	t, err := f.Driver.Attach(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { t.Close() })
	return t
}

// readAll reads a terminal in the background.
func readAll(from machine.Terminal) (out *output, ended chan error) {
	out, ended = &output{}, make(chan error, 1)
	go func() {
		_, err := io.Copy(out, from)
		ended <- err
	}()
	return out, ended
}

func attachesMany(t *testing.T, f *Fixture) {
	s := f.Application("/bin/sh", "-c", "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo line $i; sleep 0.05; done; echo last line")
	if _, err := f.Driver.Attach(t.Context(), s.ID); err == nil {
		t.Error("attached to a machine that does not run")
	}
	f.Start(s)
	one, oneEnded := readAll(f.Attach(s.ID))
	two, twoEnded := readAll(f.Attach(s.ID))
	third := f.Attach(s.ID)
	if n, err := third.Write(make([]byte, 1<<20)); err != nil || n != 1<<20 { // which nobody reads
		t.Errorf("of a MiB %d bytes were typed, %v", n, err)
	}
	for _, out := range []*output{one, two} {
		f.Eventually("both read lines", func() bool { return strings.Count(out.String(), "\n") > 3 })
	}
	// One who leaves takes nobody along.
	third.Close()
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a closed terminal reads")
	}
	f.Run(s.ID, ": >/tmp/stop")
	f.End()
	for _, ended := range []chan error{oneEnded, twoEnded} {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the machine's end is not the console's")
		}
	}
	if !strings.HasSuffix(one.String(), "last line\n") || !strings.HasSuffix(two.String(), "last line\n") {
		t.Errorf("they end with %q and %q", one.String(), two.String())
	}
	s.Boot++
	f.Start(s) // ends at once: the file is still there
	f.End()
}

// waitsForNoReader has a machine flood its console while somebody is attached who does not read.
func waitsForNoReader(t *testing.T, f *Fixture) {
	s := f.Application("/bin/sh", "-c", "busybox yes 'a flood of a line that is longer than most' & sleep 1000000")
	f.Start(s)
	late := f.Attach(s.ID)
	flood := f.Attach(s.ID)
	// Far more than what waits for a reader goes by.
	if _, err := io.CopyN(io.Discard, flood, 8<<20); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := late.Read(b)
	if err != nil || !strings.Contains(string(b[:n]), "bytes were not read in time]") {
		t.Errorf("who is late reads %.100q, %v", b[:n], err)
	}
	if out, code := f.Run(s.ID, "echo answers"); out != "answers" || code != 0 {
		t.Errorf("in the flood it says %q, %d", out, code)
	}
}
