package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/inside"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

// fakeMachine notes what it is told.
type fakeMachine struct {
	mu sync.Mutex
	id wire.Identity
}

func (m *fakeMachine) Welcome(w *wire.Welcome) { w.BootID, w.Ready = "boot", true }
func (m *fakeMachine) Identify(id wire.Identity) wire.Reply {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id = id
	return wire.Reply{HostKeys: []string{"ssh-ed25519 AAAA"}}
}
func (m *fakeMachine) Connect(wire.Interface) error { return nil }
func (m *fakeMachine) Shutdown(bool) error          { return errors.New("not now") }
func (m *fakeMachine) Stats() (wire.Stats, error)   { return wire.Stats{MemoryTotal: 5}, nil }

func (m *fakeMachine) Pages(p wire.Pages) (wire.ProcessPages, error) { return inside.PagesOf(p) }

func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connected is a client and the real guest side, which runs processes of this machine as the test's own user.
func connected(t *testing.T) (*Client, *fakeMachine) {
	t.Helper()
	host, port := socketPair(t)
	m := &fakeMachine{}
	go (&inside.Server{Machine: m}).Serve(port)
	c, err := New(within(t), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, m
}

func sh(script string) machine.ExecSpec {
	return machine.ExecSpec{Args: []string{"/bin/sh", "-c", script}, User: fmt.Sprint(os.Getuid()), Dir: "/"}
}

// run runs a process to its end.
func run(t *testing.T, c *Client, spec machine.ExecSpec) (code int, stdout, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	spec.Stdout, spec.Stderr = &o, &e
	p, err := c.Exec(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	code, err = p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return code, o.String(), e.String()
}

func TestAProcessHasItsStreamsItsEnvironmentAndItsCode(t *testing.T) {
	c, _ := connected(t)
	spec := sh(`cat; echo "$A" >&2; pwd; exit 7`)
	spec.Stdin, spec.Env, spec.Dir = strings.NewReader("in\n"), []string{"A=b"}, "/usr"
	code, out, errs := run(t, c, spec)
	if code != 7 || out != "in\n/usr\n" || errs != "b\n" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	if code, _, _ := run(t, c, sh("kill -9 $$")); code != 128+9 {
		t.Errorf("killed by 9: %d", code)
	}
}

func TestAProgramThatIsNotThereIsAnErrorOfExec(t *testing.T) {
	c, _ := connected(t)
	spec := sh("")
	spec.Args = []string{"no-such-program"}
	if _, err := c.Exec(within(t), spec); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("%v", err)
	}
	spec = sh("true")
	spec.User = "no-such-user"
	if _, err := c.Exec(within(t), spec); err == nil {
		t.Error("an unknown user runs a program")
	}
}

func TestATerminalHasItsSizeAndFollowsIt(t *testing.T) {
	c, _ := connected(t)
	r, w := io.Pipe()
	var out bytes.Buffer
	spec := sh(`stty size; read x; stty size; echo "$TERM"`)
	spec.TTY, spec.Cols, spec.Rows, spec.Term, spec.Stdin, spec.Stdout = true, 81, 25, "dumb", r, &out
	p, err := c.Exec(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Resize(100, 30); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "go")
	if code, err := p.Wait(); code != 0 || err != nil {
		t.Fatalf("%d, %v", code, err)
	}
	if got := strings.Fields(out.String()); len(got) < 2 || strings.Join(got[len(got)-3:], " ") != "30 100 dumb" {
		t.Errorf("%q", out.String())
	}
	if err := p.Resize(1, 1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a terminal that is gone is resized: %v", err)
	}
}

func TestSignalsReachTheProcess(t *testing.T) {
	c, _ := connected(t)
	r, w := io.Pipe()
	spec := sh(`trap 'exit 42' USR1; echo up; while :; do sleep 0.05; done`)
	spec.Stdout = w
	p, err := c.Exec(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 42 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	if err := p.Signal(syscall.SIGUSR1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process that ended takes a signal: %v", err)
	}
}

func TestManyProcessesCarryMuchAtOnceAndIntact(t *testing.T) {
	c, _ := connected(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte(i), '\n', 0x9c, 'N'}, 100_000)
			var out bytes.Buffer
			spec := sh("cat")
			spec.Stdin, spec.Stdout = bytes.NewReader(data), &out
			p, err := c.Exec(within(t), spec)
			if err != nil {
				t.Error(err)
				return
			}
			if code, err := p.Wait(); code != 0 || err != nil || !bytes.Equal(out.Bytes(), data) {
				t.Errorf("process %d: %d, %v, %d of %d bytes", i, code, err, out.Len(), len(data))
			}
		})
	}
	wg.Wait()
}

