package ec2_test

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// modelList is a prefix list in the model of networks; it is named by routes only.
type modelList struct {
	version int64
	entries []netip.Prefix // in order
}

func (l *modelList) line(id string) string {
	return fmt.Sprint("list ", id, " version ", l.version, " ", l.entries)
}

// overlaid tells whether an entry that routes of a list would lead lies within a VPC whose table has such a route.
func (m *networkModel) overlaid(list string, entries []netip.Prefix) bool {
	for _, t := range m.tables {
		if _, ok := t.lists[list]; ok && slices.ContainsFunc(entries, func(e netip.Prefix) bool { return inside(e, m.vpcs[t.vpc].ranges()) }) {
			return true
		}
	}
	return false
}

func (m *networkModel) createListRoute(table, list, target string) []string {
	t, ok := m.tables[table]
	if !ok {
		return []string{"InvalidRouteTableID.NotFound", "InvalidPrefixListID.NotFound"}
	}
	codes := m.target(table, target)
	l, ok := m.lists[list]
	if !ok {
		return append(codes, "InvalidPrefixListID.NotFound")
	}
	switch at, ok := t.lists[list]; {
	case ok && at == target:
	case ok:
		codes = append(codes, "RouteAlreadyExists")
	case slices.ContainsFunc(l.entries, func(e netip.Prefix) bool { return inside(e, m.vpcs[t.vpc].ranges()) }):
		codes = append(codes, "InvalidParameterValue")
	}
	return codes
}

func (k *walk) aList() string { return pickFrom(k.rnd, k.m.lists, k.gone["pl"]) }

func (k *walk) anEntry() netip.Prefix {
	return k.block("8.1.0.0/16", "9.0.0.0/8", "10.9.0.0/25", "10.2.40.0/24", "10.9.0.0/16")
}

func (k *walk) createList() ([]string, error) {
	if len(k.m.lists) > 2 {
		return idle()
	}
	p := k.anEntry()
	out, err := k.CreateManagedPrefixList(k.ctx, &sdk.CreateManagedPrefixListInput{AddressFamily: aws.String("IPv4"), MaxEntries: aws.Int32(3), PrefixListName: aws.String("walked"),
		Entries: []types.AddPrefixListEntry{{Cidr: aws.String(p.String())}}})
	if err == nil {
		k.m.lists[*out.PrefixList.PrefixListId] = &modelList{1, []netip.Prefix{p}}
	}
	return nil, err
}

// changeList takes an entry out that a list has, or puts it in.
func (k *walk) changeList() ([]string, error) {
	id, p := k.aList(), k.anEntry()
	if id == "" {
		return idle()
	}
	in := &sdk.ModifyManagedPrefixListInput{PrefixListId: &id, CurrentVersion: aws.Int64(1)}
	want, next := []string{"InvalidPrefixListID.NotFound"}, []netip.Prefix(nil)
	if l, ok := k.m.lists[id]; ok {
		want, *in.CurrentVersion, next = nil, l.version, slices.Clone(l.entries)
		if at := slices.Index(next, p); at >= 0 {
			next = slices.Delete(next, at, at+1)
			in.RemoveEntries = []types.RemovePrefixListEntry{{Cidr: aws.String(p.String())}}
		} else {
			next = append(next, p)
			slices.SortFunc(next, netip.Prefix.Compare)
		}
		switch {
		case k.rnd.IntN(8) == 0:
			*in.CurrentVersion += 1
			want = append(want, "PrefixListVersionMismatch")
		case len(next) > 3:
			want = append(want, "PrefixListMaxEntriesExceeded")
		case k.m.overlaid(id, next):
			want = append(want, "InvalidParameterValue")
		}
	}
	if in.RemoveEntries == nil {
		in.AddEntries = []types.AddPrefixListEntry{{Cidr: aws.String(p.String())}}
	}
	_, err := k.ModifyManagedPrefixList(k.ctx, in)
	if err == nil && len(want) == 0 {
		k.m.lists[id].version++
		k.m.lists[id].entries = next
	}
	return want, err
}

func (k *walk) deleteList() ([]string, error) {
	id := k.aList()
	if id == "" {
		return idle()
	}
	var want []string
	if _, ok := k.m.lists[id]; !ok {
		want = []string{"InvalidPrefixListID.NotFound"}
	}
	for _, t := range k.m.tables {
		if _, ok := t.lists[id]; ok {
			want = []string{"DependencyViolation"}
		}
	}
	_, err := k.DeleteManagedPrefixList(k.ctx, &sdk.DeleteManagedPrefixListInput{PrefixListId: &id})
	if err == nil {
		delete(k.m.lists, id)
	}
	k.went(err == nil, id)
	return want, err
}

func (k *walk) createListRoute() ([]string, error) {
	table, list := k.aTable(), k.aList()
	target := k.aTargetFor(table)
	if table == "" || list == "" || target == "" {
		return idle()
	}
	want := k.m.createListRoute(table, list, target)
	gateway, nic := routeTo(target)
	_, err := k.CreateRoute(k.ctx, &sdk.CreateRouteInput{RouteTableId: &table, DestinationPrefixListId: &list, GatewayId: gateway, NetworkInterfaceId: nic})
	if err == nil && len(want) == 0 {
		k.m.tables[table].lists[list] = target
	}
	return want, err
}

// deleteListRoute takes a route that is there more often than not.
func (k *walk) deleteListRoute() ([]string, error) {
	routed := map[string]bool{}
	for id, t := range k.m.tables {
		if len(t.lists) > 0 {
			routed[id] = true
		}
	}
	table, list := pickFrom(k.rnd, routed, nil), ""
	if table != "" {
		list = pickFrom(k.rnd, k.m.tables[table].lists, nil)
	}
	if table == "" || k.rnd.IntN(4) == 0 {
		table, list = k.aTable(), k.aList()
	}
	if table == "" || list == "" {
		return idle()
	}
	var want []string
	t := k.m.tables[table]
	if k.m.lists[list] == nil {
		want = append(want, "InvalidPrefixListID.NotFound")
	}
	if t == nil {
		want = append(want, "InvalidRouteTableID.NotFound")
	}
	if len(want) == 0 && t.lists[list] == "" {
		want = append(want, "InvalidRoute.NotFound")
	}
	_, err := k.DeleteRoute(k.ctx, &sdk.DeleteRouteInput{RouteTableId: &table, DestinationPrefixListId: &list})
	if err == nil && len(want) == 0 {
		delete(t.lists, list)
	}
	return want, err
}
