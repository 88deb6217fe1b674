package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// blocksAtOnce bounds how many blocks are read or written at a time: each is in memory meanwhile. The others wait.
	blocksAtOnce = 16
	blockLimit   = time.Minute
	idleEvery    = time.Minute
)

var errNoBlocks = errors.New("this server keeps no snapshots that are read block by block")

// blocks is the backend as one whose snapshots are read and written block by block.
func (v *volumes) blocks() (volume.Blocks, error) {
	if v.a.cfg.Volumes == nil {
		return nil, errNoVolumes
	}
	b, ok := v.a.cfg.Volumes.Backend.(volume.Blocks)
	if !ok {
		return nil, errNoBlocks
	}
	return b, nil
}

// refusals are the backend's errors that asking again doesn't help against.
var refusals = map[error]agentrpc.Refusal{
	volume.ErrNotFound: agentrpc.RefusedNotFound, volume.ErrUnrelated: agentrpc.RefusedUnrelated, volume.ErrNoBlock: agentrpc.RefusedNoBlock, volume.ErrSealed: agentrpc.RefusedSealed,
	volume.ErrRotten: agentrpc.RefusedRotten, volume.ErrTooLarge: agentrpc.RefusedTooLarge, volume.ErrTooManyLayers: agentrpc.RefusedTooLong,
}

func refused(err error) *agentrpc.Refused {
	for is, why := range refusals {
		if errors.Is(err, is) {
			return &agentrpc.Refused{Why: why, Text: err.Error()}
		}
	}
	return nil
}

// askBlocks answers what is asked of a snapshot's blocks.
func (v *volumes) askBlocks(ctx context.Context, q agentrpc.BlocksQuery) (*agentrpc.BlocksAnswer, error) {
	b, err := v.blocks()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, blockLimit)
	defer cancel()
	ans := &agentrpc.BlocksAnswer{Next: -1}
	var list volume.BlockList
	switch {
	case q.Begin != nil:
		err = b.Begin(ctx, volume.Staging{ID: q.Snapshot, Size: q.Begin.Size, Parent: q.Begin.Parent, Idle: q.Begin.Idle})
	case q.Written:
		var linear volume.BlockDigest
		ans.Count, linear, err = b.Written(ctx, q.Snapshot)
		ans.Linear = linear[:]
	case q.First != "":
		list, err = b.ListChanges(ctx, q.First, q.Snapshot, q.Related, q.From, q.Most)
	default:
		list, err = b.ListBlocks(ctx, q.Snapshot, q.From, q.Most)
	}
	if err != nil {
		if ans.Refused = refused(err); ans.Refused != nil {
			return ans, nil
		}
		return nil, err
	}
	if q.Begin == nil && !q.Written {
		ans.Next = list.Next
	}
	for _, x := range list.Blocks {
		ans.Blocks = append(ans.Blocks, agentrpc.Block(x))
	}
	return ans, nil
}

// blockEnd is what a block's tunnel leads to.
func (v *volumes) blockEnd(ctx context.Context, to agentrpc.BlockTarget) (io.ReadWriteCloser, error) {
	b, err := v.blocks()
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	v.a.wg.Go(func() {
		defer ours.Close()
		ctx, cancel := context.WithTimeout(ctx, blockLimit)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { ours.Close() })
		defer stop()
		if err := v.atOnce.Acquire(ctx, 1); err != nil {
			return
		}
		defer v.atOnce.Release(1)
		if err := carryBlock(ctx, b, to, ours); err != nil {
			v.a.log.Debug("a block's tunnel ended early", "snapshot", to.Snapshot, "block", to.Index, "error", err)
		}
	})
	return theirs, nil
}

func carryBlock(ctx context.Context, b volume.Blocks, to agentrpc.BlockTarget, c io.ReadWriter) error {
	var block []byte
	var err error
	if to.Write {
		block = make([]byte, volume.BlockSize)
		if _, err := io.ReadFull(c, block); err != nil {
			return err
		}
		err = b.WriteBlock(ctx, to.Snapshot, to.Index, block)
	} else {
		block, err = b.ReadBlock(ctx, to.Snapshot, to.Index)
	}
	head := agentrpc.BlockHead{Refused: refused(err)}
	if err != nil && head.Refused == nil {
		head.Error = err.Error()
	}
	if err := agentrpc.SendHead(c, head); err != nil || to.Write || head != (agentrpc.BlockHead{}) {
		return err
	}
	_, err = c.Write(block)
	return err
}

// complete makes a snapshot of the blocks that were written.
func (v *volumes) complete(ctx context.Context, id cloud.SnapshotID) error {
	b, err := v.blocks()
	if err != nil {
		return err
	}
	return b.Complete(ctx, id)
}

// watchIdle gives up snapshots that nobody writes any more, and tells so until they are deleted.
func (v *volumes) watchIdle(ctx context.Context) {
	b, err := v.blocks()
	if err != nil {
		return
	}
	tick := time.NewTicker(idleEvery)
	defer tick.Stop()
	for {
		over, err := b.Idle(ctx, time.Now())
		if err != nil {
			v.a.log.Error("look for snapshots that nobody writes any more", "error", err)
		}
		for _, id := range over {
			v.a.out.put("snapshot/"+string(id), &agentrpc.FromAgent{Snapshot: &agentrpc.SnapshotStatus{Snapshot: id,
				Error: fmt.Sprintf("Snapshot %s was not completed in time: no block was written for the timeout that it was started with.", id)}})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
