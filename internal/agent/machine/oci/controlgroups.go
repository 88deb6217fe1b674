package oci

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// cgroupRoot is where the kernel's control groups are: one tree in version 2, a directory a controller in version 1.
const cgroupRoot = "/sys/fs/cgroup"

// cgroup is a machine's control group, below one of the cloud.
func (d *Driver) cgroup(id cloud.InstanceID) string {
	return "/nacre-" + d.cfg.CloudID + "/" + string(id)
}

// unified tells whether the host has version 2 only.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// outOfMemory tells whether the kernel killed something of the machine at its memory limit. The counter lives as long as
// the control group, which the runtime deletes after the machine's end was noted.
func (d *Driver) outOfMemory(id cloud.InstanceID) bool {
	for _, path := range []string{
		filepath.Join(cgroupRoot, d.cgroup(id), "memory.events"),
		filepath.Join(cgroupRoot, "memory", d.cgroup(id), "memory.oom_control"),
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

// wakeMigration moves this process to the control group that it is in already. The first move of any process after a
// pause waits for all processors to have passed through the scheduler, some 10 ms, and the runtime would have to; moves right after
// it don't. Here the wait passes while the runtime is still being started. It is for speed only: errors don't matter.
func wakeMigration() {
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

// dropCgroup deletes the cloud's own control group where it is empty.
func (d *Driver) dropCgroup() {
	name := "nacre-" + d.cfg.CloudID
	paths, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", name))
	for _, path := range append(paths, filepath.Join(cgroupRoot, name)) {
		_ = unix.Rmdir(path) // one that still has machines stays
	}
}
