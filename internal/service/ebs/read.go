package ebs

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ebs"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// mostBlocks is how many a page has at most, and has unless the caller says less.
const mostBlocks = 10_000

// page is where a list begins, and how long its page is. question is what the list is of.
func page(key []byte, next *string, most, starting *int64, question ...string) (from int64, n int, err error) {
	if n = mostBlocks; most != nil {
		n = int(*most)
	}
	if next == nil { // with a token, the index is not looked at
		return deref(starting), n, nil
	}
	from, ok := opened(key, *next, append([]string{"page"}, question...)...)
	if !ok {
		return 0, 0, invalid("INVALID_PAGE_TOKEN", "The token is not valid for this request; use the one of its last answer.")
	}
	return from, n, nil
}

// goesOn is the token of the next page, nil for none.
func goesOn(key []byte, next int64, question ...string) *string {
	if next < 0 {
		return nil
	}
	return new(token(key, next, append([]string{"page"}, question...)...))
}

func (s *Service) listSnapshotBlocks(ctx context.Context, call *awsapi.Call, req *ebs.ListSnapshotBlocksRequest) (*ebs.ListSnapshotBlocksResponse, error) {
	snap, err := whole(s.store.View(), call.Account, *req.SnapshotId)
	if err != nil {
		return nil, err
	}
	key, err := s.key(ctx)
	if err != nil {
		return nil, err
	}
	question := []string{string(call.Account), string(snap.ID)}
	from, most, err := page(key, req.NextToken, req.MaxResults, req.StartingBlockIndex, question...)
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Nodes.Blocks(ctx, snap.Node, agentrpc.BlocksQuery{Snapshot: snap.ID, From: from, Most: most})
	if err != nil {
		return nil, s.answer(call, snap.ID, err)
	}
	ends := call.Now.Add(tokenLife)
	out := &ebs.ListSnapshotBlocksResponse{Blocks: []ebs.Block{}, BlockSize: new(int64(blockSize)), VolumeSize: new(int64(snap.SizeGiB)), ExpiryTime: &ends, NextToken: goesOn(key, found.Next, question...)}
	for _, b := range found.Blocks {
		out.Blocks = append(out.Blocks, ebs.Block{BlockIndex: &b.Index, BlockToken: blockToken(key, call.Account, snap.ID, b.Index, ends)})
	}
	return out, nil
}

func (s *Service) listChangedBlocks(ctx context.Context, call *awsapi.Call, req *ebs.ListChangedBlocksRequest) (*ebs.ListChangedBlocksResponse, error) {
	if req.FirstSnapshotId == nil {
		return nil, invalid("INVALID_PARAMETER_VALUE", "The parameter firstSnapshotId must be given: with what the second snapshot is compared.")
	}
	view := s.store.View()
	first, err := whole(view, call.Account, *req.FirstSnapshotId)
	if err != nil {
		return nil, err
	}
	second, err := whole(view, call.Account, *req.SecondSnapshotId)
	if err != nil {
		return nil, err
	}
	if first.Node != second.Node {
		return nil, invalid("UNRELATED_SNAPSHOTS", "The snapshots '%s' and '%s' are kept by different servers.", first.ID, second.ID)
	}
	key, err := s.key(ctx)
	if err != nil {
		return nil, err
	}
	question := []string{string(call.Account), string(first.ID), string(second.ID)}
	from, most, err := page(key, req.NextToken, req.MaxResults, req.StartingBlockIndex, question...)
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Nodes.Blocks(ctx, second.Node, agentrpc.BlocksQuery{Snapshot: second.ID, First: first.ID, Related: related(first, second), From: from, Most: most})
	if err != nil {
		return nil, s.answer(call, second.ID, err)
	}
	ends := call.Now.Add(tokenLife)
	out := &ebs.ListChangedBlocksResponse{ChangedBlocks: []ebs.ChangedBlock{}, BlockSize: new(int64(blockSize)), VolumeSize: new(int64(second.SizeGiB)), ExpiryTime: &ends,
		NextToken: goesOn(key, found.Next, question...)}
	for _, b := range found.Blocks {
		c := ebs.ChangedBlock{BlockIndex: &b.Index}
		if b.First {
			c.FirstBlockToken = blockToken(key, call.Account, first.ID, b.Index, ends)
		}
		if b.Second {
			c.SecondBlockToken = blockToken(key, call.Account, second.ID, b.Index, ends)
		}
		out.ChangedBlocks = append(out.ChangedBlocks, c)
	}
	return out, nil
}

// related tells whether two snapshots are known to be of one volume. Of those that were copied or written the node knows whether they have layers in common.
func related(first, second *cloud.Snapshot) bool {
	for _, s := range []*cloud.Snapshot{first, second} {
		if s.Written || s.Source != "" {
			return false
		}
	}
	return first.Volume == second.Volume
}

func (s *Service) getSnapshotBlock(ctx context.Context, call *awsapi.Call, req *ebs.GetSnapshotBlockRequest) (*ebs.GetSnapshotBlockResponse, error) {
	snap, err := whole(s.store.View(), call.Account, *req.SnapshotId)
	if err != nil {
		return nil, err
	}
	key, err := s.key(ctx)
	if err != nil {
		return nil, err
	}
	ends, ok := opened(key, *req.BlockToken, "block", string(call.Account), string(snap.ID), fmt.Sprint(*req.BlockIndex))
	if !ok || call.Now.Unix() > ends {
		return nil, invalid("INVALID_BLOCK_TOKEN", "The token is not valid for the block %d of the snapshot '%s', or has expired; ListSnapshotBlocks and ListChangedBlocks give new ones.", *req.BlockIndex, snap.ID)
	}
	block, err := s.cfg.Nodes.ReadBlock(ctx, snap.Node, snap.ID, *req.BlockIndex, blockSize)
	if err != nil {
		return nil, s.answer(call, snap.ID, err)
	}
	sum := sha256.Sum256(block)
	return &ebs.GetSnapshotBlockResponse{BlockData: block, DataLength: new(int64(len(block))), Checksum: new(base64.StdEncoding.EncodeToString(sum[:])), ChecksumAlgorithm: new("SHA256")}, nil
}
