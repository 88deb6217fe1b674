package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// askedPorts are those that every box of the matrix answers on.
var askedPorts = []int{80, 81, 443}

// matrix is boxes that ask each other, and what was seen of their questions.
type matrix struct {
	dialect
	w     *world
	boxes []*box
	gates []*box       // forward what routes lead to them, and answer for the far addresses
	far   []netip.Addr // of the pool, so that beyond the uplink there is nobody who answers for them
	ref   reference
	next  int // the next port, or number of an echo, that no flow has had

	mu       sync.Mutex
	arrived  map[uint32]string // where, and under which source
	answered map[uint32]bool
}

// question is one probe of a round.
type question struct {
	probe
	number uint32
	from   *box
	to     netip.Addr
}

// dialect is a family in the test's words.
type dialect struct {
	six        bool
	everything netip.Prefix
	udp, icmp  string // networks
	any        string // the address that stands for all
	ping       cloud.Protocol
	request    icmp.Type
	reply      icmp.Type
}

var (
	speaks4 = dialect{false, everything, "udp4", "ip4:icmp", "0.0.0.0", cloud.ProtocolICMP, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
	speaks6 = dialect{true, everything6, "udp6", "ip6:ipv6-icmp", "::", cloud.ProtocolICMPv6, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
)

// address is a box's in a dialect.
func (d dialect) address(b *box) netip.Addr {
	if d.six {
		return b.i.IPv6[0]
	}
	return b.i.PrivateIP
}

func (d dialect) endOf(b *box) end { return end{d.address(b), b.i.Subnet, b.i.Groups} }

func TestPacketsGoWhereRandomGroupsACLsAndRoutesSay(t *testing.T) {
	for name, d := range map[string]dialect{"IPv4": speaks4, "IPv6": speaks6} {
		t.Run(name, func(t *testing.T) { packetsGoWhereTheyShould(t, d) })
	}
}

func packetsGoWhereTheyShould(t *testing.T, d dialect) {
	const rounds = 15
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	m := newMatrix(t, d)
	var passed, asked int
	for round := range rounds {
		v := m.randomVPC(rnd)
		m.w.apply(v)
		for _, b := range m.boxes {
			b.attach()
		}
		m.refer(v)
		questions := m.questions(rnd)
		m.ask(questions)
		m.mu.Lock()
		for _, q := range questions {
			arrival, answered := m.ref.follow(m.endOf(q.from), q.to, q.probe)
			asked++
			if answered {
				passed++
			}
			// Of a connection only the answer is seen.
			if got := m.arrived[q.number]; got != arrival && q.protocol != cloud.ProtocolTCP {
				t.Errorf("round %d: %s: arrived at %q, want %q", round, q, got, arrival)
			}
			if got := m.answered[q.number]; got != answered {
				t.Errorf("round %d: %s: answered %v, want %v", round, q, got, answered)
			}
		}
		m.mu.Unlock()
		if t.Failed() {
			t.Fatalf("the groups, ACLs and subnets are\n%+v\n%+v\n%+v", v.Groups, v.ACLs, v.Subnets)
		}
	}
	t.Logf("%d of %d questions were answered", passed, asked)
	if passed < asked/20 || passed > asked*19/20 {
		t.Error("that tries too little")
	}
}

func (q question) String() string {
	return fmt.Sprintf("%s port %d to %s, protocol %d, port %d", q.from, q.probe.from, q.to, q.protocol, q.port)
}

func (b *box) String() string {
	return fmt.Sprintf("%s in %s with %v", b.i.PrivateIP, b.i.Subnet, b.i.Groups)
}

var matrixSubnets = []Subnet{
	{ID: "subnet-0", CIDR: netip.MustParsePrefix("10.7.0.0/20")},
	{ID: "subnet-1", CIDR: netip.MustParsePrefix("10.7.16.0/20")},
	{ID: "subnet-2", CIDR: netip.MustParsePrefix("10.7.32.0/20")},
}

// vpc is the matrix's VPC before anything is random.
func (m *matrix) vpc(groups ...Group) VPC {
	v := vpcOf("vpc-m", groups...)
	v.Subnets = slices.Clone(matrixSubnets)
	if m.six {
		v.CIDRs = append(v.CIDRs, m.w.range6(1))
		for n := range v.Subnets {
			v.Subnets[n].CIDR6 = netip.PrefixFrom(m.address6(n, 0), 64)
		}
	}
	return v
}

// address6 is an address of the nth subnet.
func (m *matrix) address6(subnet int, last byte) netip.Addr {
	a := m.w.range6(1).Addr().As16()
	a[7], a[15] = byte(subnet), last
	return netip.AddrFrom16(a)
}

// distant is an address of a pool that belongs to nobody there.
func (m *matrix) distant(last byte) netip.Addr {
	if m.six {
		return m.w.address6(200, last)
	}
	return m.w.public(last)
}

// around are the addresses that share all but the last bits with a distant one.
func (m *matrix) around(last byte, size int) netip.Prefix {
	a := m.distant(last)
	return netip.PrefixFrom(a, a.BitLen()-size).Masked()
}

func newMatrix(t *testing.T, d dialect) *matrix {
	m := &matrix{dialect: d, w: newWorld(t), arrived: map[uint32]string{}, answered: map[uint32]bool{}}
	for _, last := range []byte{65, 129, 193} {
		m.far = append(m.far, m.distant(last))
	}
	m.w.apply(m.vpc(Group{ID: "sg-0"}, gateGroup))
	for n := range 8 {
		b := m.w.unplugged("vpc-m", byte(10+n), "sg-0")
		b.i.Subnet, b.i.PrivateIP = matrixSubnets[n%3].ID, netip.AddrFrom4([4]byte{10, 7, byte(n % 3 * 16), byte(10 + n)})
		if m.six {
			b.i.IPv6 = []netip.Addr{m.address6(n%3, byte(10+n))}
		}
		switch {
		case n >= 6:
			b.i.SourceDestCheck, b.i.Groups = false, []cloud.SecurityGroupID{gateGroup.ID}
			m.gates = append(m.gates, b)
		default:
			if n < 3 {
				b.i.PublicIP = m.w.public(byte(10 + n))
			}
			m.boxes = append(m.boxes, b)
		}
		b.attach()
		own := []netip.Addr{m.address(b)}
		if n >= 6 {
			// They get the host's setting, and one that sends on what it doesn't have itself finds ways that the reference doesn't know.
			b.inside("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding")
			for _, far := range m.far {
				b.inside("ip", "addr", "add", netip.PrefixFrom(far, far.BitLen()).String(), "dev", "lo", "nodad")
			}
			own = append(own, m.far...)
		}
		m.serve(b, own...)
	}
	if m.six {
		m.ref.outside = m.w.outside6(askedPorts[0])
	} else {
		m.ref.outside = m.w.outside(askedPorts[0])
	}
	return m
}

// gateGroup is the gates'.
var gateGroup = Group{ID: "sg-gate", Rules: []cloud.SecurityGroupRule{out(), {Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}, all6(false), all6(true)}}

func (w *world) public(last byte) netip.Addr {
	base := w.cfg.PublicPool.Addr().As4()
	return netip.AddrFrom4([4]byte{base[0], base[1], base[2], last})
}

// refer tells the reference of a VPC.
func (m *matrix) refer(v VPC) {
	m.ref.vpc, m.ref.ends, m.ref.gates, m.ref.public = v, nil, map[cloud.InterfaceID]end{}, map[netip.Addr]bool{}
	for _, b := range m.boxes {
		m.ref.ends = append(m.ref.ends, m.endOf(b))
		if m.six {
			m.ref.public[m.address(b)] = true
			continue
		}
		for _, s := range v.Subnets {
			if s.ID == b.i.Subnet && slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Kind == RouteInternet }) {
				m.ref.public[b.i.PrivateIP] = b.i.PublicIP.IsValid()
			}
		}
	}
	for _, b := range m.gates {
		m.ref.gates[b.i.ID] = m.endOf(b)
	}
	if m.six {
		return
	}
	nat := v.NATGateways[0].Interface
	m.ref.nat, m.ref.public[nat.PrivateIP] = end{addr: nat.PrivateIP, subnet: nat.Subnet}, nat.PublicIP.IsValid()
}

