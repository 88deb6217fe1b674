package network

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// nonsense is a frame that no honest guest sends: of any length, cut short, with headers that lie or with what is somebody else's.
func (g *guest) nonsense(r *rand.Rand, router, victim []byte, target netip.Addr) []byte {
	random := func(n int) []byte {
		b := make([]byte, n)
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		return b
	}
	header := make([]byte, vnetHeader)
	if r.IntN(4) == 0 {
		header = random(vnetHeader) // also about checksums and segments
	}
	to, from := router, []byte(g.mac)
	if r.IntN(3) == 0 {
		from = victim
	}
	if r.IntN(5) == 0 {
		to = broadcastMAC
	}
	frame := append(append(append(header, to...), from...), 0x08, byte(r.IntN(8)))
	switch r.IntN(4) {
	case 0:
		return random(r.IntN(vnetHeader + 20))
	case 1:
		return append(frame, random(r.IntN(66000))...)
	case 2: // an ARP answer that claims somebody's address
		frame[len(frame)-1] = 0x06
		claim := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, g.mac...)
		claim = append(append(claim, target.AsSlice()...), router...)
		return append(frame, append(claim, g.i.PrivateIP.AsSlice()...)...)
	}
	frame[len(frame)-1] = 0
	h := ipv4.Header{Version: 4, Len: 20, TotalLen: 20 + r.IntN(2000), TTL: 64, Protocol: r.IntN(256), Src: random(4), Dst: target.AsSlice()}
	b, err := h.Marshal()
	if err != nil {
		g.w.t.Fatal(err)
	}
	if r.IntN(3) == 0 {
		b[0] = byte(r.Uint32()) // its version and length
	}
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(append(frame, b...), random(r.IntN(1500))...)
}

func TestAGuestThatSendsNonsenseHarmsNobody(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", friends("sg-a", "10.7.0.5", "10.7.0.6", "10.7.0.7")))
	g, other, c := w.guest("vpc-a", 5, "sg-a"), w.guest("vpc-a", 7, "sg-a"), w.box("vpc-a", 6, false, "sg-a")
	r := rand.New(rand.NewPCG(5, 6))
	for n := range 3000 {
		target := other.i.PrivateIP
		if n%2 == 0 {
			target = c.i.PrivateIP
		}
		_, err := g.tap.Write(g.nonsense(r, macFor(linkOf(g.i.ID)), other.mac, target))
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, os.ErrInvalid) {
			t.Fatalf("frame %d: %v", n, err)
		}
	}
	if p := other.receiveIP(300*time.Millisecond, func(h *ipv4.Header, _ []byte) bool { return !h.Src.Equal(g.i.PrivateIP.AsSlice()) }); p != nil {
		t.Error("a packet with a stranger's source arrived")
	}
	if got := other.whoHas(c.i.PrivateIP, other.i.PrivateIP); got.String() != macFor(linkOf(other.i.ID)).String() {
		t.Errorf("its neighbour is told that %s is at %s", c.i.PrivateIP, got)
	}
	for name, guest := range map[string]*guest{"its neighbour": other, "the guest itself": g} {
		if !guest.echo(c.i.PrivateIP) || !guest.echo(metadataAddr) {
			t.Errorf("afterwards %s is not answered", name)
		}
	}
}
