package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// vpcs is what this node knows of its VPCs: their desired state, the services that answer inside
// them, and who has which address there.
type vpcs struct {
	a *Agent

	mu       sync.RWMutex
	known    map[cloud.VPCID]*agentrpc.VPC
	services map[cloud.VPCID]func()
	machines map[cloud.InstanceID]*agentrpc.Machine
	byAddr   map[vpcAddr]cloud.InstanceID
	// turns has what is being done with a VPC, or was done last: what is to be done next waits for it.
	turns map[cloud.VPCID]chan struct{}
}

type vpcAddr struct {
	vpc  cloud.VPCID
	addr netip.Addr
}

func newVPCs(a *Agent) *vpcs {
	return &vpcs{a: a, known: map[cloud.VPCID]*agentrpc.VPC{}, services: map[cloud.VPCID]func(){},
		machines: map[cloud.InstanceID]*agentrpc.Machine{}, byAddr: map[vpcAddr]cloud.InstanceID{}, turns: map[cloud.VPCID]chan struct{}{}}
}

func (v *vpcs) get(id cloud.VPCID) *agentrpc.VPC {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.known[id]
}

// inTurn returns a function that does something with a VPC after everything that was put in turn before.
func (v *vpcs) inTurn(id cloud.VPCID, do func() error) func() error {
	done := make(chan struct{})
	v.mu.Lock()
	before := v.turns[id]
	v.turns[id] = done
	v.mu.Unlock()
	return func() error {
		defer close(done)
		if before != nil {
			<-before
		}
		return do()
	}
}

