package confined

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// unlimited is from where on version 1 means by a number of bytes that there is no limit.
const unlimited = 1 << 62

// useOf reads a control group's limits and their use, whichever version of them a controller is in. What isn't there is 0.
func useOf(root, group string) *cloud.ControlGroup {
	one := func(controller, file string) string { return readGroup(filepath.Join(root, controller, group, file)) }
	if _, err := os.Stat(filepath.Join(root, "memory", group)); err == nil {
		return useOfVersion1(group, one)
	}
	return useOfVersion2(group, func(file string) string { return readGroup(filepath.Join(root, group, file)) })
}

func readGroup(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) > maxProcFile {
		return ""
	}
	return string(b)
}

func useOfVersion1(group string, read func(controller, file string) string) *cloud.ControlGroup {
	c := &cloud.ControlGroup{Version: 1, Path: group}
	if quota, period := number(read("cpu", "cpu.cfs_quota_us")), number(read("cpu", "cpu.cfs_period_us")); quota > 0 && period > 0 {
		c.CPUQuota = float64(quota) / float64(period)
	}
	c.CPUWeight = number(read("cpu", "cpu.shares"))
	c.CPUTime = number(read("cpuacct", "cpuacct.usage")) / 1e6
	stat := named(read("cpu", "cpu.stat"))
	c.Periods, c.Throttled, c.ThrottledMs = stat["nr_periods"], stat["nr_throttled"], stat["throttled_time"]/1e6
	if limit := number(read("memory", "memory.limit_in_bytes")); limit < unlimited {
		c.MemoryLimit = limit
	}
	c.Memory, c.MemoryPeak = number(read("memory", "memory.usage_in_bytes")), number(read("memory", "memory.max_usage_in_bytes"))
	c.OOMKills = named(read("memory", "memory.oom_control"))["oom_kill"]
	c.PIDLimit, c.PIDs = number(read("pids", "pids.max")), number(read("pids", "pids.current"))
	c.BytesRead, c.BytesWrote = readsAndWrites(read("blkio", "blkio.throttle.io_service_bytes"))
	c.Reads, c.Writes = readsAndWrites(read("blkio", "blkio.throttle.io_serviced"))
	return c
}

func useOfVersion2(group string, read func(file string) string) *cloud.ControlGroup {
	c := &cloud.ControlGroup{Version: 2, Path: group}
	if f := strings.Fields(read("cpu.max")); len(f) == 2 {
		if quota, period := number(f[0]), number(f[1]); quota > 0 && period > 0 {
			c.CPUQuota = float64(quota) / float64(period)
		}
	}
	c.CPUWeight = number(read("cpu.weight"))
	stat := named(read("cpu.stat"))
	c.CPUTime, c.Periods, c.Throttled, c.ThrottledMs = stat["usage_usec"]/1000, stat["nr_periods"], stat["nr_throttled"], stat["throttled_usec"]/1000
	c.MemoryLimit, c.Memory, c.MemoryPeak = number(read("memory.max")), number(read("memory.current")), number(read("memory.peak"))
	c.OOMKills = named(read("memory.events"))["oom_kill"]
	c.PIDLimit, c.PIDs = number(read("pids.max")), number(read("pids.current"))
	for line := range strings.Lines(read("io.stat")) {
		for _, field := range strings.Fields(line) {
			name, value, _ := strings.Cut(field, "=")
			switch n := number(value); name {
			case "rbytes":
				c.BytesRead += n
			case "wbytes":
				c.BytesWrote += n
			case "rios":
				c.Reads += n
			case "wios":
				c.Writes += n
			}
		}
	}
	return c
}

// number reads a figure; words such as "max", and what is none, are 0.
func number(text string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// named reads lines of a name and a figure.
func named(text string) map[string]int64 {
	out := map[string]int64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			out[name] = number(value)
		}
	}
	return out
}

// readsAndWrites sums a file of the block controller up: lines of a device, an operation and a figure.
func readsAndWrites(text string) (reads, writes int64) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 {
			switch f[1] {
			case "Read":
				reads += number(f[2])
			case "Write":
				writes += number(f[2])
			}
		}
	}
	return reads, writes
}
