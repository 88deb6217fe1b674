package ec2_test

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// prefixList makes a list with room for some entries.
func (w *world) prefixList(room int32, cidrs ...string) string {
	w.t.Helper()
	in := &sdk.CreateManagedPrefixListInput{AddressFamily: aws.String("IPv4"), MaxEntries: &room, PrefixListName: aws.String("list")}
	for _, c := range cidrs {
		in.Entries = append(in.Entries, types.AddPrefixListEntry{Cidr: &c, Description: aws.String("of " + c)})
	}
	out, err := w.CreateManagedPrefixList(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.PrefixList.PrefixListId
}

// listOf describes one list.
func (w *world) listOf(id string) types.ManagedPrefixList {
	w.t.Helper()
	out, err := w.DescribeManagedPrefixLists(w.t.Context(), &sdk.DescribeManagedPrefixListsInput{PrefixListIds: []string{id}})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.PrefixLists[0]
}

// listEntries are a list's ranges at a version, 0 for the newest.
func (w *world) listEntries(id string, version int64) (cidrs []string) {
	w.t.Helper()
	in := &sdk.GetManagedPrefixListEntriesInput{PrefixListId: &id, MaxResults: aws.Int32(2)}
	if version > 0 {
		in.TargetVersion = &version
	}
	pages := sdk.NewGetManagedPrefixListEntriesPaginator(w, in)
	for pages.HasMorePages() {
		out, err := pages.NextPage(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range out.Entries {
			cidrs = append(cidrs, *e.Cidr)
		}
	}
	return cidrs
}

// modifyList changes a list's entries.
func (w *world) modifyList(id string, version int64, add, remove []string) error {
	in := &sdk.ModifyManagedPrefixListInput{PrefixListId: &id, CurrentVersion: &version}
	for _, c := range add {
		in.AddEntries = append(in.AddEntries, types.AddPrefixListEntry{Cidr: &c})
	}
	for _, c := range remove {
		in.RemoveEntries = append(in.RemoveEntries, types.RemovePrefixListEntry{Cidr: &c})
	}
	_, err := w.ModifyManagedPrefixList(w.t.Context(), in)
	return err
}

func TestAPrefixListHasVersionsThatCanBeSeenAndRestored(t *testing.T) {
	w := newWorld(t)
	made, err := w.CreateManagedPrefixList(t.Context(), &sdk.CreateManagedPrefixListInput{AddressFamily: aws.String("IPv4"), MaxEntries: aws.Int32(3), PrefixListName: aws.String("offices"),
		Entries: []types.AddPrefixListEntry{{Cidr: aws.String("192.0.2.0/24")}, {Cidr: aws.String("10.2.3.4/16"), Description: aws.String("host bits")}}})
	if err != nil {
		t.Fatal(err)
	}
	id := *made.PrefixList.PrefixListId
	if made.PrefixList.State != types.PrefixListStateCreateInProgress {
		t.Errorf("the new list is %s", made.PrefixList.State)
	}
	l := w.listOf(id)
	if l.State != types.PrefixListStateCreateComplete || *l.Version != 1 || *l.MaxEntries != 3 || *l.AddressFamily != "IPv4" || l.StateMessage != nil {
		t.Errorf("then it is %+v", l)
	}
	sameLines(t, w.listEntries(id, 0), "10.2.0.0/16", "192.0.2.0/24")
	if err := w.modifyList(id, 1, []string{"10.3.0.0/16", "10.4.0.0/16"}, []string{"192.0.2.0/24"}); err != nil {
		t.Fatal(err)
	}
	if l := w.listOf(id); l.State != types.PrefixListStateModifyComplete || *l.Version != 2 {
		t.Errorf("changed, it is %s of version %d", l.State, *l.Version)
	}
	sameLines(t, w.listEntries(id, 0), "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16")
	sameLines(t, w.listEntries(id, 1), "10.2.0.0/16", "192.0.2.0/24")

	refused(t, w.modifyList(id, 1, []string{"10.5.0.0/16"}, []string{"10.2.0.0/16"}), "PrefixListVersionMismatch")
	refused(t, w.modifyList(id, 2, []string{"10.5.0.0/16"}, nil), "PrefixListMaxEntriesExceeded")
	refused(t, w.modifyList(id, 2, nil, []string{"10.5.0.0/16"}), "InvalidParameterValue", "10.5.0.0/16")
	refused(t, w.modifyList(id, 2, []string{"10.2.0.0/16"}, []string{"10.2.0.0/16"}), "InvalidParameterValue", "both")
	refused(t, w.modifyList(id, 2, []string{"fd00::/8"}, []string{"10.2.0.0/16"}), "InvalidParameterValue", "family")
	_, err = w.ModifyManagedPrefixList(t.Context(), &sdk.ModifyManagedPrefixListInput{PrefixListId: &id, MaxEntries: aws.Int32(2)})
	refused(t, err, "PrefixListMaxEntriesExceeded")

	restored, err := w.RestoreManagedPrefixListVersion(t.Context(), &sdk.RestoreManagedPrefixListVersionInput{PrefixListId: &id, CurrentVersion: aws.Int64(2), PreviousVersion: aws.Int64(1)})
	if err != nil {
		t.Fatal(err)
	}
	if restored.PrefixList.State != types.PrefixListStateRestoreInProgress {
		t.Errorf("restoring answers %s", restored.PrefixList.State)
	}
	sameLines(t, w.listEntries(id, 0), "10.2.0.0/16", "192.0.2.0/24")
	_, err = w.ModifyManagedPrefixList(t.Context(), &sdk.ModifyManagedPrefixListInput{PrefixListId: &id, PrefixListName: aws.String("branches"), CurrentVersion: aws.Int64(3)})
	if err != nil {
		t.Fatal(err)
	}
	if l := w.listOf(id); *l.Version != 3 || *l.PrefixListName != "branches" {
		t.Errorf("renamed, it is %s of version %d", *l.PrefixListName, *l.Version)
	}
	gone, err := w.DeleteManagedPrefixList(t.Context(), &sdk.DeleteManagedPrefixListInput{PrefixListId: &id})
	if err != nil || gone.PrefixList.State != types.PrefixListStateDeleteInProgress {
		t.Fatal(gone, err)
	}
	_, err = w.GetManagedPrefixListEntries(t.Context(), &sdk.GetManagedPrefixListEntriesInput{PrefixListId: &id})
	refused(t, err, "InvalidPrefixListID.NotFound")
}

func TestARuleThatNamesAPrefixListIsReadBackAndHoldsIt(t *testing.T) {
	w := newWorld(t)
	group, list := w.group("g"), w.prefixList(5, "10.9.0.0/16")
	permission := types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(443), ToPort: aws.Int32(443),
		PrefixListIds: []types.PrefixListId{{PrefixListId: &list, Description: aws.String("offices")}}}
	allow := func(p types.IpPermission) (*sdk.AuthorizeSecurityGroupIngressOutput, error) {
		return w.AuthorizeSecurityGroupIngress(t.Context(), &sdk.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: []types.IpPermission{p}})
	}
	out, err := allow(permission)
	if err != nil {
		t.Fatal(err)
	}
	if r := out.SecurityGroupRules[0]; aws.ToString(r.PrefixListId) != list || r.CidrIpv4 != nil || aws.ToString(r.Description) != "offices" {
		t.Errorf("the rule is %+v", r)
	}
	_, err = allow(permission)
	refused(t, err, "InvalidPermission.Duplicate", list)
	found, err := w.DescribeSecurityGroups(t.Context(), &sdk.DescribeSecurityGroupsInput{Filters: filterList("ip-permission.prefix-list-id", list)})
	if err != nil || len(found.SecurityGroups) != 1 {
		t.Fatalf("%v: %d groups name the list", err, len(found.SecurityGroups))
	}
	if p := found.SecurityGroups[0].IpPermissions[0]; len(p.PrefixListIds) != 1 || *p.PrefixListIds[0].PrefixListId != list || len(p.IpRanges) > 0 {
		t.Errorf("the group's permission is %+v", p)
	}
	users, err := w.GetManagedPrefixListAssociations(t.Context(), &sdk.GetManagedPrefixListAssociationsInput{PrefixListId: &list})
	if err != nil || len(users.PrefixListAssociations) != 1 || *users.PrefixListAssociations[0].ResourceId != group {
		t.Errorf("%v: %+v name the list", err, users)
	}
	_, err = w.DeleteManagedPrefixList(t.Context(), &sdk.DeleteManagedPrefixListInput{PrefixListId: &list})
	refused(t, err, "DependencyViolation", group)
	permission.PrefixListIds[0].PrefixListId = aws.String("pl-00000000000000000")
	_, err = allow(permission)
	refused(t, err, "InvalidPrefixListID.NotFound")

	permission.PrefixListIds[0].PrefixListId = &list
	if _, err := w.RevokeSecurityGroupIngress(t.Context(), &sdk.RevokeSecurityGroupIngressInput{GroupId: &group, IpPermissions: []types.IpPermission{permission}}); err != nil {
		t.Fatal(err)
	}
	if _, err = w.DeleteManagedPrefixList(t.Context(), &sdk.DeleteManagedPrefixListInput{PrefixListId: &list}); err != nil {
		t.Error(err)
	}
}

