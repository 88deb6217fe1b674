package access_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nacre-cloud/nacre/internal/agent/access"
)

// background starts a client that is killed at the test's end.
func background(t testing.TB, cmd *exec.Cmd) (stderr *logBuffer) {
	t.Helper()
	stderr = &logBuffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return stderr
}

// shouting answers each connection with all that it sent, in upper case, once the sender has ended.
func shouting(t testing.TB) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				data, _ := io.ReadAll(conn)
				conn.Write(bytes.ToUpper(data))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// shout sends data to a port and returns the answer.
func shout(port int, data []byte) ([]byte, error) {
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		conn.Write(data)
		conn.(*net.TCPConn).CloseWrite()
	}()
	return io.ReadAll(conn)
}

func checkShout(t testing.TB, port int) {
	t.Helper()
	data := make([]byte, 3<<20)
	rand.Read(data)
	eventually(t, "the forwarded port answers", func() bool {
		got, err := shout(port, []byte("hello"))
		return err == nil && string(got) == "HELLO"
	})
	if got, err := shout(port, data); err != nil || !bytes.Equal(got, bytes.ToUpper(data)) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(data), err)
	}
}

func TestAPortInsideIsReachedFromTheClient(t *testing.T) {
	b := serve(t)
	b.file("/etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.0.1 web.internal Web # the name\n")
	inside := shouting(t)
	for _, host := range []string{"127.0.0.1", "localhost", "web"} {
		local := freePort(t)
		background(t, b.ssh("admin", "-N", "-L", fmt.Sprintf("127.0.0.1:%d:%s:%d", local, host, inside)))
		checkShout(t, local)
	}
	conn := dial(t, b, "admin")
	if _, err := conn.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t))); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a closed port: %v", err)
	}
	if _, err := conn.Dial("tcp", "nowhere:80"); err == nil || !strings.Contains(err.Error(), "no address for") {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestForwardedNamesAreAskedOfTheInstancesOwnDNSServer(t *testing.T) {
	inside := shouting(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "db.ec2.internal." {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)})
		} else {
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m)
	})}
	served := make(chan struct{})
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() {
		defer close(served)
		server.ActivateAndServe()
	}()
	<-started
	defer func() {
		server.Shutdown()
		<-served
	}()
	b := serve(t, func(target *access.Target, _ *access.Limits) {
		target.Resolver, target.Domain = netip.MustParseAddr("172.31.0.2"), "ec2.internal"
		dial := target.Dial
		target.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if network == "udp" && address == "172.31.0.2:53" {
				address = pc.LocalAddr().String()
			}
			return dial(ctx, network, address)
		}
	})
	for _, name := range []string{"db", "DB.ec2.internal", "db.ec2.internal."} {
		cmd := b.ssh("admin", "-W", fmt.Sprintf("%s:%d", name, inside))
		cmd.Stdin = strings.NewReader("hello")
		if stdout, stderr, code := run(cmd); stdout != "HELLO" {
			t.Errorf("%s: exit %d: %q %s", name, code, stdout, stderr)
		}
	}
	if _, err := dial(t, b, "admin").Dial("tcp", "other:1"); err == nil || !strings.Contains(err.Error(), "NXDOMAIN") {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestAPortOfTheClientIsReachedFromInside(t *testing.T) {
	b := serve(t)
	outside := shouting(t)
	inside := freePort(t)
	cmd := b.ssh("admin", "-N", "-o", "ExitOnForwardFailure=yes", "-R", fmt.Sprintf("%d:127.0.0.1:%d", inside, outside))
	background(t, cmd)
	checkShout(t, inside)
	cmd.Process.Kill()
	eventually(t, "the port is closed with the connection", func() bool {
		_, err := shout(inside, nil)
		return err != nil
	})
}

func TestAPortInsideIsChosenAndClosedAsTheClientAsks(t *testing.T) {
	b := serve(t)
	conn := dial(t, b, "admin")
	l, err := conn.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "from the client")
	}()
	if got, err := shout(port, nil); string(got) != "from the client" {
		t.Errorf("%q, %v", got, err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("cancel the forwarding: %v", err)
	}
	if _, err := shout(port, nil); err == nil {
		t.Error("the port is still open")
	}
}

func TestListeningInsideKeepsTheInstancesRules(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	b := serve(t, func(target *access.Target, _ *access.Limits) {
		listen := target.Listen
		target.Listen = func(ctx context.Context, network, address string) (net.Listener, error) {
			mu.Lock()
			asked = append(asked, network+" "+address)
			mu.Unlock()
			return listen(ctx, "tcp4", "127.0.0.1:0")
		}
	})
	for _, c := range []struct{ user, bind, want string }{
		{"admin", "80", ""}, // only root listens there
		{"root", "80", "tcp4 127.0.0.1:80"},
		{"admin", "8080", "tcp4 127.0.0.1:8080"},
		{"admin", "*:8080", "tcp4 0.0.0.0:8080"},
		{"admin", "0.0.0.0:8080", "tcp4 0.0.0.0:8080"},
		{"admin", "[::1]:8080", "tcp6 [::1]:8080"},
		{"admin", "example.com:8080", ""},
	} {
		// The command runs once the forwarding was answered.
		_, stderr, code := run(b.ssh(c.user, "-o", "ExitOnForwardFailure=yes", "-R", c.bind+":127.0.0.1:9", "sleep 0.1"))
		mu.Lock()
		got := strings.Join(asked, ",")
		asked = nil
		mu.Unlock()
		if got != c.want || (code == 0) != (c.want != "") {
			t.Errorf("%s asks for %s: listened on %q, exit %d: %s", c.user, c.bind, got, code, stderr)
		}
	}
}

func TestSessionsAndForwardedConnectionsAreLimited(t *testing.T) {
	b := serve(t, func(_ *access.Target, limits *access.Limits) {
		limits.Sessions, limits.Forwards, limits.Listeners = 1, 2, 1
	})
	conn := dial(t, b, "admin")
	inside := fmt.Sprintf("127.0.0.1:%d", shouting(t))
	for n := range 3 {
		c, err := conn.Dial("tcp", inside)
		if (err == nil) != (n < 2) {
			t.Errorf("connection %d: %v", n, err)
		}
		if err == nil {
			defer c.Close()
		}
	}
	for n := range 2 {
		if _, err := conn.NewSession(); (err == nil) != (n < 1) {
			t.Errorf("session %d: %v", n, err)
		}
	}
	for n := range 2 {
		if _, err := conn.Listen("tcp", "127.0.0.1:0"); (err == nil) != (n < 1) {
			t.Errorf("listener %d: %v", n, err)
		}
	}
}
