package ec2

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerPrefixLists(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateManagedPrefixList, s.createPrefixList, awsapi.Honours("AddressFamily", "ClientToken", "Entries", "MaxEntries", "PrefixListName", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionModifyManagedPrefixList, s.modifyPrefixList, awsapi.Honours("AddEntries", "CurrentVersion", "MaxEntries", "PrefixListId", "PrefixListName", "RemoveEntries"))
	awsapi.Handle(r, ec2.ActionRestoreManagedPrefixListVersion, s.restorePrefixList, awsapi.Honours("CurrentVersion", "PrefixListId", "PreviousVersion"))
	awsapi.Handle(r, ec2.ActionDeleteManagedPrefixList, s.deletePrefixList, awsapi.Honours("PrefixListId"))
	awsapi.Handle(r, ec2.ActionDescribeManagedPrefixLists, s.describeManagedPrefixLists, awsapi.Honours("Filters", "MaxResults", "NextToken", "PrefixListIds"))
	awsapi.Handle(r, ec2.ActionGetManagedPrefixListEntries, s.getPrefixListEntries, awsapi.Honours("MaxResults", "NextToken", "PrefixListId", "TargetVersion"))
	awsapi.Handle(r, ec2.ActionGetManagedPrefixListAssociations, s.getPrefixListAssociations, awsapi.Honours("MaxResults", "NextToken", "PrefixListId"))
	awsapi.Handle(r, ec2.ActionDescribePrefixLists, s.describePrefixLists, awsapi.Honours("Filters", "MaxResults", "NextToken", "PrefixListIds"))
}

const maxPrefixLists = 100 // an account, EC2's limit

func ownerOfPrefixList(l *cloud.PrefixList) cloud.AccountID { return l.Account }

func ownPrefixList(r store.Reader, account cloud.AccountID, id *string) (*cloud.PrefixList, error) {
	return lookup(r, store.PrefixLists, ownerOfPrefixList, kindPrefixList, account, deref(id))
}

// prefixListName checks a list's name.
func prefixListName(name string) error {
	switch {
	case name == "":
		return awsapi.MissingParameter("PrefixListName")
	case len(name) > 255:
		return awsapi.InvalidParameterValue("The name of a prefix list has 255 characters at most.")
	case strings.HasPrefix(name, "com.amazonaws"):
		return awsapi.InvalidParameterValue("The name of a prefix list cannot start with 'com.amazonaws'.")
	}
	return nil
}

// prefixListSize checks the greatest number of entries that a list is to have.
func prefixListSize(n int64) error {
	if n < 1 || n > cloud.MaxPrefixListEntries {
		return awsapi.InvalidParameterValue("Value (%d) for parameter maxEntries is invalid. A prefix list has room for 1 to %d entries.", n, cloud.MaxPrefixListEntries)
	}
	return nil
}

// listRange parses a range for a list of one family, in its canonical form.
func listRange(ipv6 bool, text *string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(deref(text))
	if err != nil || p.Addr().Is4In6() {
		return p, awsapi.InvalidParameterValue("Value (%s) for parameter cidr is invalid. This is not a valid CIDR block.", deref(text))
	}
	if p.Addr().Is6() != ipv6 {
		return p, awsapi.InvalidParameterValue("The CIDR block %s is not of the prefix list's address family.", p)
	}
	return p.Masked(), nil
}

// addEntries appends entries to those of a list.
func addEntries(entries []cloud.PrefixListEntry, ipv6 bool, added []ec2.AddPrefixListEntry) ([]cloud.PrefixListEntry, error) {
	for _, e := range added {
		p, err := listRange(ipv6, e.Cidr)
		if err != nil {
			return nil, err
		}
		if len(deref(e.Description)) > maxRuleDescription {
			return nil, awsapi.InvalidParameterValue("An entry's description has %d characters at most", maxRuleDescription)
		}
		if entryFor(entries, p) >= 0 {
			return nil, awsapi.InvalidParameterValue("The prefix list has an entry for the CIDR block %s already, or gets it twice.", p)
		}
		entries = append(entries, cloud.PrefixListEntry{Prefix: p, Description: deref(e.Description)})
	}
	return entries, nil
}

func entryFor(entries []cloud.PrefixListEntry, p netip.Prefix) int {
	return slices.IndexFunc(entries, func(e cloud.PrefixListEntry) bool { return e.Prefix == p })
}

func tooManyEntries(l *cloud.PrefixList) error {
	return awsapi.Errorf("PrefixListMaxEntriesExceeded", "The prefix list has room for %d entries.", l.MaxEntries)
}

