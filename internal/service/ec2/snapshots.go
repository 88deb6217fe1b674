package ec2

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerSnapshots(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateSnapshot, s.createSnapshot, awsapi.Honours("Description", "TagSpecifications", "VolumeId"))
	awsapi.Handle(r, ec2.ActionDeleteSnapshot, s.deleteSnapshot, awsapi.Honours("SnapshotId"))
	awsapi.Handle(r, ec2.ActionCopySnapshot, s.copySnapshot, awsapi.Honours("Description", "DestinationRegion", "Encrypted", "KmsKeyId", "PresignedUrl", "SourceRegion", "SourceSnapshotId", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDescribeSnapshots, s.describeSnapshots, awsapi.Honours("Filters", "MaxResults", "NextToken", "OwnerIds", "RestorableByUserIds", "SnapshotIds"))
}

const (
	// maxSnapshots bounds an account's snapshots.
	maxSnapshots = 100_000
	// maxPendingSnapshots bounds those of one volume that are being made; it is EC2's.
	maxPendingSnapshots = 5
	maxDescription      = 255
)

// ownerOfSnapshot is nobody for one that is deleted and not gone from its node yet.
func ownerOfSnapshot(s *cloud.Snapshot) cloud.AccountID {
	if s.State == cloud.SnapshotDeleting {
		return ""
	}
	return s.Account
}

// roomForSnapshot counts a further snapshot, of a volume or, with "", of another snapshot.
func roomForSnapshot(tx *store.Tx, account cloud.AccountID, of cloud.VolumeID) error {
	pending := 0
	for _, other := range store.ListBy(tx, store.SnapshotsByVolume, of) {
		if of != "" && other.State == cloud.SnapshotPending {
			pending++
		}
	}
	if pending >= maxPendingSnapshots {
		return awsapi.Errorf("ConcurrentSnapshotLimitExceeded", "Maximum allowed in-progress snapshots for a single volume exceeded.")
	}
	if len(store.ListBy(tx.View(), store.SnapshotsByAccount, account)) >= maxSnapshots {
		return awsapi.Errorf("SnapshotLimitExceeded", "The maximum number of snapshots, %d, has been reached.", maxSnapshots)
	}
	return nil
}

func describedAs(description *string) (string, error) {
	if len(deref(description)) > maxDescription {
		return "", awsapi.InvalidParameterValue("A description has %d characters at most", maxDescription)
	}
	return deref(description), nil
}

func (s *Service) createSnapshot(ctx context.Context, call *awsapi.Call, req *ec2.CreateSnapshotRequest) (*ec2.Snapshot, error) {
	tags, err := tagsFor(req.TagSpecifications, "snapshot")
	if err != nil {
		return nil, err
	}
	description, err := describedAs(req.Description)
	if err != nil {
		return nil, err
	}
	id := newID[cloud.SnapshotID](s)
	var out ec2.Snapshot
	err = s.update(ctx, call, func(tx *store.Tx) error {
		v, err := lookup(tx, store.Volumes, ownerOfVolume, kindVolume, call.Account, deref(req.VolumeId))
		if err != nil {
			return err
		}
		if err := device(v, "kept as a snapshot"); err != nil {
			return err
		}
		if v.State != cloud.VolumeAvailable && v.State != cloud.VolumeInUse {
			return awsapi.Errorf("IncorrectState", "Volume '%s' is in the '%s' state.", v.ID, v.State)
		}
		if err := roomForSnapshot(tx, call.Account, v.ID); err != nil {
			return err
		}
		snap := &cloud.Snapshot{ID: id, Account: call.Account, Volume: v.ID, SizeGiB: v.SizeGiB, Node: v.Node, Origin: v.Origin, Encrypted: v.Encrypted, Description: description, Tags: tags["snapshot"],
			Created: call.Now, State: cloud.SnapshotPending}
		store.Put(tx, store.Snapshots, snap)
		out = snapshotShape(tx, snap)
		return nil
	})
	return &out, err
}

func (s *Service) deleteSnapshot(ctx context.Context, call *awsapi.Call, req *ec2.DeleteSnapshotRequest) (*ec2.DeleteSnapshotResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		snap, err := lookup(tx, store.Snapshots, ownerOfSnapshot, kindSnapshot, call.Account, deref(req.SnapshotId))
		if err != nil {
			return err
		}
		if img := mapping(tx, snap.ID); img != nil {
			return awsapi.Errorf("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s", snap.ID, img.ID)
		}
		snap.State = cloud.SnapshotDeleting
		store.Put(tx, store.Snapshots, snap)
		return nil
	})
	return &ec2.DeleteSnapshotResult{}, err
}

// mapping finds an image whose instances are launched with a snapshot, nil when there is none.
func mapping(r store.Reader, id cloud.SnapshotID) *cloud.Image {
	for _, img := range store.List(r, store.Images) {
		if img.State != cloud.ImageFailed && slices.ContainsFunc(img.Volumes, func(v cloud.ImageVolume) bool { return v.Snapshot == id }) {
			return img
		}
	}
	return nil
}

