package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/confined"
	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// emulated is a PC of emulated devices that boots a disk whose program greets and echoes.
func (h *host) emulated() machine.Spec {
	h.t.Helper()
	h.next++
	id := cloud.NewID[cloud.InstanceID](rand.Reader)
	dir := filepath.Join(h.cfg.MachinesDir, string(id))
	if err := os.MkdirAll(dir, 0o711); err != nil {
		h.t.Fatal(err)
	}
	machinetest.MakeBootDisk(h.t, dir+"/disk")
	return machine.Spec{ID: id, Boot: 1, Dir: dir, IDBase: uint32(testBase + 65536*h.next), Resources: machine.Resources{VCPUs: 1, Weight: 100, Memory: 32 << 20, PIDs: 100},
		VM: &machine.VM{Architecture: "x86_64", Firmware: cloud.FirmwareBIOS, Devices: cloud.DevicesEmulated, Accelerator: "tcg", Product: "t3.nano",
			Disks: []machine.Disk{{Path: dir + "/disk", Format: "raw"}}}}
}

// typist is attached to a console and keeps what it reads.
type typist struct {
	machine.Terminal
	t    testing.TB
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (h *host) attach(id cloud.InstanceID) *typist {
	h.t.Helper()
	at, err := h.d.Attach(within(h.t), id)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { at.Close() })
	y := &typist{Terminal: at, t: h.t, more: make(chan struct{}, 1)}
	go io.Copy(y, at)
	return y
}

