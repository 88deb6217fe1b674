package cloud

import (
	"sort"
	"strings"
)

// InstanceType is the name of a size, such as "t3.micro".
type InstanceType string

// InstanceTypeInfo is what a size promises, as EC2 lists it.
type InstanceTypeInfo struct {
	Name         InstanceType
	VCPUs        int
	MemoryMiB    int64
	Architecture string // "x86_64" or "arm64"
	// BaselinePercent is the share of each vCPU that a burstable size earns, 0 for others.
	BaselinePercent int
	MaxInterfaces   int
	IPv4PerENI      int
	Network         string  // EC2's words, such as "Up to 5 Gigabit"
	ClockGHz        float64 // sustained
	CurrentGen      bool
	FreeTier        bool
}

// Burstable tells whether the size earns CPU credits.
func (t InstanceTypeInfo) Burstable() bool { return t.BaselinePercent > 0 }

// Family is the part before the dot.
func (t InstanceType) Family() string {
	family, _, _ := strings.Cut(string(t), ".")
	return family
}

// instanceTypes is AWS's public list, families t3, t4g, m5, c5 and r5 up to c5.18xlarge.
var instanceTypes = func() map[InstanceType]InstanceTypeInfo {
	types := map[InstanceType]InstanceTypeInfo{}
	add := func(family, size string, vcpus int, memMiB int64, baseline, enis, ips int, network, arch string, ghz float64) {
		name := InstanceType(family + "." + size)
		types[name] = InstanceTypeInfo{
			Name: name, VCPUs: vcpus, MemoryMiB: memMiB, Architecture: arch, BaselinePercent: baseline,
			MaxInterfaces: enis, IPv4PerENI: ips, Network: network, ClockGHz: ghz, CurrentGen: true,
			FreeTier: name == "t3.micro",
		}
	}
	for _, burst := range []struct {
		family, arch string
		ghz          float64
	}{{"t3", "x86_64", 2.5}, {"t4g", "arm64", 2.5}} {
		for _, s := range []struct {
			size           string
			vcpus          int
			mem            int64
			base, enis, ip int
		}{
			{"nano", 2, 512, 5, 2, 2}, {"micro", 2, 1024, 10, 2, 2}, {"small", 2, 2048, 20, 3, 4},
			{"medium", 2, 4096, 20, 3, 6}, {"large", 2, 8192, 30, 3, 12},
			{"xlarge", 4, 16384, 40, 4, 15}, {"2xlarge", 8, 32768, 40, 4, 15},
		} {
			add(burst.family, s.size, s.vcpus, s.mem, s.base, s.enis, s.ip, "Up to 5 Gigabit", burst.arch, burst.ghz)
		}
	}
	for _, f := range []struct {
		family string
		perCPU int64 // MiB of memory a vCPU
		ghz    float64
	}{{"m5", 4096, 3.1}, {"r5", 8192, 3.1}} {
		for _, s := range []struct {
			size     string
			vcpus    int
			enis, ip int
			network  string
		}{
			{"large", 2, 3, 10, "Up to 10 Gigabit"}, {"xlarge", 4, 4, 15, "Up to 10 Gigabit"},
			{"2xlarge", 8, 4, 15, "Up to 10 Gigabit"}, {"4xlarge", 16, 8, 30, "Up to 10 Gigabit"},
			{"8xlarge", 32, 8, 30, "10 Gigabit"}, {"12xlarge", 48, 8, 30, "12 Gigabit"},
			{"16xlarge", 64, 15, 50, "20 Gigabit"},
		} {
			add(f.family, s.size, s.vcpus, int64(s.vcpus)*f.perCPU, 0, s.enis, s.ip, s.network, "x86_64", f.ghz)
		}
	}
	for _, s := range []struct {
		size     string
		vcpus    int
		enis, ip int
		network  string
	}{
		{"large", 2, 3, 10, "Up to 10 Gigabit"}, {"xlarge", 4, 4, 15, "Up to 10 Gigabit"},
		{"2xlarge", 8, 4, 15, "Up to 10 Gigabit"}, {"4xlarge", 16, 8, 30, "Up to 10 Gigabit"},
		{"9xlarge", 36, 8, 30, "12 Gigabit"}, {"12xlarge", 48, 8, 30, "12 Gigabit"},
		{"18xlarge", 72, 15, 50, "25 Gigabit"},
	} {
		add("c5", s.size, s.vcpus, int64(s.vcpus)*2048, 0, s.enis, s.ip, s.network, "x86_64", 3.4)
	}
	return types
}()

// LookupInstanceType finds a size by its name.
func LookupInstanceType(name InstanceType) (InstanceTypeInfo, bool) {
	t, ok := instanceTypes[name]
	return t, ok
}

// InstanceTypes lists the catalogue, sorted by family, then by size.
func InstanceTypes() []InstanceTypeInfo {
	list := make([]InstanceTypeInfo, 0, len(instanceTypes))
	for _, t := range instanceTypes {
		list = append(list, t)
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i], list[j]
		if fa, fb := a.Name.Family(), b.Name.Family(); fa != fb {
			return fa < fb
		}
		if a.VCPUs != b.VCPUs {
			return a.VCPUs < b.VCPUs
		}
		return a.MemoryMiB < b.MemoryMiB
	})
	return list
}

// DebianArchitecture is Debian's word for an architecture in EC2's, by which recipes of images are named.
func DebianArchitecture(ec2 string) string {
	if ec2 == "x86_64" {
		return "amd64"
	}
	return ec2
}
