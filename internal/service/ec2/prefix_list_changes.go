package ec2

import (
	"context"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// modifyPrefixList changes a list's entries, its size or its name.
func (s *Service) modifyPrefixList(ctx context.Context, call *awsapi.Call, req *ec2.ModifyManagedPrefixListRequest) (*ec2.ModifyManagedPrefixListResult, error) {
	entries := len(req.AddEntries)+len(req.RemoveEntries) > 0
	switch {
	case !entries && req.MaxEntries == nil && req.PrefixListName == nil:
		return nil, awsapi.MissingParameter("AddEntry, RemoveEntry, MaxEntries or PrefixListName")
	case entries && req.MaxEntries != nil:
		return nil, awsapi.InvalidCombination("The entries and the size of a prefix list cannot be changed in one call")
	case entries && req.CurrentVersion == nil:
		return nil, awsapi.MissingParameter("CurrentVersion")
	}
	if req.PrefixListName != nil {
		if err := prefixListName(*req.PrefixListName); err != nil {
			return nil, err
		}
	}
	if req.MaxEntries != nil {
		if err := prefixListSize(*req.MaxEntries); err != nil {
			return nil, err
		}
	}
	shape, err := s.changePrefixList(ctx, call, req.PrefixListId, cloud.PrefixListModifying, func(tx *store.Tx, l *cloud.PrefixList) error {
		if req.CurrentVersion != nil {
			if err := isVersion(l, *req.CurrentVersion); err != nil {
				return err
			}
		}
		l.State, l.Message = cloud.PrefixListModified, ""
		if req.PrefixListName != nil {
			l.Name = *req.PrefixListName
		}
		if entries {
			changed, err := changedEntries(tx, l, req.AddEntries, req.RemoveEntries)
			if err != nil {
				return err
			}
			return newVersion(tx, l, changed)
		}
		if req.MaxEntries != nil {
			return resize(tx, l, int(*req.MaxEntries))
		}
		return nil
	})
	return &ec2.ModifyManagedPrefixListResult{PrefixList: shape}, err
}

// restorePrefixList makes an earlier version's entries the newest version.
func (s *Service) restorePrefixList(ctx context.Context, call *awsapi.Call, req *ec2.RestoreManagedPrefixListVersionRequest) (*ec2.RestoreManagedPrefixListVersionResult, error) {
	shape, err := s.changePrefixList(ctx, call, req.PrefixListId, cloud.PrefixListRestoring, func(tx *store.Tx, l *cloud.PrefixList) error {
		if err := isVersion(l, deref(req.CurrentVersion)); err != nil {
			return err
		}
		v, err := prefixListVersion(tx, l, deref(req.PreviousVersion))
		if err != nil {
			return err
		}
		l.State, l.Message = cloud.PrefixListRestored, ""
		return newVersion(tx, l, v.Entries)
	})
	return &ec2.RestoreManagedPrefixListVersionResult{PrefixList: shape}, err
}

// changePrefixList runs a change and answers as EC2 does while it is under way: with the version that was.
func (s *Service) changePrefixList(ctx context.Context, call *awsapi.Call, id *string, meanwhile cloud.PrefixListState, change func(*store.Tx, *cloud.PrefixList) error) (*ec2.ManagedPrefixList, error) {
	var shape ec2.ManagedPrefixList
	err := s.update(ctx, call, func(tx *store.Tx) error {
		l, err := ownPrefixList(tx, call.Account, id)
		if err != nil {
			return err
		}
		version := l.Version
		if err := change(tx, l); err != nil {
			return err
		}
		store.Put(tx, store.PrefixLists, l)
		shape = prefixListShape(l, call.Region)
		shape.State, shape.StateMessage, shape.Version = text(meanwhile), nil, &version
		return nil
	})
	return &shape, err
}

func isVersion(l *cloud.PrefixList, number int64) error {
	if number != l.Version {
		return awsapi.Errorf("PrefixListVersionMismatch", "The prefix list has the incorrect version number: its current version is %d.", l.Version)
	}
	return nil
}

// changedEntries are a list's entries without some and with others.
func changedEntries(r store.Reader, l *cloud.PrefixList, added []ec2.AddPrefixListEntry, removed []ec2.RemovePrefixListEntry) ([]cloud.PrefixListEntry, error) {
	entries := slices.Clone(store.EntriesOf(r, l))
	for _, e := range removed {
		p, err := listRange(l.IPv6, e.Cidr)
		if err != nil {
			return nil, err
		}
		at := entryFor(entries, p)
		if at < 0 {
			return nil, awsapi.InvalidParameterValue("The prefix list has no entry for the CIDR block %s, or loses it twice.", p)
		}
		entries = slices.Delete(entries, at, at+1)
		if slices.ContainsFunc(added, func(a ec2.AddPrefixListEntry) bool { q, err := listRange(l.IPv6, a.Cidr); return err == nil && q == p }) {
			return nil, awsapi.InvalidParameterValue("Request cannot contain Cidr %s in both AddPrefixListEntries and RemovePrefixListEntries", p)
		}
	}
	return addEntries(entries, l.IPv6, added)
}

// newVersion gives a list other entries. All that names the list follows.
func newVersion(tx *store.Tx, l *cloud.PrefixList, entries []cloud.PrefixListEntry) error {
	if len(entries) > l.MaxEntries {
		return tooManyEntries(l)
	}
	for _, t := range store.ListBy(tx, store.RouteTablesByPrefixList, l.ID) {
		if err := entriesOutside(tx, t, entries); err != nil {
			return err
		}
	}
	l.Version++
	store.Put(tx, store.PrefixListVersions, &cloud.PrefixListVersion{List: l.ID, Number: l.Version, Entries: entries})
	if l.Version-l.Oldest >= cloud.MaxPrefixListVersions {
		store.Delete(tx, store.PrefixListVersions, store.ListVersionKey(l.ID, l.Oldest))
		l.Oldest++
	}
	return nil
}

// resize changes the number of entries that a list has room for. Where that is too many for what names the list, EC2 takes the
// call and tells by the list's state that the change has failed.
func resize(tx *store.Tx, l *cloud.PrefixList, size int) error {
	if len(store.EntriesOf(tx, l)) > size {
		return awsapi.Errorf("PrefixListMaxEntriesExceeded", "The prefix list has more than %d entries.", size)
	}
	before := l.MaxEntries
	l.MaxEntries = size
	store.Put(tx, store.PrefixLists, l) // the limits are judged with the new size
	var full []string
	for _, g := range store.ListBy(tx, store.SecurityGroupsByPrefixList, l.ID) {
		if ruleLimit(tx, g) != nil {
			full = append(full, string(g.ID))
		}
	}
	for _, t := range store.ListBy(tx, store.RouteTablesByPrefixList, l.ID) {
		if routeLimit(tx, t) != nil {
			full = append(full, string(t.ID))
		}
	}
	if len(full) > 0 {
		l.MaxEntries, l.State = before, cloud.PrefixListModifyFailed
		l.Message = "The following resources do not support the new maximum size: " + strings.Join(full[:min(len(full), 10)], ", ")
	}
	return nil
}