func (s *Service) createPrefixList(ctx context.Context, call *awsapi.Call, req *ec2.CreateManagedPrefixListRequest) (*ec2.CreateManagedPrefixListResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "prefix-list")
	if err != nil {
		return nil, err
	}
	family := deref(req.AddressFamily)
	if family != "IPv4" && family != "IPv6" {
		return nil, awsapi.InvalidParameterValue("Value (%s) for parameter addressFamily is invalid. Valid values are IPv4 and IPv6.", family)
	}
	if err := prefixListName(deref(req.PrefixListName)); err != nil {
		return nil, err
	}
	if err := prefixListSize(deref(req.MaxEntries)); err != nil {
		return nil, err
	}
	l := cloud.PrefixList{ID: newID[cloud.PrefixListID](s), Account: call.Account, Name: deref(req.PrefixListName), IPv6: family == "IPv6", MaxEntries: int(*req.MaxEntries),
		Version: 1, Oldest: 1, State: cloud.PrefixListCreated, Tags: tags["prefix-list"], Created: call.Now}
	entries, err := addEntries(nil, l.IPv6, req.Entries)
	if err != nil {
		return nil, err
	}
	if len(entries) > l.MaxEntries {
		return nil, tooManyEntries(&l)
	}
	hash, shape := awsapi.RequestHash(req), ec2.ManagedPrefixList{}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		done, err := once(tx, call, "CreateManagedPrefixList", deref(req.ClientToken), hash, string(l.ID))
		if err != nil {
			return err
		}
		if done != "" {
			made, err := ownPrefixList(tx, call.Account, &done)
			if err == nil {
				shape = prefixListShape(made, call.Region)
			}
			return err
		}
		if len(store.ListBy(tx, store.PrefixListsByAccount, call.Account)) >= maxPrefixLists {
			return awsapi.Errorf("ResourceLimitExceeded", "An account has %d prefix lists at most.", maxPrefixLists)
		}
		store.Put(tx, store.PrefixLists, &l)
		store.Put(tx, store.PrefixListVersions, &cloud.PrefixListVersion{List: l.ID, Number: 1, Entries: entries})
		shape = prefixListShape(&l, call.Region)
		shape.State = text(cloud.PrefixListCreating)
		return nil
	})
	return &ec2.CreateManagedPrefixListResult{PrefixList: &shape}, err
}

func (s *Service) deletePrefixList(ctx context.Context, call *awsapi.Call, req *ec2.DeleteManagedPrefixListRequest) (*ec2.DeleteManagedPrefixListResult, error) {
	var shape ec2.ManagedPrefixList
	err := s.update(ctx, call, func(tx *store.Tx) error {
		l, err := ownPrefixList(tx, call.Account, req.PrefixListId)
		if err != nil {
			return err
		}
		if users := usersOf(tx, l.ID); len(users) > 0 {
			return awsapi.Errorf("DependencyViolation", "The prefix list '%s' is referenced by %s and cannot be deleted.", l.ID, strings.Join(users[:min(len(users), 10)], ", "))
		}
		for n := l.Oldest; n <= l.Version; n++ {
			store.Delete(tx, store.PrefixListVersions, store.ListVersionKey(l.ID, n))
		}
		store.Delete(tx, store.PrefixLists, l.ID)
		shape = prefixListShape(l, call.Region)
		shape.State = text(cloud.PrefixListDeleting)
		return nil
	})
	return &ec2.DeleteManagedPrefixListResult{PrefixList: &shape}, err
}

// usersOf are the ids of the groups and route tables that name a list, sorted.
func usersOf(r store.Reader, id cloud.PrefixListID) (users []string) {
	for _, g := range store.ListBy(r, store.SecurityGroupsByPrefixList, id) {
		users = append(users, string(g.ID))
	}
	for _, t := range store.ListBy(r, store.RouteTablesByPrefixList, id) {
		users = append(users, string(t.ID))
	}
	slices.Sort(users)
	return users
}