func TestAPrefixListCountsForAllTheEntriesThatItHasRoomFor(t *testing.T) {
	w := newWorld(t)
	group := w.group("g")
	lists := []string{w.prefixList(600), w.prefixList(400), w.prefixList(1)}
	allow := func(list string) error {
		_, err := w.AuthorizeSecurityGroupIngress(t.Context(), &sdk.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: []types.IpPermission{
			{IpProtocol: aws.String("-1"), PrefixListIds: []types.PrefixListId{{PrefixListId: &list}}}}})
		return err
	}
	for _, list := range lists[:2] {
		if err := allow(list); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, allow(lists[2]), "RulesPerSecurityGroupLimitExceeded")
	// EC2 takes a size that is too big for who names the list, and tells later that it came to nothing.
	resize := func(room int32) {
		t.Helper()
		if _, err := w.ModifyManagedPrefixList(t.Context(), &sdk.ModifyManagedPrefixListInput{PrefixListId: &lists[1], MaxEntries: &room}); err != nil {
			t.Fatal(err)
		}
	}
	resize(401)
	l := w.listOf(lists[1])
	if l.State != types.PrefixListStateModifyFailed || *l.MaxEntries != 400 || aws.ToString(l.StateMessage) != "The following resources do not support the new maximum size: "+group {
		t.Errorf("grown too far, the list is %s, has room for %d and says %q", l.State, *l.MaxEntries, aws.ToString(l.StateMessage))
	}
	resize(399)
	if l := w.listOf(lists[1]); l.State != types.PrefixListStateModifyComplete || *l.MaxEntries != 399 || l.StateMessage != nil {
		t.Errorf("made smaller, the list is %s and has room for %d", l.State, *l.MaxEntries)
	}
	if err := allow(lists[2]); err != nil {
		t.Error(err)
	}
}

