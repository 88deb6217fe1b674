package ec2

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/routing"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerRoutes(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateRoute, s.createRoute, awsapi.Honours("RouteTableId", "DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId", "GatewayId", "EgressOnlyInternetGatewayId", "InstanceId", "NatGatewayId", "NetworkInterfaceId", "VpcPeeringConnectionId"))
	awsapi.Handle(r, ec2.ActionReplaceRoute, s.replaceRoute, awsapi.Honours("RouteTableId", "DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId", "GatewayId", "EgressOnlyInternetGatewayId", "InstanceId", "NatGatewayId", "NetworkInterfaceId", "VpcPeeringConnectionId", "LocalTarget"))
	awsapi.Handle(r, ec2.ActionDeleteRoute, s.deleteRoute, awsapi.Honours("RouteTableId", "DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId"))
}

// maxRoutesPerTable is EC2's default limit.
const maxRoutesPerTable = 500

// routeDestination is what a route is for: a range, or the ranges of a prefix list.
type routeDestination struct {
	prefix netip.Prefix // with a list, all addresses of its family
	list   cloud.PrefixListID
}

func (d routeDestination) String() string {
	if d.list != "" {
		return string(d.list)
	}
	return d.prefix.String()
}

// ofRequest finds the destination that a call names by one of three parameters.
func ofRequest(r store.Reader, account cloud.AccountID, block, block6, list *string) (routeDestination, error) {
	if list == nil {
		p, err := destinationOf(block, block6)
		return routeDestination{prefix: p}, err
	}
	if block != nil || block6 != nil {
		return routeDestination{}, awsapi.InvalidCombination(oneDestination)
	}
	l, err := ownPrefixList(r, account, list)
	if err != nil {
		return routeDestination{}, err
	}
	return routeDestination{l.Everything(), l.ID}, nil
}

const oneDestination = "The request must contain exactly one of destinationCidrBlock, destinationIpv6CidrBlock, destinationPrefixListId"

// destinationOf parses a range, in its canonical form as EC2 keeps it.
func destinationOf(block, block6 *string) (netip.Prefix, error) {
	switch {
	case block == nil && block6 == nil:
		return netip.Prefix{}, awsapi.Errorf("MissingParameter", oneDestination)
	case block != nil && block6 != nil:
		return netip.Prefix{}, awsapi.InvalidCombination(oneDestination)
	case block6 != nil:
		p, err := netip.ParsePrefix(*block6)
		if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() {
			return p, awsapi.InvalidParameterValue("Value (%s) for parameter destinationIpv6CidrBlock is invalid. This is not a valid IPv6 CIDR block.", *block6)
		}
		return p.Masked(), nil
	}
	p, err := netip.ParsePrefix(*block)
	if err != nil || !p.Addr().Is4() {
		return p, awsapi.InvalidParameterValue("Value (%s) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block.", *block)
	}
	return p.Masked(), nil
}

// routeTarget is what a call's parameters name.
type routeTarget struct{ gateway, egress, instance, nat, nic, peering *string }

func (t routeTarget) given() int {
	n := 0
	for _, p := range []*string{t.gateway, t.egress, t.instance, t.nat, t.nic, t.peering} {
		if p != nil {
			n++
		}
	}
	return n
}

