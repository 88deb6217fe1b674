package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// BlockSize is the unit in which snapshots are read and written from outside, in bytes.
const BlockSize = 512 << 10

var (
	// ErrRotten is returned for content that is not what was written, and could not be repaired yet.
	ErrRotten = errors.New("what is on the disk is not what was written")
	// ErrUnrelated is returned for a comparison of snapshots that have no layer in common.
	ErrUnrelated = errors.New("the snapshots have nothing in common")
	// ErrNoBlock is returned for a block beyond the end.
	ErrNoBlock = errors.New("there is no such block")
	// ErrSealed is returned for a block of a snapshot that is written no more.
	ErrSealed = errors.New("the snapshot is not being written")
	// ErrMismatch is returned for a snapshot whose blocks are not those that its writer tells of.
	ErrMismatch = errors.New("the snapshot's blocks are not those that were meant")
)

// BlockDigest is the SHA-256 of a block.
type BlockDigest [sha256.Size]byte

// BlockList is a part of a snapshot's blocks, by ascending index.
type BlockList struct {
	Blocks []ListedBlock
	Next   int64 // from where to go on; -1 after the last
}

// ListedBlock is a block that may hold more than zeros in the first or in the second of two snapshots. A list of one has no first.
type ListedBlock struct {
	Index         int64
	First, Second bool
}

// Staging is a snapshot that is written block by block.
type Staging struct {
	ID     cloud.SnapshotID
	Size   int64            // bytes
	Parent cloud.SnapshotID // what it holds where nothing is written; "" for zeros
	Idle   time.Duration    // for how long nothing may be written before it is given up
}

// Blocks is a backend whose snapshots are read and written block by block. What it
// was told to write is on the disk when the call returns. Every call may be repeated.
type Blocks interface {
	// ListBlocks tells which blocks of a snapshot may hold more than zeros, from an index on, so many at most.
	ListBlocks(ctx context.Context, id cloud.SnapshotID, from int64, most int) (BlockList, error)

	// ListChanges tells which blocks of second may differ from those of first. related says that they are of one volume; without it they must have a layer in common.
	ListChanges(ctx context.Context, first, second cloud.SnapshotID, related bool, from int64, most int) (BlockList, error)

	// ReadBlock reads a block.
	ReadBlock(ctx context.Context, id cloud.SnapshotID, index int64) ([]byte, error)

	// Begin makes a snapshot that is written by WriteBlock and is none before Complete.
	Begin(ctx context.Context, s Staging) error

	// WriteBlock writes a block, the whole of it.
	WriteBlock(ctx context.Context, id cloud.SnapshotID, index int64, block []byte) error

	// Written tells how many blocks were written, and the SHA-256 of their digests in the order of their indices.
	Written(ctx context.Context, id cloud.SnapshotID) (blocks int64, linear BlockDigest, err error)

	// Complete makes a snapshot of what was written.
	Complete(ctx context.Context, id cloud.SnapshotID) error

	// Idle gives up what was begun and not written to for too long, and lists all that was given up and not deleted.
	Idle(ctx context.Context, now time.Time) ([]cloud.SnapshotID, error)
}
