package ec2

import (
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerRouteTables(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeRouteTables, s.describeRouteTables, awsapi.Honours("Filters", "RouteTableIds", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionCreateRouteTable, s.createRouteTable, awsapi.Honours("VpcId", "TagSpecifications", "ClientToken"))
	awsapi.Handle(r, ec2.ActionDeleteRouteTable, s.deleteRouteTable, awsapi.Honours("RouteTableId"))
	awsapi.Handle(r, ec2.ActionAssociateRouteTable, s.associateRouteTable, awsapi.Honours("RouteTableId", "SubnetId"))
	awsapi.Handle(r, ec2.ActionDisassociateRouteTable, s.disassociateRouteTable, awsapi.Honours("AssociationId"))
	awsapi.Handle(r, ec2.ActionReplaceRouteTableAssociation, s.replaceRouteTableAssociation, awsapi.Honours("AssociationId", "RouteTableId"))
	s.registerRoutes(r)
}

// maxTablesPerVPC is EC2's default limit.
const maxTablesPerVPC = 200

func (s *Service) createRouteTable(ctx context.Context, call *awsapi.Call, req *ec2.CreateRouteTableRequest) (*ec2.CreateRouteTableResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "route-table")
	if err != nil {
		return nil, err
	}
	id, hash := newID[cloud.RouteTableID](s), awsapi.RequestHash(req)
	made := id
	err = s.update(ctx, call, func(tx *store.Tx) error {
		made = id
		done, err := once(tx, call, "CreateRouteTable", deref(req.ClientToken), hash, string(id))
		if err != nil || done != "" {
			made = cloud.RouteTableID(done)
			return err
		}
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		if len(store.ListBy(tx, store.RouteTablesByVPC, vpc.ID)) >= maxTablesPerVPC {
			return awsapi.Errorf("RouteTableLimitExceeded", "The maximum number of route tables has been reached.")
		}
		t := cloud.RouteTable{ID: id, Account: call.Account, VPC: vpc.ID, Tags: tags["route-table"], Created: call.Now}
		for _, p := range vpc.Ranges() {
			t.Routes = append(t.Routes, cloud.Route{Destination: p, Target: cloud.LocalTarget})
		}
		store.Put(tx, store.RouteTables, &t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	t, ok := store.Get(view, store.RouteTables, made)
	if !ok {
		return nil, kindRouteTable.notFound(string(made))
	}
	return &ec2.CreateRouteTableResult{RouteTable: new(routeTableShape(view, t)), ClientToken: req.ClientToken}, nil
}

func (s *Service) deleteRouteTable(ctx context.Context, call *awsapi.Call, req *ec2.DeleteRouteTableRequest) (*ec2.DeleteRouteTableResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		t, err := lookup(tx, store.RouteTables, ownerOfRoutes, kindRouteTable, call.Account, deref(req.RouteTableId))
		if err != nil {
			return err
		}
		if len(t.Associations) > 0 {
			return awsapi.Errorf("DependencyViolation", "The routeTable '%s' has dependencies and cannot be deleted.", t.ID)
		}
		store.Delete(tx, store.RouteTables, t.ID)
		return nil
	})
	return &ec2.DeleteRouteTableResult{}, err
}

func (s *Service) associateRouteTable(ctx context.Context, call *awsapi.Call, req *ec2.AssociateRouteTableRequest) (*ec2.AssociateRouteTableResult, error) {
	id := newID[cloud.RouteAssociationID](s)
	made := id
	err := s.update(ctx, call, func(tx *store.Tx) error {
		made = id
		t, err := lookup(tx, store.RouteTables, ownerOfRoutes, kindRouteTable, call.Account, deref(req.RouteTableId))
		if err != nil {
			return err
		}
		subnet, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, call.Account, deref(req.SubnetId))
		if err != nil {
			return err
		}
		if subnet.VPC != t.VPC {
			return awsapi.InvalidParameterValue("route table %s and subnet %s belong to different networks", t.ID, subnet.ID)
		}
		for _, other := range store.ListBy(tx, store.RouteTablesByVPC, t.VPC) {
			n := slices.IndexFunc(other.Associations, func(a cloud.RouteAssociation) bool { return a.Subnet == subnet.ID })
			switch {
			case n < 0:
			case other.ID == t.ID: // as EC2: it is so already
				made = other.Associations[n].ID
				return nil
			default:
				return awsapi.Errorf("Resource.AlreadyAssociated", "the specified association for route table %s conflicts with an existing association", t.ID)
			}
		}
		t.Associations = append(t.Associations, cloud.RouteAssociation{ID: made, Subnet: subnet.ID})
		store.Put(tx, store.RouteTables, t)
		return nil
	})
	return &ec2.AssociateRouteTableResult{AssociationId: text(made), AssociationState: associated()}, err
}

