package ebs

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ebs"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	// maxWritten bounds an account's snapshots that are being written, maxSnapshots all of its; maxSize is EBS's, in GiB.
	maxWritten   = 100
	maxSnapshots = 100_000
	maxSize      = 65_536
	// timeout is how long a snapshot waits for its next block, unless the caller says otherwise.
	timeout = 60 * time.Minute
	// writtenVolume is what EC2 shows as the volume of a snapshot that was written.
	writtenVolume cloud.VolumeID = "vol-ffffffff"
)

func tagsOf(list []ebs.Tag) (cloud.Tags, error) {
	tags := cloud.Tags{}
	for _, t := range list {
		key, value := deref(t.Key), deref(t.Value)
		_, twice := tags[key]
		switch {
		case key == "" || utf8.RuneCountInString(key) > cloud.MaxTagKeyLength || utf8.RuneCountInString(value) > cloud.MaxTagValueLength:
			return nil, invalid("INVALID_TAG", "A tag's key has 1 to %d characters and its value %d at most.", cloud.MaxTagKeyLength, cloud.MaxTagValueLength)
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return nil, invalid("INVALID_TAG", "Tag keys starting with 'aws:' are reserved for internal use: '%s'.", key)
		case twice:
			return nil, invalid("INVALID_TAG", "The tag key '%s' is given more than once.", key)
		}
		tags[key] = value
	}
	if len(tags) > cloud.MaxTagsPerResource {
		return nil, invalid("INVALID_TAG", "More than %d tags are given.", cloud.MaxTagsPerResource)
	}
	return tags, nil
}

func (s *Service) startSnapshot(ctx context.Context, call *awsapi.Call, req *ebs.StartSnapshotRequest) (*ebs.StartSnapshotResponse, error) {
	tags, err := tagsOf(req.Tags)
	switch {
	case err != nil:
		return nil, err
	case deref(req.Encrypted):
		return nil, awsapi.Unsupported("The value true of Encrypted is not supported by this cloud for snapshots that are written block by block.")
	case *req.VolumeSize > maxSize:
		return nil, invalid("INVALID_VOLUME_SIZE", "A volume has %d GiB at most.", maxSize)
	}
	id, hash := cloud.NewID[cloud.SnapshotID](s.cfg.Rand), awsapi.RequestHash(req)
	var snap *cloud.Snapshot
	err = s.update(ctx, call, func(tx *store.Tx) error {
		var err error
		if snap, err = replayed(tx, call, deref(req.ClientToken), hash); err != nil || snap != nil {
			return err
		}
		snap = &cloud.Snapshot{ID: id, Account: call.Account, Volume: writtenVolume, SizeGiB: int(*req.VolumeSize), Parent: cloud.SnapshotID(deref(req.ParentSnapshotId)), Description: deref(req.Description),
			Tags: tags, Created: call.Now, State: cloud.SnapshotPending, Written: true, Writing: true}
		if snap.Node, err = place(tx, call.Account, snap); err != nil {
			return err
		}
		if req.ClientToken != nil {
			store.Put(tx, store.ClientTokens, &cloud.ClientToken{Account: call.Account, Action: startAction, Token: *req.ClientToken, Request: hash, Resource: string(id), Created: call.Now})
		}
		store.Put(tx, store.Snapshots, snap)
		return nil
	})
	if err != nil {
		return nil, err
	}
	begin := &agentrpc.BeginSnapshot{Size: int64(snap.SizeGiB) << 30, Parent: snap.Parent, Idle: timeout}
	if req.Timeout != nil {
		begin.Idle = time.Duration(*req.Timeout) * time.Minute
	}
	// The record first: a retry by the same token finds it, and begins again what was not begun.
	if snap.Writing {
		if _, err := s.cfg.Nodes.Blocks(ctx, snap.Node, agentrpc.BlocksQuery{Snapshot: snap.ID, Begin: begin}); err != nil {
			var refused *agentrpc.Refused
			if errors.As(err, &refused) { // no retry helps
				err = errors.Join(err, s.update(ctx, call, func(tx *store.Tx) error {
					if snap, ok := store.Get(tx, store.Snapshots, snap.ID); ok && snap.Writing {
						snap.State, snap.Failure, snap.Writing = cloud.SnapshotError, refused.Text, false
						store.Put(tx, store.Snapshots, snap)
					}
					return nil
				}))
			}
			return nil, s.answer(call, snap.ID, err)
		}
	}
	out := &ebs.StartSnapshotResponse{SnapshotId: new(string(snap.ID)), OwnerId: new(string(snap.Account)), Status: new(string(snap.State)), StartTime: &snap.Created,
		VolumeSize: new(int64(snap.SizeGiB)), BlockSize: new(int64(blockSize)), SseType: new("none")}
	if snap.Description != "" {
		out.Description = &snap.Description
	}
	if snap.Parent != "" {
		out.ParentSnapshotId = new(string(snap.Parent))
	}
	out.Tags = req.Tags
	return out, nil
}