// settled waits until a VPC is as the control plane told by now.
func (v *vpcs) settled(ctx context.Context, id cloud.VPCID) error {
	v.mu.RLock()
	turn := v.turns[id]
	v.mu.RUnlock()
	if turn == nil {
		return nil
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// allSettled waits until every VPC is as the control plane told by now. An interface can be taken away only then: before, a
// manager that was just started doesn't know the VPC that it is in.
func (v *vpcs) allSettled(ctx context.Context) error {
	v.mu.RLock()
	ids := slices.Collect(maps.Keys(v.turns))
	v.mu.RUnlock()
	for _, id := range ids {
		if err := v.settled(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// open makes a VPC as told, but for its packet filter, and starts its metadata service, resolver and DHCP with the first time.
func (v *vpcs) open(m *agentrpc.VPC) error {
	if err := v.a.cfg.Network.OpenVPC(networkVPC(m)); err != nil {
		return fmt.Errorf("VPC %s: %w", m.VPC.ID, err)
	}
	v.mu.Lock()
	v.known[m.VPC.ID] = m
	started := v.services[m.VPC.ID] != nil
	v.mu.Unlock()
	if started {
		return nil
	}
	stop, err := v.a.startServices(m.VPC)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.services[m.VPC.ID] = stop
	v.mu.Unlock()
	return nil
}

// filter brings the packet filter of a VPC up to date, if the VPC is still here.
func (v *vpcs) filter(ctx context.Context, id cloud.VPCID) error {
	err := v.a.cfg.Network.FilterVPC(ctx, id)
	if v.get(id) == nil {
		return nil
	}
	return err
}

// report tells the control plane that a VPC is as told, unless that has been told anew meanwhile.
func (v *vpcs) report(m *agentrpc.VPC) {
	st := agentrpc.VPCStatus{VPC: m.VPC.ID}
	for _, g := range m.NATs {
		st.NATs = append(st.NATs, g.Gateway.ID)
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.known[m.VPC.ID] == m {
		v.a.out.put("vpc/"+string(m.VPC.ID), &agentrpc.FromAgent{VPC: &st})
	}
}

// forget removes a VPC of which no interface is left here.
func (v *vpcs) forget(ctx context.Context, id cloud.VPCID) error {
	v.mu.Lock()
	stop := v.services[id]
	delete(v.services, id)
	delete(v.known, id)
	v.mu.Unlock()
	if stop != nil {
		stop()
	}
	if err := v.a.cfg.Network.RemoveVPC(ctx, id); err != nil {
		return fmt.Errorf("remove VPC %s: %w", id, err)
	}
	return nil
}

// close ends the services of all VPCs; their packet path goes on.
func (v *vpcs) close() {
	v.mu.Lock()
	services := v.services
	v.services = map[cloud.VPCID]func(){}
	v.mu.Unlock()
	for _, stop := range services {
		stop()
	}
}

// index notes who has which address, for the metadata service.
func (v *vpcs) index(m *agentrpc.Machine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unindexLocked(m.Instance.ID)
	v.machines[m.Instance.ID] = m
	for _, i := range m.Interfaces {
		for _, addr := range append(i.Addresses(), i.IPv6...) {
			v.byAddr[vpcAddr{i.VPC, addr}] = m.Instance.ID
		}
	}
}

func (v *vpcs) unindex(id cloud.InstanceID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unindexLocked(id)
}

func (v *vpcs) unindexLocked(id cloud.InstanceID) {
	if old := v.machines[id]; old != nil {
		for _, i := range old.Interfaces {
			for _, addr := range append(i.Addresses(), i.IPv6...) {
				if at := (vpcAddr{i.VPC, addr}); v.byAddr[at] == id {
					delete(v.byAddr, at)
				}
			}
		}
		delete(v.machines, id)
	}
}

// lookup finds the machine behind an address of a VPC.
func (v *vpcs) lookup(vpc cloud.VPCID, addr netip.Addr) (*agentrpc.Machine, *agentrpc.VPC, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	id, ok := v.byAddr[vpcAddr{vpc, addr}]
	if !ok || v.known[vpc] == nil {
		return nil, nil, false
	}
	return v.machines[id], v.known[vpc], true
}

// interfaces lists all interfaces of the machines assigned to this node.
func (v *vpcs) interfaces() map[cloud.InterfaceID]bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	ids := map[cloud.InterfaceID]bool{}
	for _, m := range v.machines {
		for _, i := range m.Interfaces {
			ids[i.ID] = true
		}
	}
	return ids
}

var errUnknownVPC = errors.New("the control plane has not told of this VPC")

func networkInterface(id cloud.InstanceID, i cloud.Interface, idBase uint32, tap bool) network.Interface {
	var secondary []network.Address
	for _, a := range i.Secondary {
		secondary = append(secondary, network.Address{Private: a, Public: i.Public(a).Public})
	}
	return network.Interface{
		Secondary: secondary, IPv6: i.IPv6, ID: i.ID, Instance: id, IDBase: idBase, VPC: i.VPC, Subnet: i.Subnet, MAC: i.MAC, PrivateIP: i.PrivateIP, PublicIP: i.PublicIP(),
		Groups: i.Groups, SourceDestCheck: i.SourceDestCheck, DeviceIndex: i.DeviceIndex, Tap: tap,
	}
}

func networkVPC(m *agentrpc.VPC) network.VPC {
	v := network.VPC{ID: m.VPC.ID, CIDRs: m.VPC.Ranges(), Gateway: m.Gateway, PrefixLists: m.PrefixLists}
	for _, s := range m.Subnets {
		v.Subnets = append(v.Subnets, network.Subnet{ACL: s.Subnet.ACL, ID: s.Subnet.ID, CIDR: s.Subnet.CIDR, CIDR6: s.Subnet.IPv6, Routes: networkRoutes(s.Routes)})
	}
	for _, p := range m.Peerings {
		v.Peerings = append(v.Peerings, network.Peering{ID: p.ID, Peer: p.Peer, Ranges: p.PeerRanges})
	}
	for _, g := range m.NATs {
		v.NATGateways = append(v.NATGateways, network.NATGateway{ID: g.Gateway.ID, Interface: networkInterface("", g.Interface, 0, false)})
	}
	for _, acl := range m.ACLs {
		v.ACLs = append(v.ACLs, network.ACL{ID: acl.ID, Entries: acl.Entries})
	}
	for _, f := range m.FlowLogs {
		v.Logged = append(v.Logged, network.Logged{Subnet: f.Subnet, Interface: f.Interface})
	}
	for _, g := range m.Groups {
		v.Groups = append(v.Groups, network.Group{ID: g.Group.ID, Rules: g.Group.Rules, Members: g.Members})
	}
	return v
}

func networkRoutes(list []agentrpc.Route) []network.Route {
	out := make([]network.Route, len(list))
	for i, r := range list {
		out[i] = network.Route{Destination: r.Destination, Interface: r.Interface}
		switch r.Kind {
		case agentrpc.RouteInternet:
			out[i].Kind = network.RouteInternet
		case agentrpc.RouteEgressOnly:
			out[i].Kind = network.RouteEgressOnly
		case agentrpc.RouteInterface:
			out[i].Kind = network.RouteInterface
		case agentrpc.RoutePeering:
			out[i].Kind, out[i].Peering = network.RoutePeering, r.Peering
		}
	}
	return out
}
