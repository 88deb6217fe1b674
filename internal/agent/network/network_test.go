package network

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestGroupsDecideWhoReachesWhom(t *testing.T) {
	w := newWorld(t)
	web := Group{ID: "sg-web", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "sg-client"), tcp(false, 81, "10.7.0.6/32"), out()}, Members: []netip.Addr{netip.MustParseAddr("10.7.0.5")}}
	client := Group{ID: "sg-client", Rules: []cloud.SecurityGroupRule{out()}, Members: []netip.Addr{netip.MustParseAddr("10.7.0.6")}}
	mute := Group{ID: "sg-mute", Rules: []cloud.SecurityGroupRule{tcp(true, 80, "10.7.0.9/32")}}
	w.apply(vpcOf("vpc-a", web, client, mute))
	server, friend, stranger := w.box("vpc-a", 5, false, "sg-web"), w.box("vpc-a", 6, false, "sg-client"), w.box("vpc-a", 7, false, "sg-mute")
	for _, port := range []int{80, 81, 82} {
		server.serve(port)
	}
	for _, c := range []struct {
		from *box
		port int
		want bool
	}{{friend, 80, true}, {friend, 81, true}, {friend, 82, false}, {stranger, 80, false}, {stranger, 81, false}} {
		got := c.from.ask(server.i.PrivateIP, c.port)
		if (got != "") != c.want {
			t.Errorf("from %s to port %d: %q", c.from.i.PrivateIP, c.port, got)
		}
	}
	// A change holds at once, and leaves what is open alone.
	open, err := w.n.DialInstance(t.Context(), friend.i.Instance, "tcp4", "10.7.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	web.Rules = []cloud.SecurityGroupRule{tcp(false, 82, "0.0.0.0/0"), out()}
	w.apply(vpcOf("vpc-a", web, client, mute))
	if got := friend.ask(server.i.PrivateIP, 80); got != "" {
		t.Errorf("a port that was closed answers %q", got)
	}
	if got := friend.ask(server.i.PrivateIP, 82); got == "" {
		t.Error("a port that was opened does not answer")
	}
	open.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprint(open, "still here")
	b, buf := "", make([]byte, 64)
	for !strings.Contains(b, "still here") {
		n, err := open.Read(buf)
		if err != nil {
			t.Fatalf("the open connection was cut: %v after %q", err, b)
		}
		b += string(buf[:n])
	}
}

func TestTheSameRangeTwiceIsTwoNetworks(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{{Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}, out()}}
	w.apply(vpcOf("vpc-a", all))
	w.apply(vpcOf("vpc-b", all))
	a, b := w.box("vpc-a", 5, false, "sg-all"), w.box("vpc-b", 5, false, "sg-all")
	a.serve(80)
	other := w.box("vpc-b", 6, false, "sg-all")
	if got := other.ask(a.i.PrivateIP, 80); got != "" {
		t.Errorf("another VPC's address answers %q", got)
	}
	if got := w.box("vpc-a", 6, false, "sg-all").ask(a.i.PrivateIP, 80); got != "10.7.0.6 to 10.7.0.5" {
		t.Errorf("its own VPC's address answers %q", got)
	}
	_ = b
}