const startAction = "StartSnapshot"

// replayed is the snapshot that an earlier call with the same token has started, nil for none.
func replayed(tx *store.Tx, call *awsapi.Call, token, hash string) (*cloud.Snapshot, error) {
	if token == "" {
		return nil, nil
	}
	done, ok := store.Get(tx, store.ClientTokens, store.TokenKey(call.Account, startAction, token))
	if !ok {
		return nil, nil
	}
	if done.Request != hash {
		return nil, awsapi.Errorf("ConflictException", "The client token was used before with other parameters; use a new one.")
	}
	return snapshot(tx, call.Account, done.Resource)
}

// place finds the node for a snapshot that is going to be written: its parent's, or the one with the largest disk.
func place(tx *store.Tx, account cloud.AccountID, snap *cloud.Snapshot) (cloud.NodeID, error) {
	if settings, ok := store.Get(tx, store.AccountSettings, account); ok && settings.EncryptVolumes {
		return "", awsapi.Unsupported("This account has all its volumes encrypted, and this cloud does not write encrypted snapshots block by block yet.")
	}
	writing := 0
	list := store.ListBy(tx.View(), store.SnapshotsByAccount, account)
	for _, other := range list {
		if other.Writing && other.State == cloud.SnapshotPending {
			writing++
		}
	}
	switch {
	case writing >= maxWritten:
		return "", awsapi.Errorf("ConcurrentLimitExceededException", "%d snapshots are being written already; complete or delete some.", writing)
	case len(list) >= maxSnapshots:
		return "", awsapi.Errorf("ServiceQuotaExceededException", "The maximum number of snapshots, %d, has been reached.", maxSnapshots)
	}
	if snap.Parent != "" {
		parent, err := whole(tx, account, string(snap.Parent))
		switch {
		case err != nil:
			return "", err
		case parent.SizeGiB > snap.SizeGiB:
			return "", invalid("INVALID_VOLUME_SIZE", "The volume size '%d' is smaller than the size '%d' of the parent snapshot '%s'.", snap.SizeGiB, parent.SizeGiB, parent.ID)
		}
		return parent.Node, nil
	}
	var best *cloud.Node
	for _, n := range store.List(tx, store.Nodes) {
		if best == nil || n.VolumeGiB > best.VolumeGiB || n.VolumeGiB == best.VolumeGiB && n.ID < best.ID {
			best = n
		}
	}
	switch {
	case best == nil || best.VolumeGiB == 0:
		return "", internal("No server keeps snapshots; `nacre doctor` tells what is missing.")
	case snap.SizeGiB > best.VolumeGiB:
		return "", invalid("INVALID_VOLUME_SIZE", "A volume of %d GiB is larger than the disk that its snapshot would be on, which has %d GiB.", snap.SizeGiB, best.VolumeGiB)
	}
	return best.ID, nil
}

