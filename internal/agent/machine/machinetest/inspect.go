package machinetest

import (
	"errors"
	"slices"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Inspection checks what every driver that looks inside tells of a running machine.
func Inspection(t testing.TB, got cloud.Inspection, st machine.Status) {
	t.Helper()
	if got.Instance != st.ID || got.Engine != st.Engine || got.Isolation == "" {
		t.Errorf("it is told of %s (%s, %q)", got.Instance, got.Isolation, got.Engine)
	}
	f := got.Footprint
	if f == nil || f.PID != int64(st.PID) || f.Processes < 1 || f.Resident == 0 || f.Share == 0 || f.Share > f.Resident || f.Private > f.Resident {
		t.Errorf("its footprint is %+v", f)
	}
	c := got.Confinement
	if c == nil {
		t.Fatal("nothing confines it")
	}
	for _, kind := range []string{"ipc", "mnt", "net", "pid", "user", "uts"} {
		i := slices.IndexFunc(c.Namespaces, func(n cloud.Namespace) bool { return n.Kind == kind })
		if i < 0 || !c.Namespaces[i].Own || c.Namespaces[i].Inode == 0 || len(c.Namespaces[i].SharedWith) != 0 {
			t.Errorf("its %s namespace: %+v", kind, c.Namespaces)
		}
	}
	for _, ids := range [][]cloud.IDMapping{c.UserIDs, c.GroupIDs} {
		if len(ids) != 1 || ids[0].Inside != 0 || ids[0].Host == 0 || ids[0].Count != 65536 {
			t.Errorf("its ids are %+v", ids)
		}
	}
	if c.Seccomp != "filter" || slices.Contains(c.Bounding, "CAP_SYS_ADMIN") {
		t.Errorf("it is confined by %+v", c)
	}
	g := got.ControlGroup
	if g == nil || g.Version == 0 || g.MemoryLimit == 0 || g.Memory == 0 || g.Memory > g.MemoryLimit || g.PIDLimit == 0 || g.PIDs == 0 || g.CPUTime == 0 || g.CPUWeight == 0 {
		t.Errorf("its limits are %+v", g)
	}
}

// looksInside is for drivers of containers: of a virtual machine the processes inside aren't the server's.
func looksInside(t *testing.T, f *Fixture) {
	inspector, ok := f.Driver.(machine.Inspector)
	if !ok {
		t.Fatal("the driver does not look inside")
	}
	s := f.Spec()
	st := f.Start(s)
	f.Start(f.Spec()) // a neighbour
	f.Run(s.ID, "sleep 1000 >/dev/null 2>&1 </dev/null & i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done")
	got, err := inspector.Inspect(t.Context(), s.ID, cloud.Look{})
	if err != nil {
		t.Fatal(err)
	}
	Inspection(t, got, st)
	i := slices.IndexFunc(got.Processes, func(p cloud.Process) bool { return p.PID == 1 })
	if i < 0 || got.Processes[i].HostPID != int64(st.PID) || got.Processes[i].Share == 0 || got.Processes[i].Parent != 0 {
		t.Errorf("its processes are %+v", got.Processes)
	}
	if !slices.ContainsFunc(got.Processes, func(p cloud.Process) bool { return p.Name == "sleep" && p.PID > 1 && p.HostPID != p.PID }) {
		t.Errorf("its sleep isn't among %+v", got.Processes)
	}
	if g := got.ControlGroup; g.MemoryLimit != s.Resources.Memory || g.PIDLimit != s.Resources.PIDs || g.CPUQuota != float64(s.Resources.VCPUs) {
		t.Errorf("its limits are %+v, and %+v were asked for", g, s.Resources)
	}
	if _, err := inspector.Inspect(t.Context(), s.ID, cloud.Look{Address: "0x1000"}); !errors.Is(err, machine.ErrLook) {
		t.Errorf("an address in a container: %v", err)
	}
	f.Stop(s.ID, 0)
	if _, err := inspector.Inspect(t.Context(), s.ID, cloud.Look{}); err == nil {
		t.Error("there is something to see in a stopped machine")
	}
	if _, err := inspector.Inspect(t.Context(), "i-00000000000000000", cloud.Look{}); !errors.Is(err, machine.ErrNotFound) {
		t.Errorf("an unknown machine: %v", err)
	}
}
