package dhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

const (
	// leaseTime is EC2's. The address stays with the interface however long it doesn't ask.
	leaseTime  = time.Hour
	renewTime  = leaseTime / 2
	rebindTime = leaseTime * 7 / 8
	// leastMessage is what every client takes (RFC 2131), with headersSize bytes of it before the message.
	leastMessage = 576
	headersSize  = 20 + 8
	maxClientID  = 255 // bytes
)

var (
	everyone = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	// linkLocals are the VPC's services whose addresses a client might look for on its own link.
	linkLocals = []netip.Addr{netip.AddrFrom4([4]byte{169, 254, 169, 254}), netip.AddrFrom4([4]byte{169, 254, 169, 253})}
)

// answer is what an interface is told on a message that came by its link, and under which address. Neither an error, for a message that
// is to be ignored, nor a reply is given where DHCP has no answer.
func answer(l *Lease, message []byte) (reply []byte, to netip.Addr, err error) {
	none := netip.Addr{}
	q, err := dhcpv4.FromBytes(message)
	if err != nil {
		return nil, none, fmt.Errorf("not a DHCP message: %w", err)
	}
	if err := l.asks(q); err != nil {
		return nil, none, err
	}
	switch kind := q.MessageType(); kind {
	case dhcpv4.MessageTypeDiscover:
		r := l.reply(q, dhcpv4.MessageTypeOffer)
		r.YourIPAddr = l.Address.AsSlice()
		return l.encode(q, r, true), l.way(q), nil
	case dhcpv4.MessageTypeRequest:
		return l.request(q)
	case dhcpv4.MessageTypeInform:
		from := addressOf(q.ClientIPAddr)
		if from != l.Address && !slices.Contains(l.Others, from) {
			return nil, none, fmt.Errorf("it informs itself for %s, which isn't its own", from)
		}
		r := l.reply(q, dhcpv4.MessageTypeAck)
		r.ClientIPAddr = from.AsSlice()
		return l.encode(q, r, false), from, nil
	case dhcpv4.MessageTypeRelease:
		return nil, none, nil
	case dhcpv4.MessageTypeDecline:
		return nil, none, fmt.Errorf("it declines %s, the only address there is for it", l.Address)
	default:
		return nil, none, fmt.Errorf("a message of type %d, which clients don't send", kind)
	}
}

// asks tells why a message isn't one that the interface itself asks with.
func (l *Lease) asks(q *dhcpv4.DHCPv4) error {
	switch {
	case q.OpCode != dhcpv4.OpcodeBootRequest:
		return errors.New("not a client's message")
	case q.HWType != iana.HWTypeEthernet || !bytes.Equal(q.ClientHWAddr, l.MAC):
		return fmt.Errorf("it asks for the hardware address %s, which isn't its own %s", q.ClientHWAddr, l.MAC)
	case addressOf(q.GatewayIPAddr) != netip.IPv4Unspecified():
		return errors.New("a relay's message")
	case len(q.Options.Get(dhcpv4.OptionClientIdentifier)) > maxClientID:
		return errors.New("its identifier is too long")
	}
	return nil
}

// request answers a client that was offered the address, had it before, or renews it.
func (l *Lease) request(q *dhcpv4.DHCPv4) ([]byte, netip.Addr, error) {
	if server := q.ServerIdentifier(); server != nil && addressOf(server) != l.Router() {
		return nil, netip.Addr{}, fmt.Errorf("it chose another server, %s", server)
	}
	wanted := addressOf(q.ClientIPAddr)
	renews := !wanted.IsUnspecified()
	if !renews {
		wanted = addressOf(q.RequestedIPAddress())
	}
	if wanted != l.Address {
		r := l.reply(q, dhcpv4.MessageTypeNak)
		r.UpdateOption(dhcpv4.OptMessage("the address is not this interface's"))
		return r.ToBytes(), everyone, nil
	}
	r := l.reply(q, dhcpv4.MessageTypeAck)
	r.ClientIPAddr, r.YourIPAddr = q.ClientIPAddr, l.Address.AsSlice()
	if renews {
		return l.encode(q, r, true), l.Address, nil
	}
	return l.encode(q, r, true), l.way(q), nil
}

// way is where a client that may have no address yet takes its answer.
func (l *Lease) way(q *dhcpv4.DHCPv4) netip.Addr {
	if q.IsBroadcast() {
		return everyone
	}
	return l.Address
}

