// Package dns answers names inside a VPC: the private names of addresses, the public ones by the private
// address behind them, and everything else by asking the host's own resolvers.
//
// Each question costs bounded work, and an instance can't make the agent hold more than a fixed number of questions
// at a time. The package never answers from a cache and never follows a name itself.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	ttl         = 60 // seconds
	maxPending  = 256
	askTimeout  = 5 * time.Second
	resolvFile  = "/etc/resolv.conf"
	maxUDPSize  = 1232
	idleTimeout = 10 * time.Second
)

// Config says for whom a server answers. Without a Domain it has no names of its own: all are the host's resolvers'.
type Config struct {
	Domain string // of private names, such as "ec2.internal"
	Public string // of public names, such as "compute-1.amazonaws.com"
	CIDR   netip.Prefix
	// Behind finds the private address behind a public one of the same VPC.
	Behind func(netip.Addr) (netip.Addr, bool)
	// NameOf finds the name that was given to a public address, with the root's dot.
	NameOf func(netip.Addr) (string, bool)
	// Off tells whether the VPC has DNS support turned off: all is refused then. Nil is never.
	Off    func() bool
	Logger *slog.Logger
}

// Server answers on the sockets it is given.
type Server struct {
	cfg     Config
	pending chan struct{}
	udp     dns.Client
	tcp     dns.Client
}

// New makes a server.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, pending: make(chan struct{}, maxPending), udp: dns.Client{Net: "udp", Timeout: askTimeout, UDPSize: maxUDPSize},
		tcp: dns.Client{Net: "tcp", Timeout: askTimeout}}
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context, packets []net.PacketConn, listeners []net.Listener) error {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.answer(ctx, w, q) })
	var servers []*dns.Server
	for _, p := range packets {
		servers = append(servers, &dns.Server{PacketConn: p, Handler: handler, UDPSize: maxUDPSize})
	}
	for _, l := range listeners {
		servers = append(servers, &dns.Server{Listener: l, Handler: handler, ReadTimeout: idleTimeout, WriteTimeout: idleTimeout})
	}
	failed := make(chan error, len(servers))
	for _, srv := range servers {
		go func() { failed <- srv.ActivateAndServe() }()
	}
	var err error
	running := len(servers)
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	for _, srv := range servers {
		if srv.PacketConn != nil {
			srv.PacketConn.Close()
		}
		if srv.Listener != nil {
			srv.Listener.Close()
		}
	}
	for range running {
		<-failed
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("answer names: %w", err)
}

func (s *Server) answer(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	if s.cfg.Off != nil && s.cfg.Off() {
		s.reply(w, q, new(dns.Msg).SetRcode(q, dns.RcodeRefused))
		return
	}
	select {
	case s.pending <- struct{}{}:
		defer func() { <-s.pending }()
	default:
		s.reply(w, q, new(dns.Msg).SetRcode(q, dns.RcodeRefused))
		return
	}
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery {
		s.reply(w, q, new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented))
		return
	}
	if own := s.own(q); own != nil {
		s.reply(w, q, own)
		return
	}
	s.reply(w, q, s.ask(ctx, w, q))
}

func (s *Server) reply(w dns.ResponseWriter, q, m *dns.Msg) {
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), size), maxUDPSize)
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Logger.Debug("a name's answer can't be sent", "error", err)
	}
}

// own answers for this VPC's names; nil for others.
func (s *Server) own(q *dns.Msg) *dns.Msg {
	if s.cfg.Domain == "" {
		return nil
	}
	name, kind := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, ".")), q.Question[0].Qtype
	var answer dns.RR
	hdr := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: ttl}
	if host, ok := strings.CutSuffix(name, "."+s.cfg.Domain); ok {
		addr, valid := parseHost(host, "ip-")
		if !valid || !s.cfg.CIDR.Contains(addr) {
			return new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		}
		if kind == dns.TypeA {
			hdr.Rrtype = dns.TypeA
			answer = &dns.A{Hdr: hdr, A: addr.AsSlice()}
		}
	} else if host, ok := strings.CutSuffix(name, "."+s.cfg.Public); ok {
		addr, valid := parseHost(host, "ec2-")
		if !valid {
			return new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		}
		if private, here := s.cfg.Behind(addr); here {
			addr = private
		}
		if kind == dns.TypeA {
			hdr.Rrtype = dns.TypeA
			answer = &dns.A{Hdr: hdr, A: addr.AsSlice()}
		}
	} else if target, ok := s.reverse(name); ok {
		if kind == dns.TypePTR {
			hdr.Rrtype = dns.TypePTR
			answer = &dns.PTR{Hdr: hdr, Ptr: target}
		}
	} else {
		return nil
	}
	m := new(dns.Msg).SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	if answer != nil {
		m.Answer = []dns.RR{answer}
	}
	return m
}

// reverse finds the name of the address in a reverse name: a private one's own, or the one that a public one was given.
func (s *Server) reverse(name string) (target string, ok bool) {
	addr, ok := parseReverse(name)
	switch {
	case !ok:
		return "", false
	case s.cfg.CIDR.Contains(addr):
		return "ip-" + strings.ReplaceAll(addr.String(), ".", "-") + "." + s.cfg.Domain + ".", true
	}
	return s.cfg.NameOf(addr)
}

// parseHost reads the address in a name such as "ip-172-31-0-5".
func parseHost(host, prefix string) (netip.Addr, bool) {
	rest, ok := strings.CutPrefix(host, prefix)
	if !ok || strings.Contains(rest, ".") {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(rest, "-", "."))
	return addr, err == nil && addr.Is4()
}

// parseReverse reads the address in a name such as "5.0.31.172.in-addr.arpa".
func parseReverse(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(name, ".in-addr.arpa")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 4 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
	return addr, err == nil
}

// ask hands a question to the host's resolvers, in their order.
func (s *Server) ask(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) *dns.Msg {
	conf, err := dns.ClientConfigFromFile(resolvFile)
	if err == nil && len(conf.Servers) == 0 {
		err = errors.New("it names no server")
	}
	if err != nil {
		s.cfg.Logger.Warn("the host's resolvers can't be found", "file", resolvFile, "error", err)
		return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	client := &s.udp
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
		client = &s.tcp
	}
	for _, server := range conf.Servers {
		m, _, err := client.ExchangeContext(ctx, q, net.JoinHostPort(server, conf.Port))
		if err == nil {
			return m
		}
		s.cfg.Logger.Debug("a resolver of the host does not answer", "server", server, "error", err)
	}
	return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
}
