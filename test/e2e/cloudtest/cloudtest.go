// Package cloudtest starts a cloud of a test's own from the built binary, and gives the test the words to
// use it: launch, wait, log in, count what is left.
//
// Everything goes through the public API and the machine's own clients. A cloud is taken down, and
// its traces on the host are compared with those before, at the end of the test also when that
// failed. Several clouds, also of several test processes, run side by side without meeting.
package cloudtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
)

// Cloud is a running cloud.
type Cloud struct {
	Dir      string // its data directory
	Endpoint string
	Pool     string // its public pool
	EC2      *ec2.Client
	STS      *sts.Client
	Connect  *ec2instanceconnect.Client
	Key      Credentials

	t      testing.TB
	listen string
	before []string
	config aws.Config
	slot   net.Listener

	mu  sync.Mutex
	cmd *exec.Cmd
	log *bytes.Buffer
}

// Credentials are what `nacre env -o json` prints.
type Credentials struct {
	Endpoint  string `json:"endpoint"`
	Region    string `json:"region"`
	Account   string `json:"account"`
	AccessKey string `json:"access_key_id"`
	Secret    string `json:"secret_access_key"`
}

// Binary is the built nacre.
func Binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("NACRE_BIN")
	if path == "" {
		root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
		if err != nil {
			t.Fatalf("find the module's root: %v", err)
		}
		path = filepath.Join(strings.TrimSpace(string(root)), "bin", "nacre")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run `make build` first", err)
	}
	return path
}

// Start starts a new cloud with a tiny image named "busybox" in it.
func Start(t testing.TB) *Cloud {
	t.Helper()
	c := New(t)
	c.Up()
	c.Nacre("image", "bake", "busybox")
	return c
}

// New prepares a cloud without starting it.
func New(t testing.TB) *Cloud {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests start real machines and need root")
	}
	Binary(t) // fails before anything is there to clean up
	// Not t.TempDir: its name holds the test's, and the agent's socket path has to be short.
	dir, err := os.MkdirTemp("", "nacre-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the data directory: %v", err)
		}
	})
	n, slot := takeSlot(t)
	c := &Cloud{t: t, Dir: dir, slot: slot, Pool: fmt.Sprintf("198.19.%d.0/24", n), listen: freePort(t), log: &bytes.Buffer{}}
	c.Endpoint = "http://" + c.listen
	c.before = Footprint(t)
	t.Cleanup(c.close)
	return c
}