func associated() *ec2.RouteTableAssociationState {
	return &ec2.RouteTableAssociationState{State: new("associated")}
}

// tableWith finds the table of an association.
func tableWith(tx *store.Tx, account cloud.AccountID, id string) (*cloud.RouteTable, int, error) {
	if !cloud.ValidID[cloud.RouteAssociationID](id) {
		return nil, 0, awsapi.Malformed("InvalidAssociationID.Malformed", id)
	}
	for _, t := range store.ListBy(tx, store.RouteTablesByAssociation, cloud.RouteAssociationID(id)) {
		if t.Account != account {
			continue
		}
		return t, slices.IndexFunc(t.Associations, func(a cloud.RouteAssociation) bool { return string(a.ID) == id }), nil
	}
	return nil, 0, awsapi.Errorf("InvalidAssociationID.NotFound", "The association ID '%s' does not exist", id)
}

func (s *Service) disassociateRouteTable(ctx context.Context, call *awsapi.Call, req *ec2.DisassociateRouteTableRequest) (*ec2.DisassociateRouteTableResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		t, n, err := tableWith(tx, call.Account, deref(req.AssociationId))
		if err != nil {
			return err
		}
		if t.Associations[n].Main {
			return awsapi.InvalidParameterValue("cannot disassociate the main route table association %s", t.Associations[n].ID)
		}
		t.Associations = slices.Delete(t.Associations, n, n+1)
		store.Put(tx, store.RouteTables, t)
		return nil
	})
	return &ec2.DisassociateRouteTableResult{}, err
}

// replaceRouteTableAssociation gives a subnet another table, or a VPC another main one.
func (s *Service) replaceRouteTableAssociation(ctx context.Context, call *awsapi.Call, req *ec2.ReplaceRouteTableAssociationRequest) (*ec2.ReplaceRouteTableAssociationResult, error) {
	fresh := newID[cloud.RouteAssociationID](s)
	made := fresh
	err := s.update(ctx, call, func(tx *store.Tx) error {
		made = fresh
		from, n, err := tableWith(tx, call.Account, deref(req.AssociationId))
		if err != nil {
			return err
		}
		to, err := lookup(tx, store.RouteTables, ownerOfRoutes, kindRouteTable, call.Account, deref(req.RouteTableId))
		if err != nil {
			return err
		}
		if to.VPC != from.VPC {
			return awsapi.InvalidParameterValue("route table %s and route table %s belong to different networks", to.ID, from.ID)
		}
		if to.ID == from.ID {
			made = from.Associations[n].ID
			return nil
		}
		moved := from.Associations[n]
		moved.ID = made
		from.Associations = slices.Delete(from.Associations, n, n+1)
		to.Associations = append(to.Associations, moved)
		if moved.Main {
			from.Main, to.Main = false, true
		}
		store.Put(tx, store.RouteTables, from)
		store.Put(tx, store.RouteTables, to)
		return nil
	})
	return &ec2.ReplaceRouteTableAssociationResult{NewAssociationId: text(made), AssociationState: associated()}, err
}

