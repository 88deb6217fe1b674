package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// contextOf writes a directory to be built.
func contextOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// built is what `nacre image build -o json` says.
type built struct {
	ID    string `json:"id"`
	Steps []struct{ Instruction, State string }
}

func build(c *cloudtest.Cloud, t *testing.T, args ...string) (b built) {
	t.Helper()
	if err := json.Unmarshal([]byte(c.Nacre(append([]string{"image", "build", "-o", "json"}, args...)...)), &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// states counts a build's steps.
func (b built) states() map[string]int {
	n := map[string]int{}
	for _, s := range b.Steps {
		n[s.State]++
	}
	return n
}

const application = `ARG BASE
FROM ${BASE} AS builder
ARG VERSION=none
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size && echo $VERSION > /version
RUN --network=none <<END
set -e
ls /run/secrets 2> /dev/null || echo none > /none
END
FROM builder AS unused
RUN exit 1
FROM busybox
WORKDIR /srv/app
COPY --chown=admin:admin files ./
COPY --from=builder /size /version /none /srv/
USER admin
RUN id -un > /tmp/who; date > /tmp/now; rm /tmp/now
ENV GREETING="hello world"
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["cat /srv/size /srv/version /srv/none /tmp/who; ls -ln /srv/app; ls /srv/app/*; echo $GREETING; sleep 1000"]
`

func TestAContainerfileBecomesAnImageThatIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	secret := "hush-" + strings.Repeat("q7", 20)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := contextOf(t, map[string]string{"Containerfile": application, ".dockerignore": "files/left-out\n", "files/left-out": "x", "files/in": "i", "files/sub/below": "b"})
	flags := []string{dir, "--build-arg", "BASE=busybox", "--build-arg", "VERSION=7", "--secret", "id=token,src=" + token}
	first := build(c, t, append(flags, "--tag", "app:1")...)
	if n := first.states(); n["cached"] != 0 || n["failed"] != 0 || len(first.Steps) != 11 {
		t.Errorf("the first build: %+v", first.Steps)
	}
	c.Nacre("run", "app:1", "--name", "one")
	c.WaitFor(20*time.Second, "the application's output", func() error {
		out, err := c.Try("logs", "one")
		for _, want := range []string{"45\n", "7\n", "none\n", "admin\n", " 1000     1000 ", " in\n", "below\n", "hello world\n"} {
			if err == nil && !strings.Contains(strings.ReplaceAll(out, "\r", ""), want) {
				err = fmt.Errorf("%q is not in %s", want, out)
			}
		}
		return err
	})
	if out := c.Nacre("logs", "one"); strings.Contains(out, "left-out") {
		t.Errorf("what is ignored was copied: %s", out)
	}
	// Nothing has changed: nothing is run, not even after a restart. The dates of the files are nothing to it.
	c.Kill()
	c.Up()
	if err := os.Chtimes(filepath.Join(dir, "files/in"), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	again := build(c, t, append(flags, "--tag", "app:2")...)
	for _, s := range again.Steps {
		word, _, _ := strings.Cut(s.Instruction, " ")
		if want := map[string]string{"RUN": "cached", "COPY": "cached", "WORKDIR": "cached"}[word]; want != "" && s.State != want {
			t.Errorf("%s is %s", s.Instruction, s.State)
		}
	}
	anew := build(c, t, append(flags, "--tag", "app:3", "--no-cache")...)
	if n := anew.states(); n["cached"] != 0 {
		t.Errorf("without the cache: %+v", anew.Steps)
	}
	digests := map[string]bool{}
	for _, name := range []string{"app:2", "app:3"} {
		c.Nacre("run", name, "--name", name)
		digests[inspect(c, t, name).Root.Digest] = true
	}
	digests[inspect(c, t, "one").Root.Digest] = true
	if len(digests) != 1 {
		t.Errorf("the same inputs made %v", digests)
	}
	// Another file is another layer, and what stands below it is found.
	if err := os.WriteFile(filepath.Join(dir, "files/in"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	changed := build(c, t, append(flags, "--tag", "app:1", "--replace")...)
	if n := changed.states(); n["cached"] != 3 || changed.ID == first.ID {
		t.Errorf("after a change: %+v", changed)
	}
	if out, err := c.Try(append([]string{"image", "build", "--tag", "app:1"}, flags...)...); err == nil || !strings.Contains(out, "exists") {
		t.Errorf("a name that is taken: %v %s", err, out)
	}
	nowhere(t, c.Dir, secret)
}

// nowhere looks through a cloud's files for what must be in none of them.
func nowhere(t *testing.T, dir, secret string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what is going away at this moment
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(secret)) {
			t.Errorf("the secret is in %s", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestABuildThatCannotBeSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	for name, b := range map[string]struct{ text, want string }{
		"a command that fails":      {"FROM busybox\nRUN echo so far; exit 3", "so far\nnacre: line 2: RUN echo so far; exit 3: the command failed: exit code 3"},
		"no such instruction":       {"FROM busybox\nRUNN x", "line 2: unknown instruction: RUNN"},
		"a file that isn't there":   {"FROM busybox\nCOPY nothing /", "line 2: COPY nothing /: /nothing is not there"},
		"fetching":                  {"FROM busybox\nADD https://example.com/x /", "fetching from elsewhere is not built"},
		"the server's network":      {"FROM busybox\nRUN --network=host true", "never has the server's own network"},
		"a stranger's image":        {"FROM ami-0123456789abcdef0", "no image ami-0123456789abcdef0"},
		"nothing at all":            {"FROM scratch\nENV a=b", "no layer"},
		"a command on nothing":      {"FROM scratch\nRUN true", "nothing to run"},
		"a secret that isn't given": {"FROM busybox\nRUN --mount=type=secret,id=x,required=true true", `the secret "x" was not given`},
		"a link out of the context": {"FROM busybox\nCOPY out /out\n", "COPY out /out: /out is not there"},
		"a user that nobody knows":  {"FROM busybox\nCOPY --chown=nobodyatall Containerfile /", `no user "nobodyatall"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := contextOf(t, map[string]string{"Containerfile": b.text})
			if err := os.Symlink("/etc/hostname", filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
			out, err := c.Try("image", "build", dir, "--tag", "never")
			if err == nil || !strings.Contains(out, b.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	// A server on all of the host's addresses hears nothing of a command that knocks at each, at the way out and at the metadata's.
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan string, 1)
	go func() {
		if conn, err := l.Accept(); err == nil {
			heard <- conn.RemoteAddr().String()
			conn.Close()
		}
	}()
	knock := []string{"169.254.169.254", "169.254.0.1"}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && len(knock) < 6 {
			knock = append(knock, n.IP.String())
		}
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	dir := contextOf(t, map[string]string{"Containerfile": "FROM busybox\nRUN for a in " + strings.Join(knock, " ") + "; do nc -w 1 $a " + port + " < /dev/null && echo open $a; done; exit 7\n"})
	if out, err := c.Try("image", "build", dir, "--tag", "never"); err == nil || !strings.Contains(out, "exit code 7") || strings.Contains(out, "\nopen ") {
		t.Errorf("%v: %s", err, out)
	}
	select {
	case from := <-heard:
		t.Errorf("the host was reached from %s", from)
	default:
	}
	if out := c.Nacre("image", "ls"); strings.Contains(out, "never") {
		t.Errorf("there is an image: %s", out)
	}
}

func TestABuildOutlivesTheManagerAndItsCommandsDoNot(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	dir := contextOf(t, map[string]string{"Containerfile": "FROM busybox\nRUN echo kept > /kept\nRUN sleep 86413\n"})
	type end struct {
		out string
		err error
	}
	ended := make(chan end, 1)
	go func() {
		out, err := c.Try("image", "build", dir, "--tag", "slow")
		ended <- end{out, err}
	}()
	running := func() error {
		if len(processes(t, "sleep\x0086413")) == 0 {
			return errors.New("it is not running")
		}
		return nil
	}
	c.WaitFor(60*time.Second, "the command", running)
	c.Kill()
	c.WaitFor(30*time.Second, "the command's end", func() error {
		if list := processes(t, "sleep\x0086413"); len(list) > 0 {
			return fmt.Errorf("it goes on as %v", list)
		}
		return nil
	})
	c.Up()
	c.WaitFor(60*time.Second, "the command, again", running)
	tasks, err := c.EC2.DescribeImportImageTasks(t.Context(), &ec2.DescribeImportImageTasksInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks.ImportImageTasks {
		if *task.Status == "active" {
			if _, err := c.EC2.CancelImportTask(t.Context(), &ec2.CancelImportTaskInput{ImportTaskId: task.ImportTaskId}); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case e := <-ended:
		if e.err == nil || !strings.Contains(e.out, "cancelled") {
			t.Errorf("the build ended with %v: %s", e.err, e.out)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the command waits for a build that was cancelled")
	}
	if list := processes(t, "sleep\x0086413"); len(list) > 0 {
		t.Errorf("the command goes on as %v", list)
	}
}

// processes finds those whose command line has some words.
func processes(t *testing.T, words string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), words) {
			found = append(found, filepath.Base(filepath.Dir(f)))
		}
	}
	return found
}