// find checks that a target exists and is the VPC's own, and returns how a route names it.
func (t routeTarget) find(r store.Reader, account cloud.AccountID, table *cloud.RouteTable, destination netip.Prefix) (string, error) {
	if t.given() != 1 {
		return "", awsapi.Errorf("InvalidParameterCombination", "The request must contain exactly one of gatewayId, natGatewayId, networkInterfaceId, vpcPeeringConnectionId, egressOnlyInternetGatewayId or instanceId")
	}
	switch {
	case t.gateway != nil:
		if *t.gateway == cloud.LocalTarget || !strings.HasPrefix(*t.gateway, cloud.Prefix[cloud.InternetGatewayID]()) {
			return "", awsapi.Errorf("InvalidGatewayID.NotFound", "The gateway ID '%s' does not exist", *t.gateway)
		}
		g, err := lookup(r, store.InternetGateways, ownerOfGateway, kindGateway, account, *t.gateway)
		if err != nil {
			return "", err
		}
		if g.VPC != table.VPC {
			return "", awsapi.InvalidParameterValue("route table %s and network gateway %s belong to different networks", table.ID, g.ID)
		}
		return string(g.ID), nil
	case t.egress != nil:
		g, err := lookup(r, store.EgressOnlyGateways, ownerOfEgressGateway, kindEgressGateway, account, *t.egress)
		switch {
		case err != nil:
			return "", err
		case g.VPC != table.VPC:
			return "", awsapi.InvalidParameterValue("route table %s and network gateway %s belong to different networks", table.ID, g.ID)
		case destination.Addr().Is4():
			return "", awsapi.InvalidParameterValue("A route to the egress-only internet gateway %s needs an IPv6 destination.", g.ID)
		}
		return string(g.ID), nil
	case t.peering != nil:
		p, err := lookupPeering(r, account, *t.peering)
		switch {
		case err != nil:
			return "", err
		case p.Requester.VPC != table.VPC && p.Accepter.VPC != table.VPC:
			return "", awsapi.InvalidParameterValue("route table %s and peering %s belong to different networks", table.ID, p.ID)
		case p.Status != cloud.PeeringPending && p.Status != cloud.PeeringActive:
			return "", awsapi.Errorf("InvalidStateTransition", "The peering %s is %s.", p.ID, p.Status)
		}
		return string(p.ID), nil
	case t.instance != nil:
		i, err := lookup(r, store.Instances, ownerOfInstance, kindInstance, account, *t.instance)
		if err != nil {
			return "", err
		}
		switch {
		case i.VPC != table.VPC:
			return "", awsapi.InvalidParameterValue("route table %s and instance %s belong to different networks", table.ID, i.ID)
		case len(i.Interfaces) == 0:
			return "", awsapi.Errorf("IncorrectInstanceState", "The instance '%s' is not in a valid state for this operation.", i.ID)
		case len(i.Interfaces) > 1:
			return "", awsapi.Errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. Please specify an interface ID for the operation instead.", i.ID)
		}
		return string(i.Interfaces[0]), nil
	case t.nat != nil:
		g, ok := store.Get(r, store.NATGateways, cloud.NATGatewayID(*t.nat))
		if !ok || g.Account != account || !routing.Active(r, g.VPC, *t.nat) {
			return "", awsapi.Errorf("InvalidNatGatewayID.NotFound", "The natGateway ID '%s' does not exist", *t.nat)
		}
		if g.VPC != table.VPC {
			return "", awsapi.InvalidParameterValue("route table %s and NAT gateway %s belong to different networks", table.ID, g.ID)
		}
		if destination.Addr().Is6() {
			return "", awsapi.InvalidParameterValue("A route to the NAT gateway %s needs an IPv4 destination in this cloud.", g.ID)
		}
		return string(g.ID), nil
	}
	n, err := lookup(r, store.Interfaces, ownerOfInterface, kindInterface, account, *t.nic)
	if err != nil {
		return "", err
	}
	if n.VPC != table.VPC {
		return "", awsapi.InvalidParameterValue("route table %s and interface %s belong to different networks", table.ID, n.ID)
	}
	return string(n.ID), nil
}

// withinVPC refuses destinations that the local routes are for.
func withinVPC(r store.Reader, t *cloud.RouteTable, destination netip.Prefix) error {
	vpc, ok := store.Get(r, store.VPCs, t.VPC)
	if ok && vpc.Contains(destination) {
		return awsapi.InvalidParameterValue("The destination CIDR block %s is equal to or more specific than one of this VPC's CIDR blocks. This cloud routes such packets within the VPC only.", destination)
	}
	return nil
}

// destinations are the ranges that a route is for now.
func destinations(r store.Reader, route cloud.Route) []netip.Prefix {
	l, ok := store.Get(r, store.PrefixLists, route.PrefixList)
	if !ok {
		return []netip.Prefix{route.Destination}
	}
	var list []netip.Prefix
	for _, e := range store.EntriesOf(r, l) {
		list = append(list, e.Prefix)
	}
	return list
}

// entriesOutside is withinVPC for the entries of a prefix list.
func entriesOutside(r store.Reader, t *cloud.RouteTable, entries []cloud.PrefixListEntry) error {
	for _, e := range entries {
		if err := withinVPC(r, t, e.Prefix); err != nil {
			return err
		}
	}
	return nil
}

// routeLimit refuses a table that has more routes than a table may.
func routeLimit(r store.Reader, t *cloud.RouteTable) error {
	count := 0
	for _, route := range t.Routes {
		count += weightOf(r, route.PrefixList)
	}
	if count > maxRoutesPerTable {
		return awsapi.Errorf("RouteLimitExceeded", "The maximum number of routes has been reached.")
	}
	return nil
}

func routeFor(t *cloud.RouteTable, d routeDestination) int {
	return slices.IndexFunc(t.Routes, func(r cloud.Route) bool {
		if d.list != "" || r.PrefixList != "" {
			return r.PrefixList == d.list
		}
		return r.Destination == d.prefix
	})
}

func (s *Service) createRoute(ctx context.Context, call *awsapi.Call, req *ec2.CreateRouteRequest) (*ec2.CreateRouteResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		destination, err := ofRequest(tx, call.Account, req.DestinationCidrBlock, req.DestinationIpv6CidrBlock, req.DestinationPrefixListId)
		if err != nil {
			return err
		}
		t, err := lookup(tx, store.RouteTables, ownerOfRoutes, kindRouteTable, call.Account, deref(req.RouteTableId))
		if err != nil {
			return err
		}
		target, err := routeTarget{gateway: req.GatewayId, egress: req.EgressOnlyInternetGatewayId, instance: req.InstanceId, nat: req.NatGatewayId, nic: req.NetworkInterfaceId, peering: req.VpcPeeringConnectionId}.find(tx, call.Account, t, destination.prefix)
		if err != nil {
			return err
		}
		if n := routeFor(t, destination); n >= 0 {
			if t.Routes[n].Target == target {
				return nil // as EC2: it is so already
			}
			return awsapi.Errorf("RouteAlreadyExists", "The route identified by %s already exists.", destination)
		}
		route := cloud.Route{Target: target, PrefixList: destination.list}
		if l, ok := store.Get(tx, store.PrefixLists, destination.list); ok {
			err = entriesOutside(tx, t, store.EntriesOf(tx, l))
		} else {
			route.Destination = destination.prefix
			err = withinVPC(tx, t, destination.prefix)
		}
		if err != nil {
			return err
		}
		t.Routes = append(t.Routes, route)
		if err := routeLimit(tx, t); err != nil {
			return err
		}
		store.Put(tx, store.RouteTables, t)
		return nil
	})
	return &ec2.CreateRouteResult{Return: new(true)}, err
}

