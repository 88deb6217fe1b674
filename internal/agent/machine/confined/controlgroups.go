package confined

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// cgroupRoot is where the kernel's control groups are: one tree in version 2, a directory a controller in version 1.
const cgroupRoot = "/sys/fs/cgroup"

// Groups is the control group of a cloud on this host, in which all its machines have theirs, whoever runs them. It counts who
// needs it: a group that goes away between its making and a machine's entry would fail that machine's start.
type Groups struct {
	cloudID string
	mu      sync.Mutex
	needed  int
}

// NewGroups is for all drivers of one cloud in this process.
func NewGroups(cloudID string) *Groups { return &Groups{cloudID: cloudID} }

func (g *Groups) need() {
	g.mu.Lock()
	g.needed++
	g.mu.Unlock()
}

func (g *Groups) release() {
	g.mu.Lock()
	g.needed--
	g.mu.Unlock()
}

// Drop deletes the group when nobody needs it. It is made again by the next start.
func (g *Groups) Drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.needed > 0 {
		return
	}
	name := "nacre-" + g.cloudID
	dirs, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", name)) // version 1: one a hierarchy
	for _, dir := range append(dirs, filepath.Join(cgroupRoot, name)) {
		_ = unix.Rmdir(dir) // one that still has machines stays
	}
}

// Group is a machine's control group, below one of the cloud.
func (k *Keeper) Group(id cloud.InstanceID) string {
	return "/nacre-" + k.cfg.CloudID + "/" + string(id)
}

// outOfMemory tells whether the kernel killed something of the machine at its memory limit. The counter lives as long as
// the control group, which the runtime deletes after the machine's end was noted.
func (k *Keeper) outOfMemory(id cloud.InstanceID) bool {
	for _, path := range []string{
		filepath.Join(cgroupRoot, k.Group(id), "memory.events"),
		filepath.Join(cgroupRoot, "memory", k.Group(id), "memory.oom_control"),
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(b) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "oom_kill "); ok {
				kills, err := strconv.ParseUint(n, 10, 64)
				return err == nil && kills > 0
			}
		}
	}
	return false
}

// WakeMigration moves this process to the control group that it is in already. The first move of any process after a
// pause waits for all processors to have passed through the scheduler, some 10 ms, and the runtime would have to; moves right after
// it don't. Here the wait passes while the runtime is still being started. It is for speed only: errors don't matter.
func WakeMigration() {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		// A controller's tree of version 1, or the only tree of version 2.
		if os.WriteFile(filepath.Join(cgroupRoot, controllers, path, "cgroup.procs"), []byte("0"), 0) == nil {
			return
		}
	}
}
