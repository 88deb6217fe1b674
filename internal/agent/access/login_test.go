package access_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/access"
)

func TestTheLaunchKeyLetsInRootAndTheOrdinaryUserOnly(t *testing.T) {
	b := serve(t)
	for _, user := range []string{"root", "admin"} {
		if stdout, stderr, code := run(b.ssh(user, "echo $USER")); stdout != user+"\n" {
			t.Errorf("%s: exit %d: %s%s", user, code, stdout, stderr)
		}
	}
	for _, user := range []string{"nobody", "daemon", "ghost", "", "../root"} {
		if _, stderr, code := run(b.ssh(user, "true")); code != 255 || !strings.Contains(stderr, "Permission denied (publickey)") {
			t.Errorf("%q: exit %d: %s", user, code, stderr)
		}
	}
	if log := b.log.String(); !strings.Contains(log, "SSH login") || !strings.Contains(log, "instance="+string(instance)) ||
		!strings.Contains(log, "key="+ssh.FingerprintSHA256(b.publicKey(b.key))) || !strings.Contains(log, "source=127.0.0.1:") {
		t.Errorf("the login is not in the log: %s", log)
	}
}

func TestAnotherKeyIsRefused(t *testing.T) {
	b := serve(t)
	if _, stderr, code := run(b.sshWith(b.newKey("other"), "root", "true")); code != 255 || !strings.Contains(stderr, "Permission denied (publickey)") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// An offered key is not a proven one: the login must be the signing key's.
func TestOfferingAKeyWithoutSigningGivesNothing(t *testing.T) {
	b := serve(t)
	b.file("/home/admin/.ssh/authorized_keys", 0o600, `command="echo limited" `+b.publicLine(b.newKey("limited")))
	limited, err := os.ReadFile(filepath.Join(b.dir, "limited"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(limited)
	if err != nil {
		t.Fatal(err)
	}
	launch := &cannotSign{b.publicKey(b.key)}
	conn, err := ssh.Dial("tcp", "127.0.0.1:"+b.port, &ssh.ClientConfig{User: "admin", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		Auth: []ssh.AuthMethod{ssh.PublicKeys(launch)}})
	if err == nil {
		conn.Close()
		t.Fatal("an unsigned offer logged in")
	}
	conn, err = ssh.Dial("tcp", "127.0.0.1:"+b.port, &ssh.ClientConfig{User: "admin", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	session, err := conn.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := session.Output("echo everything"); string(out) != "limited\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// cannotSign is a key whose private half somebody else has: what it signs is worth nothing.
type cannotSign struct{ public ssh.PublicKey }

func (s *cannotSign) PublicKey() ssh.PublicKey { return s.public }

func (s *cannotSign) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return &ssh.Signature{Format: s.public.Type(), Blob: make([]byte, 64)}, nil
}

func TestUsersKeepKeysOfTheirOwn(t *testing.T) {
	b := serve(t)
	key := b.newKey("own")
	line := b.publicLine(key)
	keys := "/home/admin/.ssh/authorized_keys"
	try := func(command string) (string, int) {
		stdout, stderr, code := run(b.sshWith(key, "admin", command))
		return stdout + stderr, code
	}
	write := func(content string) {
		t.Helper()
		b.file(keys, 0o600, content)
	}
	refused := func(why string) {
		t.Helper()
		if out, code := try("echo in"); code != 255 || !strings.Contains(out, "Permission denied") {
			t.Errorf("%s: exit %d: %s", why, code, out)
		}
	}
	refused("no file")
	write("# a comment\n\nnonsense\n" + line)
	if out, code := try("echo in"); out != "in\n" || code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	if _, _, code := run(b.sshWith(key, "root", "true")); code != 255 {
		t.Errorf("the user's key let in root")
	}

	write(`command="echo forced $SSH_ORIGINAL_COMMAND",no-pty,no-port-forwarding ` + line)
	if out, _ := try("echo free"); out != "forced echo free\n" {
		t.Errorf("the forced command did not run: %s", out)
	}
	write(`from="10.0.0.0/8,!127.0.0.1,127.*" ` + line)
	refused("from elsewhere")
	write(`from="127.0.0.0/8" ` + line)
	if out, code := try("echo in"); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	write("cert-authority " + line)
	refused("a certificate authority")
	write(`environment="A=b" ` + line)
	refused("an option that isn't honoured")

	write(line)
	file := filepath.Join(b.root, keys)
	for _, c := range []struct {
		why        string
		spoil, fix func() error
	}{
		{"writable by others", func() error { return os.Chmod(file, 0o666) }, func() error { return os.Chmod(file, 0o600) }},
		{"in a directory writable by others", func() error { return os.Chmod(filepath.Dir(file), 0o777) }, func() error { return os.Chmod(filepath.Dir(file), 0o700) }},
		{"owned by another user", func() error { return os.Chown(file, 1001, 1001) }, func() error { return os.Chown(file, 1000, 1000) }},
	} {
		if err := c.spoil(); err != nil {
			t.Fatal(err)
		}
		refused(c.why)
		if err := c.fix(); err != nil {
			t.Fatal(err)
		}
	}
	if out, code := try("echo in"); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestAKeyFileNeverLeadsOutOfTheInstance(t *testing.T) {
	b := serve(t)
	key := b.newKey("own")
	outside := filepath.Join(b.dir, "outside")
	if err := os.WriteFile(outside, []byte(b.publicLine(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(b.root, "/home/admin/.ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "authorized_keys")
	for _, link := range []string{outside, "../../../../outside"} {
		if err := os.Symlink(link, file); err != nil {
			t.Fatal(err)
		}
		if _, _, code := run(b.sshWith(key, "admin", "true")); code != 255 {
			t.Errorf("a link to %s let in", link)
		}
		os.Remove(file)
	}
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, _, code := run(b.sshWith(key, "admin", "true")); code != 255 || time.Since(began) > 5*time.Second {
		t.Errorf("a pipe: exit %d after %v", code, time.Since(began))
	}
	os.Remove(file)
	if err := os.WriteFile(file, bytes.Repeat([]byte("# long\n"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, code := run(b.sshWith(key, "admin", "true")); code != 255 {
		t.Errorf("an endless file: exit %d", code)
	}
}

func TestAKeyWithoutForwardingOrTerminalGetsNeither(t *testing.T) {
	b := serve(t)
	key := b.newKey("own")
	b.file("/home/admin/.ssh/authorized_keys", 0o600, "restrict "+b.publicLine(key))
	conn := dialWith(t, b, key, "admin")
	if _, err := conn.Dial("tcp", "127.0.0.1:"+b.port); err == nil || !strings.Contains(err.Error(), "may not forward") {
		t.Errorf("a local forwarding: %v", err)
	}
	if _, err := conn.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("a remote forwarding was granted")
	}
	if stdout, _, _ := run(b.sshWith(key, "admin", "-tt", "tty")); strings.Contains(stdout, "/dev/") {
		t.Errorf("it got a terminal: %s", stdout)
	}
}

func TestAnAgentIsNotForwarded(t *testing.T) {
	b := serve(t)
	conn := dial(t, b, "admin")
	session, err := conn.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{"auth-agent-req@openssh.com", "x11-req", "break", "nonsense"} {
		if ok, err := session.SendRequest(request, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", request, ok, err)
		}
	}
	for _, kind := range []string{"x11", "direct-streamlocal@openssh.com", "tun@openssh.com", "none"} {
		ch, _, err := conn.OpenChannel(kind, nil)
		if err == nil {
			ch.Close()
			t.Errorf("a channel of type %s was opened", kind)
		}
	}
	if out, err := session.Output("echo still here"); string(out) != "still here\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// dial connects Go's own client, for what OpenSSH's doesn't do.
func dial(t testing.TB, b *bench, user string) *ssh.Client {
	t.Helper()
	return dialWith(t, b, b.key, user)
}

func dialWith(t testing.TB, b *bench, key, user string) *ssh.Client {
	t.Helper()
	data, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ssh.Dial("tcp", "127.0.0.1:"+b.port, &ssh.ClientConfig{User: user, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestWhoDoesNotLogInIsSentAway(t *testing.T) {
	b := serve(t, func(_ *access.Target, limits *access.Limits) {
		limits.Unauthenticated = 2
		limits.LoginGrace = time.Second
	})
	var waiting []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", "127.0.0.1:"+b.port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		waiting = append(waiting, conn)
		banner := make([]byte, 15)
		if _, err := io.ReadFull(conn, banner); err != nil || string(banner) != "SSH-2.0-nacre\r\n" {
			t.Fatalf("%q, %v", banner, err)
		}
	}
	third, err := net.Dial("tcp", "127.0.0.1:"+b.port)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if n, err := third.Read(make([]byte, 1)); err == nil {
		t.Errorf("a third connection was answered (%d bytes)", n)
	}
	for _, conn := range waiting {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("the silent connection was not closed: %v", err)
		}
	}
	if stdout, stderr, code := run(b.ssh("admin", "echo in")); stdout != "in\n" {
		t.Errorf("nobody gets in afterwards: exit %d: %s", code, stderr)
	}
}

func TestADeadClientIsFoundOut(t *testing.T) {
	b := serve(t, func(_ *access.Target, limits *access.Limits) {
		limits.Keepalive, limits.KeepaliveWait = 200*time.Millisecond, 500*time.Millisecond
	})
	cmd := b.ssh("admin", "cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	eventually(t, "it runs", func() bool { return b.host.processes() == 1 })
	time.Sleep(2 * time.Second)
	if b.host.processes() != 1 {
		t.Error("a living client was hung up on")
	}
	cmd.Process.Signal(syscall.SIGSTOP)
	eventually(t, "the process of the dead client is gone", func() bool { return b.host.processes() == 0 })
}

func TestAnInstanceWithoutUsersHasRoot(t *testing.T) {
	b := serve(t)
	if err := os.Remove(filepath.Join(b.root, "/etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := run(b.ssh("root", "echo in")); stdout != "in\n" {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if _, _, code := run(b.ssh("admin", "true")); code != 255 {
		t.Errorf("exit %d", code)
	}
}

// Without care about acknowledgements, each login takes at least two delays of 40 ms.
func TestALoginDoesNotWaitForDelayedAcknowledgements(t *testing.T) {
	b := serve(t)
	best := time.Hour
	for range 10 {
		began := time.Now()
		if _, stderr, code := run(b.ssh("admin", "true")); code != 0 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		best = min(best, time.Since(began))
	}
	if best > 70*time.Millisecond {
		t.Errorf("the fastest of ten logins took %v", best)
	}
}
