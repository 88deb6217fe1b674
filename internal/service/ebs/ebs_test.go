package ebs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ebs"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const owner, stranger = cloud.AccountID("111111111111"), cloud.AccountID("222222222222")

// world is a service whose only node keeps what is written to it, and lists its blocks in pages of one.
type world struct {
	t       *testing.T
	s       *Service
	store   *store.Store
	now     time.Time
	snap    cloud.SnapshotID // that is complete
	written map[int64][]byte
	refuse  error
}

func (w *world) Blocks(_ context.Context, _ cloud.NodeID, q agentrpc.BlocksQuery) (*agentrpc.BlocksAnswer, error) {
	switch {
	case w.refuse != nil:
		return nil, w.refuse
	case q.Written:
		h := sha256.New()
		for i := range int64(2) {
			if b, ok := w.written[i]; ok {
				sum := sha256.Sum256(b)
				h.Write(sum[:])
			}
		}
		return &agentrpc.BlocksAnswer{Count: int64(len(w.written)), Linear: h.Sum(nil), Next: -1}, nil
	case q.Begin != nil:
		return &agentrpc.BlocksAnswer{Next: -1}, nil
	case q.From == 0:
		return &agentrpc.BlocksAnswer{Blocks: []agentrpc.Block{{Index: 0, Second: true}}, Next: 1}, nil
	}
	return &agentrpc.BlocksAnswer{Blocks: []agentrpc.Block{{Index: q.From, First: true, Second: true}}, Next: -1}, nil
}

func (w *world) ReadBlock(_ context.Context, _ cloud.NodeID, _ cloud.SnapshotID, index int64, size int) ([]byte, error) {
	b := make([]byte, size)
	b[0] = byte(index)
	return b, w.refuse
}

func (w *world) WriteBlock(_ context.Context, _ cloud.NodeID, _ cloud.SnapshotID, index int64, block []byte) error {
	w.written[index] = block
	return nil
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: store.OpenMemory(), now: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), written: map[int64][]byte{}}
	t.Cleanup(func() { w.store.Close() })
	w.s = New(Config{Store: w.store, Nodes: w, Rand: rand.Reader, Now: func() time.Time { return w.now }, Logger: slog.New(slog.DiscardHandler)})
	node := cloud.NodeID("node-1")
	w.put(func(tx *store.Tx) { store.Put(tx, store.Nodes, &cloud.Node{ID: node, VolumeGiB: 100}) })
	w.snap = w.kept(owner)
	return w
}