func (y *typist) Write(p []byte) (int, error) {
	y.mu.Lock()
	y.text.Write(p)
	y.mu.Unlock()
	select {
	case y.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (y *typist) typed(keys string) {
	y.t.Helper()
	if _, err := y.Terminal.Write([]byte(keys)); err != nil {
		y.t.Fatal(err)
	}
}

func (y *typist) sees(want string) {
	y.t.Helper()
	for ctx := within(y.t); ; {
		y.mu.Lock()
		text := y.text.String()
		y.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		select {
		case <-y.more:
		case <-ctx.Done():
			y.t.Fatalf("the console says %.1000q and not %q", text, want)
		}
	}
}

// says waits until a machine has said something since its launch.
func (h *host) says(id cloud.InstanceID, want string) {
	h.t.Helper()
	for ctx := within(h.t); ; {
		out, _, err := h.d.Console(ctx, id, 1<<16)
		if err != nil {
			h.t.Fatal(err)
		}
		if strings.Contains(string(out), want) {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			h.t.Fatalf("the console says %.1000q and not %q", out, want)
		}
	}
}

func TestASerialConsoleIsReadAndTypedToByManyAlsoAfterItsDriversDeath(t *testing.T) {
	h := newHost(t)
	s := h.emulated()
	if _, err := h.d.Start(within(t), s); err != nil {
		t.Fatal(err)
	}
	one, two := h.attach(s.ID), h.attach(s.ID)
	one.typed("abc")
	one.sees("abc")
	two.sees("abc")
	two.typed("xyz")
	one.sees("xyz")
	if err := h.d.Break(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	one.sees(machinetest.BreakEcho)

	h.die()
	h.open()
	if _, err := h.d.Recover(within(t)); err != nil {
		t.Fatal(err)
	}
	three := h.attach(s.ID)
	three.typed("again")
	three.sees("again")
}

func TestAGuestThatFloodsItsSerialLineHurtsNobody(t *testing.T) {
	h := newHost(t)
	s := h.emulated()
	if _, err := h.d.Start(within(t), s); err != nil {
		t.Fatal(err)
	}
	late, err := h.d.Attach(within(t), s.ID) // never reads
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	flood, err := h.d.Attach(within(t), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	// Typed more than it ever takes, as it only writes from the first character on.
	typing := make(chan error, 1)
	go func() {
		_, err := late.Write(bytes.Repeat([]byte(machinetest.FloodKey), 4<<20))
		typing <- err
	}()
	if _, err := io.CopyN(io.Discard, flood, 2*confined.ConsoleSize); err != nil {
		t.Fatal(err)
	}
	var kept int64
	logs, _ := filepath.Glob(filepath.Join(h.d.Bundle(s.ID), "*.log"))
	for _, l := range logs {
		info, err := os.Stat(l)
		if err != nil {
			t.Fatal(err)
		}
		kept += info.Size()
	}
	if kept == 0 || kept > confined.ConsoleSize+1<<20 {
		t.Errorf("%d bytes of the flood are kept in %q", kept, logs)
	}
	b := make([]byte, 64)
	if n, err := late.Read(b); err != nil || !strings.Contains(string(b[:n]), "bytes were not read in time]") {
		t.Errorf("who does not read gets %q, %v", b[:n], err)
	}
	// Another machine's console is none the worse for it.
	other := h.emulated()
	if _, err := h.d.Start(within(t), other); err != nil {
		t.Fatal(err)
	}
	h.says(other.ID, machinetest.BootDiskText)
	if err := h.d.Stop(within(t), s.ID, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-typing; err == nil {
		t.Error("4 MiB were typed to a machine that reads nothing")
	}
	if _, err := io.Copy(io.Discard, flood); err != nil {
		t.Errorf("its end is %v", err)
	}
}

func TestAMachineOfEmulatedDevicesHasAScreenAndAKeyboardForMany(t *testing.T) {
	h := newHost(t)
	s := h.emulated()
	if _, err := h.d.Start(within(t), s); err != nil {
		t.Fatal(err)
	}
	h.says(s.ID, machinetest.BootDiskText) // the BIOS read the second sector by AHCI
	serial := h.attach(s.ID)
	screen := h.screen(s.ID)
	if screen.Width != 720 || screen.Height != 400 {
		t.Errorf("text mode has %d x %d", screen.Width, screen.Height)
	}
	before, err := screen.Lit()
	if err != nil || before < 100 {
		t.Errorf("%d pixels are lit, %v", before, err)
	}
	if err := screen.Type("typed at the screen"); err != nil {
		t.Fatal(err)
	}
	serial.sees("typed at the screen")
	other := h.screen(s.ID)
	if err := other.Type(" and the other"); err != nil {
		t.Fatal(err)
	}
	serial.sees("typed at the screen and the other")
	if after, err := screen.Lit(); err != nil || after <= before {
		t.Errorf("%d pixels are lit after %d, %v", after, before, err)
	}

	h.die()
	h.open()
	if _, err := h.d.Recover(within(t)); err != nil {
		t.Fatal(err)
	}
	again := h.screen(s.ID)
	if lit, err := again.Lit(); err != nil || lit <= before {
		t.Errorf("after the driver's death %d pixels are lit, %v", lit, err)
	}

	// Hibernated, it goes on with what was on its screen, and stopped, it boots.
	if err := h.d.Hibernate(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	s.Boot = 2
	if _, err := h.d.Resume(within(t), s); err != nil {
		t.Fatal(err)
	}
	if lit, err := h.screen(s.ID).Lit(); err != nil || lit <= before {
		t.Errorf("resumed, %d pixels are lit, %v", lit, err)
	}
	serial = h.attach(s.ID)
	serial.typed("resumed")
	serial.sees("resumed")
	if err := h.d.Stop(within(t), s.ID, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.d.Screen(within(t), s.ID); err == nil {
		t.Error("a machine that is stopped has a screen")
	}
}

// screen connects to a machine's screen until the test ends.
func (h *host) screen(id cloud.InstanceID) *machinetest.Screen {
	h.t.Helper()
	conn, err := h.d.Screen(within(h.t), id)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		h.t.Fatal(err)
	}
	s, err := machinetest.OpenScreen(conn)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func TestAMachineOfParavirtualDevicesHasNoScreen(t *testing.T) {
	h := newHost(t)
	s := h.emulated()
	s.VM.Devices = cloud.DevicesVirtio
	if _, err := h.d.Start(within(t), s); err != nil {
		t.Fatal(err)
	}
	if _, err := h.d.Screen(context.Background(), s.ID); err == nil || !strings.Contains(err.Error(), "no screen") {
		t.Error(err)
	}
}