// serve lets a box answer to UDP on the asked ports, and note what comes; to TCP, and to echoes, which its kernel answers.
func (m *matrix) serve(b *box, own ...netip.Addr) {
	m.w.t.Helper()
	for _, port := range askedPorts {
		b.serve(port)
		for _, addr := range own {
			c := m.listen(b, m.udp, netip.AddrPortFrom(addr, uint16(port)).String())
			m.read(c, func(p []byte, from net.Addr) {
				if len(p) == 4 {
					m.arrive(binary.BigEndian.Uint32(p), b, from.(*net.UDPAddr).IP)
					c.WriteTo(p, from)
				}
			})
		}
	}
	m.read(m.listen(b, m.icmp, m.any), func(p []byte, from net.Addr) {
		msg, err := icmp.ParseMessage(int(m.ping), p)
		if err != nil {
			return
		}
		if echo, ok := msg.Body.(*icmp.Echo); ok && len(echo.Data) == 4 {
			if number := binary.BigEndian.Uint32(echo.Data); msg.Type == m.reply {
				m.answer(number)
			} else {
				m.arrive(number, b, from.(*net.IPAddr).IP)
			}
		}
	})
}

func (m *matrix) arrive(number uint32, at *box, source net.IP) {
	from, _ := netip.AddrFromSlice(source)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arrived[number] = arrivalAt(m.address(at), from.Unmap())
}

