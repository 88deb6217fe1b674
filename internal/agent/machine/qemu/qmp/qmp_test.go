package qmp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hypervisor answers each line that it gets with what say returns.
func hypervisor(t *testing.T, greeting string, say func(line string) string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer other.Close()
		io.WriteString(other, greeting)
		in := bufio.NewScanner(other)
		for in.Scan() {
			io.WriteString(other, say(in.Text()))
		}
	}()
	return conn
}

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\r\n"

func TestCommandsAreAnsweredAndEventsKept(t *testing.T) {
	conn := hypervisor(t, greeting, func(line string) string {
		switch {
		case strings.Contains(line, "capabilities"):
			return `{"return": {}}` + "\n"
		case strings.Contains(line, "bad"):
			return `{"error": {"class": "GenericError", "desc": "no such thing"}}` + "\n"
		}
		return `{"event": "RESET", "data": {"guest": true}, "timestamp": {"seconds": 5, "microseconds": 1}}` + "\n" + `{"return": {"status": "running"}}` + "\n"
	})
	c, err := New(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Version != "7.2.22" {
		t.Error(c.Version)
	}
	var st struct{ Status string }
	if err := c.Run(t.Context(), "query-status", nil, &st); err != nil || st.Status != "running" {
		t.Error(st, err)
	}
	var refusal *Error
	if err := c.Run(t.Context(), "bad", nil, nil); !errors.As(err, &refusal) || refusal.Description != "no such thing" {
		t.Error(err)
	}
	if e, err := c.Next(t.Context()); err != nil || e.Name != "RESET" || e.At.Unix() != 5 {
		t.Error(e, err)
	}
}

func TestAHypervisorThatBreaksTheProtocolLosesItsConnection(t *testing.T) {
	for name, said := range map[string]string{"no JSON": "hello\n", "no message": "{}\n", "two at once": `{"return": {}, "event": "X"}` + "\n",
		"an endless line": strings.Repeat("x", MaxLine+1), "half a line": `{"ret`} {
		t.Run(name, func(t *testing.T) {
			conn := hypervisor(t, greeting, func(line string) string {
				if strings.Contains(line, "capabilities") {
					return `{"return": {}}` + "\n"
				}
				return said
			})
			c, err := New(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if err := c.Run(ctx, "query-status", nil, nil); err == nil {
				t.Error("it was believed")
			}
			select {
			case <-c.Done():
			case <-time.After(time.Second):
				t.Error("it is still connected")
			}
			if err := c.Run(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) && name != "no JSON" && name != "no message" && name != "two at once" && name != "an endless line" {
				t.Error(err)
			} else if err == nil {
				t.Error("a command went through")
			}
		})
	}
}

func TestAMissingGreetingIsAnErrorAfterTheWait(t *testing.T) {
	conn := hypervisor(t, "", func(string) string { return "" })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, conn); !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func FuzzMessages(f *testing.F) {
	for _, s := range []string{greeting, `{"return": {}}`, `{"error": {"class": "x", "desc": "y"}}`, `{"event": "STOP", "timestamp": {"seconds": 1}}`, "[]", "null"} {
		f.Add([]byte(s + "\n"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(b), 16)
		for {
			line, err := readLine(in)
			if err != nil {
				return
			}
			if len(line) > MaxLine {
				t.Fatalf("a line of %d bytes", len(line))
			}
			if m, err := parse(line); err == nil && m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
				t.Fatalf("%q is a message of no kind", line)
			}
		}
	})
}
