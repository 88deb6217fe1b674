package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Gateway is the control plane's end of the agents' streams.
type Gateway struct {
	store *store.Store
	now   func() time.Time
	log   *slog.Logger

	mu      sync.Mutex
	nodes   map[cloud.NodeID]*session
	tunnels map[string]chan *agentrpc.Tunnel // that nodes were asked to open, by their tokens
}

// NewGateway serves agents from s.
func NewGateway(s *store.Store, now func() time.Time, log *slog.Logger) *Gateway {
	return &Gateway{store: s, now: now, log: log, nodes: map[cloud.NodeID]*session{}, tunnels: map[string]chan *agentrpc.Tunnel{}}
}

// session is one node's stream.
type session struct {
	node    cloud.NodeID
	queries chan *agentrpc.ToAgent
	done    <-chan struct{}

	mu      sync.Mutex
	number  uint64
	waiting map[uint64]chan agentrpc.Answer
}

var errNoHello = errors.New("a node's first message must be its hello")

// Connect implements agentrpc.Agents.
func (g *Gateway) Connect(stream agentrpc.ServerStream) error {
	first, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("hear a node's hello: %w", err)
	}
	if first.Hello == nil {
		return errNoHello
	}
	node := first.Hello.Node
	group, ctx := errgroup.WithContext(stream.Context())
	ses := &session{node: node.ID, queries: make(chan *agentrpc.ToAgent), done: ctx.Done(), waiting: map[uint64]chan agentrpc.Answer{}}
	if err := g.register(ctx, &node); err != nil {
		return err
	}
	for _, st := range first.Hello.Machines {
		if err := applyStatus(ctx, g.store, node.ID, st, g.now()); err != nil {
			return err
		}
	}
	g.mu.Lock()
	g.nodes[node.ID] = ses // a newer stream of the same node takes over
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		if g.nodes[node.ID] == ses {
			delete(g.nodes, node.ID)
		}
		g.mu.Unlock()
	}()
	g.log.Info("node connected", "node", node.ID, "machines", len(first.Hello.Machines))
	group.Go(func() error { return g.send(ctx, stream, ses) })
	group.Go(func() error { return g.receive(ctx, stream, ses) })
	err = group.Wait()
	g.log.Info("node disconnected", "node", node.ID, "reason", err)
	return err
}

// Connected is how many nodes have a stream.
func (g *Gateway) Connected() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.nodes)
}

// register notes the node's facts.
func (g *Gateway) register(ctx context.Context, n *cloud.Node) error {
	err := g.store.Update(ctx, func(tx *store.Tx) error {
		now := g.now()
		n.Registered, n.LastConnected = now, now
		if old, ok := store.Get(tx, store.Nodes, n.ID); ok {
			n.Registered = old.Registered
		}
		store.Put(tx, store.Nodes, n)
		return nil
	})
	if err != nil {
		return fmt.Errorf("register node %s: %w", n.ID, err)
	}
	return nil
}

