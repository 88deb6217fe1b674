package dhcp

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func aLease() *Lease {
	return &Lease{Interface: "eni-1", MAC: net.HardwareAddr{10, 0, 0, 0, 0, 5}, Address: addr("10.7.3.5"), Others: []netip.Addr{addr("10.7.3.6")},
		Subnet: netip.MustParsePrefix("10.7.0.0/20"), MTU: 1500, Hostname: "ip-10-7-3-5", Domain: "a.example b.example",
		DNS: []netip.Addr{addr("10.7.0.2"), addr("192.0.2.53")}, NTP: []netip.Addr{addr("192.0.2.123")}, NetBIOS: []netip.Addr{addr("192.0.2.137")}, NetBIOSNodeType: 2}
}

// question is a client's message, of its own hardware address.
func question(t testing.TB, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	q, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(aLease().MAC), dhcpv4.WithMessageType(kind)}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func option(o dhcpv4.Option) dhcpv4.Modifier { return dhcpv4.WithOption(o) }

func wants(a string) dhcpv4.Modifier { return option(dhcpv4.OptRequestedIPAddress(net.ParseIP(a))) }

func by(a string) dhcpv4.Modifier { return option(dhcpv4.OptServerIdentifier(net.ParseIP(a))) }

// told is the answer, nil when there is none.
func told(t testing.TB, l *Lease, q *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, netip.Addr) {
	t.Helper()
	raw, to, _ := answer(l, q.ToBytes())
	if raw == nil {
		return nil, to
	}
	r, err := dhcpv4.FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	if r.TransactionID != q.TransactionID || !bytes.Equal(r.ClientHWAddr, q.ClientHWAddr) || r.OpCode != dhcpv4.OpcodeBootReply {
		t.Errorf("not an answer to the question:\n%s", r.Summary())
	}
	if got := r.ServerIdentifier().String(); got != "10.7.0.1" {
		t.Errorf("the server calls itself %s", got)
	}
	return r, to
}

func TestAClientIsToldAllThatItsVPCHasForIt(t *testing.T) {
	r, to := told(t, aLease(), question(t, dhcpv4.MessageTypeDiscover))
	if r == nil || to != addr("10.7.3.5") {
		t.Fatalf("%v goes to %s", r, to)
	}
	routes := r.ClasslessStaticRoute()
	var ways []string
	for _, w := range routes {
		ways = append(ways, w.Dest.String()+" "+w.Router.String())
	}
	mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, r.Options)
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"kind", r.MessageType(), dhcpv4.MessageTypeOffer},
		{"address", r.YourIPAddr.String(), "10.7.3.5"},
		{"mask", net.IP(r.SubnetMask()).String(), "255.255.240.0"},
		{"broadcast", r.BroadcastAddress().String(), "10.7.15.255"},
		{"router", r.Router()[0].String(), "10.7.0.1"},
		{"ways", strings.Join(ways, ", "), "0.0.0.0/0 10.7.0.1, 169.254.169.254/32 10.7.0.1, 169.254.169.253/32 10.7.0.1"},
		{"name servers", joined(r.DNS()), "10.7.0.2 192.0.2.53"},
		{"domain", r.DomainName(), "a.example b.example"},
		{"search", strings.Join(r.DomainSearch().Labels, " "), "a.example b.example"},
		{"name", r.HostName(), "ip-10-7-3-5"},
		{"MTU", mtu, uint16(1500)},
		{"time servers", joined(r.NTPServers()), "192.0.2.123"},
		{"NetBIOS", joined(r.NetBIOSNameServers()), "192.0.2.137"},
		{"kind of node", string(r.Options.Get(dhcpv4.OptionNetBIOSOverTCPIPNodeType)), "\x02"},
		{"lease", r.IPAddressLeaseTime(0), leaseTime},
		{"renewal", r.IPAddressRenewalTime(0), renewTime},
		{"rebinding", r.IPAddressRebindingTime(0), rebindTime},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, not %v", c.what, c.got, c.want)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

func joined(list []net.IP) string {
	var s []string
	for _, ip := range list {
		s = append(s, ip.String())
	}
	return strings.Join(s, " ")
}

