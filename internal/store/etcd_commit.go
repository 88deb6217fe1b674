package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (b *etcd) commit(ctx context.Context, guards []guard, writes []write) (int64, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	conditions := make([]clientv3.Cmp, len(guards))
	for i, g := range guards {
		conditions[i] = clientv3.Compare(clientv3.ModRevision(g.key), "=", g.revision)
	}
	ops := make([]clientv3.Op, len(writes))
	for i, w := range writes {
		if w.remove {
			ops[i] = clientv3.OpDelete(w.key)
		} else {
			ops[i] = clientv3.OpPut(w.key, string(w.value))
		}
	}
	resp, err := b.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil {
		return 0, false, classify(err)
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// classify tells the errors with which etcd refuses a request from those that leave open what
// became of it.
func classify(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, rpctypes.ErrTooManyRequests), errors.Is(err, rpctypes.ErrDuplicateKey):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUncertain, err)
}

func (b *etcd) load(ctx context.Context) (delta, error) {
	var d delta
	from := root
	for {
		opts := []clientv3.OpOption{
			clientv3.WithRange(clientv3.GetPrefixRangeEnd(root)),
			clientv3.WithLimit(loadPage),
		}
		if d.revision != 0 {
			opts = append(opts, clientv3.WithRev(d.revision))
		}
		page, err := b.client.Get(ctx, from, opts...)
		if err != nil {
			return delta{}, fmt.Errorf("read all keys from %q: %w", from, err)
		}
		if d.revision == 0 {
			d.revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			d.events = append(d.events, event{key: string(kv.Key), value: kv.Value, revision: kv.ModRevision})
		}
		if !page.More {
			return d, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// follow watches all of etcd, not only the store's keys, so that the view reaches every
// revision that a commit may report.
func (b *etcd) follow(ctx context.Context, after int64, apply func(delta) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range b.client.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		if resp.CompactRevision != 0 {
			return errTrimmed
		}
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch etcd after revision %d: %w", after, err)
		}
		if len(resp.Events) == 0 {
			continue
		}
		// A response has whole revisions only, as it is never split in the process.
		d := delta{events: make([]event, len(resp.Events))}
		for i, e := range resp.Events {
			d.events[i] = event{
				key:      string(e.Kv.Key),
				value:    e.Kv.Value,
				deleted:  e.Type == mvccpb.Event_DELETE,
				revision: e.Kv.ModRevision,
			}
			d.revision = e.Kv.ModRevision
		}
		if err := apply(d); err != nil {
			return err
		}
		after = d.revision
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("watch etcd after revision %d: the watch ended", after)
}
