// Package routing reads from the store what a route leads to. The API shows it, and the control plane tells the nodes the same.
//
// It only reads.
package routing

import (
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Active tells whether a target of a VPC's route can take packets. One that can't is what EC2 calls a black hole: it is
// gone, detached, or in a state of its own that lets nothing through.
func Active(r store.Reader, vpc cloud.VPCID, target string) bool {
	switch {
	case target == cloud.LocalTarget:
		return true
	case strings.HasPrefix(target, cloud.Prefix[cloud.InternetGatewayID]()):
		g, ok := store.Get(r, store.InternetGateways, cloud.InternetGatewayID(target))
		return ok && g.VPC == vpc
	case strings.HasPrefix(target, cloud.Prefix[cloud.EgressGatewayID]()):
		g, ok := store.Get(r, store.EgressOnlyGateways, cloud.EgressGatewayID(target))
		return ok && g.VPC == vpc
	case strings.HasPrefix(target, cloud.Prefix[cloud.NATGatewayID]()):
		g, ok := store.Get(r, store.NATGateways, cloud.NATGatewayID(target))
		return ok && g.VPC == vpc && (g.State == cloud.NATAvailable || g.State == cloud.NATPending)
	case strings.HasPrefix(target, cloud.Prefix[cloud.PeeringID]()):
		p, ok := store.Get(r, store.Peerings, cloud.PeeringID(target))
		return ok && p.Status == cloud.PeeringActive
	case strings.HasPrefix(target, cloud.Prefix[cloud.InterfaceID]()):
		n, ok := store.Get(r, store.Interfaces, cloud.InterfaceID(target))
		if !ok || n.VPC != vpc || n.Instance == "" {
			return false
		}
		i, ok := store.Get(r, store.Instances, n.Instance)
		return ok && (i.State == cloud.StateRunning || i.State == cloud.StatePending)
	}
	return false
}
