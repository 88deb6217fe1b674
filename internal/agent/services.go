package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/nacre-cloud/nacre/internal/agent/network/dhcp"
	"github.com/nacre-cloud/nacre/internal/agent/network/dns"
	"github.com/nacre-cloud/nacre/internal/agent/network/metadata"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// startServices answers metadata, names and DHCP inside a VPC and returns what ends that.
func (a *Agent) startServices(vpc cloud.VPC) (stop func(), err error) {
	a.mu.Lock()
	region := a.region
	a.mu.Unlock()
	var listeners []net.Listener
	var packets []net.PacketConn
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			for _, p := range packets {
				p.Close()
			}
		}
	}()
	tellers, resolvers := []string{"169.254.169.254:80"}, []string{"169.254.169.253:53", netip.AddrPortFrom(vpc.Resolver(), 53).String()}
	if a.cfg.Network.IPv6() {
		tellers, resolvers = append(tellers, "[fd00:ec2::254]:80"), append(resolvers, "[fd00:ec2::253]:53")
	}
	for _, addr := range tellers {
		l, err := a.cfg.Network.ListenVPC(vpc.ID, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("VPC %s: listen for metadata: %w", vpc.ID, err)
		}
		listeners = append(listeners, l)
	}
	for _, addr := range resolvers {
		p, err := a.cfg.Network.ListenPacketVPC(vpc.ID, "udp", addr)
		if err != nil {
			return nil, fmt.Errorf("VPC %s: listen for names: %w", vpc.ID, err)
		}
		packets = append(packets, p)
		l, err := a.cfg.Network.ListenVPC(vpc.ID, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("VPC %s: listen for names: %w", vpc.ID, err)
		}
		listeners = append(listeners, l)
	}
	asks, err := a.cfg.Network.ListenPacketVPC(vpc.ID, "udp4", "0.0.0.0:67")
	if err != nil {
		return nil, fmt.Errorf("VPC %s: listen for DHCP: %w", vpc.ID, err)
	}
	leases := &dhcp.Server{Logger: a.log, Lookup: func(link int) (dhcp.Lease, bool) { return a.lease(vpc.ID, link) }}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	serve := func(what string, fn func() error) {
		wg.Go(func() {
			if err := fn(); err != nil && ctx.Err() == nil {
				a.log.Error("a service inside a VPC ended", "vpc", vpc.ID, "service", what, "error", err)
			}
		})
	}
	for _, l := range listeners[:len(tellers)] {
		serve("metadata", func() error { return a.metadata(vpc.ID, region).Serve(ctx, l) })
	}
	names := dns.New(dns.Config{Domain: cloud.PrivateDomain(region.Name), Public: cloud.PublicDomain(region.Name), CIDR: vpc.CIDR, Logger: a.log,
		Off: func() bool {
			v := a.vpcs.get(vpc.ID)
			return v != nil && !v.VPC.EnableDNSSupport
		},
		Behind: func(public netip.Addr) (netip.Addr, bool) {
			v := a.vpcs.get(vpc.ID)
			if v == nil {
				return netip.Addr{}, false
			}
			private, ok := v.Public[public]
			return private, ok
		}, NameOf: func(public netip.Addr) (string, bool) {
			v := a.vpcs.get(vpc.ID)
			if v == nil {
				return "", false
			}
			name, ok := v.Names[public]
			return name, ok
		}})
	serve("DHCP", func() error { return leases.Serve(ctx, asks) })
	serve("names", func() error { return names.Serve(ctx, packets, listeners[len(tellers):]) })
	return func() { cancel(); wg.Wait() }, nil
}

// metadata is the metadata service of one VPC.
func (a *Agent) metadata(vpc cloud.VPCID, region cloud.Region) *metadata.Server {
	zones := map[string]string{}
	for _, z := range region.Zones {
		zones[z.Name] = z.ID
	}
	return &metadata.Server{Secret: a.cfg.MetadataSecret, Now: a.cfg.Now, Logger: a.log, Lookup: func(addr netip.Addr) (metadata.Instance, bool) {
		m, v, ok := a.vpcs.lookup(vpc, addr)
		if !ok {
			return metadata.Instance{}, false
		}
		subnets := map[cloud.SubnetID]cloud.Subnet{}
		for _, s := range v.Subnets {
			subnets[s.Subnet.ID] = s.Subnet
		}
		names := map[cloud.SecurityGroupID]string{}
		for _, g := range v.Groups {
			names[g.Group.ID] = g.Group.Name
		}
		return metadata.Instance{Instance: &m.Instance, Interfaces: m.Interfaces, GroupNames: names, VPC: &v.VPC, Subnets: subnets,
			Region: region.Name, ZoneID: zones[m.Instance.Zone]}, true
	}}
}
