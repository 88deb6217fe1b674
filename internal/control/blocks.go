package control

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Blocks asks a node about a snapshot's blocks. What the node refuses is an *agentrpc.Refused.
func (g *Gateway) Blocks(ctx context.Context, node cloud.NodeID, q agentrpc.BlocksQuery) (*agentrpc.BlocksAnswer, error) {
	ans, err := g.ask(ctx, node, agentrpc.Query{Blocks: &q})
	switch {
	case err != nil:
	case ans.Blocks == nil:
		err = errors.New(ans.Error)
	case ans.Blocks.Refused != nil:
		err = ans.Blocks.Refused
	}
	if err != nil {
		return nil, fmt.Errorf("the blocks of snapshot %s: %w", q.Snapshot, err)
	}
	return ans.Blocks, nil
}

// ReadBlock fetches a block of a snapshot, of size bytes.
func (g *Gateway) ReadBlock(ctx context.Context, node cloud.NodeID, id cloud.SnapshotID, index int64, size int) ([]byte, error) {
	t, err := g.Open(ctx, node, agentrpc.Target{Block: &agentrpc.BlockTarget{Snapshot: id, Index: index}})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	defer context.AfterFunc(ctx, func() { t.Close() })()
	r := agentrpc.NewHeadReader(t)
	if err := agentrpc.ReceiveHead(r); err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read the block %d of snapshot %s: %w", index, id, err)
	}
	return b, nil
}

// WriteBlock sends a block to a snapshot that is being written. It is on the node's disk when it returns.
func (g *Gateway) WriteBlock(ctx context.Context, node cloud.NodeID, id cloud.SnapshotID, index int64, block []byte) error {
	t, err := g.Open(ctx, node, agentrpc.Target{Block: &agentrpc.BlockTarget{Snapshot: id, Index: index, Write: true}})
	if err != nil {
		return err
	}
	defer t.Close()
	defer context.AfterFunc(ctx, func() { t.Close() })()
	if _, err := t.Write(block); err != nil {
		return fmt.Errorf("write the block %d of snapshot %s: %w", index, id, err)
	}
	return agentrpc.ReceiveHead(agentrpc.NewHeadReader(t))
}
