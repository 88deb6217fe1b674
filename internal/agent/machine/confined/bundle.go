package confined

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// IDCount is how many user and group ids a machine has.
	IDCount = 65536
	// CPUPeriod is the time over which CPU quotas are counted, in microseconds.
	CPUPeriod = 100_000
)

// Bundle is a machine's container.
type Bundle struct {
	Config *specs.Spec
	Files  []File     // written into the machine's directory of this driver before the container is made
	Pass   []*os.File // the program has them as descriptors 3, 4 …; closed when it has them, or it has failed
	Engine string     // for machine.Status; "" means the runtime
	Launch string     // for machine.Status
}

// File is one in the machine's directory that only root inside reads.
type File struct {
	Name    string
	Content []byte
}

func (b *Bundle) close() {
	for _, f := range b.Pass {
		f.Close()
	}
	b.Pass = nil
}

// maskedPaths tell of the host what no neighbour should know; readonlyPaths would change it.
var (
	maskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// Configuration is what all containers have: a range of ids of their own, namespaces, masked paths, no devices but those that every
// container has, and limits. Process, namespaces of users and network, mounts and the seccomp filter are the driver's.
func (k *Keeper) Configuration(s machine.Spec, limits *specs.LinuxResources) *specs.Spec {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: s.IDBase, Size: IDCount}}
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: s.Hostname,
		Linux: &specs.Linux{
			UIDMappings: ids, GIDMappings: slices.Clone(ids),
			CgroupsPath: k.Group(s.ID),
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace}},
			MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
			Resources: limits,
		},
	}
}

// SeccompProfile is the filter that container tools give by default. The x32 ABI is left out: nobody's programs use it, Debian's
// kernels refuse it, and building the filter for it takes half of the time of all three.
func SeccompProfile(spec *specs.Spec) *specs.LinuxSeccomp {
	profile := seccomp.DefaultProfile(spec)
	profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	return profile
}

// ReadOnly shows a file or directory of the host inside, read-only.
func ReadOnly(source, target string) specs.Mount {
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"bind", "ro", "nosuid", "nodev"}}
}

// Limits are resources in the runtime's terms. Devices are denied but for those that every container has.
func Limits(r machine.Resources) *specs.LinuxResources {
	out := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Memory:  &specs.LinuxMemory{Limit: &r.Memory, Swap: &r.Memory}, // swap counts memory too: none of its own
		Pids:    &specs.LinuxPids{Limit: &r.PIDs},
		CPU:     &specs.LinuxCPU{},
	}
	if r.VCPUs > 0 {
		out.CPU.Period, out.CPU.Quota = new(uint64(CPUPeriod)), new(int64(r.VCPUs)*CPUPeriod)
	}
	if r.Weight > 0 {
		// 100 is one ordinary share of version 2; version 1 counts 1024 for it. The runtime converts.
		out.CPU.Shares = new(uint64(min(max(r.Weight, 1)*1024/100, 262144)))
	}
	return out
}

// writeFiles puts files into a machine's directory that only one user of the host reads.
func (k *Keeper) writeFiles(id cloud.InstanceID, owner uint32, files []File) error {
	for _, f := range files {
		path := filepath.Join(k.Bundle(id), f.Name)
		if err := remove(path); err != nil {
			return fmt.Errorf("machine %s: write %s: %w", id, f.Name, err)
		}
		if err := os.WriteFile(path, f.Content, 0o400); err != nil {
			return fmt.Errorf("machine %s: write %s: %w", id, f.Name, err)
		}
		if err := os.Chown(path, int(owner), int(owner)); err != nil {
			return fmt.Errorf("machine %s: write %s: %w", id, f.Name, err)
		}
	}
	return nil
}