func TestWhatAClientAsksIsAnsweredAsItsStateNeeds(t *testing.T) {
	const discover, request, inform = dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform
	has := func(a string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.ParseIP(a)) }
	const ack, nak, offer, ignored = dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak, dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeNone
	for name, c := range map[string]struct {
		q    *dhcpv4.DHCPv4
		want dhcpv4.MessageType
		to   string
	}{
		"looks for a server":                        {question(t, discover), offer, "10.7.3.5"},
		"looks for a server, deaf to its address":   {question(t, discover, dhcpv4.WithBroadcast(true)), offer, "255.255.255.255"},
		"would like another address":                {question(t, discover, wants("10.7.3.9")), offer, "10.7.3.5"},
		"takes the offer":                           {question(t, request, by("10.7.0.1"), wants("10.7.3.5")), ack, "10.7.3.5"},
		"takes the offer, deaf to its address":      {question(t, request, by("10.7.0.1"), wants("10.7.3.5"), dhcpv4.WithBroadcast(true)), ack, "255.255.255.255"},
		"takes another server's offer":              {question(t, request, by("10.7.0.9"), wants("10.7.3.5")), ignored, ""},
		"takes what was not offered":                {question(t, request, by("10.7.0.1"), wants("10.7.3.9")), nak, "255.255.255.255"},
		"takes nothing":                             {question(t, request, by("10.7.0.1")), nak, "255.255.255.255"},
		"boots with the address it had":             {question(t, request, wants("10.7.3.5")), ack, "10.7.3.5"},
		"boots with another network's":              {question(t, request, wants("192.168.0.7")), nak, "255.255.255.255"},
		"renews":                                    {question(t, request, has("10.7.3.5")), ack, "10.7.3.5"},
		"renews a secondary address":                {question(t, request, has("10.7.3.6")), nak, "255.255.255.255"},
		"informs itself":                            {question(t, inform, has("10.7.3.5")), ack, "10.7.3.5"},
		"informs itself for a secondary address":    {question(t, inform, has("10.7.3.6")), ack, "10.7.3.6"},
		"informs itself for a stranger's":           {question(t, inform, has("10.7.3.7")), ignored, ""},
		"informs itself without one":                {question(t, inform), ignored, ""},
		"lets it go":                                {question(t, dhcpv4.MessageTypeRelease, has("10.7.3.5")), ignored, ""},
		"finds it in use":                           {question(t, dhcpv4.MessageTypeDecline, wants("10.7.3.5")), ignored, ""},
		"speaks as a server":                        {question(t, offer), ignored, ""},
		"says nothing":                              {question(t, ignored), ignored, ""},
		"has another's hardware address":            {question(t, discover, dhcpv4.WithHwAddr(net.HardwareAddr{10, 0, 0, 0, 0, 6})), ignored, ""},
		"has a longer hardware address":             {question(t, discover, dhcpv4.WithHwAddr(append(slices.Clone(aLease().MAC), 0))), ignored, ""},
		"is a relay":                                {question(t, discover, dhcpv4.WithGatewayIP(net.IPv4(10, 7, 3, 9))), ignored, ""},
		"answers":                                   {question(t, discover, func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply }), ignored, ""},
		"has an identifier that no answer can hold": {question(t, discover, option(dhcpv4.OptClientIdentifier(make([]byte, 256)))), ignored, ""},
	} {
		r, to := told(t, aLease(), c.q)
		switch {
		case r == nil && c.want != ignored:
			t.Errorf("a client that %s is not answered", name)
		case r != nil && (r.MessageType() != c.want || to.String() != c.to):
			t.Errorf("a client that %s is told %s to %s", name, r.MessageType(), to)
		}
		if r == nil {
			continue
		}
		if given := r.YourIPAddr.String(); (r.MessageType() == nak || c.q.MessageType() == inform) != (given == "0.0.0.0") {
			t.Errorf("a client that %s is given %s", name, given)
		}
		if leased := r.Options.Has(dhcpv4.OptionIPAddressLeaseTime); leased != (r.MessageType() != nak && c.q.MessageType() != inform) {
			t.Errorf("a client that %s has a lease: %v", name, leased)
		}
	}
}

func TestAClientGetsTheOptionsThatItAsksForAndItsIdentifierBack(t *testing.T) {
	q := question(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter, dhcpv4.OptionNTPServers), option(dhcpv4.OptClientIdentifier([]byte("me"))))
	r, _ := told(t, aLease(), q)
	var codes []int
	for code := range r.Options {
		codes = append(codes, int(code))
	}
	slices.Sort(codes)
	if want := []int{1, 3, 42, 51, 53, 54, 58, 59, 61}; !slices.Equal(codes, want) {
		t.Errorf("it got the options %v, not %v", codes, want)
	}
	if id := r.Options.Get(dhcpv4.OptionClientIdentifier); string(id) != "me" {
		t.Errorf("its identifier came back as %q", id)
	}
}

func TestNoAnswerIsLongerThanItsClientTakes(t *testing.T) {
	l := aLease()
	name := strings.Repeat("abcdefghi.", 12) + "example"
	l.Domain = name + " " + name[10:]
	for most, search := range map[uint16]bool{0: false, 100: false, 576: false, 1200: true, 65535: true} {
		q := question(t, dhcpv4.MessageTypeDiscover)
		if most > 0 {
			q.UpdateOption(dhcpv4.OptMaxMessageSize(most))
		}
		raw, _, err := answer(l, q.ToBytes())
		if err != nil {
			t.Fatal(err)
		}
		r, err := dhcpv4.FromBytes(raw)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw)+headersSize > max(int(most), leastMessage) || len(raw)+headersSize > l.MTU {
			t.Errorf("a client that takes %d bytes gets %d", most, len(raw))
		}
		if r.Options.Has(dhcpv4.OptionDNSDomainSearchList) != search || r.Router() == nil || r.DNS() == nil {
			t.Errorf("a client that takes %d bytes is told:\n%s", most, r.Summary())
		}
	}
}

// Whatever an interface sends, only its own address is told, to it or to its whole link, in a message that can be read.
func FuzzAnswersTellOnlyWhatIsTheInterfacesOwn(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline} {
		f.Add(question(f, kind, wants("10.7.3.5"), dhcpv4.WithClientIP(net.IPv4(10, 7, 3, 5)), dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter)).ToBytes())
		f.Add(question(f, kind, option(dhcpv4.OptMaxMessageSize(600)), option(dhcpv4.OptClientIdentifier([]byte{1, 2}))).ToBytes())
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		l := aLease()
		raw, to, err := answer(l, message)
		if raw == nil {
			return
		}
		if err != nil {
			t.Fatalf("an answer and an error: %v", err)
		}
		if to != l.Address && to != l.Others[0] && to != everyone {
			t.Errorf("the answer goes to %s", to)
		}
		if len(raw)+headersSize > l.MTU {
			t.Errorf("the answer has %d bytes", len(raw))
		}
		r, err := dhcpv4.FromBytes(raw)
		if err != nil {
			t.Fatal(err)
		}
		if given := addressOf(r.YourIPAddr); given != l.Address && !given.IsUnspecified() {
			t.Errorf("it gives %s", given)
		}
		if !bytes.Equal(r.ClientHWAddr, l.MAC) {
			t.Errorf("it is for %s", r.ClientHWAddr)
		}
	})
}
