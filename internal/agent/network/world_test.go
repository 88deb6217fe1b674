package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// world is a cloud's network of the test's own.
type world struct {
	t      testing.TB
	cfg    Config
	n      *Network
	before []string
	ids    uint32
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make links and namespaces and need root")
	}
	raw := make([]byte, 4)
	rand.Read(raw)
	dir := t.TempDir()
	w := &world{t: t, before: traces(t), ids: 0x20000000, cfg: Config{CloudID: hex.EncodeToString(raw[:3]), RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"),
		IPv6Pool:   netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xee, raw[0], raw[1], raw[2]}), 40),
		PublicPool: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, raw[3], 0}), 24), Logger: slog.New(slog.DiscardHandler)}}
	w.open()
	t.Cleanup(func() {
		if err := w.n.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
		if err := w.n.Close(); err != nil {
			t.Error(err)
		}
		for _, trace := range traces(t) {
			if !slices.Contains(w.before, trace) && (strings.Contains(trace, w.cfg.CloudID) || strings.Contains(trace, dir) || strings.Contains(trace, w.cfg.PublicPool.Addr().String()) || strings.Contains(trace, w.cfg.IPv6Pool.Addr().String())) {
				t.Errorf("left on the host: %s", trace)
			}
		}
	})
	return w
}

func (w *world) open() {
	w.t.Helper()
	n, err := Open(context.Background(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.n = n
}

// traces are the host's links, routes, tables and mounts.
func traces(t testing.TB) []string {
	t.Helper()
	var list []string
	for _, args := range [][]string{{"ip", "-o", "link"}, {"ip", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"}, {"nft", "list", "tables"}, {"cat", "/proc/self/mounts"}} {
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, strings.Split(string(out), "\n")...)
	}
	return list
}

var toInternet = []Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Kind: RouteInternet}}

var everything = netip.MustParsePrefix("0.0.0.0/0")

func tcp(egress bool, port int, from string) cloud.SecurityGroupRule {
	r := cloud.SecurityGroupRule{Egress: egress, Protocol: cloud.ProtocolTCP, FromPort: port, ToPort: port}
	if strings.HasPrefix(from, "sg-") {
		r.Group = cloud.SecurityGroupID(from)
	} else {
		r.CIDR = netip.MustParsePrefix(from)
	}
	return r
}

func out() cloud.SecurityGroupRule {
	return cloud.SecurityGroupRule{Egress: true, Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: everything}
}

// vpc is a VPC with one subnet that leads to the internet.
func vpcOf(id string, groups ...Group) VPC {
	return VPC{ID: cloud.VPCID(id), CIDRs: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16")}, Gateway: true, Groups: groups,
		Subnets: []Subnet{{ID: cloud.SubnetID("subnet-" + id), CIDR: netip.MustParsePrefix("10.7.0.0/20"), Routes: toInternet}}}
}

func (w *world) apply(v VPC) {
	w.t.Helper()
	if err := w.n.ApplyVPC(w.t.Context(), v); err != nil {
		w.t.Fatal(err)
	}
	handle, err := w.n.known(v.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	w.carries(handle)
}

// carries waits until the kernel takes the packets of all of a VPC's pairs of links, and of others, a moment after it was told to, which a machine's start
// hides and a test sees.
func (w *world) carries(v *vpc, others ...string) {
	w.t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		links, err := v.nl.LinkList()
		if err != nil {
			w.t.Fatal(err)
		}
		late := slices.IndexFunc(links, func(l netlink.Link) bool {
			_, pair := l.(*netlink.Veth)
			return (pair || slices.Contains(others, l.Attrs().Name)) && l.Attrs().OperState != netlink.OperUp
		})
		if late < 0 {
			return
		}
		if time.Since(begin) > 5*time.Second {
			w.t.Fatalf("the link %s does not come up", links[late].Attrs().Name)
		}
	}
}

// box is a machine without a machine: its namespaces and its interface.
type box struct {
	w *world
	i Interface
}

func (w *world) box(vpc string, last byte, public bool, groups ...cloud.SecurityGroupID) *box {
	w.t.Helper()
	b := w.unplugged(vpc, last, groups...)
	if public {
		base := w.cfg.PublicPool.Addr().As4()
		b.i.PublicIP = netip.AddrFrom4([4]byte{base[0], base[1], base[2], last})
	}
	b.attach()
	return b
}

// unplugged is a box whose interface is nowhere yet.
func (w *world) unplugged(vpc string, last byte, groups ...cloud.SecurityGroupID) *box {
	w.ids += 65536
	return &box{w, Interface{ID: cloud.NewID[cloud.InterfaceID](rand.Reader), Instance: cloud.NewID[cloud.InstanceID](rand.Reader), IDBase: w.ids, VPC: cloud.VPCID(vpc),
		Subnet: cloud.SubnetID("subnet-" + vpc), MAC: fmt.Sprintf("0a:00:0a:07:00:%02x", last), PrivateIP: netip.AddrFrom4([4]byte{10, 7, 0, last}), Groups: groups, SourceDestCheck: true}}
}

func (b *box) attach() {
	b.w.t.Helper()
	if _, err := b.w.n.Attach(b.w.t.Context(), b.i); err != nil {
		b.w.t.Fatal(err)
	}
	v, err := b.w.n.known(b.i.VPC)
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.w.carries(v)
}

// serve answers on a port with the box's address.
func (b *box) serve(port int) {
	b.w.t.Helper()
	l, err := b.w.n.ListenInstance(b.w.t.Context(), b.i.Instance, "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%s to %s\n", from, b.i.PrivateIP)
				io.Copy(c, c)
			}()
		}
	}()
}

// ask connects from the box and returns who answered to whom, "" when nobody did.
func (b *box) ask(address netip.Addr, port int) string {
	ctx, cancel := context.WithTimeout(b.w.t.Context(), 700*time.Millisecond)
	defer cancel()
	c, err := b.w.n.DialInstance(ctx, b.i.Instance, "tcp", netip.AddrPortFrom(address, uint16(port)).String())
	return firstAnswer(c, err)
}

func firstAnswer(c net.Conn, err error) string {
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 64)
	n, _ := c.Read(buf)
	return strings.TrimSpace(string(buf[:n]))
}

func fromHost(address netip.Addr, port int) string {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(address, uint16(port)).String(), 700*time.Millisecond)
	return firstAnswer(c, err)
}

// ip runs ip in a box.
func (b *box) ip(args ...string) {
	b.w.t.Helper()
	b.run(append([]string{"ip"}, args...)...)
}

// run runs a program in a box's network.
func (b *box) run(args ...string) {
	b.w.t.Helper()
	if err := b.w.n.inside(b.i.Instance, func() error {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}); err != nil {
		b.w.t.Fatal(err)
	}
}