// takeSlot picks a number that no other test on this machine holds, and holds it by the name of a socket, which goes
// with the process whatever happens.
func takeSlot(t testing.TB) (int, net.Listener) {
	t.Helper()
	for n := 1; n < 250; n++ {
		l, err := net.Listen("unix", fmt.Sprintf("@nacre-e2e-slot-%d", n))
		if err == nil {
			return n, l
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	t.Fatal("249 tests hold a public pool; are old ones still running?")
	return 0, nil
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Up starts nacre, with more flags of its own, and waits until its API answers.
func (c *Cloud) Up(flags ...string) {
	c.t.Helper()
	cmd := exec.Command(Binary(c.t), append([]string{"up", "--data-dir", c.Dir, "--listen", c.listen, "--public-pool", c.Pool}, flags...)...)
	cmd.Stdout, cmd.Stderr = &lockedWriter{c: c}, &lockedWriter{c: c}
	// The test's own death must not leave a manager behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.cmd = cmd
	c.mu.Unlock()
	c.WaitFor(20*time.Second, "the API to answer", func() error {
		if err := syscall.Kill(cmd.Process.Pid, 0); err != nil {
			c.t.Fatalf("nacre ended:\n%s", c.Log())
		}
		conn, err := net.Dial("tcp", c.listen)
		if err != nil {
			return err
		}
		// The port is taken first; of a first start the access data follows.
		_, err = os.Stat(filepath.Join(c.Dir, "access.json"))
		return errors.Join(err, conn.Close())
	})
	out, err := c.Try("env", "-o", "json")
	if err != nil {
		c.t.Fatalf("nacre env: %v\n%s", err, out)
	}
	if err := json.Unmarshal([]byte(out), &c.Key); err != nil {
		c.t.Fatalf("nacre env printed %q: %v", out, err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	c.t.Cleanup(transport.CloseIdleConnections)
	checked := wiretest.Transport(c.t, transport, gen.Services()...)
	c.config = aws.Config{HTTPClient: &http.Client{Transport: Whole{checked}}, Region: c.Key.Region, BaseEndpoint: &c.Endpoint, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(c.Key.AccessKey, c.Key.Secret, "")}
	c.EC2, c.STS, c.Connect = ec2.NewFromConfig(c.config), sts.NewFromConfig(c.config), ec2instanceconnect.NewFromConfig(c.config)
}

// As is the EC2 client of somebody with another access key.
func (c *Cloud) As(key, secret string) *ec2.Client {
	cfg := c.config
	cfg.Credentials = credentials.NewStaticCredentialsProvider(key, secret, "")
	return ec2.NewFromConfig(cfg)
}

// lockedWriter collects nacre's output.
type lockedWriter struct{ c *Cloud }

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return w.c.log.Write(p)
}

// Log is what nacre has written so far.
func (c *Cloud) Log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

// PID is nacre's process.
func (c *Cloud) PID() int { return c.cmd.Process.Pid }

// Kill ends nacre at this instruction.
func (c *Cloud) Kill() {
	c.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	c.cmd.Wait()
	c.cmd = nil
}

// KillDaemon kills the daemon that serves a volume to a container, with SIGKILL.
func (c *Cloud) KillDaemon(volume string) {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.Dir, "volumes", "daemons", "served", "i-"+strings.TrimPrefix(volume, "vol-"), "daemon", "pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cloud) close() {
	if c.t.Failed() {
		c.t.Logf("nacre's log:\n%s", lastLines(c.Log(), 120))
	}
	if out, err := c.Try("down", "--all"); err != nil {
		c.t.Errorf("nacre down --all: %v\n%s", err, out)
	}
	if c.cmd != nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
	var left []string
	for range 50 {
		if left = Difference(c.before, Footprint(c.t), c.Dir); len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(left) > 0 {
		c.t.Errorf("left on the host:\n%s", strings.Join(left, "\n"))
	}
	c.slot.Close()
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Try runs the nacre command against this cloud and returns its standard output, followed by its standard
// error when it failed.
func (c *Cloud) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(c.t), args...)
	cmd.Env = append(os.Environ(), "NACRE_DATA_DIR="+c.Dir, "AWS_ENDPOINT_URL=", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// Nacre is Try for commands that must work.
func (c *Cloud) Nacre(args ...string) string {
	c.t.Helper()
	out, err := c.Try(args...)
	if err != nil {
		c.t.Fatalf("nacre %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// WaitFor repeats check until it returns nil, for limit at most.
func (c *Cloud) WaitFor(limit time.Duration, what string, check func() error) {
	c.t.Helper()
	WaitFor(c.t, limit, what, check)
}

// WaitFor repeats check until it returns nil, for limit at most.
func WaitFor(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	err := errors.New("never checked")
	for pause := time.Millisecond; time.Now().Before(deadline); pause = min(2*pause, 100*time.Millisecond) {
		if err = check(); err == nil {
			return
		}
		time.Sleep(pause)
	}
	t.Fatalf("waited %v for %s: %v", limit, what, err)
}

// Whole reads answers to their end before it hands them on. The SDK closes a request's body as soon as the answer's head is there;
// with an endpoint on the same machine that can be before the body's end was sent, and the connection is then
// cut in the middle of the answer. Over a network it never gets there first.
type Whole struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (w Whole) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp, nil
}
