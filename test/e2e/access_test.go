package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

func TestSSHIsAsOnAServer(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	admin := c.SSH(i, "admin", key).WaitLogin()
	root := c.SSH(i, "root", key)

	t.Run("users are who they say", func(t *testing.T) {
		if got := admin.Run("id -un"); got != "admin" {
			t.Errorf("logged in as %q", got)
		}
		if got := root.Run("id -u"); got != "0" {
			t.Errorf("root has the user id %q", got)
		}
		if got := admin.Run("hostname"); got != "ip-"+strings.ReplaceAll(*i.PrivateIpAddress, ".", "-") {
			t.Errorf("the host name is %q", got)
		}
	})
	t.Run("exit codes come through", func(t *testing.T) {
		if _, code := admin.Try("exit 7"); code != 7 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("another key is refused", func(t *testing.T) {
		other := c.SSH(i, "admin", c.KeyPair("other"))
		if out, code := other.Try("true"); code != 255 || !strings.Contains(out, "Permission denied") {
			t.Errorf("exit %d: %s", code, out)
		}
	})
	t.Run("a terminal is a terminal", func(t *testing.T) {
		cmd := exec.Command("ssh", append(admin.Options(), "-tt", admin.User+"@"+admin.Address, "tty; echo done")...)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "/dev/pts/") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("files go there and back", func(t *testing.T) {
		dir := t.TempDir()
		there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
		data := make([]byte, 5<<20)
		if _, err := rand.Read(data); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(there, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{there, "admin@" + admin.Address + ":file"}, {"admin@" + admin.Address + ":file", back}} {
			if out, err := exec.Command("scp", append(admin.Options(), args...)...).CombinedOutput(); err != nil {
				t.Fatalf("scp %v: %v: %s", args, err, out)
			}
		}
		if cloudtest.Sum(t, there) != cloudtest.Sum(t, back) {
			t.Error("the file changed on the way")
		}
		if got := admin.Run("stat -c %U ~/file"); got != "admin" {
			t.Errorf("the file belongs to %q", got)
		}
	})
	t.Run("local forwarding reaches a port inside", func(t *testing.T) {
		port := freeLocalPort(t)
		forward := background(t, exec.Command("ssh", append(admin.Options(), "-N", "-L", fmt.Sprintf("127.0.0.1:%d:127.0.0.1:8000", port), admin.User+"@"+admin.Address)...))
		defer forward()
		serve := background(t, exec.Command("ssh", append(admin.Options(), admin.User+"@"+admin.Address, "while true; do echo from inside | nc -l -p 8000; done")...))
		defer serve()
		cloudtest.WaitFor(t, 10*time.Second, "the forwarded port to answer", func() error {
			conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(2 * time.Second))
			buf := make([]byte, 11)
			if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "from inside" {
				return fmt.Errorf("%v: %q", err, buf)
			}
			return nil
		})
	})
	t.Run("remote forwarding reaches a port outside", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(conn, "from outside")
				conn.Close()
			}
		}()
		forward := background(t, exec.Command("ssh", append(admin.Options(), "-N", "-R", "127.0.0.1:9000:"+l.Addr().String(), admin.User+"@"+admin.Address)...))
		defer forward()
		cloudtest.WaitFor(t, 10*time.Second, "the remote port to answer", func() error {
			if out, code := admin.Try("nc 127.0.0.1 9000 </dev/null"); !strings.Contains(out, "from outside") {
				return fmt.Errorf("exit %d: %s", code, out)
			}
			return nil
		})
	})
}

func freeLocalPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// background starts a command and returns what ends it.
func background(t *testing.T, cmd *exec.Cmd) func() {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
}

func TestNacreSSHFindsTheKeyByTheInstancesName(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("run", "busybox", "--name", "web", "--wait")
	if out := c.Nacre("ssh", "web", "echo", "hello", "from", "inside"); strings.TrimSpace(out) != "hello from inside" {
		t.Errorf("it printed %q", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, cloudtest.Binary(t), "ssh", "web", "exit 3")
	cmd.Env = append(os.Environ(), "NACRE_DATA_DIR="+c.Dir)
	cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit code %d", code)
	}
}
