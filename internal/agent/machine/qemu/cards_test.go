package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// wires are taps in a network namespace of a test's own, which is gone with the test.
type wires struct {
	t  testing.TB
	do chan func()
}

func newWires(t testing.TB) *wires {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes a network namespace")
	}
	w := &wires{t: t, do: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		made <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range w.do {
			f()
		}
	}()
	t.Cleanup(func() { close(w.do) })
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	return w
}

// within does something in the namespace.
func (w *wires) within(f func() error) error {
	done := make(chan error)
	w.do <- func() { done <- f() }
	return <-done
}

// card is a network card whose tap has the address 10.77.n.1; the guest's is 10.77.n.2.
func (w *wires) card(n int) machine.NIC {
	w.t.Helper()
	name := fmt.Sprintf("card%d", n)
	open := func() (f *os.File, err error) {
		err = w.within(func() error {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				return err
			}
			req, err := unix.NewIfreq(name)
			if err == nil {
				req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
				err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
			}
			if err != nil {
				return errors.Join(err, unix.Close(fd))
			}
			f = os.NewFile(uintptr(fd), name)
			return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
		})
		return f, err
	}
	f, err := open()
	if err != nil {
		w.t.Fatal(err)
	}
	f.Close()
	err = w.within(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr(fmt.Sprintf("10.77.%d.1/24", n))
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, address), netlink.LinkSetUp(link))
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return machine.NIC{Interface: cloud.InterfaceID(fmt.Sprintf("eni-0000000000000000%d", n)), MAC: fmt.Sprintf("02:77:00:00:00:%02x", n), MTU: 1500,
		Addresses: []string{fmt.Sprintf("10.77.%d.2/24", n)}, Tap: open}
}

// answers waits until a guest answers by a card, whose hardware address it must answer with.
func (w *wires) answers(n int, mac string) {
	w.t.Helper()
	var problem error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if problem = w.ping(n, mac); problem == nil {
			return
		}
	}
	w.t.Fatalf("card %d: %v", n, problem)
}

func (w *wires) ping(n int, mac string) error {
	return w.within(func() error {
		peer := fmt.Sprintf("10.77.%d.2", n)
		c, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 77, Seq: n, Data: []byte("there?")}}).Marshal(nil)
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(peer)}); err != nil {
			return err
		}
		for buf := make([]byte, 1500); ; {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return fmt.Errorf("no answer: %w", err)
			}
			if m, err := icmp.ParseMessage(1, buf[:k]); err == nil && m.Type == ipv4.ICMPTypeEchoReply && from.String() == peer {
				break
			}
		}
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, h := range neighbours {
			if h.IP.String() == peer && h.HardwareAddr.String() == mac {
				return nil
			}
		}
		return fmt.Errorf("%s is not at %s", peer, mac)
	})
}

// vm is what is noted of a running machine.
func (h *host) vm(id cloud.InstanceID) *machine.VM {
	h.t.Helper()
	s, err := h.d.Running(id)
	if err != nil {
		h.t.Fatal(err)
	}
	return s.VM
}

func (h *host) plugIn(id cloud.InstanceID, n machine.NIC) {
	h.t.Helper()
	if err := h.d.AttachNIC(within(h.t), id, n); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) unplug(id cloud.InstanceID, n machine.NIC) {
	h.t.Helper()
	if err := h.d.DetachNIC(within(h.t), id, n.Interface); err != nil {
		h.t.Fatal(err)
	}
}

// dies has the driver killed, and another one adopt the machines.
func (h *host) dies() {
	h.t.Helper()
	h.die()
	h.open()
	if _, err := h.d.Recover(within(h.t)); err != nil {
		h.t.Fatal(err)
	}
}

func slotsOf(vm *machine.VM) (slots []int) {
	for _, n := range vm.NICs {
		slots = append(slots, n.Slot)
	}
	return slots
}

