package agentrpc

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// carrier hands the control plane's ends of tunnels out.
type carrier chan *Tunnel

func (carrier) Connect(ServerStream) error { return errors.New("not here") }

func (c carrier) Carry(token string, t *Tunnel) error {
	if token != "token" {
		return errors.New("nobody asked for this tunnel")
	}
	c <- t
	return nil
}

// connection is a node's connection to a control plane that takes tunnels.
func connection(t *testing.T) (*grpc.ClientConn, carrier) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	c := make(carrier, 8)
	server := grpc.NewServer(ServerOptions()...)
	Register(server, c)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, c
}

// tunnel is both ends of one.
func tunnel(t *testing.T, conn *grpc.ClientConn, c carrier) (node, control *Tunnel) {
	t.Helper()
	node, err := OpenTunnel(t.Context(), conn, "token")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	select {
	case control = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("the tunnel did not arrive")
	}
	return node, control
}

func TestATunnelCarriesBytesBothWaysAndEachWayEndsByItself(t *testing.T) {
	node, control := loneTunnel(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	for _, way := range []struct{ from, to *Tunnel }{{node, control}, {control, node}} {
		go func() {
			way.from.Write(sent)
			way.from.CloseWrite()
		}()
		if got, err := io.ReadAll(way.to); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes of %d came, %v", len(got), len(sent), err)
		}
		if _, err := way.from.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("written after its end: %v", err)
		}
	}
}

// loneTunnel is both ends of one with a connection of its own.
func loneTunnel(t *testing.T) (node, control *Tunnel) {
	conn, c := connection(t)
	return tunnel(t, conn, c)
}

func TestEitherEndEndsATunnelForBoth(t *testing.T) {
	conn, c := connection(t)
	for _, last := range []bool{true, false} {
		one, other := tunnel(t, conn, c)
		if last {
			one, other = other, one
		}
		reading, writing := make(chan error, 1), make(chan error, 1)
		go func() { _, err := other.Read(make([]byte, 1)); reading <- err }()
		go func() { // until nothing fits any more, and then until the end
			var err error
			for err == nil {
				_, err = other.Write(make([]byte, MaxChunk))
			}
			writing <- err
		}()
		one.Close()
		for _, ended := range []chan error{reading, writing} {
			select {
			case err := <-ended:
				if err == nil {
					t.Error("it went on")
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it is not ended")
			}
		}
	}
}

func TestATunnelThatNobodyReadsHoldsUpNoOther(t *testing.T) {
	conn, c := connection(t)
	for range 4 { // each fills its own window
		stuck, _ := tunnel(t, conn, c)
		go func() {
			for {
				if _, err := stuck.Write(make([]byte, MaxChunk)); err != nil {
					return
				}
			}
		}()
	}
	node, control := tunnel(t, conn, c)
	go node.Write(make([]byte, 1<<20))
	if _, err := io.CopyN(io.Discard, control, 1<<20); err != nil {
		t.Fatal(err)
	}
}

func TestATunnelThatNobodyAskedForIsRefused(t *testing.T) {
	conn, _ := connection(t)
	node, err := OpenTunnel(t.Context(), conn, "guessed")
	if err == nil {
		_, err = node.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}
