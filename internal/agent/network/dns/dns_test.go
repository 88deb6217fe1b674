package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func testServer() *Server {
	return New(Config{Domain: "ec2.internal", Public: "compute-1.amazonaws.com", CIDR: netip.MustParsePrefix("172.31.0.0/16"), Logger: slog.New(slog.DiscardHandler),
		Behind: func(a netip.Addr) (netip.Addr, bool) {
			return netip.MustParseAddr("172.31.0.9"), a == netip.MustParseAddr("198.18.0.9")
		}, NameOf: func(a netip.Addr) (string, bool) { return "mail.example.com.", a == netip.MustParseAddr("198.18.0.7") }})
}

func TestOwnNamesAreAnswered(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- testServer().Serve(ctx, []net.PacketConn{packets}, nil) }()
	ask := func(name string, kind uint16) *dns.Msg {
		t.Helper()
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(name, kind), packets.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, want := range map[string]string{"ip-172-31-0-5.ec2.internal.": "172.31.0.5", "IP-172-31-0-5.EC2.internal.": "172.31.0.5",
		"ec2-198-18-0-9.compute-1.amazonaws.com.": "172.31.0.9", "ec2-198-18-0-8.compute-1.amazonaws.com.": "198.18.0.8"} {
		m := ask(name, dns.TypeA)
		if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != want {
			t.Errorf("%s: %v", name, m.Answer)
		}
	}
	if m := ask("5.0.31.172.in-addr.arpa.", dns.TypePTR); len(m.Answer) != 1 || m.Answer[0].(*dns.PTR).Ptr != "ip-172-31-0-5.ec2.internal." {
		t.Errorf("the reverse name: %v", m.Answer)
	}
	if m := ask("7.0.18.198.in-addr.arpa.", dns.TypePTR); len(m.Answer) != 1 || m.Answer[0].(*dns.PTR).Ptr != "mail.example.com." {
		t.Errorf("the name that a public address was given: %v", m.Answer)
	}
	if m := ask("ip-10-0-0-5.ec2.internal.", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("an address of another range: %v", m)
	}
	if m := ask("ip-172-31-0-5.ec2.internal.", dns.TypeAAAA); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
		t.Errorf("the IPv6 address: %v", m)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWithoutDNSSupportAllIsRefused(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := testServer()
	s.cfg.Off = func() bool { return true }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, []net.PacketConn{packets}, nil) }()
	m, err := dns.Exchange(new(dns.Msg).SetQuestion("ip-172-31-0-5.ec2.internal.", dns.TypeA), packets.LocalAddr().String())
	if err != nil || m.Rcode != dns.RcodeRefused || len(m.Answer) != 0 {
		t.Errorf("%v, %v", m, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzQuestions(f *testing.F) {
	f.Add("ip-1-2-3-4.ec2.internal.", uint16(1))
	f.Fuzz(func(t *testing.T, name string, kind uint16) {
		q := &dns.Msg{Question: []dns.Question{{Name: name, Qtype: kind, Qclass: dns.ClassINET}}}
		if m := testServer().own(q); m != nil && len(m.Answer) > 1 {
			t.Errorf("%q: %v", name, m.Answer)
		}
	})
}
