package control

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// desired is everything that one node should hold, at one revision of the store.
type desired struct {
	vpcs      map[cloud.VPCID]*agentrpc.VPC
	machines  map[cloud.InstanceID]*agentrpc.Machine
	imports   map[cloud.ImportTaskID]agentrpc.Import
	images    []string // digests to keep, sorted
	volumes   map[cloud.VolumeID]agentrpc.Volume
	snapshots map[cloud.SnapshotID]agentrpc.Snapshot
}

// desiredOf computes what a node should hold. It is pure.
func desiredOf(r store.Reader, node cloud.NodeID) desired {
	d := desired{vpcs: map[cloud.VPCID]*agentrpc.VPC{}, machines: map[cloud.InstanceID]*agentrpc.Machine{},
		imports: map[cloud.ImportTaskID]agentrpc.Import{}, volumes: map[cloud.VolumeID]agentrpc.Volume{}, snapshots: map[cloud.SnapshotID]agentrpc.Snapshot{}}
	for _, i := range store.ListBy(r, store.InstancesByNode, node) {
		if i.State == cloud.StateTerminated {
			continue
		}
		d.machines[i.ID] = machineOf(r, i)
		d.want(r, node, i.VPC)
	}
	for _, g := range store.ListBy(r, store.NATGatewaysByNode, node) {
		// One that is being deleted is wanted as a VPC that hasn't it: the node's answer ends it.
		if g.State == cloud.NATPending || g.State == cloud.NATAvailable || g.State == cloud.NATDeleting {
			d.want(r, node, g.VPC)
		}
	}
	for _, v := range slices.Collect(maps.Values(d.vpcs)) {
		for _, p := range v.Peerings {
			d.want(r, node, p.Peer)
		}
	}
	for _, t := range store.ListBy(r, store.ImportTasksByNode, node) {
		switch t.State {
		case cloud.ImportActive, cloud.ImportDeleting:
			task := *t
			task.Progress, task.Message = 0, "" // facts, not intent
			d.imports[t.ID] = agentrpc.Import{Task: task, Cancel: t.State == cloud.ImportDeleting}
		}
	}
	d.wantVolumes(r, node)
	d.images = imagesToKeep(r)
	return d
}

// want adds a VPC.
func (d desired) want(r store.Reader, node cloud.NodeID, id cloud.VPCID) {
	if d.vpcs[id] != nil {
		return
	}
	if v := vpcOf(r, id, node); v != nil {
		d.vpcs[id] = v
	}
}

// machineOf strips an instance to what its node acts on.
func machineOf(r store.Reader, i *cloud.Instance) *agentrpc.Machine {
	intent := *i
	intent.State, intent.StateReason, intent.TransitionReason, intent.HostID = "", cloud.StateReason{}, "", ""
	intent.Before, intent.Stalled = nil, time.Time{}
	intent.StateChanged, intent.RunningSince, intent.Terminated = i.Created, i.Created, i.Created
	m := &agentrpc.Machine{Instance: intent}
	if img, ok := store.Get(r, store.Images, i.Image); ok {
		m.ImageName = img.Name
	}
	for _, id := range i.Interfaces {
		if n, ok := store.Get(r, store.Interfaces, id); ok && n.AttachState != cloud.Detaching {
			wish := *n
			wish.AttachState = "" // a fact, not intent
			m.Interfaces = append(m.Interfaces, wish)
		}
	}
	m.Root = rootOf(r, i)
	m.Volumes, m.Forced = attachmentsOf(r, i)
	return m
}

// vpcOf is a VPC with its ways out, its groups and their members.
func vpcOf(r store.Reader, id cloud.VPCID, node cloud.NodeID) *agentrpc.VPC {
	vpc, ok := store.Get(r, store.VPCs, id)
	if !ok {
		return nil
	}
	v := &agentrpc.VPC{VPC: *vpc, Gateway: len(store.ListBy(r, store.InternetGatewaysByVPC, id)) > 0, Public: map[netip.Addr]netip.Addr{},
		Names: map[netip.Addr]string{}, PrefixLists: map[cloud.PrefixListID][]netip.Prefix{}, NATs: natGatewaysOf(r, id, node), Peerings: peeringsOf(r, id)}
	if o, ok := store.Get(r, store.DHCPOptions, vpc.DHCPOptions); ok {
		v.DHCP = &cloud.DHCPOptions{ID: o.ID, Options: o.Options}
	}
	tables := store.ListBy(r, store.RouteTablesByVPC, id)
	for _, s := range store.ListBy(r, store.SubnetsByVPC, id) {
		v.Subnets = append(v.Subnets, agentrpc.Subnet{Subnet: *s, Routes: routesOf(r, vpc, cloud.TableOf(tables, s.ID))})
	}
	for _, a := range store.ListBy(r, store.AddressesByNaming, store.Named) {
		v.Names[a.PublicIP] = a.PTR
	}
	for _, a := range store.ListBy(r, store.NetworkACLsByVPC, id) {
		v.ACLs = append(v.ACLs, *a)
	}
	for _, f := range store.ListBy(r, store.FlowLogsByVPC, id) {
		v.FlowLogs = append(v.FlowLogs, *f)
	}
	members := map[cloud.SecurityGroupID][]netip.Addr{}
	for _, n := range store.ListBy(r, store.InterfacesByVPC, id) {
		for _, g := range n.Groups {
			members[g] = append(append(members[g], n.Addresses()...), n.IPv6...)
		}
	}
	publicsOf(r, id, v.Public)
	for _, p := range store.ListBy(r, store.PeeringsByVPC, id) {
		if _, other := p.Between(id); p.Status == cloud.PeeringActive && other.RemoteDNS {
			publicsOf(r, other.VPC, v.Public)
		}
	}
	foreign := map[cloud.SecurityGroupID]bool{}
	for _, g := range store.ListBy(r, store.SecurityGroupsByVPC, id) {
		slices.SortFunc(members[g.ID], netip.Addr.Compare)
		v.Groups = append(v.Groups, agentrpc.Group{Group: *g, Members: members[g.ID]})
		for _, rule := range g.Rules {
			if p, ok := store.Get(r, store.Peerings, rule.Peer.Peering); ok && p.Status == cloud.PeeringActive && !foreign[rule.Group] {
				foreign[rule.Group] = true
				v.Groups = append(v.Groups, foreignGroup(r, rule.Group))
			}
			if _, known := v.PrefixLists[rule.PrefixList]; known || rule.PrefixList == "" {
				continue
			}
			v.PrefixLists[rule.PrefixList] = rangesOf(r, rule.PrefixList)
		}
	}
	return v
}

