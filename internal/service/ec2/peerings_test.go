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

func TestRulesNameGroupsOfPeeredVPCsUntilTheyAreStale(t *testing.T) {
	w := newWorld(t)
	a, b := w.vpc("10.1.0.0/16"), w.vpc("10.2.0.0/16")
	group := func(vpc, name string) string {
		t.Helper()
		out, err := w.CreateSecurityGroup(t.Context(), &sdk.CreateSecurityGroupInput{VpcId: &vpc, GroupName: &name, Description: &name})
		if err != nil {
			t.Fatal(err)
		}
		return *out.GroupId
	}
	own, other := group(a, "own"), group(b, "other")
	permission := []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(80), ToPort: aws.Int32(80), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &other}}}}
	allow := func() error {
		_, err := w.AuthorizeSecurityGroupIngress(t.Context(), &sdk.AuthorizeSecurityGroupIngressInput{GroupId: &own, IpPermissions: permission})
		return err
	}
	refused(t, allow(), "InvalidGroup.NotFound")
	id := w.peer(a, b)
	refused(t, allow(), "InvalidGroup.NotFound")
	if _, err := w.AcceptVpcPeeringConnection(t.Context(), &sdk.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: &id}); err != nil {
		t.Fatal(err)
	}
	if err := allow(); err != nil {
		t.Fatal(err)
	}
	refused(t, allow(), "InvalidPermission.Duplicate")
	pair := func() types.UserIdGroupPair {
		t.Helper()
		out, err := w.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{GroupIds: []string{own}})
		if err != nil || len(out.SecurityGroups[0].IpPermissions) != 1 || len(out.SecurityGroups[0].IpPermissions[0].UserIdGroupPairs) != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
		return out.SecurityGroups[0].IpPermissions[0].UserIdGroupPairs[0]
	}
	if p := pair(); *p.GroupId != other || *p.VpcId != b || *p.VpcPeeringConnectionId != id || *p.PeeringStatus != "active" {
		t.Errorf("the rule is shown as %+v", p)
	}
	refs, err := w.DescribeSecurityGroupReferences(t.Context(), &sdk.DescribeSecurityGroupReferencesInput{GroupId: []string{other}})
	if err != nil || len(refs.SecurityGroupReferenceSet) != 1 || *refs.SecurityGroupReferenceSet[0].ReferencingVpcId != a || *refs.SecurityGroupReferenceSet[0].VpcPeeringConnectionId != id {
		t.Errorf("%+v, %v", refs, err)
	}
	stale := func() []types.StaleSecurityGroup {
		t.Helper()
		out, err := w.DescribeStaleSecurityGroups(t.Context(), &sdk.DescribeStaleSecurityGroupsInput{VpcId: &a})
		if err != nil {
			t.Fatal(err)
		}
		return out.StaleSecurityGroupSet
	}
	if s := stale(); len(s) != 0 {
		t.Errorf("stale while the peering is active: %+v", s)
	}
	if _, err := w.DeleteVpcPeeringConnection(t.Context(), &sdk.DeleteVpcPeeringConnectionInput{VpcPeeringConnectionId: &id}); err != nil {
		t.Fatal(err)
	}
	if s := stale(); len(s) != 1 || *s[0].GroupId != own || *s[0].StaleIpPermissions[0].UserIdGroupPairs[0].PeeringStatus != "deleted" || *s[0].StaleIpPermissions[0].FromPort != 80 {
		t.Errorf("without the peering: %+v", s)
	}
	if _, err := w.DeleteSecurityGroup(t.Context(), &sdk.DeleteSecurityGroupInput{GroupId: &other}); err != nil {
		t.Errorf("a group that only a peer's rule names stays: %v", err)
	}
	told := pair()
	if _, err := w.RevokeSecurityGroupIngress(t.Context(), &sdk.RevokeSecurityGroupIngressInput{GroupId: &own,
		IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(80), ToPort: aws.Int32(80), UserIdGroupPairs: []types.UserIdGroupPair{told}}}}); err != nil {
		t.Errorf("a stale rule can't be revoked as it is told: %v", err)
	}
	if s := stale(); len(s) != 0 {
		t.Errorf("stale without a rule: %+v", s)
	}
}

func TestASideOfAPeeringLetsItsPublicNamesBeResolved(t *testing.T) {
	w := newWorld(t)
	a, b := w.vpc("10.1.0.0/16"), w.vpc("10.2.0.0/16")
	id := w.peer(a, b)
	modify := func() error {
		out, err := w.ModifyVpcPeeringConnectionOptions(t.Context(), &sdk.ModifyVpcPeeringConnectionOptionsInput{VpcPeeringConnectionId: &id,
			AccepterPeeringConnectionOptions: &types.PeeringConnectionOptionsRequest{AllowDnsResolutionFromRemoteVpc: aws.Bool(true)}})
		if err == nil && (!*out.AccepterPeeringConnectionOptions.AllowDnsResolutionFromRemoteVpc || out.RequesterPeeringConnectionOptions != nil) {
			t.Errorf("answered %+v", out)
		}
		return err
	}
	refused(t, modify(), "OperationNotPermitted")
	if _, err := w.AcceptVpcPeeringConnection(t.Context(), &sdk.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: &id}); err != nil {
		t.Fatal(err)
	}
	refused(t, modify(), "InvalidVpcPeeringConnectionState.DnsHostnamesDisabled", b)
	if _, err := w.ModifyVpcAttribute(t.Context(), &sdk.ModifyVpcAttributeInput{VpcId: &b, EnableDnsHostnames: &types.AttributeBooleanValue{Value: aws.Bool(true)}}); err != nil {
		t.Fatal(err)
	}
	if err := modify(); err != nil {
		t.Fatal(err)
	}
	p := w.peering(w.Client, id)
	if !*p.AccepterVpcInfo.PeeringOptions.AllowDnsResolutionFromRemoteVpc || *p.RequesterVpcInfo.PeeringOptions.AllowDnsResolutionFromRemoteVpc {
		t.Errorf("it has %+v, %+v", p.AccepterVpcInfo.PeeringOptions, p.RequesterVpcInfo.PeeringOptions)
	}
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