func TestPublicAddressesLeadInAndOutAndNowhereElse(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{{Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}, out()}}
	w.apply(vpcOf("vpc-a", all))
	a, b, private := w.box("vpc-a", 5, true, "sg-all"), w.box("vpc-a", 6, true, "sg-all"), w.box("vpc-a", 7, false, "sg-all")
	a.serve(80)
	if got := fromHost(a.i.PublicIP, 80); !strings.HasSuffix(got, "to 10.7.0.5") {
		t.Errorf("from the host: %q", got)
	}
	if got := b.ask(a.i.PublicIP, 80); got != b.i.PublicIP.String()+" to 10.7.0.5" {
		t.Errorf("from a neighbour by the public address: %q", got)
	}
	if got := private.ask(a.i.PublicIP, 80); got != "" {
		t.Errorf("a machine without a public address reaches one: %q", got)
	}
	unassigned := w.cfg.PublicPool.Addr().Next()
	begin := time.Now()
	if _, err := net.DialTimeout("tcp4", netip.AddrPortFrom(unassigned, 80).String(), 3*time.Second); err == nil || time.Since(begin) > time.Second {
		t.Errorf("an unassigned address: %v after %v", err, time.Since(begin))
	}
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "the host")
			c.Close()
		}
	}()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		ip, ok := netip.AddrFromSlice(addr.(*net.IPNet).IP.To4())
		if !ok || ip.IsLoopback() {
			continue
		}
		if got := a.ask(ip, l.Addr().(*net.TCPAddr).Port); got != "" {
			t.Errorf("the host's own %s answers: %q", ip, got)
		}
	}
	// The address moves, and the old way is gone.
	moved := a.i.PublicIP
	a.i.PublicIP = netip.Addr{}
	a.attach()
	b.i.PublicIP = moved
	b.attach()
	b.serve(81)
	if got := fromHost(moved, 81); !strings.HasSuffix(got, "to 10.7.0.6") {
		t.Errorf("after the move: %q", got)
	}
	if got := fromHost(moved, 80); got != "" {
		t.Errorf("the old machine still answers: %q", got)
	}
}

func TestAForeignSourceIsDroppedUnlessItIsAllowed(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{{Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}, out()}}
	w.apply(vpcOf("vpc-a", all))
	victim, attacker := w.box("vpc-a", 5, false, "sg-all"), w.box("vpc-a", 6, false, "sg-all")
	packets := make(chan string, 10)
	var conn net.PacketConn
	err := w.n.inside(victim.i.Instance, func() (err error) { conn, err = net.ListenPacket("udp4", ":9"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			packets <- string(buf[:n]) + " from " + from.(*net.UDPAddr).IP.String()
		}
	}()
	files := w.n.namespaceFiles(attacker.i.Instance)
	if out, err := exec.Command("nsenter", "--net="+files.Net, "ip", "addr", "add", "10.7.0.66/32", "dev", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	send := func(source, text string) {
		t.Helper()
		err := w.n.inside(attacker.i.Instance, func() error {
			c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}).Dial("udp4", "10.7.0.5:9")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(text))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	arrives := func() string {
		select {
		case p := <-packets:
			return p
		case <-time.After(300 * time.Millisecond):
			return ""
		}
	}
	send("10.7.0.6", "honest")
	if got := arrives(); got != "honest from 10.7.0.6" {
		t.Fatalf("the honest packet: %q", got)
	}
	send("10.7.0.66", "spoofed")
	if got := arrives(); got != "" {
		t.Errorf("a spoofed packet arrived: %q", got)
	}
	attacker.i.SourceDestCheck = false
	attacker.attach()
	send("10.7.0.66", "allowed")
	if got := arrives(); got != "allowed from 10.7.0.66" {
		t.Errorf("without the check: %q", got)
	}
}

func TestSSHIsAnsweredUntilTheMachineDoesItself(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{{Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}, out()}}
	w.apply(vpcOf("vpc-a", all))
	server, client := w.box("vpc-a", 5, false, "sg-all"), w.box("vpc-a", 6, false, "sg-all")
	l, err := w.n.ListenSSH(t.Context(), server.i.Instance)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "the agent")
			c.Close()
		}
	}()
	if got := client.ask(server.i.PrivateIP, 22); got != "the agent" {
		t.Errorf("port 22 is answered by %q", got)
	}
	if got := client.ask(server.i.PrivateIP, sshPort); got != "" {
		t.Errorf("the agent's own port is reached: %q", got)
	}
	server.serve(22)
	if got := client.ask(server.i.PrivateIP, 22); got != "10.7.0.6 to 10.7.0.5" {
		t.Errorf("with a server inside, port 22 is answered by %q", got)
	}
}