func (s *Service) copySnapshot(ctx context.Context, call *awsapi.Call, req *ec2.CopySnapshotRequest) (*ec2.CopySnapshotResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "snapshot")
	if err != nil {
		return nil, err
	}
	description, err := describedAs(req.Description)
	switch {
	case err != nil:
		return nil, err
	case req.PresignedUrl != nil && !strings.HasPrefix(*req.PresignedUrl, "http"): // SDKs add one, for regions that fetch from others
		return nil, awsapi.InvalidParameterValue("Invalid value for PresignedUrl: it is a URL.")
	case deref(req.SourceRegion) == "":
		return nil, awsapi.MissingParameter("SourceRegion")
	}
	encrypted, err := parseEncryption(req.Encrypted, req.KmsKeyId)
	if err != nil {
		return nil, err
	}
	id := newID[cloud.SnapshotID](s)
	err = s.update(ctx, call, func(tx *store.Tx) error {
		region, ok := store.Region(tx)
		for _, name := range []*string{req.SourceRegion, req.DestinationRegion} {
			if name != nil && (!ok || *name != region.Name) {
				return awsapi.InvalidParameterValue("Invalid region '%s': this cloud has one region.", *name)
			}
		}
		from, err := lookup(tx, store.Snapshots, ownerOfSnapshot, kindSnapshot, call.Account, deref(req.SourceSnapshotId))
		if err != nil {
			return err
		}
		if from.State != cloud.SnapshotCompleted {
			return awsapi.Errorf("IncorrectState", "Snapshot '%s' is in the '%s' state: only completed snapshots can be copied.", from.ID, from.State)
		}
		if err := roomForSnapshot(tx, call.Account, ""); err != nil {
			return err
		}
		becomes, err := encrypted.settle(tx, call.Account, from.Encrypted)
		if err != nil {
			return err
		}
		store.Put(tx, store.Snapshots, &cloud.Snapshot{ID: id, Account: call.Account, Volume: copiedVolume, SizeGiB: from.SizeGiB, Node: from.Node, Source: from.ID, Origin: from.Origin, Encrypted: becomes,
			Description: description, Tags: tags["snapshot"], Created: call.Now, State: cloud.SnapshotPending})
		return nil
	})
	out := &ec2.CopySnapshotResult{SnapshotId: text(id)}
	if len(tags["snapshot"]) > 0 {
		out.Tags = tagList(tags["snapshot"])
	}
	return out, err
}

// copiedVolume is what EC2 shows as the volume of a copy.
const copiedVolume cloud.VolumeID = "vol-ffffffff"

func snapshotProgress(s *cloud.Snapshot) string {
	if s.State == cloud.SnapshotCompleted {
		return "100%"
	}
	return fmt.Sprintf("%d%%", s.Progress)
}

func snapshotShape(r store.Reader, s *cloud.Snapshot) ec2.Snapshot {
	out := ec2.Snapshot{SnapshotId: text(s.ID), VolumeId: text(s.Volume), VolumeSize: new(int64(s.SizeGiB)), OwnerId: text(s.Account), Description: new(s.Description), Encrypted: &s.Encrypted,
		KmsKeyId: keyOf(r, s.Account, s.Encrypted),
		Progress: new(snapshotProgress(s)), State: text(s.State), StateMessage: optional(s.Failure), StartTime: &s.Created, StorageTier: new("standard")}
	if len(s.Tags) > 0 {
		out.Tags = tagList(s.Tags)
	}
	return out
}

func (s *Service) describeSnapshots(_ context.Context, call *awsapi.Call, req *ec2.DescribeSnapshotsRequest) (*ec2.DescribeSnapshotsResult, error) {
	type S = *cloud.Snapshot
	none := func(S) []string { return nil }
	l := listing[cloud.SnapshotID, cloud.Snapshot]{table: store.Snapshots, account: store.SnapshotsByAccount, owner: ownerOfSnapshot, kind: kindSnapshot, id: func(s S) cloud.SnapshotID { return s.ID },
		filters: awsapi.FilterSet[S]{Tags: func(s S) map[string]string { return s.Tags }, Values: map[string]func(S) []string{
			"description": one(func(s S) string { return s.Description }),
			"encrypted":   one(func(s S) string { return boolText(s.Encrypted) }),
			"owner-alias": none, "transfer-type": none, "status-message": one(func(s S) string { return s.Failure }),
			"owner-id":     one(func(s S) string { return string(s.Account) }),
			"progress":     one(snapshotProgress),
			"snapshot-id":  one(func(s S) string { return string(s.ID) }),
			"start-time":   one(func(s S) string { return timeText(s.Created) }),
			"status":       one(func(s S) string { return string(s.State) }),
			"storage-tier": one(func(S) string { return "standard" }),
			"volume-id":    one(func(s S) string { return string(s.Volume) }),
			"volume-size":  one(func(s S) string { return fmt.Sprint(s.SizeGiB) }),
		}}}
	// Snapshots can't be shared yet: an account sees its own.
	owns := func(list []string, all ...string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(o string) bool { return o == string(call.Account) || slices.Contains(all, o) })
	}
	skip := func(s S) bool {
		return s.State == cloud.SnapshotDeleting || !owns(req.OwnerIds, "self") || !owns(req.RestorableByUserIds, "self", "all")
	}
	view := s.store.View()
	page, err := l.page(view, call.Account, req.SnapshotIds, req.Filters, req.MaxResults, req.NextToken, skip)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSnapshotsResult{NextToken: page.Next, Snapshots: []ec2.Snapshot{}}
	for _, snap := range page.Items {
		out.Snapshots = append(out.Snapshots, snapshotShape(view, snap))
	}
	return out, nil
}
