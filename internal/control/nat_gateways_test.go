package control

import (
	"net/netip"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestANATGatewayIsAvailableWhenItsNodeHasItAndDeletedWhenItHasItNotAnyMore(t *testing.T) {
	w := newWorld(t)
	subnet := store.List(w.store.View(), store.Subnets)[0]
	g := cloud.NATGateway{ID: cloud.NewID[cloud.NATGatewayID](w.rand), VPC: subnet.VPC, Subnet: subnet.ID, State: cloud.NATPending, Interface: cloud.NewID[cloud.InterfaceID](w.rand), Created: start}
	n := cloud.Interface{ID: g.Interface, VPC: subnet.VPC, Subnet: subnet.ID, PrivateIP: netip.MustParseAddr("172.31.0.200"), RequesterManaged: true}
	w.update(func(tx *store.Tx) {
		store.Put(tx, store.NATGateways, &g)
		store.Put(tx, store.Interfaces, &n)
		store.Put(tx, store.Claims, &store.Claim{Key: store.AddressClaim(n.Subnet, n.PrivateIP), Owner: string(n.ID)})
	})
	is := func(want cloud.NATGatewayState) {
		t.Helper()
		if got, _ := store.Get(w.store.View(), store.NATGateways, g.ID); got.State != want {
			t.Errorf("it is %s, want %s", got.State, want)
		}
	}
	report := func(ids ...cloud.NATGatewayID) {
		t.Helper()
		if err := applyVPCStatus(t.Context(), w.store, w.node.ID, agentrpc.VPCStatus{VPC: subnet.VPC, NATs: ids}, start); err != nil {
			t.Fatal(err)
		}
	}
	wished := func() int {
		d := desiredOf(w.store.View(), w.node.ID)
		if d.vpcs[subnet.VPC] == nil {
			t.Fatal("its VPC is not wanted on its node")
		}
		return len(d.vpcs[subnet.VPC].NATs)
	}
	if err := placeNATGateways(t.Context(), w.store, start); err != nil {
		t.Fatal(err)
	}
	if got := wished(); got != 1 {
		t.Errorf("the node is told of %d", got)
	}
	report()
	is(cloud.NATPending)
	report(g.ID)
	is(cloud.NATAvailable)
	before := desiredOf(w.store.View(), w.node.ID).vpcs[subnet.VPC].NATs[0].Gateway.State
	if before != cloud.NATPending {
		t.Errorf("the node is told a fact: %s", before)
	}
	w.update(func(tx *store.Tx) {
		g, _ := store.Get(tx, store.NATGateways, g.ID)
		g.State = cloud.NATDeleting
		store.Put(tx, store.NATGateways, g)
	})
	if got := wished(); got != 0 {
		t.Errorf("while it is deleted the node is told of %d", got)
	}
	report(g.ID)
	is(cloud.NATDeleting)
	report()
	is(cloud.NATDeleted)
	if _, ok := store.Get(w.store.View(), store.Interfaces, n.ID); ok || w.claims() != 0 {
		t.Errorf("its interface or its address is left: %v, %d claims", ok, w.claims())
	}
	if d := desiredOf(w.store.View(), w.node.ID); len(d.vpcs) != 0 {
		t.Error("its VPC is still wanted")
	}
}

func TestAPeeringBringsBothVPCsToANode(t *testing.T) {
	w := newWorld(t)
	w.launch("t3.nano", 10)
	here := store.List(w.store.View(), store.Subnets)[0].VPC
	peer := cloud.VPC{ID: cloud.NewID[cloud.VPCID](w.rand), CIDR: netip.MustParsePrefix("10.9.0.0/16")}
	p := cloud.Peering{ID: cloud.NewID[cloud.PeeringID](w.rand), Requester: cloud.PeeringSide{VPC: peer.ID}, Accepter: cloud.PeeringSide{VPC: here}, Status: cloud.PeeringPending}
	w.update(func(tx *store.Tx) {
		for _, i := range store.List(tx, store.Instances) {
			i.Node = w.node.ID
			store.Put(tx, store.Instances, i)
		}
		store.Put(tx, store.VPCs, &peer)
		store.Put(tx, store.Peerings, &p)
	})
	if d := desiredOf(w.store.View(), w.node.ID); len(d.vpcs) != 1 || len(d.vpcs[here].Peerings) != 0 {
		t.Errorf("before it is accepted the node has %d VPCs", len(d.vpcs))
	}
	p.Status = cloud.PeeringActive
	w.update(func(tx *store.Tx) { store.Put(tx, store.Peerings, &p) })
	d := desiredOf(w.store.View(), w.node.ID)
	if len(d.vpcs) != 2 || len(d.vpcs[here].Peerings) != 1 || d.vpcs[here].Peerings[0].Peer != peer.ID || d.vpcs[peer.ID].Peerings[0].Peer != here {
		t.Errorf("the node has %d VPCs", len(d.vpcs))
	}
}