func TestANewProcessAdoptsWhatRunsAndSweepsTheRest(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{{Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}, out()}}
	v := vpcOf("vpc-a", all)
	w.apply(v)
	w.apply(vpcOf("vpc-b", all))
	a, b, stray := w.box("vpc-a", 5, true, "sg-all"), w.box("vpc-a", 6, false, "sg-all"), w.box("vpc-b", 7, false, "sg-all")
	a.serve(80)
	open, err := w.n.DialInstance(t.Context(), b.i.Instance, "tcp4", "10.7.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := w.n.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.apply(v)
	open.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprint(open, "x")
	if _, err := open.Read(make([]byte, 64)); err != nil {
		t.Errorf("an open connection did not survive: %v", err)
	}
	if got := b.ask(a.i.PrivateIP, 80); got == "" {
		t.Error("the adopted machines don't reach each other")
	}
	keep := Keep{VPCs: map[cloud.VPCID]bool{"vpc-a": true}, Instances: map[cloud.InstanceID]bool{a.i.Instance: true, b.i.Instance: true},
		Interfaces: map[cloud.InterfaceID]bool{a.i.ID: true, b.i.ID: true}}
	if err := w.n.Sweep(t.Context(), keep); err != nil {
		t.Fatal(err)
	}
	if pinned(w.n.namespaceFiles(stray.i.Instance).Net) || pinned(w.n.vpcFile("vpc-b")) {
		t.Error("the stray machine or its VPC is still there")
	}
	if got := fromHost(a.i.PublicIP, 80); got == "" {
		t.Error("the sweep took a kept machine's public address")
	}
	for range 2 {
		if err := w.n.Detach(t.Context(), a.i.Instance, a.i.ID); err != nil {
			t.Errorf("detach: %v", err)
		}
	}
}

func BenchmarkAttach(b *testing.B) {
	w := newWorld(b)
	w.apply(vpcOf("vpc-a", Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{out()}}))
	n := 0
	for b.Loop() {
		n++
		x := w.box("vpc-a", byte(5+n%200), false, "sg-all")
		b.StopTimer()
		if err := w.n.RemoveInstance(b.Context(), x.i.Instance); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func TestASecondaryAddressIsTheInterfacesOwnWhileItIsAssigned(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "0.0.0.0/0"), out()}}))
	a, b := w.box("vpc-a", 5, false, "sg-all"), w.box("vpc-a", 6, true, "sg-all")
	second, base := netip.MustParseAddr("10.7.0.50"), w.cfg.PublicPool.Addr().As4()
	public := netip.AddrFrom4([4]byte{base[0], base[1], base[2], 50})
	a.serve(80)
	a.ip("addr", "add", second.String()+"/32", "dev", "eth0")
	if got := b.ask(second, 80); got != "" {
		t.Errorf("an address that nobody assigned is answered by %q", got)
	}
	a.i.Secondary = []Address{{second, public}}
	a.attach() // which sets it up inside
	if got := b.ask(second, 80); got == "" {
		t.Error("the secondary address is not reached")
	}
	if got := fromHost(public, 80); !strings.HasSuffix(got, "to 10.7.0.5") {
		t.Errorf("its public address is answered by %q", got)
	}
	// It moves to another interface, which is told first.
	b.serve(80)
	b.i.Secondary, a.i.Secondary = a.i.Secondary, nil
	b.attach()
	a.attach()
	if got := a.ask(second, 80); !strings.HasSuffix(got, "to 10.7.0.6") {
		t.Errorf("after its move it is answered by %q", got)
	}
	if got := fromHost(public, 80); !strings.HasSuffix(got, "to 10.7.0.6") {
		t.Errorf("after its move its public address is answered by %q", got)
	}
	b.i.Secondary = nil
	b.attach()
	if got := a.ask(second, 80); got != "" {
		t.Errorf("after its end it is answered by %q", got)
	}
	if got := fromHost(public, 80); got != "" {
		t.Errorf("after its end its public address is answered by %q", got)
	}
}

