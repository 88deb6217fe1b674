package control

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/routing"
	"github.com/nacre-cloud/nacre/internal/store"
)

// routesOf are the routes of a table as a node carries them out, by destination. Local ones are not among them: that
// packets stay within the VPC comes first on every node.
func routesOf(r store.Reader, vpc *cloud.VPC, table *cloud.RouteTable) []agentrpc.Route {
	if table == nil {
		return nil
	}
	var out []agentrpc.Route
	seen := map[netip.Prefix]bool{}
	add := func(destination netip.Prefix, target string) {
		if !seen[destination] { // a route of its own comes before one through a prefix list
			seen[destination] = true
			out = append(out, routeTo(r, vpc, destination, target))
		}
	}
	for _, route := range table.Routes {
		if route.Target != cloud.LocalTarget && route.PrefixList == "" {
			add(route.Destination, route.Target)
		}
	}
	for _, route := range table.Routes {
		for _, destination := range rangesOf(r, route.PrefixList) {
			add(destination, route.Target)
		}
	}
	slices.SortFunc(out, func(a, b agentrpc.Route) int {
		if c := a.Destination.Addr().Compare(b.Destination.Addr()); c != 0 {
			return c
		}
		return a.Destination.Bits() - b.Destination.Bits()
	})
	return out
}

// routeTo finds what a target is now. What is gone or in another state is a black hole.
func routeTo(r store.Reader, vpc *cloud.VPC, destination netip.Prefix, target string) agentrpc.Route {
	route := agentrpc.Route{Destination: destination, Kind: agentrpc.RouteBlackhole}
	if !routing.Active(r, vpc.ID, target) {
		return route
	}
	switch {
	case strings.HasPrefix(target, cloud.Prefix[cloud.InternetGatewayID]()):
		route.Kind = agentrpc.RouteInternet
	case strings.HasPrefix(target, cloud.Prefix[cloud.EgressGatewayID]()):
		route.Kind = agentrpc.RouteEgressOnly
	case strings.HasPrefix(target, cloud.Prefix[cloud.NATGatewayID]()):
		gateway, _ := store.Get(r, store.NATGateways, cloud.NATGatewayID(target))
		route.Kind, route.Interface = agentrpc.RouteInterface, gateway.Interface
	case strings.HasPrefix(target, cloud.Prefix[cloud.InterfaceID]()):
		route.Kind, route.Interface = agentrpc.RouteInterface, cloud.InterfaceID(target)
	case strings.HasPrefix(target, cloud.Prefix[cloud.PeeringID]()):
		route.Kind, route.Peering = agentrpc.RoutePeering, cloud.PeeringID(target)
	}
	return route
}