func (s *Service) putSnapshotBlock(ctx context.Context, call *awsapi.Call, req *ebs.PutSnapshotBlockRequest) (*ebs.PutSnapshotBlockResponse, error) {
	snap, err := snapshot(s.store.View(), call.Account, *req.SnapshotId)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(req.BlockData)
	switch {
	case !snap.Writing:
		return nil, invalid("INVALID_SNAPSHOT_ID", "The snapshot '%s' is in the '%s' state and is not being written.", snap.ID, snap.State)
	case len(req.BlockData) != blockSize || *req.DataLength != blockSize:
		return nil, invalid("INVALID_BLOCK", "A block has %d bytes; %d were sent and the data length is %d.", blockSize, len(req.BlockData), *req.DataLength)
	case *req.BlockIndex >= int64(snap.SizeGiB)<<30/blockSize:
		return nil, invalid("INVALID_BLOCK", "The snapshot '%s' of %d GiB has no block %d.", snap.ID, snap.SizeGiB, *req.BlockIndex)
	case *req.Checksum != base64.StdEncoding.EncodeToString(sum[:]):
		return nil, invalid("INVALID_BLOCK", "The checksum is not that of the data that arrived, which is %s.", base64.StdEncoding.EncodeToString(sum[:]))
	}
	if err := s.cfg.Nodes.WriteBlock(ctx, snap.Node, snap.ID, *req.BlockIndex, req.BlockData); err != nil {
		return nil, s.answer(call, snap.ID, err)
	}
	if req.Progress != nil && int(*req.Progress) != snap.Progress {
		err := s.update(ctx, call, func(tx *store.Tx) error {
			if snap, ok := store.Get(tx, store.Snapshots, snap.ID); ok && snap.Writing {
				snap.Progress = int(*req.Progress)
				store.Put(tx, store.Snapshots, snap)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return &ebs.PutSnapshotBlockResponse{Checksum: req.Checksum, ChecksumAlgorithm: req.ChecksumAlgorithm}, nil
}

func (s *Service) completeSnapshot(ctx context.Context, call *awsapi.Call, req *ebs.CompleteSnapshotRequest) (*ebs.CompleteSnapshotResponse, error) {
	snap, err := snapshot(s.store.View(), call.Account, *req.SnapshotId)
	switch {
	case err != nil:
		return nil, err
	case !snap.Written:
		return nil, invalid("INVALID_SNAPSHOT_ID", "The snapshot '%s' was not started by StartSnapshot.", snap.ID)
	case req.Checksum != nil && (req.ChecksumAlgorithm == nil || req.ChecksumAggregationMethod == nil):
		return nil, invalid("INVALID_PARAMETER_VALUE", "A checksum comes with its algorithm, SHA256, and its aggregation method, LINEAR.")
	case !snap.Writing: // by an earlier call
		return &ebs.CompleteSnapshotResponse{Status: new(string(snap.State))}, nil
	}
	written, err := s.cfg.Nodes.Blocks(ctx, snap.Node, agentrpc.BlocksQuery{Snapshot: snap.ID, Written: true})
	if err != nil {
		return nil, s.answer(call, snap.ID, err)
	}
	if written.Count != *req.ChangedBlocksCount {
		return nil, invalid("INVALID_PARAMETER_VALUE", "%d blocks of the snapshot '%s' were written, and ChangedBlocksCount is %d.", written.Count, snap.ID, *req.ChangedBlocksCount)
	}
	if sum := base64.StdEncoding.EncodeToString(written.Linear); req.Checksum != nil && *req.Checksum != sum {
		return nil, invalid("INVALID_PARAMETER_VALUE", "The checksum over the checksums of all blocks is not that of the blocks that were written, which is %s.", sum)
	}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		now, err := snapshot(tx, call.Account, *req.SnapshotId)
		if err != nil {
			return err
		}
		snap = now
		if !snap.Writing {
			return nil
		}
		snap.Writing = false // its node makes it of what was written
		store.Put(tx, store.Snapshots, snap)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("complete snapshot %s: %w", snap.ID, err)
	}
	return &ebs.CompleteSnapshotResponse{Status: new(string(snap.State))}, nil
}
