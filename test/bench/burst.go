package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const burstSize = 100

// burst launches a hundred instances in one call, and weighs what they cost beyond their own processes.
func burst(c *testCloud) ([]row, error) {
	if err := c.bake(); err != nil {
		return nil, err
	}
	before := memoryOf(c.cmd.Process.Pid)
	ids, took, err := c.launch(burstSize)
	if err != nil {
		return nil, err
	}
	time.Sleep(3 * time.Second)
	monitors := memoryOf(monitorsOf(c.dir)...)
	agent := max(0, memoryOf(c.cmd.Process.Pid)-before)
	if err := c.terminate(ids); err != nil {
		return nil, err
	}
	return []row{
		{Name: "burst of 100 in one call", Unit: "s", Ours: took.Seconds(), Runs: 1},
		{Name: "burst of 100, instances a second", Unit: "1/s", Ours: burstSize / took.Seconds(), Runs: 1},
		row{Name: "monitor and agent memory an idle instance", Unit: "MiB", Ours: (monitors + agent) / burstSize, Runs: 1}.atMost(4),
	}, nil
}

// monitorsOf finds the monitors of the machines of a data directory.
func monitorsOf(dir string) []int {
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil || !strings.Contains(string(b), dir) || filepath.Base(strings.SplitN(string(b), "\x00", 2)[0]) != "conmon" {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
