package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// memoryLimit is what the kernel enforces on an instance's control group, in MiB.
func memoryLimit(t *testing.T, id string) int64 {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/nacre-*/%s/memory.max", "/sys/fs/cgroup/memory/nacre-*/%s/memory.limit_in_bytes"} {
		files, _ := filepath.Glob(fmt.Sprintf(pattern, id))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var n int64
			if _, err := fmt.Sscan(string(b), &n); err != nil {
				t.Fatalf("%s holds %q", f, b)
			}
			return n >> 20
		}
	}
	t.Fatalf("the instance %s has no control group", id)
	return 0
}

func TestARunningInstanceGetsAnotherSizeAndGoesOn(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	id := *i.InstanceId
	m := c.SSH(i, "admin", key).WaitLogin()
	started := m.Run("cut -d' ' -f22 /proc/1/stat")
	if got := memoryLimit(t, id); got != 512 {
		t.Fatalf("it starts with %d MiB", got)
	}
	c.Nacre("resize", id, "--memory", "768MiB")
	if got := memoryLimit(t, id); got != 768 {
		t.Errorf("it has %d MiB", got)
	}
	c.Nacre("resize", id, "--type", "t3.micro")
	if got := memoryLimit(t, id); got != 1024 {
		t.Errorf("as a t3.micro it has %d MiB", got)
	}
	m.Run("((head -c 90m /dev/zero; echo full > /tmp/full; sleep 300) | tail -c 90m >/dev/null &) </dev/null >/dev/null 2>&1; until [ -e /tmp/full ]; do sleep 0.1; done")
	said, err := c.Try("resize", id, "--memory", "64")
	if err == nil || !strings.Contains(said+err.Error(), "MiB of memory, more than the 64 MiB") {
		t.Errorf("less than its processes hold: %s %v", said, err)
	}
	if got := memoryLimit(t, id); got != 1024 {
		t.Errorf("after what failed it has %d MiB", got)
	}
	c.Kill()
	c.Up()
	c.Nacre("resize", id, "--memory", "512")
	if got := memoryLimit(t, id); got != 512 {
		t.Errorf("after nacre came back it has %d MiB", got)
	}
	if now := m.WaitLogin().Run("cut -d' ' -f22 /proc/1/stat"); now != started {
		t.Error("its first process was started anew")
	}
}
