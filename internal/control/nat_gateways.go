package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/nics"
	"github.com/nacre-cloud/nacre/internal/store"
)

// NATGatewaysFor is how long a NAT gateway that was deleted or failed can still be described, as in EC2.
const NATGatewaysFor = time.Hour

// placeNATGateways gives each new NAT gateway to a node: where its VPC has an instance, else the one that has been there longest. One that
// is deleted before is gone at once.
func placeNATGateways(ctx context.Context, s *store.Store, now time.Time) error {
	view := s.View()
	for _, g := range store.List(view, store.NATGateways) {
		if g.Node != "" || g.State != cloud.NATPending && g.State != cloud.NATDeleting {
			continue
		}
		node := nodeFor(view, g.VPC)
		if node == "" && g.State == cloud.NATPending {
			continue
		}
		err := s.Update(ctx, func(tx *store.Tx) error {
			tx.At(now)
			g, ok := store.Get(tx, store.NATGateways, g.ID)
			switch {
			case !ok || g.Node != "":
				return nil
			case g.State == cloud.NATPending:
				g.Node = node
				store.Put(tx, store.NATGateways, g)
			case g.State == cloud.NATDeleting:
				endNATGateway(tx, g, now)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("give NAT gateway %s to a node: %w", g.ID, err)
		}
	}
	return nil
}

func nodeFor(r store.Reader, vpc cloud.VPCID) cloud.NodeID {
	for _, n := range store.ListBy(r, store.InterfacesByVPC, vpc) {
		if i, ok := store.Get(r, store.Instances, n.Instance); ok && i.Node != "" && i.State != cloud.StateTerminated {
			return i.Node
		}
	}
	var oldest *cloud.Node
	for _, n := range store.List(r, store.Nodes) {
		if oldest == nil || n.Registered.Before(oldest.Registered) {
			oldest = n
		}
	}
	if oldest == nil {
		return ""
	}
	return oldest.ID
}

// applyVPCStatus turns a node's fact about a VPC into the states of its NAT gateways: those that work are available, and
// those that were to be deleted and are not there are deleted.
func applyVPCStatus(ctx context.Context, s *store.Store, node cloud.NodeID, st agentrpc.VPCStatus, now time.Time) error {
	concerned := func(g *cloud.NATGateway) bool {
		works := slices.Contains(st.NATs, g.ID)
		return g.Node == node && (g.State == cloud.NATPending && works || g.State == cloud.NATDeleting && !works)
	}
	if !slices.ContainsFunc(store.ListBy(s.View(), store.NATGatewaysByVPC, st.VPC), concerned) {
		return nil
	}
	err := s.Update(ctx, func(tx *store.Tx) error {
		tx.At(now)
		for _, g := range store.ListBy(tx, store.NATGatewaysByVPC, st.VPC) {
			switch {
			case !concerned(g):
			case g.State == cloud.NATPending:
				g.State = cloud.NATAvailable
				store.Put(tx, store.NATGateways, g)
			default:
				endNATGateway(tx, g, now)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("VPC %s: note which of its NAT gateways work: %w", st.VPC, err)
	}
	return nil
}

// endNATGateway gives back what a NAT gateway had.
func endNATGateway(tx *store.Tx, g *cloud.NATGateway, now time.Time) {
	if n, ok := store.Get(tx, store.Interfaces, g.Interface); ok {
		nics.Delete(tx, n)
	}
	g.State, g.Deleted = cloud.NATDeleted, now
	store.Put(tx, store.NATGateways, g)
}

// natGatewaysOf are the NAT gateways of a VPC that a node should have.
func natGatewaysOf(r store.Reader, vpc cloud.VPCID, node cloud.NodeID) (list []agentrpc.NATGateway) {
	for _, g := range store.ListBy(r, store.NATGatewaysByVPC, vpc) {
		if g.Node != node || g.State != cloud.NATPending && g.State != cloud.NATAvailable {
			continue
		}
		if n, ok := store.Get(r, store.Interfaces, g.Interface); ok {
			wish := agentrpc.NATGateway{Gateway: *g, Interface: *n}
			wish.Gateway.State, wish.Gateway.Tags = cloud.NATPending, nil
			list = append(list, wish)
		}
	}
	return list
}

// peeringsOf are the active peerings of a VPC, as the VPC sees them.
func peeringsOf(r store.Reader, vpc cloud.VPCID) (list []agentrpc.Peering) {
	for _, p := range store.ListBy(r, store.PeeringsByVPC, vpc) {
		if p.Status != cloud.PeeringActive {
			continue
		}
		_, other := p.Between(vpc)
		if v, ok := store.Get(r, store.VPCs, other.VPC); ok {
			list = append(list, agentrpc.Peering{ID: p.ID, Peer: other.VPC, PeerRanges: v.Ranges()})
		}
	}
	return list
}
