package network

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/network/dhcp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// lend serves DHCP inside a VPC.
func (w *world) lend(vpc cloud.VPCID) {
	w.t.Helper()
	socket, err := w.n.ListenPacketVPC(vpc, "udp4", "0.0.0.0:67")
	if err != nil {
		w.t.Fatal(err)
	}
	server := &dhcp.Server{Logger: w.cfg.Logger, Lookup: func(link int) (dhcp.Lease, bool) {
		i, s, ok := w.n.InterfaceAt(vpc, link)
		mac, _ := net.ParseMAC(i.MAC)
		return dhcp.Lease{Interface: i.ID, MAC: mac, Address: i.PrivateIP, Subnet: s.CIDR, MTU: w.n.MTU(), Hostname: cloud.HostName(i.PrivateIP),
			Domain: "corp.example", DNS: []netip.Addr{resolverAddr}, NTP: []netip.Addr{netip.MustParseAddr("192.0.2.123")}}, ok
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, socket) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// udhcpc runs busybox's client in a box and returns a function that waits for its next report: the event, and what it was told.
func (b *box) udhcpc(args ...string) (*exec.Cmd, func() map[string]string) {
	b.w.t.Helper()
	if _, err := exec.LookPath("busybox"); err != nil {
		b.w.t.Fatal("this test runs busybox's DHCP client")
	}
	dir := b.w.t.TempDir()
	script := filepath.Join(dir, "tell")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n(echo event=$1; env) >"+dir+"/$1.new; mv "+dir+"/$1.new "+dir+"/$1\n"), 0o755); err != nil {
		b.w.t.Fatal(err)
	}
	cmd := exec.Command("busybox", append([]string{"udhcpc", "-f", "-n", "-t", "5", "-T", "1", "-i", "eth0", "-s", script}, args...)...)
	if err := b.w.n.inside(b.i.Instance, cmd.Start); err != nil {
		b.w.t.Fatal(err)
	}
	b.w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, func() map[string]string {
		b.w.t.Helper()
		for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
			for _, event := range []string{"bound", "renew", "nak", "leasefail"} {
				raw, err := os.ReadFile(filepath.Join(dir, event))
				if err != nil {
					continue
				}
				os.Remove(filepath.Join(dir, event))
				told := map[string]string{}
				for line := range strings.Lines(string(raw)) {
					key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
					told[key] = value
				}
				return told
			}
		}
		b.w.t.Fatal("the client reports nothing")
		return nil
	}
}

func TestBusyboxsClientGetsTheAddressThatItsInterfaceHas(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", Group{ID: "sg-shut"}))
	w.lend("vpc-a")
	for n, args := range [][]string{nil, {"-B"}} {
		b := w.box("vpc-a", 5+byte(n), false, "sg-shut")
		client, report := b.udhcpc(append(args, "-O", "staticroutes", "-O", "mtu", "-O", "search", "-O", "ntpsrv")...)
		told := report()
		for key, want := range map[string]string{"event": "bound", "ip": b.i.PrivateIP.String(), "mask": "20", "router": "10.7.0.1", "serverid": "10.7.0.1", "dns": "169.254.169.253",
			"domain": "corp.example", "search": "corp.example", "ntpsrv": "192.0.2.123", "lease": "3600", "hostname": cloud.HostName(b.i.PrivateIP),
			"staticroutes": "0.0.0.0/0 10.7.0.1 169.254.169.254/32 10.7.0.1 169.254.169.253/32 10.7.0.1"} {
			if told[key] != want {
				t.Errorf("with %v, %s is %q, not %q", args, key, told[key], want)
			}
		}
		// It asks its server alone now.
		if err := client.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if told := report(); told["event"] != "renew" || told["ip"] != b.i.PrivateIP.String() {
			t.Errorf("with %v, the renewal is a %s of %s", args, told["event"], told["ip"])
		}
	}
}

// dhcp sends a client's message by broadcast, from no address, and returns the answer, nil when none comes in time.
func (g *guest) dhcp(within time.Duration, q *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	g.w.t.Helper()
	g.sendDHCP(netip.IPv4Unspecified(), q)
	return g.receiveDHCP(within, q)
}

