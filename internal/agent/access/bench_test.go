package access_test

import (
	"io"
	"os/exec"
	"testing"
	"time"
)

// BenchmarkFirstAnswer is what a user feels: OpenSSH's client from its start to the end of `true`.
func BenchmarkFirstAnswer(b *testing.B) {
	s := serve(b)
	for b.Loop() {
		if _, stderr, code := run(s.ssh("admin", "true")); code != 0 {
			b.Fatalf("exit %d: %s", code, stderr)
		}
	}
}

// BenchmarkHandshake leaves OpenSSH's own start out: connection, keys and login with Go's client.
func BenchmarkHandshake(b *testing.B) {
	s := serve(b)
	for b.Loop() {
		conn := dial(b, s, "admin")
		session, err := conn.NewSession()
		if err != nil {
			b.Fatal(err)
		}
		if err := session.Run("true"); err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
}

// BenchmarkDownload streams through one session to OpenSSH's client.
func BenchmarkDownload(b *testing.B) {
	s := serve(b)
	const size = 256 << 20
	b.SetBytes(size)
	for b.Loop() {
		cmd := exec.Command("ssh", append(s.options(s.key), "-l", "admin", "127.0.0.1", "head -c 268435456 /dev/zero")...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, out); n != size {
			b.Fatalf("%d bytes, %v", n, err)
		}
		cmd.Wait()
		timer.Stop()
	}
}
