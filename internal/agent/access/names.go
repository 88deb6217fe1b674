package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	maxHosts   = 1 << 20
	dnsPort    = "53"
	dnsTries   = 2
	dnsTimeout = 3 * time.Second
)

// lookup finds a host's addresses as the instance would: never by the host's own names, which are none of
// the instance's business.
func (c *connection) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	if addrs := c.lookupHosts(name); len(addrs) > 0 {
		return addrs, nil
	}
	if !c.Resolver.IsValid() {
		return nil, fmt.Errorf("no address for %q in /etc/hosts, and there is no DNS server", host)
	}
	names := []string{name}
	if c.Domain != "" && !strings.HasSuffix(host, ".") {
		if strings.Contains(name, ".") {
			names = append(names, name+"."+c.Domain)
		} else {
			names = []string{name + "." + c.Domain, name}
		}
	}
	var errs []error
	for _, n := range names {
		addrs, err := c.lookupDNS(ctx, n)
		if err == nil {
			return addrs, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no address for %q: %w", host, errors.Join(errs...))
}

func (c *connection) lookupHosts(name string) []netip.Addr {
	root, err := openRoot(c.RootFS)
	if err != nil {
		return nil
	}
	defer root.Close()
	data, err := root.readFile("/etc/hosts", maxHosts)
	if err != nil {
		return nil
	}
	return parseHosts(data, name)
}

// parseHosts finds the addresses of a name, in lower case, in a hosts file.
func parseHosts(data []byte, name string) []netip.Addr {
	var addrs []netip.Addr
	for line := range bytes.Lines(data) {
		line, _, _ = bytes.Cut(line, []byte("#"))
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(string(fields[0]))
		if err != nil {
			continue
		}
		for _, alias := range fields[1:] {
			if strings.ToLower(string(alias)) == name {
				addrs = append(addrs, addr.Unmap())
				break
			}
		}
	}
	return addrs
}

// lookupDNS asks the instance's DNS server over the instance's network.
func (c *connection) lookupDNS(ctx context.Context, name string) ([]netip.Addr, error) {
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, fmt.Errorf("%q is not a domain name", name)
	}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	var last error
	for range dnsTries {
		answer, err := c.exchange(ctx, q)
		if err != nil {
			last = fmt.Errorf("ask %s for %s: %w", c.Resolver, name, err)
			continue
		}
		var addrs []netip.Addr
		for _, rr := range answer.Answer {
			if a, ok := rr.(*dns.A); ok {
				if addr, ok := netip.AddrFromSlice(a.A.To4()); ok {
					addrs = append(addrs, addr)
				}
			}
		}
		if len(addrs) == 0 {
			return nil, fmt.Errorf("%s knows no address of %s (%s)", c.Resolver, name, dns.RcodeToString[answer.Rcode])
		}
		return addrs, nil
	}
	return nil, last
}

func (c *connection) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	conn, err := c.Dial(ctx, "udp", net.JoinHostPort(c.Resolver.String(), dnsPort))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := &dns.Client{Net: "udp", Timeout: dnsTimeout}
	answer, _, err := client.ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: conn})
	return answer, err
}
