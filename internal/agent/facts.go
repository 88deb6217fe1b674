package agent

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Architecture is this server's, in EC2's word.
var Architecture = map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH]

// facts reads what this server is. Identity, zone, engines and over-commitment come from the
// configuration.
func facts(n cloud.Node) (cloud.Node, error) {
	host, err := os.Hostname()
	if err != nil {
		return n, fmt.Errorf("read the host name: %w", err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return n, fmt.Errorf("read the kernel's version: %w", err)
	}
	mem, err := memoryMiB("/proc/meminfo", "MemTotal")
	if err != nil {
		return n, err
	}
	n.Hostname, n.Kernel, n.CPUs, n.MemoryMiB = host, unix.ByteSliceToString(uts.Release[:]), runtime.NumCPU(), mem
	n.Architecture = Architecture
	return n, nil
}

// SetEngine changes by what machines of a kind are run, and tells the control plane.
func (a *Agent) SetEngine(kind cloud.Isolation, engine string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	engines := maps.Clone(a.node.Engines) // the old one may be on its way
	if engines[kind] == engine {
		return
	}
	engines[kind] = engine
	a.node.Engines = engines
	n := a.node
	a.out.put("node", &agentrpc.FromAgent{Node: &n})
}

// memoryMiB reads a line of /proc/meminfo, such as MemTotal.
func memoryMiB(path, name string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read the server's memory: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name+":")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the server's memory from %q: %w", lines.Text(), err)
		}
		return kib / 1024, nil
	}
	return 0, fmt.Errorf("read the server's memory: %s has no %s", path, name)
}
