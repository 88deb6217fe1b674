package ec2_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// peer asks for a peering between two VPCs of the account.
func (w *world) peer(a, b string) string {
	w.t.Helper()
	out, err := w.CreateVpcPeeringConnection(w.t.Context(), &sdk.CreateVpcPeeringConnectionInput{VpcId: &a, PeerVpcId: &b})
	if err != nil {
		w.t.Fatal(err)
	}
	if got := out.VpcPeeringConnection.Status.Code; got != types.VpcPeeringConnectionStateReasonCodeInitiatingRequest {
		w.t.Errorf("a new peering is %s", got)
	}
	return *out.VpcPeeringConnection.VpcPeeringConnectionId
}

func (w *world) peering(c *sdk.Client, id string) types.VpcPeeringConnection {
	w.t.Helper()
	out, err := c.DescribeVpcPeeringConnections(w.t.Context(), &sdk.DescribeVpcPeeringConnectionsInput{VpcPeeringConnectionIds: []string{id}})
	if err != nil || len(out.VpcPeeringConnections) != 1 {
		w.t.Fatalf("%s is described as %+v, %v", id, out, err)
	}
	return out.VpcPeeringConnections[0]
}

func TestAPeeringIsAskedForAcceptedRoutedAndDeleted(t *testing.T) {
	w := newWorld(t)
	a, b := w.vpc("10.1.0.0/16"), w.vpc("10.2.0.0/16")
	id := w.peer(a, b)
	p := w.peering(w.Client, id)
	if p.Status.Code != types.VpcPeeringConnectionStateReasonCodePendingAcceptance || p.ExpirationTime == nil || p.AccepterVpcInfo.CidrBlock != nil || *p.RequesterVpcInfo.CidrBlock != "10.1.0.0/16" {
		t.Errorf("a request is %+v", p)
	}
	_, err := w.CreateVpcPeeringConnection(t.Context(), &sdk.CreateVpcPeeringConnectionInput{VpcId: &b, PeerVpcId: &a})
	refused(t, err, "VpcPeeringConnectionAlreadyExists", id)
	_, err = w.stranger.AcceptVpcPeeringConnection(t.Context(), &sdk.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: &id})
	refused(t, err, "InvalidVpcPeeringConnectionID.NotFound")
	accepted, err := w.AcceptVpcPeeringConnection(t.Context(), &sdk.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: &id})
	if err != nil || accepted.VpcPeeringConnection.Status.Code != types.VpcPeeringConnectionStateReasonCodeActive || *accepted.VpcPeeringConnection.AccepterVpcInfo.CidrBlockSet[0].CidrBlock != "10.2.0.0/16" {
		t.Fatalf("%+v, %v", accepted, err)
	}
	_, err = w.AcceptVpcPeeringConnection(t.Context(), &sdk.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: &id})
	refused(t, err, "InvalidStateTransition")
	_, err = w.AssociateVpcCidrBlock(t.Context(), &sdk.AssociateVpcCidrBlockInput{VpcId: &a, CidrBlock: aws.String("10.2.4.0/24")})
	refused(t, err, "InvalidVpc.Range", id)
	table := w.routeTable(a)
	if _, err := w.CreateRoute(t.Context(), &sdk.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String("10.2.0.0/16"), VpcPeeringConnectionId: &id}); err != nil {
		t.Fatal(err)
	}
	stray := w.routeTable(w.vpc("10.3.0.0/16"))
	_, err = w.CreateRoute(t.Context(), &sdk.CreateRouteInput{RouteTableId: &stray, DestinationCidrBlock: aws.String("10.2.0.0/16"), VpcPeeringConnectionId: &id})
	refused(t, err, "InvalidParameterValue", "different networks")
	_, err = w.DeleteVpc(t.Context(), &sdk.DeleteVpcInput{VpcId: &b})
	refused(t, err, "DependencyViolation")
	state := func(want types.RouteState) {
		t.Helper()
		tables, err := w.DescribeRouteTables(t.Context(), &sdk.DescribeRouteTablesInput{Filters: filterList("route.vpc-peering-connection-id", id)})
		if err != nil || len(tables.RouteTables) != 1 || tables.RouteTables[0].Routes[1].State != want {
			t.Errorf("the route is in %+v, %v", tables, err)
		}
	}
	state(types.RouteStateActive)
	if _, err := w.DeleteVpcPeeringConnection(t.Context(), &sdk.DeleteVpcPeeringConnectionInput{VpcPeeringConnectionId: &id}); err != nil {
		t.Fatal(err)
	}
	state(types.RouteStateBlackhole)
	if got := w.peering(w.Client, id).Status.Code; got != types.VpcPeeringConnectionStateReasonCodeDeleted {
		t.Errorf("it is %s", got)
	}
	_, err = w.DeleteVpcPeeringConnection(t.Context(), &sdk.DeleteVpcPeeringConnectionInput{VpcPeeringConnectionId: &id})
	refused(t, err, "InvalidStateTransition")
}

func TestAPeeringWithAnotherAccountIsAnsweredByItsOwner(t *testing.T) {
	w := newWorld(t)
	a := w.vpc("10.1.0.0/16")
	made, err := w.stranger.CreateVpc(t.Context(), &sdk.CreateVpcInput{CidrBlock: aws.String("10.2.0.0/16")})
	if err != nil {
		t.Fatal(err)
	}
	ask := &sdk.CreateVpcPeeringConnectionInput{VpcId: &a, PeerVpcId: made.Vpc.VpcId, PeerOwnerId: (*string)(aws.String(string(strangerAccount)))}
	out, err := w.CreateVpcPeeringConnection(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	id := out.VpcPeeringConnection.VpcPeeringConnectionId
	_, err = w.AcceptVpcPeeringConnection(t.Context(), &sdk.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: id})
	refused(t, err, "OperationNotPermitted")
	if w.peering(w.stranger, *id).Status.Code != types.VpcPeeringConnectionStateReasonCodePendingAcceptance {
		t.Error("the other account doesn't see it waiting")
	}
	if _, err := w.stranger.RejectVpcPeeringConnection(t.Context(), &sdk.RejectVpcPeeringConnectionInput{VpcPeeringConnectionId: id}); err != nil {
		t.Fatal(err)
	}
	if got := w.peering(w.Client, *id).Status.Code; got != types.VpcPeeringConnectionStateReasonCodeRejected {
		t.Errorf("it is %s", got)
	}
	if out, err = w.CreateVpcPeeringConnection(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	// A request that nobody answers for a week is over.
	w.update(func(tx *store.Tx) {
		p, _ := store.Get(tx, store.Peerings, cloud.PeeringID(*out.VpcPeeringConnection.VpcPeeringConnectionId))
		p.Expires = time.Now().Add(-time.Minute)
		store.Put(tx, store.Peerings, p)
	})
	_, err = w.stranger.AcceptVpcPeeringConnection(t.Context(), &sdk.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: out.VpcPeeringConnection.VpcPeeringConnectionId})
	refused(t, err, "InvalidStateTransition", "expired")
}

func TestVPCsThatOverlapAreNotPeered(t *testing.T) {
	w := newWorld(t)
	a, b := w.vpc("10.1.0.0/16"), w.vpc("10.1.0.0/20")
	for _, other := range []string{b, a, "vpc-0123456789abcdef0"} {
		if p := w.peering(w.Client, w.peer(a, other)); p.Status.Code != types.VpcPeeringConnectionStateReasonCodeFailed {
			t.Errorf("the peering with %s is %+v", other, p.Status)
		}
	}
}