func TestAReaderThatStallsHoldsUpNoOtherProcess(t *testing.T) {
	c, _ := connected(t)
	r, w := io.Pipe()
	spec := sh("head -c 3000000 /dev/zero")
	spec.Stdout = w
	slow, err := c.Exec(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, out, _ := run(t, c, sh("echo quick")); out != "quick\n" {
		t.Errorf("%q", out)
	}
	go func() { slow.Wait(); w.Close() }()
	if n, err := io.Copy(io.Discard, r); n != 3000000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestTheIdentityArrivesAndRefusalsAreErrors(t *testing.T) {
	c, m := connected(t)
	if !c.Welcome.Ready || c.Welcome.BootID != "boot" {
		t.Errorf("%+v", c.Welcome)
	}
	id := wire.Identity{MachineID: "abc", Entropy: make([]byte, wire.MinEntropy)}
	id.Hostname = "ip-10-0-0-4"
	got, err := c.Identify(within(t), id)
	if err != nil || len(got.HostKeys) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if m.id.MachineID != "abc" || m.id.Hostname != "ip-10-0-0-4" {
		t.Errorf("%+v", m.id)
	}
	id.Entropy = id.Entropy[1:]
	if _, err := c.Identify(within(t), id); err == nil {
		t.Error("too little entropy is taken")
	}
	if err := c.Shutdown(within(t), false); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Errorf("%v", err)
	}
	if st, err := c.Stats(within(t)); err != nil || st.MemoryTotal != 5 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestAnotherConnectionIsFoundInTheMiddleOfAFrameAndHangsTheOldProcessesUp(t *testing.T) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // under nohup, what is started would take no notice of hang-ups
	host, port := socketPair(t)
	go (&inside.Server{Machine: &fakeMachine{}}).Serve(port)
	keep := unclosed{host}
	first, err := New(within(t), keep)
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/hung"
	r, w := io.Pipe()
	spec := sh(`trap 'echo yes > ` + file + `; exit' HUP; echo up; while :; do sleep 0.05; done`)
	spec.Stdout = w
	if _, err := first.Exec(within(t), spec); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(r, make([]byte, 3))
	// The agent dies in the middle of a long message.
	half, err := wire.Append(nil, wire.Frame{Type: wire.TypeRequest, Stream: 9, Payload: make([]byte, wire.MaxPayload)})
	if err != nil {
		t.Fatal(err)
	}
	host.Write(half[:len(half)/2])
	host.SetReadDeadline(time.Now()) // ends the first client
	<-first.Done()
	host.SetReadDeadline(time.Time{})
	second, err := New(within(t), host)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, out, _ := run(t, second, sh("echo again")); out != "again\n" {
		t.Errorf("%q", out)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first connection's process was not hung up")
		}
	}
}

// unclosed is a port: the bytes go on when the one who used it is gone.
type unclosed struct{ net.Conn }

func (unclosed) Close() error { return nil }

func TestWhenTheConnectionEndsNobodyWaitsOn(t *testing.T) {
	host, port := socketPair(t)
	go (&inside.Server{Machine: &fakeMachine{}}).Serve(port)
	c, err := New(within(t), host)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Exec(within(t), sh("sleep 100"))
	if err != nil {
		t.Fatal(err)
	}
	port.Close()
	if _, err := p.Wait(); !errors.Is(err, ErrLost) {
		t.Errorf("%v", err)
	}
	if _, err := c.Stats(within(t)); !errors.Is(err, ErrLost) {
		t.Errorf("%v", err)
	}
}

func TestAGuestThatNeverAnswersIsGivenUp(t *testing.T) {
	host, port := socketPair(t)
	go io.Copy(io.Discard, port)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, host); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// lie answers the greeting properly and then says what it is given.
func lie(t testing.TB, words []byte) (*Client, error) {
	host, port := socketPair(t)
	go func() {
		defer port.Close()
		in := wire.NewReader(port)
		f, err := in.Next()
		if err != nil {
			return
		}
		nonce := bytes.Replace(f.Payload, []byte("{"), []byte(`{"Ready":true,`), 1)
		out := wire.NewWriter(port)
		out.Bytes(wire.TypeHello, 0, nonce)
		for {
			f, err := in.Next()
			if err != nil {
				return
			}
			if f.Type == wire.TypeExec {
				out.Raw(words)
				return
			}
		}
	}()
	return New(within(t), host)
}

func frames(list ...wire.Frame) []byte {
	var b []byte
	for _, f := range list {
		b, _ = wire.Append(b, f)
	}
	return b
}

func TestAGuestThatSendsMoreThanItMayLosesItsConnection(t *testing.T) {
	flood := []wire.Frame{{Type: wire.TypeStarted, Stream: 1, Payload: []byte(`{}`)}}
	for range wire.WindowSize/wire.MaxPayload + 2 {
		flood = append(flood, wire.Frame{Type: wire.TypeStdout, Stream: 1, Payload: make([]byte, wire.MaxPayload)})
	}
	c, err := lie(t, frames(flood...))
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe() // nobody reads
	defer r.Close()
	spec := sh("true")
	spec.Stdout = w
	if _, err := c.Exec(within(t), spec); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the guest is still heard")
	}
	if !errors.Is(c.err, wire.ErrOverrun) {
		t.Errorf("%v", c.err)
	}
}

func FuzzAGuestThatLies(f *testing.F) {
	f.Add([]byte("nonsense"))
	f.Add(frames(wire.Frame{Type: wire.TypeStarted, Stream: 1, Payload: []byte(`{}`)}, wire.Frame{Type: wire.TypeExit, Stream: 1, Payload: []byte(`{"Code":999}`)}))
	f.Add(frames(wire.Frame{Type: wire.TypeExit, Stream: 1, Payload: []byte(`{}`)}, wire.Frame{Type: wire.TypeStarted, Stream: 1, Payload: []byte(`{}`)}))
	f.Add(frames(wire.Frame{Type: wire.TypeWindow, Stream: 1, Payload: []byte(`{"Of":6,"Bytes":-5}`)}))
	f.Add(frames(wire.Frame{Type: wire.TypeReply, Stream: 1, Payload: []byte(`{`)}))
	f.Fuzz(func(t *testing.T, words []byte) {
		c, err := lie(t, words)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		spec := sh("true")
		spec.Stdout, spec.Stderr = io.Discard, io.Discard
		if p, err := c.Exec(within(t), spec); err == nil {
			if code, _ := p.Wait(); code < 0 || code > 255 {
				t.Errorf("exit code %d", code)
			}
		}
	})
}
