package confined

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/pagemap"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// maxShown bounds the processes that are listed of one machine.
	maxShown = 256
	// maxCounted bounds those that are counted.
	maxCounted  = 1 << 16
	maxProcFile = 64 << 10
)

// Inspect tells what every machine of a driver has: what confines it, its limits and their use, its processes and their memory.
func (k *Keeper) Inspect(ctx context.Context, id cloud.InstanceID) (cloud.Inspection, error) {
	if _, err := k.Running(id); err != nil {
		return cloud.Inspection{}, err
	}
	st, err := k.Status(ctx, id)
	if err != nil {
		return cloud.Inspection{}, err
	}
	out := cloud.Inspection{Instance: id, Engine: st.Engine}
	if out.Confinement, err = confinementOf(st.PID, k.Others(id)); err != nil {
		return out, fmt.Errorf("machine %s: look at its first process: %w", id, err)
	}
	out.ControlGroup = useOf(cgroupRoot, k.Group(id))
	out.Processes, out.MoreRunning, out.Footprint = processesOf(pidsOf(cgroupRoot, k.Group(id)))
	out.Footprint.PID = int64(st.PID)
	return out, nil
}

// Others are the first processes of the driver's machines that run, but for one.
func (k *Keeper) Others(but cloud.InstanceID) map[cloud.InstanceID]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[cloud.InstanceID]int{}
	for id, r := range k.machines {
		if id != but && r.rec.Status.State == machine.Running {
			out[id] = r.rec.Status.PID
		}
	}
	return out
}

// namespaceKinds are those that processes have, by their names in /proc.
var namespaceKinds = []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}

func confinementOf(pid int, others map[cloud.InstanceID]int) (*cloud.Confinement, error) {
	c := &cloud.Confinement{}
	for _, kind := range namespaceKinds {
		inode, err := namespaceOf(strconv.Itoa(pid), kind)
		if errors.Is(err, fs.ErrNotExist) && kind == "time" {
			continue // an older kernel
		}
		if err != nil {
			return nil, err
		}
		n := cloud.Namespace{Kind: kind, Inode: inode}
		if servers, err := namespaceOf("self", kind); err == nil {
			n.Own = servers != inode
		}
		for other, pid := range others {
			if its, err := namespaceOf(strconv.Itoa(pid), kind); err == nil && its == inode && n.Own {
				n.SharedWith = append(n.SharedWith, other)
			}
		}
		slices.Sort(n.SharedWith)
		c.Namespaces = append(c.Namespaces, n)
	}
	for file, to := range map[string]*[]cloud.IDMapping{"uid_map": &c.UserIDs, "gid_map": &c.GroupIDs} {
		b, err := readProc(pid, file)
		if err != nil {
			return nil, err
		}
		if *to, err = parseIDMap(string(b)); err != nil {
			return nil, err
		}
	}
	b, err := readProc(pid, "status")
	if err != nil {
		return nil, err
	}
	s := parseStatus(string(b))
	c.Capabilities, c.Bounding, c.NoNewPrivileges = capabilityNames(s["CapEff"]), capabilityNames(s["CapBnd"]), s["NoNewPrivs"] == "1"
	c.Seccomp = map[string]string{"0": "off", "1": "strict", "2": "filter"}[s["Seccomp"]]
	return c, nil
}

// namespaceOf is the inode of a namespace.
func namespaceOf(pid, kind string) (int64, error) {
	link, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
	if err != nil {
		return 0, err
	}
	_, inode, _ := strings.Cut(strings.TrimSuffix(link, "]"), "[")
	n, err := strconv.ParseInt(inode, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.80q is no namespace", link)
	}
	return n, nil
}

func readProc(pid int, file string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
	if len(b) > maxProcFile {
		b = b[:maxProcFile]
	}
	return b, err
}

// parseIDMap reads a map of ids.
func parseIDMap(text string) ([]cloud.IDMapping, error) {
	var list []cloud.IDMapping
	for line := range strings.Lines(text) {
		var n [3]int64
		fields := strings.Fields(line)
		if len(fields) != len(n) {
			return nil, fmt.Errorf("%.80q maps no ids", line)
		}
		for i, f := range fields {
			v, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%.80q maps no ids", line)
			}
			n[i] = int64(v)
		}
		list = append(list, cloud.IDMapping{Inside: n[0], Host: n[1], Count: n[2]})
	}
	return list, nil
}

// parseStatus reads the lines of /proc/PID/status.
func parseStatus(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		out[name] = strings.TrimSpace(value)
	}
	return out
}

func capabilityNames(hex string) []string {
	bits, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return nil
	}
	names, unknown := cap.FromBitmap(bits)
	for _, n := range unknown {
		names = append(names, fmt.Sprintf("CAP_%d", n))
	}
	return names
}

// pidsOf are the processes of a control group and those below it.
func pidsOf(root, group string) []int {
	dir := filepath.Join(root, group)
	for _, v1 := range []string{"pids", "memory", "cpu"} {
		if _, err := os.Stat(filepath.Join(root, v1, group)); err == nil {
			dir = filepath.Join(root, v1, group)
			break
		}
	}
	var pids []int
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // gone meanwhile
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for _, word := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 && len(pids) < maxCounted {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Sort(pids)
	return slices.Compact(pids)
}

// processesOf lists processes as they are inside, and sums their memory up. Those that end meanwhile are left out.
func processesOf(pids []int) (list []cloud.Process, more int64, sum *cloud.Footprint) {
	sum = &cloud.Footprint{}
	inside := map[int]int64{}
	var parents []int
	for _, pid := range pids {
		b, err := readProc(pid, "status")
		if err != nil {
			continue
		}
		sum.Processes++
		f, err := pagemap.FootprintOf(pid)
		if err == nil {
			sum.Resident += f.Resident
			sum.Share += f.Share
			sum.Private += f.Private
			sum.Swapped += f.Swapped
		}
		if len(list) == maxShown {
			more++
			continue
		}
		s := parseStatus(string(b))
		ids := strings.Fields(s["NSpid"])
		if len(ids) == 0 {
			continue
		}
		own, err := strconv.ParseInt(ids[len(ids)-1], 10, 64)
		if err != nil {
			continue
		}
		parent, _ := strconv.Atoi(s["PPid"])
		inside[pid], parents = own, append(parents, parent)
		list = append(list, cloud.Process{PID: own, HostPID: int64(pid), Name: s["Name"], Share: f.Share})
	}
	for i := range list {
		list[i].Parent = inside[parents[i]]
	}
	slices.SortFunc(list, func(a, b cloud.Process) int { return int(a.PID - b.PID) })
	return list, more, sum
}
