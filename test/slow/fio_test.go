//go:build slow

package slow

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

var libraries = regexp.MustCompile(`(/\S+) \(0x`)

// putProgram copies a program of this host and its libraries into a machine.
func putProgram(t *testing.T, m *cloudtest.Machine, name string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []string{path}
	for _, lib := range libraries.FindAllStringSubmatch(string(out), -1) {
		files = append(files, lib[1])
	}
	archive, err := exec.Command("tar", append([]string{"--dereference", "--absolute-names", "--create"}, files...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	put := exec.Command("ssh", append(m.Options(), m.User+"@"+m.Address, "tar -xf - -C /")...)
	put.Stdin = bytes.NewReader(archive)
	if out, err := put.CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", name, err, out)
	}
}

// Each block that fio writes says where it belongs and which content, of several, it is of.
func TestEveryWriteThatFioWasToldOfIsThereAfterKillsSnapshotsAndRestores(t *testing.T) {
	c := cloudtest.Start(t)
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	m := c.SSH(i, "root", key).WaitLogin()
	putProgram(t, m, "fio")
	volume := func(letter string, more ...string) string {
		out := c.Nacre(append([]string{"volume", "create", "--type", "io2", "--iops", "4000"}, more...)...)
		id := strings.Fields(strings.Split(out, "\n")[1])[0]
		c.Nacre("volume", "attach", id, *i.InstanceId, "--device", "/dev/sd"+letter)
		return id
	}
	fio := func(letter string, seed int, more string) string {
		return fmt.Sprintf("fio --name=j --filename=/dev/xvd%s --size=128M --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio --direct=1 --verify=pattern --verify_pattern=0x%02x%%o --randseed=%d "+
			"--allrandrepeat=1 --verify_state_save=0 --verify_fatal=1 --output-format=terse %s", letter, seed, seed, more)
	}
	written := volume("f", "--size", "8")
	back := func(what string) {
		t.Helper()
		c.WaitFor(cloudtest.StateLimit, what, func() error {
			if said, code := m.Try("head -c 4096 /dev/xvdf >/dev/null"); code != 0 {
				return fmt.Errorf("%s", said)
			}
			return nil
		})
	}

	// It writes on while nacre, which carries SSH, is away.
	begin := func(seed int) {
		m.Run("rm -f /tmp/code; setsid sh -c '" + fio("f", seed, "--do_verify=0 --fsync=64") + " >/tmp/out 2>&1; echo $? >/tmp/code' >/dev/null 2>&1 </dev/null & echo started")
	}
	wait := func() {
		t.Helper()
		c.WaitFor(90*time.Second, "fio ends", func() error {
			if out, code := m.Try("cat /tmp/code"); code != 0 {
				return fmt.Errorf("%s: %s", out, m.Run("ps | grep fio; cat /tmp/out"))
			} else if strings.TrimSpace(out) != "0" {
				t.Fatalf("fio ended with %s%s", out, m.Run("cat /tmp/out"))
			}
			return nil
		})
	}

	begin(1)
	c.Kill()
	c.Up()
	m.WaitLogin()
	wait()
	c.KillDaemon(written)
	c.Kill()
	c.Up()
	m.WaitLogin()
	back("the volume is served again")
	m.Run(fio("f", 1, "--verify_only"))

	// A snapshot of what is known, and snapshots of the busy volume while other content goes over it.
	c.Nacre("volume", "snapshot", written, "--name", "first")
	begin(2)
	for n := range 4 {
		c.Nacre("volume", "snapshot", written, "--name", fmt.Sprintf("busy-%d", n))
	}
	if _, code := m.Try("cat /tmp/code"); code == 0 {
		t.Error("fio had ended before the last snapshot: nothing was busy")
	}
	wait()
	c.Kill()
	c.KillDaemon(written)
	c.Up()
	m.WaitLogin()
	back("the volume is served once more")
	m.Run(fio("f", 2, "--verify_only"))
	volume("g", "--snapshot", "first")
	m.Run(fio("g", 1, "--verify_only"))
	if out, code := m.Try(fio("g", 2, "--verify_only")); code == 0 {
		t.Errorf("fio takes the first content for the second: %s", out)
	}

	// The busy volume's snapshot has no torn block: each is of the first or of the second content, and both are there.
	volume("h", "--snapshot", "busy-3")
	read := func(letter string) []byte {
		t.Helper()
		out, err := exec.Command("ssh", append(m.Options(), m.User+"@"+m.Address, "head -c 134217728 /dev/xvd"+letter)...).Output()
		if err != nil || len(out) != 128<<20 {
			t.Fatalf("read %s: %d bytes, %v", letter, len(out), err)
		}
		return out
	}
	old, newer, busy := read("g"), read("f"), read("h")
	var olds, newers int
	for at := 0; at < len(busy); at += 4096 {
		switch b := busy[at : at+4096]; {
		case bytes.Equal(b, old[at:at+4096]):
			olds++
		case bytes.Equal(b, newer[at:at+4096]):
			newers++
		default:
			t.Fatalf("the block at %d is of neither content", at)
		}
	}
	if olds == 0 || newers == 0 {
		t.Errorf("the snapshot has %d blocks of the first and %d of the second content", olds, newers)
	}
}