func TestCardsComeAndGoAndThoseThatAreLeftWorkAfterHibernation(t *testing.T) {
	h, w := newHost(t), newWires(t)
	a, b, c := w.card(1), w.card(2), w.card(3)
	s := h.spec()
	s.VM.NICs = []machine.NIC{a}
	h.start(s)
	w.answers(1, a.MAC)
	h.plugIn(s.ID, b)
	h.plugIn(s.ID, c)
	w.answers(2, b.MAC)
	w.answers(3, c.MAC)
	h.plugIn(s.ID, b) // it has it
	h.unplug(s.ID, b)
	if got := h.vm(s.ID); !slices.Equal(slotsOf(got), []int{0x10, 0x12}) || len(got.Left) > 0 {
		t.Errorf("it has cards in %#x, and %v is left", slotsOf(got), got.Left)
	}
	if f, err := b.Tap(); err != nil {
		t.Errorf("another can't have its link: %v", err)
	} else {
		f.Close()
	}
	h.dies()
	h.await(s.ID)
	if err := h.d.Hibernate(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	s.Boot, s.VM.NICs = 2, []machine.NIC{a, c}
	if _, err := h.d.Resume(within(t), s); err != nil {
		t.Fatal(err)
	}
	h.await(s.ID)
	if got := slotsOf(h.vm(s.ID)); !slices.Equal(got, []int{0x10, 0x12}) {
		t.Errorf("resumed, it has cards in %#x", got)
	}
	w.answers(1, a.MAC)
	w.answers(3, c.MAC)
	h.plugIn(s.ID, b)
	w.answers(2, b.MAC)
	if got := slotsOf(h.vm(s.ID)); !slices.Equal(got, []int{0x10, 0x12, 0x11}) {
		t.Errorf("with one more it has cards in %#x", got)
	}
}

func TestACardThatItsGuestHoldsOnToKeepsItsSlotAndNothingElse(t *testing.T) {
	h, w := newHost(t), newWires(t)
	a, b, c := w.card(1), w.card(2), w.card(3)
	s := h.emulated() // its system knows nothing of cards that come and go
	s.VM.NICs = []machine.NIC{a}
	if _, err := h.d.Start(within(t), s); err != nil {
		t.Fatal(err)
	}
	h.says(s.ID, "hello")
	h.plugIn(s.ID, b)
	h.unplug(s.ID, b)
	f, err := b.Tap()
	if err != nil {
		t.Fatalf("another can't have its link: %v", err)
	}
	f.Close()
	left := []machine.Left{{Device: cardDevice(b.Interface), Slot: 0x11}}
	holds := func() {
		t.Helper()
		if got := h.vm(s.ID); !slices.Equal(got.Left, left) {
			t.Errorf("what is left is %v", got.Left)
		}
	}
	holds()
	h.dies()
	holds()
	h.plugIn(s.ID, c)
	if got := slotsOf(h.vm(s.ID)); !slices.Equal(got, []int{0x10, 0x12}) {
		t.Errorf("it has cards in %#x", got)
	}
	if err := h.d.AttachNIC(within(t), s.ID, b); err == nil || !strings.Contains(err.Error(), "holds on to the network card") {
		t.Errorf("attached again while it is held: %v", err)
	}
	if err := h.d.Hibernate(within(t), s.ID); err == nil || !strings.Contains(err.Error(), "holds on to "+cardDevice(b.Interface)) {
		t.Errorf("hibernated while it is held: %v", err)
	}
	if _, err := h.d.Tend(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	holds()

	// A reset lets go of it.
	if err := h.d.run(within(t), s.ID, "system_reset", nil, nil); err != nil {
		t.Fatal(err)
	}
	for ctx := within(t); len(h.vm(s.ID).Left) > 0; time.Sleep(50 * time.Millisecond) {
		if _, err := h.d.Tend(ctx, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	h.plugIn(s.ID, b)
	if got := slotsOf(h.vm(s.ID)); !slices.Equal(got, []int{0x10, 0x12, 0x11}) {
		t.Errorf("attached again it has cards in %#x", got)
	}
}

func TestACardThatIsNotedAndNotThereIsPluggedInWhenItIsAskedForAgain(t *testing.T) {
	h, w := newHost(t), newWires(t)
	b, c := w.card(2), w.card(3)
	s := h.spec()
	h.start(s)
	// The driver is killed after the note of one, and after the note that the other is taken away.
	h.plugIn(s.ID, c)
	if _, err := h.d.noteCard(s.ID, b); err != nil {
		t.Fatal(err)
	}
	if err := h.d.leave(s.ID, cardDevice(c.Interface)); err != nil {
		t.Fatal(err)
	}
	h.dies()
	h.await(s.ID)
	if err := h.d.Hibernate(within(t), s.ID); err == nil || !strings.Contains(err.Error(), "holds on to") {
		t.Errorf("saved with a card that is half gone: %v", err)
	}
	h.unplug(s.ID, c)
	if err := h.d.Hibernate(within(t), s.ID); err == nil || !strings.Contains(err.Error(), "not plugged in yet") {
		t.Errorf("saved with a card that is half there: %v", err)
	}
	h.plugIn(s.ID, b)
	w.answers(2, b.MAC)
	if got := h.vm(s.ID); len(got.NICs) != 1 || len(got.Left) > 0 {
		t.Errorf("it has %v, and %v is left", got.NICs, got.Left)
	}
}

func TestCardsAndVolumesShareTheSlotsAndNoneIsGivenTwice(t *testing.T) {
	vm := &machine.VM{NICs: []machine.NIC{{Interface: "a"}, {Interface: "b"}}, Left: []machine.Left{{Device: "gone", Slot: 0x12}}}
	for range 19 {
		vm.Volumes = append(vm.Volumes, machine.Volume{Graph: volume.Graph{ID: "vol-1"}})
	}
	if err := slotted(vm); err != nil {
		t.Fatal(err)
	}
	taken := map[int]bool{0x12: true}
	for _, slot := range slotsOf(vm) {
		taken[slot] = true
	}
	for _, v := range vm.Volumes {
		taken[v.Slot] = true
	}
	if len(taken) != 22 || vm.NICs[0].Slot != firstCardSlot || vm.Volumes[0].Slot != lastSlot {
		t.Errorf("the slots %v are taken", taken)
	}
	vm.NICs = append(vm.NICs, machine.NIC{Interface: "c"})
	if err := slotted(vm); err == nil || !strings.Contains(err.Error(), "network card c: its 22 slots are taken by 3 network cards, 19 volumes and 1 devices") {
		t.Error(err)
	}
}
