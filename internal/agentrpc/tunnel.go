package agentrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A tunnel carries bytes both ways between the control plane and something on a node. The control plane asks for it with a Query;
// the node opens what it leads to, then a second stream on the same connection, which names the query's token. Each
// direction ends by itself, has its own flow control, and both end with the stream. A tunnel survives nothing.

// TunnelQuery asks a node to open a tunnel.
type TunnelQuery struct {
	Token string // by which the control plane knows the stream; nobody guesses it
	To    Target
}

// Target is what a tunnel leads to. Exactly one field is set.
type Target struct {
	Console cloud.InstanceID `json:",omitempty"` // a machine's serial line, or what a container writes
	Screen  cloud.InstanceID `json:",omitempty"` // a machine's screen, by RFB (RFC 6143)
	Export  *Export          `json:",omitempty"` // an image, as SendWhole sends it
	Block   *BlockTarget     `json:",omitempty"` // a block of a snapshot
}

// Export is an image of the node's store, and the format that it is sent in.
type Export struct {
	Digest string
	Format string
}

const (
	bytesCodec  = "nacre-bytes"
	tokenHeader = "nacre-tunnel"
	// MaxChunk bounds a message of a tunnel, in bytes.
	MaxChunk = 32 << 10
)

// Chunk is a message of a tunnel. An empty one ends its direction.
type Chunk struct{ Bytes []byte }

// chunks carries chunks as they are.
type chunks struct{}

func (chunks) Name() string { return bytesCodec }

func (chunks) Marshal(v any) (mem.BufferSlice, error) {
	c, ok := v.(*Chunk)
	if !ok {
		return nil, fmt.Errorf("encode %T: a tunnel carries chunks", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(c.Bytes)}, nil
}

func (chunks) Unmarshal(data mem.BufferSlice, v any) error {
	c, ok := v.(*Chunk)
	if !ok {
		return fmt.Errorf("decode %T: a tunnel carries chunks", v)
	}
	c.Bytes = data.Materialize()
	return nil
}

func init() { encoding.RegisterCodecV2(chunks{}) }

var tunnelDesc = grpc.StreamDesc{
	StreamName: "Carry", ServerStreams: true, ClientStreams: true,
	Handler: func(srv any, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		token := md.Get(tokenHeader)
		if len(token) != 1 {
			return errors.New("a tunnel names its token")
		}
		ended := make(chan struct{})
		t := &Tunnel{stream: stream, end: sync.OnceFunc(func() { close(ended) })}
		defer t.end()
		if err := srv.(Agents).Carry(token[0], t); err != nil {
			return err
		}
		select {
		case <-ended:
		case <-stream.Context().Done():
		}
		return nil
	},
}

// OpenTunnel opens a node's end of a tunnel.
func OpenTunnel(ctx context.Context, conn grpc.ClientConnInterface, token string) (*Tunnel, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := conn.NewStream(metadata.AppendToOutgoingContext(ctx, tokenHeader, token), &tunnelDesc, "/"+serviceName+"/Carry",
		grpc.CallContentSubtype(bytesCodec), grpc.MaxCallRecvMsgSize(MaxChunk), grpc.MaxCallSendMsgSize(MaxChunk))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open a tunnel to the control plane: %w", err)
	}
	return &Tunnel{stream: s, end: cancel}, nil
}

// Tunnel is one end of a tunnel. Reading and writing may go on at once; Close ends both and may be called at any time.
type Tunnel struct {
	stream interface {
		SendMsg(any) error
		RecvMsg(any) error
	}
	end func()

	receiving sync.Mutex
	rest      []byte
	ended     bool // the other end has ended its direction

	sending sync.Mutex
	closed  bool // for writing
}

// Read implements io.Reader. It returns io.EOF when the other end has ended its direction.
func (t *Tunnel) Read(p []byte) (int, error) {
	t.receiving.Lock()
	defer t.receiving.Unlock()
	for len(t.rest) == 0 {
		if t.ended {
			return 0, io.EOF
		}
		var c Chunk
		if err := t.stream.RecvMsg(&c); err != nil {
			return 0, err
		}
		t.rest, t.ended = c.Bytes, len(c.Bytes) == 0
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Write implements io.Writer. It waits for the other end to read.
func (t *Tunnel) Write(p []byte) (int, error) {
	t.sending.Lock()
	defer t.sending.Unlock()
	done := 0
	for done < len(p) {
		if t.closed {
			return done, io.ErrClosedPipe
		}
		// The library may keep a message after it was sent.
		part := append([]byte(nil), p[done:min(len(p), done+MaxChunk)]...)
		if err := t.stream.SendMsg(&Chunk{part}); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// CloseWrite ends this end's direction.
func (t *Tunnel) CloseWrite() error {
	t.sending.Lock()
	defer t.sending.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	return t.stream.SendMsg(&Chunk{})
}

// Close ends both directions.
func (t *Tunnel) Close() error {
	t.end()
	return nil
}
