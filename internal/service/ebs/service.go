// Package ebs answers the EBS direct API: snapshots read, compared and written block by block, without a volume or an instance.
//
// Snapshots are EC2's, kept in the same table; their bytes never stay here: a block goes from the node that keeps it to the caller, or back, within the call, and one
// is in memory a call at most. What a caller writes is held against his checksum, and is on
// the node's disk when he is answered.
package ebs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ebs"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// blockSize is EBS's, in bytes.
const blockSize = 512 << 10

// Nodes reaches the nodes that keep snapshots. What a node refuses is an *agentrpc.Refused.
type Nodes interface {
	Blocks(ctx context.Context, node cloud.NodeID, q agentrpc.BlocksQuery) (*agentrpc.BlocksAnswer, error)
	ReadBlock(ctx context.Context, node cloud.NodeID, id cloud.SnapshotID, index int64, size int) ([]byte, error)
	WriteBlock(ctx context.Context, node cloud.NodeID, id cloud.SnapshotID, index int64, block []byte) error
}

// Config is what the service works with.
type Config struct {
	Store  *store.Store
	Nodes  Nodes
	Rand   io.Reader
	Now    func() time.Time
	Logger *slog.Logger
}

// Service answers the actions.
type Service struct {
	cfg   Config
	store *store.Store
}

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg, store: cfg.Store} }

// Register adds the service's actions.
func (s *Service) Register(r *awsapi.Registry) {
	awsapi.Handle(r, ebs.ActionListSnapshotBlocks, s.listSnapshotBlocks, awsapi.Honours("SnapshotId", "NextToken", "MaxResults", "StartingBlockIndex"))
	awsapi.Handle(r, ebs.ActionListChangedBlocks, s.listChangedBlocks, awsapi.Honours("FirstSnapshotId", "SecondSnapshotId", "NextToken", "MaxResults", "StartingBlockIndex"))
	awsapi.Handle(r, ebs.ActionGetSnapshotBlock, s.getSnapshotBlock, awsapi.Honours("SnapshotId", "BlockIndex", "BlockToken"))
	awsapi.Handle(r, ebs.ActionStartSnapshot, s.startSnapshot, awsapi.Honours("VolumeSize", "ParentSnapshotId", "Tags", "Description", "ClientToken", "Encrypted", "Timeout"))
	awsapi.Handle(r, ebs.ActionPutSnapshotBlock, s.putSnapshotBlock, awsapi.Honours("SnapshotId", "BlockIndex", "BlockData", "DataLength", "Progress", "Checksum", "ChecksumAlgorithm"))
	awsapi.Handle(r, ebs.ActionCompleteSnapshot, s.completeSnapshot, awsapi.Honours("SnapshotId", "ChangedBlocksCount", "Checksum", "ChecksumAlgorithm", "ChecksumAggregationMethod"))
}

func invalid(reason, format string, args ...any) *awsapi.Error {
	e := awsapi.Errorf("ValidationException", format, args...)
	e.Reason = reason
	return e
}

func internal(format string, args ...any) *awsapi.Error {
	return awsapi.Errorf("InternalServerException", format, args...)
}

// snapshot finds one of the caller's.
func snapshot(r store.Reader, account cloud.AccountID, id string) (*cloud.Snapshot, error) {
	if !cloud.ValidID[cloud.SnapshotID](id) {
		return nil, invalid("INVALID_SNAPSHOT_ID", "The value '%.64s' is no snapshot's ID, such as snap-0123456789abcdef0.", id)
	}
	snap, ok := store.Get(r, store.Snapshots, cloud.SnapshotID(id))
	if !ok || snap.Account != account || snap.State == cloud.SnapshotDeleting {
		e := awsapi.Errorf("ResourceNotFoundException", "The snapshot '%s' does not exist.", id)
		e.Reason = "SNAPSHOT_NOT_FOUND"
		return nil, e
	}
	return snap, nil
}

// whole finds one of the caller's that can be read.
func whole(r store.Reader, account cloud.AccountID, id string) (*cloud.Snapshot, error) {
	snap, err := snapshot(r, account, id)
	if err == nil && snap.State != cloud.SnapshotCompleted {
		err = invalid("INVALID_SNAPSHOT_ID", "The snapshot '%s' is in the '%s' state: only completed snapshots can be read.", id, snap.State)
	}
	if err == nil && snap.Encrypted {
		err = awsapi.Unsupported("The snapshot '%s' is encrypted, and this cloud does not read encrypted snapshots block by block yet; make a volume of it.", id)
	}
	return snap, err
}

// answer says what a node answered in EBS's words.
func (s *Service) answer(call *awsapi.Call, id cloud.SnapshotID, err error) error {
	var refused *agentrpc.Refused
	if !errors.As(err, &refused) {
		if errors.Is(err, agentrpc.ErrNodeAway) {
			return internal("The server that keeps the snapshot '%s' is not connected; try again.", id)
		}
		s.cfg.Logger.Warn("a snapshot's blocks can't be reached", "snapshot", id, "request", call.RequestID, "error", err)
		return internal("The blocks of the snapshot '%s' can't be reached now; try again. The operator finds the reason in nacre's log by the request id.", id)
	}
	s.cfg.Logger.Info("a snapshot's node refuses", "snapshot", id, "request", call.RequestID, "why", refused)
	switch refused.Why {
	case agentrpc.RefusedNotFound:
		return internal("The content of the snapshot '%s' is lost: its server does not have it.", id)
	case agentrpc.RefusedUnrelated:
		return invalid("UNRELATED_SNAPSHOTS", "The snapshots are not of one volume, and none was made of the other's.")
	case agentrpc.RefusedNoBlock:
		return invalid("INVALID_BLOCK", "The snapshot '%s' has no block of this index.", id)
	case agentrpc.RefusedSealed:
		return invalid("INVALID_SNAPSHOT_ID", "The snapshot '%s' is not being written: it is complete, or was given up as nothing was written for its timeout.", id)
	case agentrpc.RefusedTooLarge:
		return invalid("INVALID_VOLUME_SIZE", "The volume size is larger than the disk that the snapshot would be on, or smaller than its parent's.")
	case agentrpc.RefusedTooLong:
		return invalid("INVALID_SNAPSHOT_ID", "The parent of the snapshot '%s' is made of too many snapshots already; start one without a parent.", id)
	}
	return internal("The block is damaged: what is on the disk is not what was written. Other blocks of the snapshot can be read; the operator finds the file in nacre's log.")
}

func (s *Service) update(ctx context.Context, call *awsapi.Call, fn func(*store.Tx) error) error {
	err := s.store.Update(ctx, func(tx *store.Tx) error {
		tx.At(call.Now)
		return fn(tx)
	})
	switch {
	case errors.Is(err, store.ErrContended):
		return internal("The snapshot is being changed by other calls; try again.")
	case errors.Is(err, store.ErrFull):
		return internal("The cloud's store is full; the operator has to make room.")
	}
	return err
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