func (l *Lease) reply(q *dhcpv4.DHCPv4, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootReply, HWType: q.HWType, TransactionID: q.TransactionID, Flags: q.Flags, ClientHWAddr: q.ClientHWAddr, Options: dhcpv4.Options{}}
	r.UpdateOption(dhcpv4.OptMessageType(kind))
	r.UpdateOption(dhcpv4.OptServerIdentifier(l.Router().AsSlice()))
	if id := q.Options.Get(dhcpv4.OptionClientIdentifier); id != nil {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, id)) // RFC 6842
	}
	return r
}

// encode adds what the client asks for, all there is when it doesn't say, as far as it takes messages of that size.
func (l *Lease) encode(q, r *dhcpv4.DHCPv4, leased bool) []byte {
	if leased {
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(leaseTime))
		r.UpdateOption(dhcpv4.OptRenewTimeValue(renewTime))
		r.UpdateOption(dhcpv4.OptRebindingTimeValue(rebindTime))
	}
	most := leastMessage
	if v, err := q.MaxMessageSize(); err == nil {
		most = max(most, min(int(v), l.MTU))
	}
	asked := q.ParameterRequestList()
	for _, o := range l.options() {
		if len(asked) > 0 && !asked.Has(o.Code) && o.Code.Code() != dhcpv4.OptionSubnetMask.Code() {
			continue
		}
		r.UpdateOption(o)
		if len(r.ToBytes()) > most-headersSize {
			r.DeleteOption(o.Code)
		}
	}
	return r.ToBytes()
}

// options are all that can be told, in the order of their weight.
func (l *Lease) options() []dhcpv4.Option {
	router := net.IP(l.Router().AsSlice())
	mask := net.CIDRMask(l.Subnet.Bits(), 32)
	list := []dhcpv4.Option{dhcpv4.OptSubnetMask(mask), dhcpv4.OptRouter(router)}
	// A client that takes this option leaves that of the router alone: the way to everywhere has to be among them.
	routes := []*dhcpv4.Route{{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: router}}
	for _, a := range linkLocals {
		routes = append(routes, &dhcpv4.Route{Dest: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}, Router: router})
	}
	list = append(list, dhcpv4.OptClasslessStaticRoute(routes...))
	if len(l.DNS) > 0 {
		list = append(list, dhcpv4.OptDNS(ips(l.DNS)...))
	}
	list = append(list, dhcpv4.OptHostName(l.Hostname), dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(min(l.MTU, 0xffff)))))
	if l.Domain != "" {
		list = append(list, dhcpv4.OptDomainName(l.Domain))
	}
	if len(l.NTP) > 0 {
		list = append(list, dhcpv4.OptNTPServers(ips(l.NTP)...))
	}
	list = append(list, dhcpv4.OptBroadcastAddress(l.broadcast()))
	if l.Domain != "" {
		var labels rfc1035label.Labels
		for name := range strings.FieldsSeq(l.Domain) {
			labels.Labels = append(labels.Labels, strings.TrimSuffix(name, "."))
		}
		list = append(list, dhcpv4.OptDomainSearch(&labels))
	}
	if len(l.NetBIOS) > 0 {
		list = append(list, dhcpv4.OptNetBIOSNameServers(ips(l.NetBIOS)...))
	}
	if l.NetBIOSNodeType != 0 {
		list = append(list, dhcpv4.OptGeneric(dhcpv4.OptionNetBIOSOverTCPIPNodeType, []byte{l.NetBIOSNodeType}))
	}
	return list
}

// broadcast is the subnet's last address.
func (l *Lease) broadcast() net.IP {
	a := l.Subnet.Masked().Addr().As4()
	for n, m := range net.CIDRMask(l.Subnet.Bits(), 32) {
		a[n] |= ^m
	}
	return a[:]
}

func ips(list []netip.Addr) (out []net.IP) {
	for _, a := range list {
		out = append(out, a.AsSlice())
	}
	return out
}

// addressOf is an address of a message, 0.0.0.0 when it has none.
func addressOf(ip net.IP) netip.Addr {
	if a, ok := netip.AddrFromSlice(ip.To4()); ok {
		return a
	}
	return netip.IPv4Unspecified()
}