func (s *Service) replaceRoute(ctx context.Context, call *awsapi.Call, req *ec2.ReplaceRouteRequest) (*ec2.ReplaceRouteResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		destination, err := ofRequest(tx, call.Account, req.DestinationCidrBlock, req.DestinationIpv6CidrBlock, req.DestinationPrefixListId)
		if err != nil {
			return err
		}
		t, err := lookup(tx, store.RouteTables, ownerOfRoutes, kindRouteTable, call.Account, deref(req.RouteTableId))
		if err != nil {
			return err
		}
		n := routeFor(t, destination)
		if n < 0 {
			return awsapi.InvalidParameterValue("There is no route defined for '%s' in the route table. Use CreateRoute instead.", destination)
		}
		if t.Routes[n].Target == cloud.LocalTarget {
			if deref(req.LocalTarget) {
				return nil
			}
			return awsapi.InvalidParameterValue("The local route %s of %s cannot be replaced in this cloud.", destination, t.ID)
		}
		if deref(req.LocalTarget) {
			return awsapi.InvalidParameterValue("The route %s of %s is not a local one.", destination, t.ID)
		}
		if t.Routes[n].Target, err = (routeTarget{gateway: req.GatewayId, egress: req.EgressOnlyInternetGatewayId, instance: req.InstanceId, nat: req.NatGatewayId, nic: req.NetworkInterfaceId, peering: req.VpcPeeringConnectionId}).find(tx, call.Account, t, destination.prefix); err != nil {
			return err
		}
		store.Put(tx, store.RouteTables, t)
		return nil
	})
	return &ec2.ReplaceRouteResult{}, err
}

func (s *Service) deleteRoute(ctx context.Context, call *awsapi.Call, req *ec2.DeleteRouteRequest) (*ec2.DeleteRouteResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		destination, err := ofRequest(tx, call.Account, req.DestinationCidrBlock, req.DestinationIpv6CidrBlock, req.DestinationPrefixListId)
		if err != nil {
			return err
		}
		t, err := lookup(tx, store.RouteTables, ownerOfRoutes, kindRouteTable, call.Account, deref(req.RouteTableId))
		if err != nil {
			return err
		}
		n := routeFor(t, destination)
		switch {
		case n < 0:
			return awsapi.Errorf("InvalidRoute.NotFound", "no route with destination-cidr-block %s in route table %s", destination, t.ID)
		case t.Routes[n].Target == cloud.LocalTarget:
			return awsapi.InvalidParameterValue("cannot remove local route %s in route table %s", destination, t.ID)
		}
		t.Routes = slices.Delete(t.Routes, n, n+1)
		store.Put(tx, store.RouteTables, t)
		return nil
	})
	return &ec2.DeleteRouteResult{}, err
}

// routeShape is a route as EC2 sends it: with its state at this moment.
func routeShape(r store.Reader, t *cloud.RouteTable, route cloud.Route) ec2.Route {
	out := ec2.Route{Origin: new("CreateRoute"), State: new("blackhole"), DestinationPrefixListId: text(route.PrefixList)}
	switch {
	case route.PrefixList != "":
	case route.Destination.Addr().Is4():
		out.DestinationCidrBlock = new(route.Destination.String())
	default:
		out.DestinationIpv6CidrBlock = new(route.Destination.String())
	}
	if routing.Active(r, t.VPC, route.Target) {
		out.State = new("active")
	}
	target := &route.Target
	switch {
	case route.Target == cloud.LocalTarget:
		out.GatewayId, out.Origin = target, new("CreateRouteTable")
	case strings.HasPrefix(route.Target, cloud.Prefix[cloud.EgressGatewayID]()):
		out.EgressOnlyInternetGatewayId = target
	case strings.HasPrefix(route.Target, cloud.Prefix[cloud.NATGatewayID]()):
		out.NatGatewayId = target
	case strings.HasPrefix(route.Target, cloud.Prefix[cloud.PeeringID]()):
		out.VpcPeeringConnectionId = target
	case strings.HasPrefix(route.Target, cloud.Prefix[cloud.InterfaceID]()):
		out.NetworkInterfaceId = target
		if n, ok := store.Get(r, store.Interfaces, cloud.InterfaceID(route.Target)); ok && n.Instance != "" {
			out.InstanceId, out.InstanceOwnerId = text(n.Instance), text(n.Account)
		}
	default:
		out.GatewayId = target
	}
	return out
}