func (s *Service) describeRouteTables(_ context.Context, call *awsapi.Call, req *ec2.DescribeRouteTablesRequest) (*ec2.DescribeRouteTablesResult, error) {
	view := s.store.View()
	page, err := routeTableListing(view).page(view, call.Account, req.RouteTableIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeRouteTablesResult{NextToken: page.Next, RouteTables: []ec2.RouteTable{}}
	for _, t := range page.Items {
		out.RouteTables = append(out.RouteTables, routeTableShape(view, t))
	}
	return out, nil
}

// routeTableListing has the documented filters of DescribeRouteTables.
func routeTableListing(view *store.View) listing[cloud.RouteTableID, cloud.RouteTable] {
	type T = *cloud.RouteTable
	none := func(T) []string { return nil }
	associations := func(f func(cloud.RouteAssociation) string) func(T) []string {
		return func(t T) (out []string) {
			for _, a := range t.Associations {
				if v := f(a); v != "" {
					out = append(out, v)
				}
			}
			return out
		}
	}
	routes := func(f func(ec2.Route) *string) func(T) []string {
		return func(t T) (out []string) {
			for _, r := range t.Routes {
				if v := f(routeShape(view, t, r)); v != nil {
					out = append(out, *v)
				}
			}
			return out
		}
	}
	return listing[cloud.RouteTableID, cloud.RouteTable]{store.RouteTables, store.RouteTablesByAccount, ownerOfRoutes, kindRouteTable, func(t T) cloud.RouteTableID { return t.ID },
		awsapi.FilterSet[T]{Tags: func(t T) map[string]string { return t.Tags }, Values: map[string]func(T) []string{
			"association.gateway-id": none, "association.main": associations(func(a cloud.RouteAssociation) string { return boolText(a.Main) }),
			"association.route-table-association-id": associations(func(a cloud.RouteAssociation) string { return string(a.ID) }),
			"association.route-table-id":             func(t T) []string { return []string{string(t.ID)} },
			"association.subnet-id":                  associations(func(a cloud.RouteAssociation) string { return string(a.Subnet) }),
			"owner-id":                               one(func(t T) string { return string(t.Account) }), "route-table-id": one(func(t T) string { return string(t.ID) }),
			"route.destination-cidr-block":          routes(func(r ec2.Route) *string { return r.DestinationCidrBlock }),
			"route.destination-ipv6-cidr-block":     routes(func(r ec2.Route) *string { return r.DestinationIpv6CidrBlock }),
			"route.destination-prefix-list-id":      routes(func(r ec2.Route) *string { return r.DestinationPrefixListId }),
			"route.egress-only-internet-gateway-id": routes(func(r ec2.Route) *string { return r.EgressOnlyInternetGatewayId }),
			"route.gateway-id":                      routes(func(r ec2.Route) *string { return r.GatewayId }),
			"route.instance-id":                     routes(func(r ec2.Route) *string { return r.InstanceId }),
			"route.nat-gateway-id":                  routes(func(r ec2.Route) *string { return r.NatGatewayId }),
			"route.origin":                          routes(func(r ec2.Route) *string { return r.Origin }),
			"route.state":                           routes(func(r ec2.Route) *string { return r.State }),
			"route.transit-gateway-id":              none,
			"route.vpc-peering-connection-id":       routes(func(r ec2.Route) *string { return r.VpcPeeringConnectionId }),
			"transit-gateway-id":                    none, "vpc-id": one(func(t T) string { return string(t.VPC) }),
		}}}
}

func routeTableShape(r store.Reader, t *cloud.RouteTable) ec2.RouteTable {
	shape := ec2.RouteTable{RouteTableId: text(t.ID), OwnerId: text(t.Account), VpcId: text(t.VPC), Tags: tagList(t.Tags), PropagatingVgws: []ec2.PropagatingVgw{},
		Routes: []ec2.Route{}, Associations: []ec2.RouteTableAssociation{}}
	for _, route := range t.Routes {
		shape.Routes = append(shape.Routes, routeShape(r, t, route))
	}
	for _, a := range t.Associations {
		shape.Associations = append(shape.Associations, ec2.RouteTableAssociation{RouteTableAssociationId: text(a.ID), RouteTableId: text(t.ID), Main: &a.Main,
			SubnetId: text(a.Subnet), AssociationState: associated()})
	}
	return shape
}