func (m *matrix) answer(number uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answered[number] = true
}

// listen opens a socket in a box until the test ends.
func (m *matrix) listen(b *box, network, address string) (c net.PacketConn) {
	m.w.t.Helper()
	err := m.w.n.inside(b.i.Instance, func() (err error) { c, err = net.ListenPacket(network, address); return err })
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.w.t.Cleanup(func() { c.Close() })
	return c
}

func (m *matrix) read(c net.PacketConn, each func([]byte, net.Addr)) {
	go func() {
		buf := make([]byte, 256)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			each(buf[:n], from)
		}
	}()
}

// questions are a round's: each box asks each other one and what is far, with every protocol. No two flows are ever the same to the kernel, which would take
// the later one for a part of the earlier.
func (m *matrix) questions(rnd *rand.Rand) (list []question) {
	fresh := func() int {
		m.next++
		return []int{10000, 40000}[rnd.IntN(2)] + m.next
	}
	for _, from := range m.boxes {
		var others []netip.Addr
		for _, b := range m.boxes {
			if b != from {
				others = append(others, m.address(b))
			}
		}
		list = append(list, question{probe{cloud.ProtocolTCP, askedPorts[0], fresh()}, rnd.Uint32(), from, m.ref.outside})
		for _, to := range append(others, m.far...) {
			for _, protocol := range []cloud.Protocol{cloud.ProtocolTCP, cloud.ProtocolUDP, m.ping} {
				p := probe{protocol: protocol, port: askedPorts[rnd.IntN(len(askedPorts))], from: fresh()}
				list = append(list, question{p, rnd.Uint32(), from, to})
			}
		}
	}
	return list
}

// ask puts questions and returns when all that should arrive has, or when that takes too long; and then a moment later, for
// what should not.
func (m *matrix) ask(questions []question) {
	const patience, moment = 5 * time.Second, 150 * time.Millisecond
	var asking sync.WaitGroup
	for _, q := range questions {
		if q.protocol != cloud.ProtocolTCP {
			m.send(q)
			continue
		}
		asking.Go(func() {
			limit := moment
			if _, answered := m.ref.follow(m.endOf(q.from), q.to, q.probe); answered {
				limit = patience
			}
			m.connect(q, limit)
		})
	}
	all := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return !slices.ContainsFunc(questions, func(q question) bool {
			arrival, answered := m.ref.follow(m.endOf(q.from), q.to, q.probe)
			return q.protocol != cloud.ProtocolTCP && (arrival != m.arrived[q.number] || answered && !m.answered[q.number])
		})
	}
	for begin := time.Now(); !all() && time.Since(begin) < patience; {
		time.Sleep(5 * time.Millisecond)
	}
	asking.Wait()
	time.Sleep(moment)
}