func TestARouteLeadsWhatAPrefixListHas(t *testing.T) {
	w := newWorld(t)
	vpc := w.vpc("10.0.0.0/16")
	table, gateway, list := w.routeTable(vpc), w.gateway(vpc), w.prefixList(5, "192.0.2.0/24")
	create := func(list string) error {
		_, err := w.CreateRoute(t.Context(), &sdk.CreateRouteInput{RouteTableId: &table, DestinationPrefixListId: &list, GatewayId: &gateway})
		return err
	}
	if err := create(list); err != nil {
		t.Fatal(err)
	}
	out, err := w.DescribeRouteTables(t.Context(), &sdk.DescribeRouteTablesInput{Filters: filterList("route.destination-prefix-list-id", list)})
	if err != nil || len(out.RouteTables) != 1 {
		t.Fatalf("%v: %d tables have a route to the list", err, len(out.RouteTables))
	}
	var lines []string
	for _, r := range out.RouteTables[0].Routes {
		lines = append(lines, fmt.Sprint(aws.ToString(r.DestinationCidrBlock), aws.ToString(r.DestinationPrefixListId), " ", *r.GatewayId, " ", r.State))
	}
	sameLines(t, lines, "10.0.0.0/16 local active", list+" "+gateway+" active")
	refused(t, w.modifyList(list, 1, []string{"10.0.9.0/24"}, nil), "InvalidParameterValue", "10.0.9.0/24")
	refused(t, create(w.prefixList(5, "10.0.9.0/24")), "InvalidParameterValue", "10.0.9.0/24")
	refused(t, create(w.prefixList(499)), "RouteLimitExceeded")
	_, err = w.AssociateVpcCidrBlock(t.Context(), &sdk.AssociateVpcCidrBlockInput{VpcId: &vpc, CidrBlock: aws.String("192.0.2.0/24")})
	refused(t, err, "InvalidParameterValue", "192.0.2.0/24")
	_, err = w.DeleteManagedPrefixList(t.Context(), &sdk.DeleteManagedPrefixListInput{PrefixListId: &list})
	refused(t, err, "DependencyViolation", table)
	_, err = w.ReplaceRoute(t.Context(), &sdk.ReplaceRouteInput{RouteTableId: &table, DestinationPrefixListId: &list, DestinationCidrBlock: aws.String("192.0.2.0/24"), GatewayId: &gateway})
	refused(t, err, "InvalidParameterCombination")
	if _, err := w.DeleteRoute(t.Context(), &sdk.DeleteRouteInput{RouteTableId: &table, DestinationPrefixListId: &list}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DeleteManagedPrefixList(t.Context(), &sdk.DeleteManagedPrefixListInput{PrefixListId: &list}); err != nil {
		t.Error(err)
	}
}

func TestListsOfServicesAreNone(t *testing.T) {
	w := newWorld(t)
	list := w.prefixList(1)
	out, err := w.DescribePrefixLists(t.Context(), &sdk.DescribePrefixListsInput{})
	if err != nil || len(out.PrefixLists) != 0 {
		t.Errorf("%v: %v", err, out.PrefixLists)
	}
	_, err = w.DescribePrefixLists(t.Context(), &sdk.DescribePrefixListsInput{PrefixListIds: []string{list}})
	refused(t, err, "InvalidPrefixListId.NotFound")
}