func (g *guest) sendDHCP(source netip.Addr, q *dhcpv4.DHCPv4) {
	g.w.t.Helper()
	payload := q.ToBytes()
	header := []byte{0, 68, 0, 67, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(header[4:], uint16(len(header)+len(payload)))
	g.sendIP(broadcastMAC, source, netip.AddrFrom4([4]byte{255, 255, 255, 255}), unix.IPPROTO_UDP, append(header, payload...))
}

func (g *guest) receiveDHCP(within time.Duration, q *dhcpv4.DHCPv4) (r *dhcpv4.DHCPv4) {
	g.w.t.Helper()
	g.receiveIP(within, func(h *ipv4.Header, p []byte) bool {
		if h.Protocol != unix.IPPROTO_UDP || binary.BigEndian.Uint16(p) != 67 || binary.BigEndian.Uint16(p[2:]) != 68 {
			return false
		}
		m, err := dhcpv4.FromBytes(p[8:])
		if err != nil {
			g.w.t.Fatal(err)
		}
		if q != nil && m.TransactionID != q.TransactionID {
			return false
		}
		r = m
		return true
	})
	return r
}

func (g *guest) discover(more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	g.w.t.Helper()
	q, err := dhcpv4.NewDiscovery(g.mac, more...)
	if err != nil {
		g.w.t.Fatal(err)
	}
	return q
}

func TestAGuestGetsItsAddressByDHCPAndOnlyByItsOwnLink(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", friends("sg-a", "10.7.0.5")))
	w.lend("vpc-a")
	g, other := w.guest("vpc-a", 5, "sg-a"), w.guest("vpc-a", 6, "sg-a")
	offer := g.dhcp(time.Second, g.discover())
	if offer == nil || offer.YourIPAddr.String() != "10.7.0.5" {
		t.Fatalf("it is offered %v", offer)
	}
	q, err := dhcpv4.NewRequestFromOffer(offer, dhcpv4.WithBroadcast(true))
	if err != nil {
		t.Fatal(err)
	}
	if ack := g.dhcp(time.Second, q); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || ack.YourIPAddr.String() != "10.7.0.5" {
		t.Fatalf("it is acknowledged %v", ack)
	}
	if !g.echo(metadataAddr) {
		t.Error("with that address, nobody answers it")
	}
	if heard := other.receiveDHCP(100*time.Millisecond, nil); heard != nil {
		t.Errorf("another interface heard:\n%s", heard.Summary())
	}
	t.Run("another's hardware address is told nothing", func(t *testing.T) {
		stolen, err := dhcpv4.NewDiscovery(other.mac, dhcpv4.WithBroadcast(true))
		if err != nil {
			t.Fatal(err)
		}
		if r := g.dhcp(200*time.Millisecond, stolen); r != nil {
			t.Errorf("it was told:\n%s", r.Summary())
		}
		if r := other.receiveDHCP(100*time.Millisecond, nil); r != nil {
			t.Errorf("who has it was told:\n%s", r.Summary())
		}
	})
	t.Run("nothing else leaves without an address", func(t *testing.T) {
		q := g.discover()
		header := append([]byte{0, 68, 0, 53, 0, 0, 0, 0}, q.ToBytes()...)
		binary.BigEndian.PutUint16(header[4:], uint16(len(header)))
		socket, err := w.n.ListenPacketVPC("vpc-a", "udp4", "0.0.0.0:53")
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		g.sendIP(broadcastMAC, netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255}), unix.IPPROTO_UDP, header)
		if err := socket.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, from, err := socket.ReadFrom(make([]byte, 2000)); err == nil {
			t.Errorf("%d bytes from %s came through", n, from)
		}
	})
	t.Run("a link whose interface isn't let in is told nothing", func(t *testing.T) {
		b := w.unplugged("vpc-a", 9, "sg-a")
		b.i.Tap = true
		if _, err := w.n.Plug(t.Context(), b.i); err != nil {
			t.Fatal(err)
		}
		waits := &guest{box: b}
		waits.mac, _ = net.ParseMAC(b.i.MAC)
		waits.open()
		if r := waits.dhcp(200*time.Millisecond, waits.discover()); r != nil {
			t.Errorf("it was told:\n%s", r.Summary())
		}
	})
}

func TestWhoAsksByDHCPAllTheTimeKeepsNobodyWaiting(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", friends("sg-a")))
	w.lend("vpc-a")
	loud, quiet := w.guest("vpc-a", 5, "sg-a"), w.guest("vpc-a", 6, "sg-a")
	const many = 2000
	for range many {
		loud.sendDHCP(netip.IPv4Unspecified(), loud.discover())
	}
	if quiet.dhcp(time.Second, quiet.discover()) == nil {
		t.Error("the quiet one is not answered")
	}
	answers := 0
	for loud.receiveDHCP(200*time.Millisecond, nil) != nil {
		answers++
	}
	if answers == 0 || answers > 60 {
		t.Errorf("of %d questions at once, %d were answered", many, answers)
	}
}