// send puts a question in one packet.
func (m *matrix) send(q question) {
	m.w.t.Helper()
	data := binary.BigEndian.AppendUint32(nil, q.number)
	var err error
	if q.protocol == m.ping {
		echo := icmp.Message{Type: m.request, Body: &icmp.Echo{ID: q.probe.from, Seq: 1, Data: data}}
		packet, merr := echo.Marshal(nil)
		if merr != nil {
			m.w.t.Fatal(merr)
		}
		_, err = m.listen(q.from, m.icmp, m.any).WriteTo(packet, &net.IPAddr{IP: q.to.AsSlice()})
	} else {
		c := m.listen(q.from, m.udp, fmt.Sprintf(":%d", q.probe.from))
		m.read(c, func(p []byte, _ net.Addr) { m.answer(q.number) })
		_, err = c.WriteTo(data, net.UDPAddrFromAddrPort(netip.AddrPortFrom(q.to, uint16(q.port))))
	}
	if err != nil {
		m.w.t.Fatal(err)
	}
}

// connect puts a question as a connection.
func (m *matrix) connect(q question, limit time.Duration) {
	ctx, cancel := context.WithTimeout(m.w.t.Context(), limit)
	defer cancel()
	var c net.Conn
	err := m.w.n.inside(q.from.i.Instance, func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: q.probe.from}}
		c, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(q.to, uint16(q.port)).String())
		return err
	})
	if err == nil {
		m.answer(q.number)
		c.Close()
	}
}

// randomVPC gives the boxes groups, which it makes of rules that some packets of the matrix meet, and the subnets ACLs and routes.
func (m *matrix) randomVPC(rnd *rand.Rand) VPC {
	const groups = 4
	group := func(n int) cloud.SecurityGroupID { return cloud.SecurityGroupID(fmt.Sprintf("sg-%d", n)) }
	v := m.vpc(gateGroup)
	nat := matrixSubnets[2]
	if !m.six {
		v.NATGateways = []NATGateway{{ID: "nat-00000000000000001", Interface: Interface{ID: natInterface, VPC: v.ID, Subnet: nat.ID, MAC: "0a:00:0a:07:00:fe",
			PrivateIP: netip.MustParseAddr("10.7.32.200"), PublicIP: m.w.public(200)}}}
	}
	for n := range v.Subnets {
		v.Subnets[n].Routes = m.randomRoutes(rnd, v.Subnets[n].ID != nat.ID)
	}
	for _, b := range m.boxes {
		b.i.Groups = nil
		for _, n := range rnd.Perm(groups)[:1+rnd.IntN(2)] {
			b.i.Groups = append(b.i.Groups, group(n))
		}
	}
	v.PrefixLists = map[cloud.PrefixListID][]netip.Prefix{}
	for n := range 3 { // the fourth one is not known
		id := cloud.PrefixListID(fmt.Sprintf("pl-%d", n))
		v.PrefixLists[id] = nil
		for range rnd.IntN(5) {
			p := m.randomPrefix(rnd)
			if p == m.everything && rnd.IntN(3) > 0 {
				continue
			}
			v.PrefixLists[id] = append(v.PrefixLists[id], p)
		}
	}
	for n := range groups {
		g := Group{ID: group(n)}
		for _, b := range m.boxes {
			if slices.Contains(b.i.Groups, g.ID) {
				g.Members = append(g.Members, m.address(b))
			}
		}
		for range 1 + rnd.IntN(4) {
			r := cloud.SecurityGroupRule{Egress: rnd.IntN(2) == 0}
			r.Protocol, r.FromPort, r.ToPort = m.randomMatch(rnd)
			switch rnd.IntN(6) {
			case 0, 1:
				r.Group = group(rnd.IntN(groups))
			case 2:
				r.PrefixList = cloud.PrefixListID(fmt.Sprintf("pl-%d", rnd.IntN(4)))
			default:
				r.CIDR = m.randomPrefix(rnd)
			}
			g.Rules = append(g.Rules, r)
		}
		if rnd.IntN(3) > 0 {
			g.Rules = append(g.Rules, out(), all6(true))
		}
		v.Groups = append(v.Groups, g)
	}
	for n := range v.Subnets {
		if rnd.IntN(3) == 0 {
			continue
		}
		acl := ACL{ID: cloud.NetworkACLID(fmt.Sprintf("acl-%d", n))}
		for number := range rnd.IntN(6) {
			e := cloud.NetworkACLEntry{Number: 100 + number*10, Egress: rnd.IntN(2) == 0, Allow: rnd.IntN(3) > 0, Prefix: m.randomPrefix(rnd)}
			e.Protocol, e.FromPort, e.ToPort = m.randomMatch(rnd)
			acl.Entries = append(acl.Entries, e)
		}
		for _, egress := range []bool{true, false} {
			if rnd.IntN(3) > 0 {
				acl.Entries = append(acl.Entries, entry(1000, egress, true, cloud.ProtocolAll, -1, -1, m.everything.String()))
			}
		}
		rnd.Shuffle(len(acl.Entries), func(i, j int) { acl.Entries[i], acl.Entries[j] = acl.Entries[j], acl.Entries[i] })
		v.ACLs, v.Subnets[n].ACL = append(v.ACLs, acl), acl.ID
	}
	return v
}