func (w *world) put(fn func(*store.Tx)) {
	w.t.Helper()
	if err := w.store.Update(w.t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// kept is a complete snapshot of an account.
func (w *world) kept(account cloud.AccountID) cloud.SnapshotID {
	id := cloud.NewID[cloud.SnapshotID](rand.Reader)
	w.put(func(tx *store.Tx) {
		store.Put(tx, store.Snapshots, &cloud.Snapshot{ID: id, Account: account, Node: "node-1", Volume: "vol-0123456789abcdef0", SizeGiB: 1, State: cloud.SnapshotCompleted})
	})
	return id
}

func (w *world) call(account cloud.AccountID) *awsapi.Call {
	return &awsapi.Call{RequestID: "request", Now: w.now, Identity: awsapi.Identity{Account: account}}
}

func (w *world) list(account cloud.AccountID, id cloud.SnapshotID, next *string) (*ebs.ListSnapshotBlocksResponse, error) {
	return w.s.listSnapshotBlocks(w.t.Context(), w.call(account), &ebs.ListSnapshotBlocksRequest{SnapshotId: new(string(id)), NextToken: next})
}

func (w *world) get(account cloud.AccountID, id cloud.SnapshotID, index int64, token string) (*ebs.GetSnapshotBlockResponse, error) {
	return w.s.getSnapshotBlock(w.t.Context(), w.call(account), &ebs.GetSnapshotBlockRequest{SnapshotId: new(string(id)), BlockIndex: &index, BlockToken: &token})
}

func (w *world) start(change func(*ebs.StartSnapshotRequest)) (*ebs.StartSnapshotResponse, error) {
	req := &ebs.StartSnapshotRequest{VolumeSize: new(int64(1))}
	if change != nil {
		change(req)
	}
	return w.s.startSnapshot(w.t.Context(), w.call(owner), req)
}

func checksum(b []byte) *string {
	sum := sha256.Sum256(b)
	return new(base64.StdEncoding.EncodeToString(sum[:]))
}

func wants(t *testing.T, what string, err error, code, reason string) {
	t.Helper()
	var e *awsapi.Error
	if !errors.As(err, &e) || e.Code != code || e.Reason != reason {
		t.Errorf("%s: %v, not %s for %s", what, err, code, reason)
	}
}

func TestATokenIsForOneBlockOfOneSnapshotAndOneAccountForAWeek(t *testing.T) {
	w := newWorld(t)
	first, err := w.list(owner, w.snap, nil)
	if err != nil || len(first.Blocks) != 1 || first.NextToken == nil {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := w.list(owner, w.snap, first.NextToken)
	if err != nil || len(second.Blocks) != 1 || *second.Blocks[0].BlockIndex != 1 || second.NextToken != nil {
		t.Fatalf("%+v, %v", second, err)
	}
	other, token := w.kept(owner), *second.Blocks[0].BlockToken
	if b, err := w.get(owner, w.snap, 1, token); err != nil || b.BlockData[0] != 1 || *b.Checksum != *checksum(b.BlockData) {
		t.Errorf("%+v, %v", b, err)
	}
	_, err = w.get(owner, w.snap, 0, token)
	wants(t, "another block", err, "ValidationException", "INVALID_BLOCK_TOKEN")
	_, err = w.get(owner, other, 1, token)
	wants(t, "another snapshot", err, "ValidationException", "INVALID_BLOCK_TOKEN")
	_, err = w.get(owner, w.snap, 1, *first.NextToken)
	wants(t, "a page's token", err, "ValidationException", "INVALID_BLOCK_TOKEN")
	_, err = w.list(owner, other, first.NextToken)
	wants(t, "a page of another snapshot", err, "ValidationException", "INVALID_PAGE_TOKEN")
	_, err = w.list(owner, w.snap, &token)
	wants(t, "a block's token for a page", err, "ValidationException", "INVALID_PAGE_TOKEN")
	w.now = w.now.Add(tokenLife)
	if _, err := w.get(owner, w.snap, 1, token); err != nil {
		t.Errorf("within the week: %v", err)
	}
	w.now = w.now.Add(time.Second)
	_, err = w.get(owner, w.snap, 1, token)
	wants(t, "after a week", err, "ValidationException", "INVALID_BLOCK_TOKEN")
	w.refuse = &agentrpc.Refused{Why: agentrpc.RefusedNotFound}
	_, err = w.list(owner, w.snap, nil)
	wants(t, "content that is lost", err, "InternalServerException", "")
}

func TestAnotherAccountsSnapshotIsNotThere(t *testing.T) {
	w := newWorld(t)
	page, err := w.list(owner, w.snap, nil)
	if err != nil {
		t.Fatal(err)
	}
	id, ctx, call := new(string(w.snap)), t.Context(), w.call(stranger)
	_, list := w.list(stranger, w.snap, nil)
	_, changed := w.s.listChangedBlocks(ctx, call, &ebs.ListChangedBlocksRequest{FirstSnapshotId: new(string(w.kept(stranger))), SecondSnapshotId: id})
	_, get := w.get(stranger, w.snap, 0, *page.Blocks[0].BlockToken)
	_, put := w.s.putSnapshotBlock(ctx, call, &ebs.PutSnapshotBlockRequest{SnapshotId: id, BlockIndex: new(int64(0)), DataLength: new(int64(blockSize)), Checksum: new("")})
	_, complete := w.s.completeSnapshot(ctx, call, &ebs.CompleteSnapshotRequest{SnapshotId: id, ChangedBlocksCount: new(int64(0))})
	_, start := w.s.startSnapshot(ctx, call, &ebs.StartSnapshotRequest{VolumeSize: new(int64(1)), ParentSnapshotId: id})
	for what, err := range map[string]error{"ListSnapshotBlocks": list, "ListChangedBlocks": changed, "GetSnapshotBlock": get, "PutSnapshotBlock": put, "CompleteSnapshot": complete, "StartSnapshot": start} {
		wants(t, what, err, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND")
	}
}

func TestASnapshotIsWrittenWholeOrStaysOpen(t *testing.T) {
	w := newWorld(t)
	begun, err := w.start(func(r *ebs.StartSnapshotRequest) { r.ClientToken = new("token") })
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.start(func(r *ebs.StartSnapshotRequest) { r.ClientToken = new("token") }); err != nil || *again.SnapshotId != *begun.SnapshotId {
		t.Errorf("the retry answers %+v, %v", again, err)
	}
	_, err = w.start(func(r *ebs.StartSnapshotRequest) { r.ClientToken, r.VolumeSize = new("token"), new(int64(2)) })
	wants(t, "another call with its token", err, "ConflictException", "")
	block := make([]byte, blockSize)
	for what, change := range map[string]func(*ebs.PutSnapshotBlockRequest){
		"a wrong checksum": func(r *ebs.PutSnapshotBlockRequest) { r.Checksum = checksum([]byte("other")) },
		"half a block": func(r *ebs.PutSnapshotBlockRequest) {
			r.BlockData = block[:blockSize/2]
			r.Checksum = checksum(r.BlockData)
		},
		"another length":        func(r *ebs.PutSnapshotBlockRequest) { r.DataLength = new(int64(1)) },
		"a block after the end": func(r *ebs.PutSnapshotBlockRequest) { r.BlockIndex = new(int64(1<<30) / blockSize) },
		"":                      func(*ebs.PutSnapshotBlockRequest) {},
	} {
		req := &ebs.PutSnapshotBlockRequest{SnapshotId: begun.SnapshotId, BlockIndex: new(int64(1)), BlockData: block, DataLength: new(int64(blockSize)), Checksum: checksum(block), ChecksumAlgorithm: new("SHA256")}
		change(req)
		_, err := w.s.putSnapshotBlock(t.Context(), w.call(owner), req)
		if what != "" {
			wants(t, what, err, "ValidationException", "INVALID_BLOCK")
		} else if err != nil {
			t.Error(err)
		}
	}
	if len(w.written) != 1 {
		t.Errorf("the node was told to write %d blocks", len(w.written))
	}
	state := func() *cloud.Snapshot {
		s, _ := store.Get(w.store.View(), store.Snapshots, cloud.SnapshotID(*begun.SnapshotId))
		return s
	}
	complete := func(count int64, sum *string) error {
		_, err := w.s.completeSnapshot(t.Context(), w.call(owner), &ebs.CompleteSnapshotRequest{SnapshotId: begun.SnapshotId, ChangedBlocksCount: &count, Checksum: sum,
			ChecksumAlgorithm: new("SHA256"), ChecksumAggregationMethod: new("LINEAR")})
		return err
	}
	wants(t, "a wrong count", complete(2, nil), "ValidationException", "INVALID_PARAMETER_VALUE")
	wants(t, "a wrong sum", complete(1, checksum(block)), "ValidationException", "INVALID_PARAMETER_VALUE")
	if !state().Writing {
		t.Error("it was completed all the same")
	}
	digest := sha256.Sum256(block)
	for range 2 { // the second is a retry
		if err := complete(1, checksum(digest[:])); err != nil || state().Writing {
			t.Errorf("it is not completed: %v", err)
		}
	}
	_, err = w.s.putSnapshotBlock(t.Context(), w.call(owner), &ebs.PutSnapshotBlockRequest{SnapshotId: begun.SnapshotId, BlockIndex: new(int64(0)), BlockData: block, DataLength: new(int64(blockSize)), Checksum: checksum(block)})
	wants(t, "a block after completion", err, "ValidationException", "INVALID_SNAPSHOT_ID")
}

func TestWhatCanNotBeStartedIsNotLeftOpen(t *testing.T) {
	w := newWorld(t)
	large := w.kept(owner)
	w.put(func(tx *store.Tx) {
		s, _ := store.Get(tx, store.Snapshots, large)
		s.SizeGiB = 5
		store.Put(tx, store.Snapshots, s)
	})
	_, err := w.start(func(r *ebs.StartSnapshotRequest) { r.ParentSnapshotId = new(string(large)) })
	wants(t, "smaller than its parent", err, "ValidationException", "INVALID_VOLUME_SIZE")
	_, err = w.start(func(r *ebs.StartSnapshotRequest) { r.VolumeSize = new(int64(101)) })
	wants(t, "larger than the disk", err, "ValidationException", "INVALID_VOLUME_SIZE")
	w.refuse = &agentrpc.Refused{Why: agentrpc.RefusedTooLong}
	_, err = w.start(nil)
	wants(t, "of too many layers", err, "ValidationException", "INVALID_SNAPSHOT_ID")
	w.refuse = nil
	for _, s := range store.ListBy(w.store.View(), store.SnapshotsByAccount, owner) {
		if s.Writing || s.Written && s.State != cloud.SnapshotError {
			t.Errorf("left is %+v", s)
		}
	}
	for range maxWritten {
		if _, err := w.start(nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.start(nil)
	wants(t, "one too many", err, "ConcurrentLimitExceededException", "")
}
