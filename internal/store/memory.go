package store

import (
	"context"
	"io"
	"log/slog"
	"sync"
)

// OpenMemory opens an empty store in memory: for tests and simulations, gone when the
// process ends.
func OpenMemory() *Store {
	s, err := open(context.Background(), newMemory(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		panic("store: open an empty memory: " + err.Error()) // it has nothing that could fail
	}
	return s
}

// memory is a backend without a disk. It keeps JSON as etcd does, so that an object comes
// back the same from both.
type memory struct {
	mu       sync.Mutex
	revision int64
	keys     map[string]event
	queue    []delta       // committed and not yet followed
	more     chan struct{} // holds a token while queue may not be empty
	never    chan struct{}
}

func newMemory() *memory {
	return &memory{
		revision: 1,
		keys:     map[string]event{},
		more:     make(chan struct{}, 1),
		never:    make(chan struct{}),
	}
}

func (m *memory) load(context.Context) (delta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := delta{revision: m.revision}
	for _, e := range m.keys {
		d.events = append(d.events, e)
	}
	return d, nil
}

func (m *memory) commit(_ context.Context, guards []guard, writes []write) (int64, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range guards {
		if m.keys[g.key].revision != g.revision {
			return m.revision, false, nil
		}
	}
	m.revision++
	d := delta{revision: m.revision}
	for _, w := range writes {
		e := event{key: w.key, value: w.value, deleted: w.remove, revision: m.revision}
		if w.remove {
			delete(m.keys, w.key)
		} else {
			m.keys[w.key] = e
		}
		d.events = append(d.events, e)
	}
	m.queue = append(m.queue, d)
	select {
	case m.more <- struct{}{}:
	default:
	}
	return m.revision, true, nil
}

func (m *memory) follow(ctx context.Context, after int64, apply func(delta) error) error {
	for {
		m.mu.Lock()
		queue := m.queue
		m.queue = nil
		m.mu.Unlock()
		for _, d := range queue {
			if d.revision <= after {
				continue
			}
			if err := apply(d); err != nil {
				return err
			}
		}
		select {
		case <-m.more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) down() <-chan struct{} { return m.never }
func (m *memory) reason() error         { return nil }
func (m *memory) close() error          { return nil }
