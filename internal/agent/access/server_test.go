package access_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agent/access"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const instance cloud.InstanceID = "i-0123456789abcdef0"

// bench is a server with its instance, and OpenSSH's clients to meet it with.
type bench struct {
	t          testing.TB
	dir        string // for keys and files
	root       string // the instance's root file system
	host       *host
	port       string
	key        string // the launch key's file
	log        *logBuffer
	hangUp     func() // ends Serve and waits for it
	knownHosts string
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func serve(t testing.TB, change ...func(*access.Target, *access.Limits)) *bench {
	t.Helper()
	before := runtime.NumGoroutine()
	b := &bench{t: t, dir: t.TempDir(), log: &logBuffer{}}
	b.root = filepath.Join(b.dir, "root")
	b.host = &host{root: b.root, running: map[*hostProcess]bool{}}
	b.file("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n"+
		"admin:x:1000:1000::/home/admin:/bin/bash\nghost:x:1001:1001::/home/ghost:/bin/fish\n")
	b.file("/bin/bash", 0o755, "")
	for _, home := range []string{"/root", "/home/admin", "/home/ghost"} {
		if err := os.MkdirAll(filepath.Join(b.root, home), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.key = b.newKey("launch")
	signers, err := access.LoadOrCreateHostKeys(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	target := access.Target{
		Instance: instance, HostKeys: signers, RootFS: b.root, LoginUser: "admin",
		LaunchKeys: []ssh.PublicKey{b.publicKey(b.key)}, SFTPServer: []string{sftpServer(t)},
		Exec: b.host.Exec, Dial: b.host.Dial, Listen: b.host.Listen,
	}
	limits := access.Limits{HangupGrace: 2 * time.Second}
	for _, c := range change {
		c(&target, &limits)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, b.port, _ = net.SplitHostPort(l.Addr().String())
	b.knownHosts = filepath.Join(b.dir, "known_hosts")
	known := ""
	for _, s := range signers {
		known += fmt.Sprintf("[127.0.0.1]:%s %s", b.port, ssh.MarshalAuthorizedKey(s.PublicKey()))
	}
	if err := os.WriteFile(b.knownHosts, []byte(known), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := access.New(access.Config{Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Limits: limits})
	go func() { done <- server.Serve(ctx, l, target) }()
	b.hangUp = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("Serve does not end")
		}
	})
	t.Cleanup(func() {
		b.hangUp()
		if n := b.host.processes(); n > 0 {
			t.Errorf("%d processes are left", n)
		}
		// The test's own copies to processes' input end soon after their channels have closed.
		for range 100 {
			if runtime.NumGoroutine() <= before {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > before {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines were left of %d before:\n%s", n, before, stacks[:runtime.Stack(stacks, true)])
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", b.log)
		}
	})
	return b
}

var sftpServer = func() func(testing.TB) string {
	var once sync.Once
	var name string
	var err error
	return func(t testing.TB) string {
		once.Do(func() {
			var dir string
			if dir, err = os.MkdirTemp("", "nacre-sftp-test-*"); err != nil {
				return
			}
			name = filepath.Join(dir, "nacre-sftp")
			cmd := exec.Command("go", "build", "-o", name, "github.com/nacre-cloud/nacre/cmd/nacre-sftp")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, buildErr := cmd.CombinedOutput(); buildErr != nil {
				err = fmt.Errorf("%w: %s", buildErr, out)
			}
			builtSFTPServer = dir
		})
		if err != nil {
			t.Fatalf("build nacre-sftp: %v", err)
		}
		return name
	}
}()

var builtSFTPServer string

func TestMain(m *testing.M) {
	code := m.Run()
	if builtSFTPServer != "" {
		os.RemoveAll(builtSFTPServer)
	}
	os.Exit(code)
}

// file puts a file into the instance.
func (b *bench) file(name string, mode os.FileMode, content string) {
	b.t.Helper()
	name = filepath.Join(b.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) newKey(name string, options ...string) string {
	b.t.Helper()
	file := filepath.Join(b.dir, name)
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-N", "", "-f", file, "-t", "ed25519"}, options...)...).CombinedOutput(); err != nil {
		b.t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	return file
}

func (b *bench) publicLine(key string) string {
	b.t.Helper()
	data, err := os.ReadFile(key + ".pub")
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

func (b *bench) publicKey(key string) ssh.PublicKey {
	b.t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(b.publicLine(key)))
	if err != nil {
		b.t.Fatal(err)
	}
	return k
}

// options are what ssh, scp and sftp share.
func (b *bench) options(key string) []string {
	return []string{"-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile=" + b.knownHosts, "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes",
		"-o", "Port=" + b.port, "-o", "LogLevel=ERROR"}
}

// ssh is OpenSSH's client with the launch key, for a user.
func (b *bench) ssh(user string, args ...string) *exec.Cmd { return b.sshWith(b.key, user, args...) }

func (b *bench) sshWith(key, user string, args ...string) *exec.Cmd {
	// OpenSSH takes options also after the host's name.
	cmd := exec.Command("ssh", append(append(b.options(key), "-l", user, "127.0.0.1"), args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a command and returns its output and exit code.
func run(cmd *exec.Cmd) (stdout, stderr string, code int) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	timer := time.AfterFunc(60*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Run()
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("it did not happen in time: %s", what)
}
