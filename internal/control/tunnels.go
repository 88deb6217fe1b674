package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// tunnelLimit is how long a node may take to open a tunnel.
const tunnelLimit = 20 * time.Second

// Open has a node open a tunnel. Its end is the caller's to close. What the node refuses is an error that says why.
func (g *Gateway) Open(ctx context.Context, node cloud.NodeID, to agentrpc.Target) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, tunnelLimit)
	defer cancel()
	token := rand.Text()
	arrival := make(chan *agentrpc.Tunnel, 1)
	g.mu.Lock()
	g.tunnels[token] = arrival
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.tunnels, token)
		g.mu.Unlock()
	}()
	err := g.do(ctx, node, agentrpc.Query{Tunnel: &agentrpc.TunnelQuery{Token: token, To: to}})
	if err == nil {
		select {
		case t := <-arrival:
			return t, nil
		case <-ctx.Done():
			err = fmt.Errorf("node %s does not open a tunnel: %w", node, ctx.Err())
		}
	}
	// It may have come at the last moment; nobody else takes it from here on.
	g.mu.Lock()
	delete(g.tunnels, token)
	g.mu.Unlock()
	select {
	case t := <-arrival:
		t.Close()
	default:
	}
	return nil, err
}

// Carry implements agentrpc.Agents.
func (g *Gateway) Carry(token string, t *agentrpc.Tunnel) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	arrival := g.tunnels[token]
	if arrival == nil {
		return errors.New("nobody asked for this tunnel")
	}
	delete(g.tunnels, token)
	arrival <- t
	return nil
}

// Break has an instance's node send a break down its serial line.
func (g *Gateway) Break(ctx context.Context, node cloud.NodeID, id cloud.InstanceID) error {
	return g.do(ctx, node, agentrpc.Query{Break: id})
}

// do has a node do something. The error is the node's own word.
func (g *Gateway) do(ctx context.Context, node cloud.NodeID, q agentrpc.Query) error {
	ans, err := g.ask(ctx, node, q)
	if err == nil && ans.Error != "" {
		err = errors.New(ans.Error)
	}
	return err
}
