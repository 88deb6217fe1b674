package confined

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestAControlGroupsUseIsReadInBothVersions(t *testing.T) {
	want := cloud.ControlGroup{Path: "/nacre-0/i-1", CPUQuota: 1.5, CPUTime: 2500, Periods: 40, Throttled: 4, ThrottledMs: 77, MemoryLimit: 1 << 30, Memory: 5 << 20,
		MemoryPeak: 6 << 20, OOMKills: 2, PIDLimit: 4096, PIDs: 7, BytesRead: 300, BytesWrote: 30, Reads: 3, Writes: 1}
	one, two := want, want
	one.Version, one.CPUWeight = 1, 1024
	two.Version, two.CPUWeight = 2, 100
	for _, c := range []struct {
		want  cloud.ControlGroup
		files map[string]string
	}{
		{one, map[string]string{
			"cpu/nacre-0/i-1/cpu.cfs_quota_us": "150000\n", "cpu/nacre-0/i-1/cpu.cfs_period_us": "100000\n", "cpu/nacre-0/i-1/cpu.shares": "1024\n",
			"cpu/nacre-0/i-1/cpu.stat":                          "nr_periods 40\nnr_throttled 4\nthrottled_time 77000001\n",
			"cpuacct/nacre-0/i-1/cpuacct.usage":                 "2500123456\n",
			"memory/nacre-0/i-1/memory.limit_in_bytes":          "1073741824\n",
			"memory/nacre-0/i-1/memory.usage_in_bytes":          "5242880\n",
			"memory/nacre-0/i-1/memory.max_usage_in_bytes":      "6291456\n",
			"memory/nacre-0/i-1/memory.oom_control":             "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
			"pids/nacre-0/i-1/pids.max":                         "4096\n",
			"pids/nacre-0/i-1/pids.current":                     "7\n",
			"blkio/nacre-0/i-1/blkio.throttle.io_service_bytes": "8:0 Read 100\n8:0 Write 30\n8:16 Read 200\n8:0 Total 130\nTotal 330\n",
			"blkio/nacre-0/i-1/blkio.throttle.io_serviced":      "8:0 Read 3\n8:0 Write 1\nTotal 4\n",
		}},
		{two, map[string]string{
			"nacre-0/i-1/cpu.max": "150000 100000\n", "nacre-0/i-1/cpu.weight": "100\n",
			"nacre-0/i-1/cpu.stat":       "usage_usec 2500123\nuser_usec 1\nnr_periods 40\nnr_throttled 4\nthrottled_usec 77001\n",
			"nacre-0/i-1/memory.max":     "1073741824\n",
			"nacre-0/i-1/memory.current": "5242880\n",
			"nacre-0/i-1/memory.peak":    "6291456\n",
			"nacre-0/i-1/memory.events":  "low 0\noom 3\noom_kill 2\n",
			"nacre-0/i-1/pids.max":       "4096\n",
			"nacre-0/i-1/pids.current":   "7\n",
			"nacre-0/i-1/io.stat":        "8:0 rbytes=100 wbytes=30 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=200 wbytes=0 rios=2 wios=0\n",
		}},
	} {
		root := t.TempDir()
		for name, text := range c.files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := useOf(root, "/nacre-0/i-1"); *got != c.want {
			t.Errorf("version %d:\n%+v\n%+v", c.want.Version, *got, c.want)
		}
	}
}

func TestNoLimitIsZero(t *testing.T) {
	none := func(texts map[string]string) func(string, string) string {
		return func(controller, file string) string { return texts[file] }
	}
	one := useOfVersion1("/g", none(map[string]string{"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "memory.limit_in_bytes": "9223372036854771712", "pids.max": "max"}))
	if one.CPUQuota != 0 || one.MemoryLimit != 0 || one.PIDLimit != 0 {
		t.Errorf("%+v", one)
	}
	two := useOfVersion2("/g", func(file string) string {
		return map[string]string{"cpu.max": "max 100000", "memory.max": "max", "pids.max": "max"}[file]
	})
	if two.CPUQuota != 0 || two.MemoryLimit != 0 || two.PIDLimit != 0 {
		t.Errorf("%+v", two)
	}
}

func TestThisProcessIsLookedAtAsItIs(t *testing.T) {
	pid := os.Getpid()
	c, err := confinementOf(pid, map[cloud.InstanceID]int{"i-1": pid})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Namespaces {
		if n.Own || n.Inode == 0 || n.SharedWith != nil {
			t.Errorf("%+v", n) // it is in the server's own, which nobody shares
		}
	}
	list, more, sum := processesOf([]int{pid, 1 << 30})
	if len(list) != 1 || more != 0 || sum.Processes != 1 || list[0].HostPID != int64(pid) || list[0].Share == 0 || sum.Share != list[0].Share || list[0].Parent != 0 {
		t.Errorf("%+v, %+v", list, sum)
	}
	if got, err := parseIDMap("         0 553648128      65536\n"); err != nil || !reflect.DeepEqual(got, []cloud.IDMapping{{Host: 553648128, Count: 65536}}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got := capabilityNames("0000000000000021"); !reflect.DeepEqual(got, []string{"CAP_CHOWN", "CAP_KILL"}) {
		t.Errorf("%q", got)
	}
}

func FuzzWhatTheKernelTells(f *testing.F) {
	f.Add("0 1000 65536\n")
	f.Add("8:0 rbytes=100 wbytes=30\n")
	f.Add("Name:\tsh\nCapEff:\t00000000a80425fb\n")
	f.Fuzz(func(t *testing.T, text string) {
		if list, err := parseIDMap(text); err == nil {
			for _, m := range list {
				if m.Inside < 0 || m.Host < 0 || m.Count < 0 {
					t.Errorf("%+v", m)
				}
			}
		}
		capabilityNames(parseStatus(text)["CapEff"])
		useOfVersion1("/g", func(string, string) string { return text })
		useOfVersion2("/g", func(string) string { return text })
	})
}