// randomRoutes lead far, and to the internet, by any way there is; toNAT says that the NAT gateway, which is not in this subnet, is one.
func (m *matrix) randomRoutes(rnd *rand.Rand, toNAT bool) (list []Route) {
	for _, prefix := range []netip.Prefix{m.everything, m.around(0, 8), m.around(128, 7), m.around(192, 6), m.around(65, 0), netip.PrefixFrom(m.ref.outside, m.ref.outside.BitLen()-8).Masked()} {
		r := Route{Destination: prefix, Kind: RouteInterface}
		switch n := rnd.IntN(7); {
		case n < 2:
			continue
		case n == 2:
			r.Kind = RouteBlackhole
		case n == 3 || n == 4 && !toNAT:
			r.Kind = RouteInternet
		case n == 4 && m.six:
			r.Kind = RouteEgressOnly
		case n == 4:
			r.Interface = natInterface
		default:
			r.Interface = m.gates[n-5].i.ID
		}
		list = append(list, r)
	}
	rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

func (m *matrix) randomMatch(rnd *rand.Rand) (protocol cloud.Protocol, from, to int) {
	protocol = []cloud.Protocol{cloud.ProtocolAll, cloud.ProtocolTCP, cloud.ProtocolTCP, cloud.ProtocolUDP, cloud.ProtocolUDP, m.ping}[rnd.IntN(6)]
	switch protocol {
	case cloud.ProtocolAll:
		return protocol, -1, -1
	case m.ping:
		echo := echoOf[m.ping]
		m := [][2]int{{-1, -1}, {echo.request, -1}, {echo.request, 0}, {echo.reply, -1}, {echo.reply, 0}, {3, -1}}[rnd.IntN(6)]
		return protocol, m[0], m[1]
	}
	ports := [][2]int{{0, 65535}, {80, 80}, {80, 81}, {81, 443}, {443, 443}, {1024, 39999}, {40000, 65535}, {1024, 65535}}[rnd.IntN(8)]
	return protocol, ports[0], ports[1]
}

// randomPrefix is everything, a subnet, what is far or an address of a box.
func (m *matrix) randomPrefix(rnd *rand.Rand) netip.Prefix {
	switch rnd.IntN(6) {
	case 5:
		return m.around(128, 7)
	case 0, 1:
		return m.everything
	case 2:
		if n := rnd.IntN(len(matrixSubnets)); !m.six {
			return matrixSubnets[n].CIDR
		} else {
			return netip.PrefixFrom(m.address6(n, 0), 64)
		}
	case 3:
		if m.six {
			return netip.PrefixFrom(m.address6(0, 0), 63)
		}
		return netip.MustParsePrefix("10.7.0.0/19")
	}
	a := m.address(m.boxes[rnd.IntN(len(m.boxes))])
	return netip.PrefixFrom(a, a.BitLen())
}
