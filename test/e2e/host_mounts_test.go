package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

func TestContainersShareDirectoriesThatTheOperatorAllows(t *testing.T) {
	t.Parallel()
	const owner = 12345
	top := t.TempDir()
	data, fixed := filepath.Join(top, "data"), filepath.Join(top, "fixed")
	for _, dir := range []string{data, fixed} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{os.Chown(data, owner, owner), os.WriteFile(filepath.Join(fixed, "file"), []byte("fixed"), 0o644), os.Symlink(fixed, filepath.Join(data, "out")), os.Symlink("/", filepath.Join(data, "up"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	allowed := []string{"--allow-host-path", data, "--allow-host-path", fixed + ":ro"}
	c := cloudtest.New(t)
	if out, err := c.Try("up", "--allow-host-path", fixed); err == nil || !strings.Contains(out+err.Error(), "belongs to root") {
		t.Errorf("a directory of root's may be written: %s, %v", out, err)
	}
	c.Up(allowed...)
	c.Nacre("image", "bake", "busybox")
	c.Group("ssh", 22)
	key := c.KeyPair("k")
	launch := func(name string, mounts ...string) (string, error) {
		args := []string{"run", "busybox", "--name", name, "--key", "k", "--group", "ssh"}
		for _, m := range mounts {
			args = append(args, "--mount", m)
		}
		out, err := c.Try(args...)
		if err != nil {
			out += err.Error()
		}
		return out, err
	}
	for mount, says := range map[string]string{"/etc:/x:ro": "UnauthorizedOperation", fixed + ":/x": "UnauthorizedOperation", data + "/out:/x": "without leaving it", data + "/up/etc:/x": "without leaving it"} {
		if out, err := launch("refused", mount); err == nil || !strings.Contains(out, says) {
			t.Errorf("%s: %v: %s", mount, err, out)
		}
	}
	machines := map[string]*cloudtest.Machine{}
	for _, name := range []string{"a", "b"} {
		if out, err := launch(name, data+":/data", fixed+":/fixed:ro"); err != nil {
			t.Fatal(out, err)
		}
		machines[name] = c.SSH(named{c, name}.instance(t), "root", key).WaitLogin()
	}
	a, b := machines["a"], machines["b"]
	a.Run("echo shared >/data/file; chmod 4755 /data/file")
	if got := b.Run("cat /data/file /fixed/file; echo more >>/data/file; stat -c %u /data/file"); got != "shared\nfixed0" {
		t.Errorf("the second sees %q", got)
	}
	if out, code := a.Try("echo x >/fixed/other"); code == 0 {
		t.Errorf("what may be read alone was written: %s", out)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(data, "file"), &st); err != nil || st.Uid != owner || st.Gid != owner {
		t.Errorf("on the server the file belongs to %d:%d, %v", st.Uid, st.Gid, err)
	}
	if got := c.Nacre("inspect", "a"); !strings.Contains(got, data+":/data") {
		t.Errorf("it is inspected as %s", got)
	}
	// They are there after kill -9, and after another boot as long as they are allowed.
	c.Kill()
	c.Up(allowed...)
	a.WaitLogin()
	if got := a.Run("cat /data/file"); got != "shared\nmore" {
		t.Errorf("after kill -9 there is %q", got)
	}
	id := *named{c, "a"}.instance(t).InstanceId
	again := func() {
		c.Nacre("stop", "a")
		c.WaitState(id, types.InstanceStateNameStopped)
	}
	again()
	c.Nacre("start", "a")
	if got := c.SSH(c.WaitState(id, types.InstanceStateNameRunning), "root", key).WaitLogin().Run("cat /data/file"); got != "shared\nmore" {
		t.Errorf("after another boot there is %q", got)
	}
	again()
	c.Kill()
	c.Up()
	if out, err := c.Try("start", "a"); err == nil || !strings.Contains(out+err.Error(), "--allow-host-path") {
		t.Errorf("it is started with what is not allowed any more: %s, %v", out, err)
	}
}