// publicsOf adds the public addresses of a VPC with the private ones behind them.
func publicsOf(r store.Reader, vpc cloud.VPCID, into map[netip.Addr]netip.Addr) {
	for _, n := range store.ListBy(r, store.InterfacesByVPC, vpc) {
		for _, p := range n.Publics {
			into[p.Public] = p.Private
		}
	}
}

// foreignGroup is a peered VPC's group as this one's rules need it: who is in it.
func foreignGroup(r store.Reader, id cloud.SecurityGroupID) agentrpc.Group {
	out := agentrpc.Group{Group: cloud.SecurityGroup{ID: id}}
	for _, n := range store.ListBy(r, store.InterfacesByGroup, id) {
		out.Members = append(append(out.Members, n.Addresses()...), n.IPv6...)
	}
	slices.SortFunc(out.Members, netip.Addr.Compare)
	return out
}

// rangesOf are the ranges that a prefix list has now.
func rangesOf(r store.Reader, id cloud.PrefixListID) []netip.Prefix {
	list, ok := store.Get(r, store.PrefixLists, id)
	if !ok {
		return nil
	}
	var ranges []netip.Prefix
	for _, e := range store.EntriesOf(r, list) {
		ranges = append(ranges, e.Prefix)
	}
	return ranges
}

func keepHardware(seen map[string]bool, h cloud.Hardware) {
	for _, d := range []string{h.KernelDigest, h.RamdiskDigest} {
		if d != "" {
			seen[d] = true
		}
	}
}

func keepOrigin(seen map[string]bool, o cloud.Origin) {
	seen[o.Digest] = true
	keepHardware(seen, o.Hardware)
}

// imagesToKeep are the digests that an AMI or an instance stands on, with those of what virtual machines are started with.
func imagesToKeep(r store.Reader) []string {
	seen := map[string]bool{}
	for _, i := range store.List(r, store.Images) {
		if i.State != cloud.ImageDeregistered {
			seen[i.Digest] = true
			keepHardware(seen, i.Hardware)
		}
	}
	// Of a root that was kept or has outlived its machine, an image can still be made.
	for _, s := range store.List(r, store.Snapshots) {
		if s.State != cloud.SnapshotDeleting {
			keepOrigin(seen, s.Origin)
		}
	}
	for _, v := range store.List(r, store.Volumes) {
		if v.State != cloud.VolumeDeleting {
			keepOrigin(seen, v.Origin)
		}
	}
	for _, i := range store.List(r, store.Instances) {
		if i.State != cloud.StateTerminated {
			seen[i.ImageDigest] = true
			keepHardware(seen, i.Hardware)
		}
	}
	delete(seen, "") // of an image that is being made
	digests := make([]string, 0, len(seen))
	for d := range seen {
		digests = append(digests, d)
	}
	slices.Sort(digests)
	return digests
}

// difference is what leads a node from one desired state to the next, in an order in which each message
// finds what it stands on: VPCs and volumes before their machines, machines away before their VPCs.
func difference(old, next desired) []*agentrpc.ToAgent {
	var out []*agentrpc.ToAgent
	for id, v := range next.vpcs {
		if before, ok := old.vpcs[id]; !ok || !reflect.DeepEqual(before, v) {
			out = append(out, &agentrpc.ToAgent{VPC: v})
		}
	}
	for id, v := range next.volumes {
		if before, ok := old.volumes[id]; !ok || before != v {
			out = append(out, &agentrpc.ToAgent{Volume: &v})
		}
	}
	for id, m := range next.machines {
		if before, ok := old.machines[id]; !ok || !reflect.DeepEqual(before, m) {
			out = append(out, &agentrpc.ToAgent{Machine: m})
		}
	}
	for id := range old.machines {
		if _, ok := next.machines[id]; !ok {
			out = append(out, &agentrpc.ToAgent{ForgetMachine: id})
		}
	}
	for id := range old.vpcs {
		if _, ok := next.vpcs[id]; !ok {
			out = append(out, &agentrpc.ToAgent{ForgetVPC: id})
		}
	}
	for id, s := range next.snapshots {
		if before, ok := old.snapshots[id]; !ok || before != s {
			out = append(out, &agentrpc.ToAgent{Snapshot: &s})
		}
	}
	for id := range old.volumes {
		if _, ok := next.volumes[id]; !ok {
			out = append(out, &agentrpc.ToAgent{ForgetVolume: id})
		}
	}
	if old.images == nil || !slices.Equal(old.images, next.images) {
		out = append(out, &agentrpc.ToAgent{Images: &agentrpc.Images{Keep: next.images}})
	}
	for id, im := range next.imports {
		if before, ok := old.imports[id]; !ok || !reflect.DeepEqual(before, im) {
			out = append(out, &agentrpc.ToAgent{Import: &im})
		}
	}
	return out
}
