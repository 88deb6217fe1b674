package cloudtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// Talk is a program that is talked to, until the test ends.
type Talk struct {
	t    testing.TB
	name string
	in   io.WriteCloser
	done chan struct{}

	mu    sync.Mutex
	out   bytes.Buffer
	ended error
}

// TalkTo starts the nacre command against this cloud.
func (c *Cloud) TalkTo(args ...string) *Talk {
	c.t.Helper()
	cmd := exec.Command(Binary(c.t), args...)
	cmd.Env = append(os.Environ(), "NACRE_DATA_DIR="+c.Dir, "AWS_ENDPOINT_URL=", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=")
	return Converse(c.t, cmd)
}

// Converse starts a program.
func Converse(t testing.TB, cmd *exec.Cmd) *Talk {
	t.Helper()
	k := &Talk{t: t, name: strings.Join(cmd.Args, " "), done: make(chan struct{})}
	var err error
	if k.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = k, k
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		k.ended = cmd.Wait()
		close(k.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-k.done
	})
	return k
}

// Write takes in what the program says.
func (k *Talk) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out.Write(p)
}

// Said is all that the program has said.
func (k *Talk) Said() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out.String()
}

// Say types something.
func (k *Talk) Say(text string) {
	k.t.Helper()
	if _, err := io.WriteString(k.in, text); err != nil {
		k.t.Fatalf("%s: %v; it said %q", k.name, err, k.Said())
	}
}

// Hears waits until the program has said something.
func (k *Talk) Hears(want string) {
	k.t.Helper()
	WaitFor(k.t, 2*time.Minute, k.name+" to say "+want, func() error {
		if said := k.Said(); !strings.Contains(said, want) {
			return fmt.Errorf("it says %.2000q", said)
		}
		return nil
	})
}

// Echoes says something again and again until the program has said another: who only begins to listen misses the first.
func (k *Talk) Echoes(text, want string) {
	k.t.Helper()
	WaitFor(k.t, 2*time.Minute, k.name+" to say "+want, func() error {
		if said := k.Said(); strings.Contains(said, want) {
			return nil
		}
		k.Say(text)
		time.Sleep(300 * time.Millisecond)
		return fmt.Errorf("it says %.2000q", k.Said())
	})
}

// End waits for the program's end and returns its error.
func (k *Talk) End() error {
	k.t.Helper()
	select {
	case <-k.done:
		return k.ended
	case <-time.After(time.Minute):
		k.t.Fatalf("%s does not end; it said %q", k.name, k.Said())
		return nil
	}
}
