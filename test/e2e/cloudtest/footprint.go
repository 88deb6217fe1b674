package cloudtest

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Footprint lists everything on the host that a cloud could leave behind: links, routes, mounts, control
// groups, filter tables, namespaces with a name, loop devices and processes of its kinds.
func Footprint(t testing.TB) []string {
	t.Helper()
	var list []string
	add := func(kind string, items ...string) {
		for _, i := range items {
			if i = strings.TrimSpace(i); i != "" {
				list = append(list, kind+" "+i)
			}
		}
	}
	run := func(name string, args ...string) []string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
		}
		return strings.Split(string(out), "\n")
	}
	for _, line := range run("ip", "-o", "link", "show") {
		if fields := strings.Fields(line); len(fields) > 1 {
			name, _, _ := strings.Cut(strings.TrimSuffix(fields[1], ":"), "@")
			add("link", name)
		}
	}
	add("route", run("ip", "route", "show", "table", "all")...)
	add("route", run("ip", "-6", "route", "show", "table", "all")...)
	add("table", run("nft", "list", "tables")...)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 {
			add("mount", fields[1])
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "nacre") {
			add("cgroup", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	add("loop", run("losetup", "--list", "--noheadings", "--output", "BACK-FILE")...)
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it ended meanwhile
		}
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		switch base := filepath.Base(args[0]); {
		case base == "conmon", strings.HasPrefix(base, "qemu-"), base == "runc", strings.Contains(base, "nacre-init"):
			add("process", strings.Join(args, " "))
		}
	}
	slices.Sort(list)
	return list
}

// Difference lists what is in after and not in before, as far as it can be of the cloud in dir: what another cloud,
// running at the same time, has is told by its name and left out.
func Difference(before, after []string, dir string) []string {
	cloudID := readCloudID(dir)
	var left []string
	for _, item := range after {
		if slices.Contains(before, item) {
			continue
		}
		if strings.Contains(item, dir) || cloudID != "" && strings.Contains(item, cloudID) {
			left = append(left, item)
		}
	}
	return left
}

// readCloudID is the mark that everything a cloud makes on the host carries.
func readCloudID(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "cloud-id"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
