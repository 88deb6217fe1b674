package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const (
	packetRounds = 5
	streamTime   = time.Second
	pings        = 10_000
	manyRules    = 1000
	benchPort    = 5201
)

// link is a way between two network namespaces.
type link struct {
	name             string
	client, server   string // the namespaces' files
	address          netip.Addr
	rate, roundTrips []float64 // Gbit/s, microseconds
}

// packets measures instance to instance through the VPC, beside two namespaces that a bare pair of links joins. All ways are
// measured in turn.
func packets(c *testCloud) (rows []row, err error) {
	if err := c.bake(); err != nil {
		return nil, err
	}
	bare, remove, err := barePair()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	ways := []*link{bare}
	for _, rules := range []int{1, manyRules} {
		way, ids, err := c.pair(rules)
		if len(ids) > 0 {
			defer func() { err = errors.Join(err, c.terminate(ids)) }()
		}
		if err != nil {
			return nil, err
		}
		way.name = fmt.Sprintf("%d rules", rules)
		ways = append(ways, way)
	}
	for range packetRounds {
		for _, w := range ways {
			if err := w.measure(); err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	for _, w := range ways[1:] {
		rate, trip := middle(w.rate), middle(w.roundTrips)
		rows = append(rows,
			row{Name: "instance to instance, " + w.name + ", throughput", Unit: "Gbit/s", Ours: rate, Runs: packetRounds}.atLeast("a bare pair of links", middle(bare.rate), 0.9),
			row{Name: "instance to instance, " + w.name + ", round trip", Unit: "µs", Ours: trip, Runs: packetRounds}.beside("a bare pair of links", middle(bare.roundTrips), 1.2))
	}
	return rows, nil
}

func middle(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// pair launches two instances whose group has so many rules, of which the last one lets the measurement in.
func (c *testCloud) pair(rules int) (*link, []string, error) {
	ctx := context.Background()
	g, err := c.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String(fmt.Sprintf("bench-%d", rules)), Description: aws.String("bench")})
	if err != nil {
		return nil, nil, err
	}
	in := &ec2.AuthorizeSecurityGroupIngressInput{GroupId: g.GroupId}
	for n := range rules - 2 { // its outbound rule counts too
		in.IpPermissions = append(in.IpPermissions, types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(int32(benchPort)), ToPort: aws.Int32(int32(benchPort)),
			IpRanges: []types.IpRange{{CidrIp: aws.String(fmt.Sprintf("10.%d.%d.0/24", n>>8, n&255))}}})
	}
	in.IpPermissions = append(in.IpPermissions, types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(0), ToPort: aws.Int32(65535),
		IpRanges: []types.IpRange{{CidrIp: aws.String("172.31.0.0/16")}}})
	if _, err := c.ec2.AuthorizeSecurityGroupIngress(ctx, in); err != nil {
		return nil, nil, err
	}
	ids, _, err := c.launchWith(2, *g.GroupId)
	if err != nil {
		return nil, ids, err
	}
	d, err := c.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids[1:]})
	if err != nil {
		return nil, ids, err
	}
	addr, err := netip.ParseAddr(*d.Reservations[0].Instances[0].PrivateIpAddress)
	if err != nil {
		return nil, ids, err
	}
	return &link{client: c.netFile(ids[0]), server: c.netFile(ids[1]), address: addr}, ids, nil
}

// netFile is the file of an instance's network namespace.
func (c *testCloud) netFile(instance string) string {
	id, _ := os.ReadFile(filepath.Join(c.dir, "cloud-id"))
	return filepath.Join("/run/nacre", strings.TrimSpace(string(id)), "net", instance)
}

// barePair joins two new namespaces by a pair of links and nothing else.
func barePair() (*link, func() error, error) {
	var names [2]string
	var handles [2]netns.NsHandle
	remove := func() error {
		var problems []error
		for n, name := range names {
			if name != "" {
				problems = append(problems, handles[n].Close(), netns.DeleteNamed(name))
			}
		}
		return errors.Join(problems...)
	}
	fail := func(err error) (*link, func() error, error) { return nil, nil, errors.Join(err, remove()) }
	for n := range names {
		err := onThread(func() (err error) {
			handles[n], err = netns.NewNamed(fmt.Sprintf("nacre-bench-%d-%d", os.Getpid(), n))
			return err
		})
		if err != nil {
			return fail(err)
		}
		names[n] = fmt.Sprintf("nacre-bench-%d-%d", os.Getpid(), n)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Namespace = "a", netlink.NsFd(int(handles[0]))
	if host, err := net.InterfaceByName("eth0"); err == nil {
		attrs.MTU = host.MTU // as nacre's links have
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b", PeerNamespace: netlink.NsFd(int(handles[1])), PeerMTU: uint32(attrs.MTU)}); err != nil {
		return fail(err)
	}
	for n, name := range []string{"a", "b"} {
		nl, err := netlink.NewHandleAt(handles[n])
		if err != nil {
			return fail(err)
		}
		defer nl.Close()
		l, err := nl.LinkByName(name)
		if err != nil {
			return fail(err)
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, 0, byte(n+1)), Mask: net.CIDRMask(24, 32)}}
		if err := errors.Join(nl.AddrAdd(l, addr), nl.LinkSetUp(l)); err != nil {
			return fail(err)
		}
	}
	return &link{name: "bare", client: "/var/run/netns/" + names[0], server: "/var/run/netns/" + names[1], address: netip.AddrFrom4([4]byte{10, 99, 0, 2})}, remove, nil
}

// onThread runs fn on a thread that is thrown away after it.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// inside runs fn in a network namespace: sockets that it makes stay there.
func inside(file string, fn func() error) error {
	return onThread(func() error {
		h, err := netns.GetFromPath(file)
		if err != nil {
			return err
		}
		defer h.Close()
		if err := netns.Set(h); err != nil {
			return err
		}
		return fn()
	})
}

// connect makes a connection over the link.
func (l *link) connect() (client, server net.Conn, err error) {
	var listener net.Listener
	err = inside(l.server, func() (err error) {
		listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", benchPort))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	err = inside(l.client, func() (err error) {
		client, err = net.DialTimeout("tcp4", netip.AddrPortFrom(l.address, benchPort).String(), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	server, err = listener.Accept()
	return client, server, err
}

func (l *link) measure() error {
	client, server, err := l.connect()
	if err != nil {
		return err
	}
	echo := make(chan error, 1)
	go func() {
		_, err := io.CopyN(struct{ io.Writer }{server}, struct{ io.Reader }{server}, pings)
		echo <- err
	}()
	buf := []byte{1}
	var trips []float64
	for range pings {
		begin := time.Now()
		if _, err := client.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			return err
		}
		trips = append(trips, float64(time.Since(begin).Nanoseconds())/1000)
	}
	if err := <-echo; err != nil {
		return err
	}
	l.roundTrips = append(l.roundTrips, middle(trips))

	sink := make(chan int64, 1)
	go func() {
		big := make([]byte, 1<<20)
		var sum int64
		for {
			n, err := server.Read(big)
			sum += int64(n)
			if err != nil {
				break
			}
		}
		sink <- sum
	}()
	block := make([]byte, 256<<10)
	begin := time.Now()
	for time.Since(begin) < streamTime {
		if _, err := client.Write(block); err != nil {
			return err
		}
	}
	client.Close()
	sum := <-sink
	l.rate = append(l.rate, float64(sum)*8/time.Since(begin).Seconds()/1e9)
	server.Close()
	return nil
}
