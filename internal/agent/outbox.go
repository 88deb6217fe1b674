package agent

import (
	"context"
	"sync"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
)

// outbox holds what is still to be told to the control plane. Of facts about the same thing
// only the newest is kept, so it never grows past the number of things, however long
// the stream is down. Answers to queries are kept one by one; they end with their stream.
type outbox struct {
	mu     sync.Mutex
	order  []string
	latest map[string]*agentrpc.FromAgent
	wake   chan struct{}
}

func newOutbox() *outbox {
	return &outbox{latest: map[string]*agentrpc.FromAgent{}, wake: make(chan struct{}, 1)}
}

func (o *outbox) put(key string, m *agentrpc.FromAgent) {
	o.mu.Lock()
	if _, ok := o.latest[key]; !ok {
		o.order = append(o.order, key)
	}
	o.latest[key] = m
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take waits for the next message. It fails when ctx ends.
func (o *outbox) take(ctx context.Context) (*agentrpc.FromAgent, error) {
	for {
		o.mu.Lock()
		if len(o.order) > 0 {
			key := o.order[0]
			m := o.latest[key]
			o.order = o.order[1:]
			delete(o.latest, key)
			o.mu.Unlock()
			return m, nil
		}
		o.mu.Unlock()
		select {
		case <-o.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// clear forgets everything: a new stream's hello says it all.
func (o *outbox) clear() {
	o.mu.Lock()
	o.order, o.latest = nil, map[string]*agentrpc.FromAgent{}
	o.mu.Unlock()
}
