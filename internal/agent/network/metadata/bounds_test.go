package metadata

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// crowd serves two instances, at 127.0.0.1 and 127.0.0.2, with a clock that stands, and returns the service's address.
func crowd(t *testing.T) string {
	t.Helper()
	s := &Server{Secret: []byte("secret"), Now: func() time.Time { return noon }, Logger: slog.New(slog.DiscardHandler), Lookup: func(a netip.Addr) (Instance, bool) {
		i := &cloud.Instance{ID: cloud.InstanceID("i-" + a.String()), Metadata: cloud.DefaultMetadataOptions()}
		i.Metadata.TokensRequired = false
		return Instance{Instance: i}, a.As4()[3] <= 2
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), l) }()
	t.Cleanup(func() { <-done })
	return l.Addr().String()
}

// dial connects from an address.
func dial(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", to)
	if errors.Is(err, unix.ECONNRESET) { // closed that fast
		c, _ = net.Pipe()
		c.Close()
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// ask sends a request on a connection and returns the status.
func ask(c net.Conn) (int, error) {
	if _, err := io.WriteString(c, "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return 0, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return r.StatusCode, errors.Join(err, r.Body.Close())
}

func TestOneThatOpensManyConnectionsGetsNoMoreAndKeepsNobodyElseOut(t *testing.T) {
	address := crowd(t)
	for n := range Connections {
		if status, err := ask(dial(t, "127.0.0.1", address)); err != nil || status != 200 {
			t.Fatalf("connection %d: %d, %v", n, status, err)
		}
	}
	if status, err := ask(dial(t, "127.0.0.1", address)); err == nil {
		t.Errorf("one more was answered with %d", status)
	}
	if status, err := ask(dial(t, "127.0.0.2", address)); err != nil || status != 200 {
		t.Errorf("the other one is answered with %d, %v", status, err)
	}
	if status, err := ask(dial(t, "127.0.0.3", address)); err == nil {
		t.Errorf("one that nobody knows was answered with %d", status)
	}
}

func TestAConnectionThatEndsMakesRoomForAnother(t *testing.T) {
	address := crowd(t)
	for range 3 * Connections {
		c := dial(t, "127.0.0.1", address)
		if status, err := ask(c); err != nil || status != 200 {
			t.Fatalf("%d, %v", status, err)
		}
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		io.Copy(io.Discard, c) // until the other end has closed it
	}
}

func TestOneThatAsksAllTheTimeIsToldToWaitAndTheOtherIsNot(t *testing.T) {
	address := crowd(t)
	c := dial(t, "127.0.0.1", address)
	for n := range Burst + 50 {
		status, err := ask(c)
		if want := map[bool]int{true: 200, false: 503}[n < Burst]; err != nil || status != want {
			t.Fatalf("request %d: %d, %v", n, status, err)
		}
	}
	if status, err := ask(dial(t, "127.0.0.2", address)); err != nil || status != 200 {
		t.Errorf("the other one is answered with %d, %v", status, err)
	}
}

func TestCallersThatRestAreForgotten(t *testing.T) {
	var c callers
	for n := range 100 * manyCallers {
		at := noon.Add(time.Duration(n) * time.Second)
		c.ask(cloud.InstanceID(fmt.Sprint(n)), at)
	}
	if n := len(c.known); n > 2*manyCallers {
		t.Errorf("%d callers are remembered", n)
	}
}