func (s *Service) describeManagedPrefixLists(_ context.Context, call *awsapi.Call, req *ec2.DescribeManagedPrefixListsRequest) (*ec2.DescribeManagedPrefixListsResult, error) {
	view := s.store.View()
	if err := pageBounds(req.MaxResults, 1, 100, req.PrefixListIds, "prefixListIds"); err != nil {
		return nil, err
	}
	type L = *cloud.PrefixList
	list := slices.Clone(store.ListBy(view, store.PrefixListsByAccount, call.Account))
	if len(req.PrefixListIds) > 0 {
		var err error
		if list, err = lookupAll(view, store.PrefixLists, ownerOfPrefixList, kindPrefixList, call.Account, req.PrefixListIds); err != nil {
			return nil, err
		}
	}
	pass, err := awsapi.FilterSet[L]{Tags: func(l L) map[string]string { return l.Tags }, Values: map[string]func(L) []string{
		"owner-id": one(func(l L) string { return string(l.Account) }), "prefix-list-id": one(func(l L) string { return string(l.ID) }),
		"prefix-list-name": one(func(l L) string { return l.Name }),
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(l L) bool { return !pass(l) })
	page, err := awsapi.Paginate(list, func(l L) string { return string(l.ID) }, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeManagedPrefixListsResult{NextToken: page.Next, PrefixLists: []ec2.ManagedPrefixList{}}
	for _, l := range page.Items {
		out.PrefixLists = append(out.PrefixLists, prefixListShape(l, call.Region))
	}
	return out, nil
}

func (s *Service) getPrefixListEntries(_ context.Context, call *awsapi.Call, req *ec2.GetManagedPrefixListEntriesRequest) (*ec2.GetManagedPrefixListEntriesResult, error) {
	view := s.store.View()
	l, err := ownPrefixList(view, call.Account, req.PrefixListId)
	if err != nil {
		return nil, err
	}
	if err := pageBounds(req.MaxResults, 1, 100, nil, ""); err != nil {
		return nil, err
	}
	entries := slices.Clone(store.EntriesOf(view, l))
	if req.TargetVersion != nil {
		v, err := prefixListVersion(view, l, *req.TargetVersion)
		if err != nil {
			return nil, err
		}
		entries = slices.Clone(v.Entries)
	}
	slices.SortFunc(entries, func(a, b cloud.PrefixListEntry) int { return a.Prefix.Compare(b.Prefix) })
	page, err := awsapi.Paginate(entries, func(e cloud.PrefixListEntry) string {
		return fmt.Sprintf("%x %03d", e.Prefix.Addr().AsSlice(), e.Prefix.Bits())
	},
		req.MaxResults, req.NextToken, []any{l.ID, req.TargetVersion})
	if err != nil {
		return nil, err
	}
	out := &ec2.GetManagedPrefixListEntriesResult{NextToken: page.Next, Entries: []ec2.PrefixListEntry{}}
	for _, e := range page.Items {
		out.Entries = append(out.Entries, ec2.PrefixListEntry{Cidr: new(e.Prefix.String()), Description: optional(e.Description)})
	}
	return out, nil
}

// prefixListVersion finds a version of a list that is kept.
func prefixListVersion(r store.Reader, l *cloud.PrefixList, number int64) (*cloud.PrefixListVersion, error) {
	v, ok := store.Get(r, store.PrefixListVersions, store.ListVersionKey(l.ID, number))
	if !ok {
		return nil, awsapi.InvalidParameterValue("The prefix list '%s' has no version %d.", l.ID, number)
	}
	return v, nil
}

func (s *Service) getPrefixListAssociations(_ context.Context, call *awsapi.Call, req *ec2.GetManagedPrefixListAssociationsRequest) (*ec2.GetManagedPrefixListAssociationsResult, error) {
	view := s.store.View()
	l, err := ownPrefixList(view, call.Account, req.PrefixListId)
	if err != nil {
		return nil, err
	}
	if err := pageBounds(req.MaxResults, 5, 255, nil, ""); err != nil {
		return nil, err
	}
	page, err := awsapi.Paginate(usersOf(view, l.ID), func(id string) string { return id }, req.MaxResults, req.NextToken, l.ID)
	if err != nil {
		return nil, err
	}
	out := &ec2.GetManagedPrefixListAssociationsResult{NextToken: page.Next, PrefixListAssociations: []ec2.PrefixListAssociation{}}
	for _, id := range page.Items {
		out.PrefixListAssociations = append(out.PrefixListAssociations, ec2.PrefixListAssociation{ResourceId: &id, ResourceOwner: text(l.Account)})
	}
	return out, nil
}

// describePrefixLists lists the lists of services, which EC2 keeps itself. This cloud has no services that are reached by their ranges, so there are none.
func (s *Service) describePrefixLists(_ context.Context, _ *awsapi.Call, req *ec2.DescribePrefixListsRequest) (*ec2.DescribePrefixListsResult, error) {
	if err := pageBounds(req.MaxResults, 1, 1000, req.PrefixListIds, "prefixListIds"); err != nil {
		return nil, err
	}
	for _, id := range req.PrefixListIds {
		if !cloud.ValidID[cloud.PrefixListID](id) {
			return nil, kindPrefixList.malformed(id)
		}
	}
	if len(req.PrefixListIds) > 0 {
		return nil, resourceKind{"InvalidPrefixListId", kindPrefixList.name}.notFound(req.PrefixListIds...)
	}
	page, err := emptyPage[ec2.PrefixList]([]string{"prefix-list-id", "prefix-list-name"}, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	return &ec2.DescribePrefixListsResult{PrefixLists: page}, nil
}

func prefixListShape(l *cloud.PrefixList, region string) ec2.ManagedPrefixList {
	family := "IPv4"
	if l.IPv6 {
		family = "IPv6"
	}
	return ec2.ManagedPrefixList{PrefixListId: text(l.ID), PrefixListName: &l.Name, AddressFamily: &family, MaxEntries: new(int64(l.MaxEntries)), Version: new(l.Version),
		State: text(l.State), StateMessage: optional(l.Message), OwnerId: text(l.Account), Tags: tagList(l.Tags),
		PrefixListArn: new(fmt.Sprintf("arn:aws:ec2:%s:%s:prefix-list/%s", region, l.Account, l.ID))}
}
