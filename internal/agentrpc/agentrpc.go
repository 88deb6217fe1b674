// Package agentrpc is the protocol between the control plane and the agents of its nodes: one
// bidirectional gRPC stream a node, and beside it one for each tunnel that carries bytes.
//
// The control plane sends desired state as differences, the node sends facts. Every message
// may be repeated without harm, and a new stream starts with a full exchange on both
// sides, so that nothing depends on a message having arrived. Messages are JSON of the
// domain's own types (see docs/decisions): unknown fields are ignored, so that the two sides may
// differ by a version.
//
// The package never decides anything; it carries.
package agentrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// MaxMessage bounds one message, in bytes: a VPC with all its groups is the largest.
const MaxMessage = 64 << 20

const (
	serviceName = "nacre.agent.v1.Agents"
	codecName   = "nacre-json"
)

// ErrNodeAway is returned for questions to a node that has no stream. It comes back by itself, if it can.
var ErrNodeAway = errors.New("the instance's node is not connected")

// codec carries messages as JSON.
type codec struct{}

func (codec) Name() string { return codecName }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if err := json.Unmarshal(data.Materialize(), v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}

func init() { encoding.RegisterCodecV2(codec{}) }

// Agents is the control plane's side.
type Agents interface {
	// Connect serves one node until its stream ends.
	Connect(ServerStream) error
	// Carry takes over the control plane's end of a tunnel by its token. It may return at once; the tunnel ends when it is closed.
	Carry(token string, t *Tunnel) error
}

// ServerStream is a node's stream as the control plane sees it. Send and Recv may be used at the same
// time, each by one goroutine.
type ServerStream = grpc.BidiStreamingServer[FromAgent, ToAgent]

// ClientStream is the stream as the node sees it.
type ClientStream = grpc.BidiStreamingClient[FromAgent, ToAgent]

var streamDesc = grpc.StreamDesc{
	StreamName:    "Connect",
	ServerStreams: true,
	ClientStreams: true,
	Handler: func(srv any, stream grpc.ServerStream) error {
		return srv.(Agents).Connect(&grpc.GenericServerStream[FromAgent, ToAgent]{ServerStream: stream})
	},
}

// Register adds the service to a gRPC server made with ServerOptions.
func Register(s *grpc.Server, a Agents) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*Agents)(nil),
		Streams:     []grpc.StreamDesc{streamDesc, tunnelDesc},
	}, a)
}

// ServerOptions are the gRPC server's settings that the protocol needs.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage)}
}

// Connect opens a node's stream on conn.
func Connect(ctx context.Context, conn grpc.ClientConnInterface) (ClientStream, error) {
	s, err := conn.NewStream(ctx, &streamDesc, "/"+serviceName+"/Connect",
		grpc.CallContentSubtype(codecName), grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage))
	if err != nil {
		return nil, fmt.Errorf("open the agent's stream to the control plane: %w", err)
	}
	return &grpc.GenericClientStream[FromAgent, ToAgent]{ClientStream: s}, nil
}