func TestWhatASecondInterfaceIsAskedItAnswersItself(t *testing.T) {
	w := newWorld(t)
	all := Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "0.0.0.0/0"), out(), all6(false), all6(true)}}
	v := w.dual("vpc-a", 1, RouteInternet, all)
	far := Subnet{ID: "subnet-far", CIDR: netip.MustParsePrefix("10.7.16.0/20"), Routes: v.Subnets[0].Routes}
	v.Subnets = append(v.Subnets, far)
	w.apply(v)
	a, asker := w.dualBox("vpc-a", 1, 5, "sg-all"), w.unplugged("vpc-a", 7, "sg-all")
	asker.i.Subnet, asker.i.PrivateIP, asker.i.IPv6 = far.ID, netip.MustParseAddr("10.7.16.7"), []netip.Addr{w.address6(1, 7)}
	asker.attach()
	second := &box{w, a.i}
	second.i.ID, second.i.DeviceIndex, second.i.PrivateIP, second.i.MAC = cloud.NewID[cloud.InterfaceID](rand.Reader), 1, netip.MustParseAddr("10.7.0.50"), "0a:00:0a:07:00:50"
	second.i.Secondary, second.i.IPv6 = []Address{{Private: netip.MustParseAddr("10.7.0.51")}}, []netip.Addr{w.address6(1, 50)}
	second.i.PublicIP = w.public(50)
	second.attach()
	a.serve(80)
	for _, address := range []netip.Addr{a.i.PrivateIP, second.i.PrivateIP, second.i.Secondary[0].Private, second.i.IPv6[0]} {
		if got := asker.ask(address, 80); got == "" {
			t.Errorf("%s does not answer", address)
		}
	}
	if got := fromHost(second.i.PublicIP, 80); got == "" {
		t.Error("the second interface's public address does not answer")
	}
	if err := w.n.Detach(t.Context(), second.i.Instance, second.i.ID); err != nil {
		t.Fatal(err)
	}
	if got := asker.ask(a.i.PrivateIP, 80); got == "" {
		t.Error("the first interface went with the second")
	}
	rules, err := exec.Command("nsenter", "--net="+w.n.namespaceFiles(a.i.Instance).Net, "ip", "rule").CombinedOutput()
	if err != nil || strings.Contains(string(rules), "10.7.0.5") {
		t.Errorf("its ways are left: %v\n%s", err, rules)
	}
}

func TestAnInterfaceThatMovedIsNotTakenAwayByItsFormerInstance(t *testing.T) {
	w := newWorld(t)
	w.apply(vpcOf("vpc-a", Group{ID: "sg-all", Rules: []cloud.SecurityGroupRule{tcp(false, 80, "0.0.0.0/0"), out()}}))
	former, now := w.box("vpc-a", 5, false, "sg-all"), w.box("vpc-a", 6, false, "sg-all")
	second := &box{w, former.i}
	second.i.ID, second.i.DeviceIndex, second.i.PrivateIP, second.i.MAC = cloud.NewID[cloud.InterfaceID](rand.Reader), 1, netip.MustParseAddr("10.7.0.50"), "0a:00:0a:07:00:50"
	second.attach()
	if err := w.n.Detach(t.Context(), former.i.Instance, second.i.ID); err != nil {
		t.Fatal(err)
	}
	second.i.Instance, second.i.IDBase = now.i.Instance, now.i.IDBase
	second.attach()
	if err := w.n.Detach(t.Context(), former.i.Instance, second.i.ID); err != nil {
		t.Fatal(err)
	}
	second.run("ip", "link", "show", "eth1") // fails the test when it is gone
}