// send keeps the node told: everything first, then what changes.
func (g *Gateway) send(ctx context.Context, stream agentrpc.ServerStream, ses *session) error {
	view, sub := g.store.Watch()
	defer sub.Close()
	region, ok := store.Region(view)
	if !ok {
		return errors.New("the store holds no region")
	}
	if err := stream.Send(&agentrpc.ToAgent{Welcome: &agentrpc.Welcome{Region: *region}}); err != nil {
		return err
	}
	held := desired{}
	next := desiredOf(view, ses.node)
	synced := false
	for {
		for _, m := range difference(held, next) {
			if err := stream.Send(m); err != nil {
				return fmt.Errorf("send to node %s: %w", ses.node, err)
			}
		}
		held = next
		if !synced {
			synced = true
			if err := stream.Send(&agentrpc.ToAgent{Synced: true}); err != nil {
				return fmt.Errorf("send to node %s: %w", ses.node, err)
			}
		}
		select {
		case <-sub.Ready():
			batch, err := sub.Next(ctx)
			if err != nil {
				return err
			}
			next = desiredOf(batch.View, ses.node)
		case q := <-ses.queries:
			if err := stream.Send(q); err != nil {
				return fmt.Errorf("send to node %s: %w", ses.node, err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive notes what the node tells.
func (g *Gateway) receive(ctx context.Context, stream agentrpc.ServerStream, ses *session) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("hear from node %s: %w", ses.node, err)
		}
		switch {
		case m.Node != nil:
			m.Node.ID = ses.node
			err = g.register(ctx, m.Node)
		case m.Machine != nil:
			err = applyStatus(ctx, g.store, ses.node, *m.Machine, g.now())
		case m.VPC != nil:
			err = applyVPCStatus(ctx, g.store, ses.node, *m.VPC, g.now())
		case m.Volume != nil:
			err = applyVolumeStatus(ctx, g.store, ses.node, *m.Volume, g.now())
		case m.Snapshot != nil:
			err = applySnapshotStatus(ctx, g.store, ses.node, *m.Snapshot)
		case m.Capture != nil:
			err = applyCapture(ctx, g.store, ses.node, *m.Capture)
		case m.Import != nil:
			err = applyImport(ctx, g.store, ses.node, *m.Import, g.now())
		case m.Answer != nil:
			ses.answer(*m.Answer)
		}
		if err != nil {
			return err
		}
	}
}

// Console asks an instance's node for the last limit bytes of its console, and when it was last
// written to.
func (g *Gateway) Console(ctx context.Context, node cloud.NodeID, id cloud.InstanceID, limit int) ([]byte, time.Time, error) {
	ans, err := g.ask(ctx, node, agentrpc.Query{Console: &agentrpc.ConsoleQuery{Instance: id, Limit: limit}})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("console of %s: %w", id, err)
	}
	if ans.Console == nil {
		return nil, time.Time{}, fmt.Errorf("console of %s: %s", id, ans.Error)
	}
	return ans.Console.Output, ans.Console.Written, nil
}

// Inspect asks an instance's node to look inside it. refused says, for whoever asked, why what the look asks for can't be found.
func (g *Gateway) Inspect(ctx context.Context, node cloud.NodeID, id cloud.InstanceID, look cloud.Look) (found *cloud.Inspection, refused string, err error) {
	ans, err := g.ask(ctx, node, agentrpc.Query{Inspect: &agentrpc.InspectQuery{Instance: id, Look: look}})
	if err != nil {
		return nil, "", fmt.Errorf("look inside %s: %w", id, err)
	}
	if ans.Inspect == nil {
		return nil, "", fmt.Errorf("look inside %s: %s", id, ans.Error)
	}
	return ans.Inspect.Inspection, ans.Inspect.Refused, nil
}

// Build asks a node how far a build is.
func (g *Gateway) Build(ctx context.Context, node cloud.NodeID, q agentrpc.BuildQuery) (agentrpc.BuildAnswer, error) {
	ans, err := g.ask(ctx, node, agentrpc.Query{Build: &q})
	if err != nil {
		return agentrpc.BuildAnswer{}, fmt.Errorf("look at the build %s: %w", q.Task, err)
	}
	if ans.Build == nil {
		return agentrpc.BuildAnswer{}, fmt.Errorf("look at the build %s: %s", q.Task, ans.Error)
	}
	return *ans.Build, nil
}

// Images asks a node what an image is made of, or, of no image, where the bytes of all are.
func (g *Gateway) Images(ctx context.Context, node cloud.NodeID, digest string) (*cloud.ImageMakeup, *cloud.ImageUse, error) {
	ans, err := g.ask(ctx, node, agentrpc.Query{Images: &agentrpc.ImagesQuery{Digest: digest}})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("look at images: %w", err)
	case ans.Images == nil || ans.Error != "":
		return nil, nil, fmt.Errorf("look at images: %s", ans.Error)
	}
	return ans.Images.Makeup, ans.Images.Use, nil
}

func (g *Gateway) ask(ctx context.Context, node cloud.NodeID, q agentrpc.Query) (agentrpc.Answer, error) {
	g.mu.Lock()
	ses := g.nodes[node]
	g.mu.Unlock()
	if ses == nil {
		return agentrpc.Answer{}, fmt.Errorf("%w: %s", agentrpc.ErrNodeAway, node)
	}
	reply := make(chan agentrpc.Answer, 1)
	ses.mu.Lock()
	ses.number++
	q.Number = ses.number
	ses.waiting[q.Number] = reply
	ses.mu.Unlock()
	defer func() {
		ses.mu.Lock()
		delete(ses.waiting, q.Number)
		ses.mu.Unlock()
	}()
	select {
	case ses.queries <- &agentrpc.ToAgent{Query: &q}:
	case <-ses.done:
		return agentrpc.Answer{}, fmt.Errorf("%w: %s", agentrpc.ErrNodeAway, node)
	case <-ctx.Done():
		return agentrpc.Answer{}, ctx.Err()
	}
	select {
	case ans := <-reply:
		return ans, nil
	case <-ses.done:
		return agentrpc.Answer{}, fmt.Errorf("%w: %s", agentrpc.ErrNodeAway, node)
	case <-ctx.Done():
		return agentrpc.Answer{}, ctx.Err()
	}
}

func (s *session) answer(a agentrpc.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reply := s.waiting[a.Number]; reply != nil {
		reply <- a
		delete(s.waiting, a.Number)
	}
}
