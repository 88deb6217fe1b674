package placement_test

import (
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
)

func node(id string, cpus int, memMiB int64) placement.Candidate {
	return placement.Candidate{Node: cloud.Node{
		ID: cloud.NodeID(id), Zone: "us-east-1a", Architecture: "x86_64", CPUs: cpus, MemoryMiB: memMiB,
		Engines: map[cloud.Isolation]string{cloud.IsolationContainer: "runc"}, CPUFactor: 8, MemoryFactor: 4,
	}}
}

func request(t *testing.T, name cloud.InstanceType) placement.Request {
	t.Helper()
	info, ok := cloud.LookupInstanceType(name)
	if !ok {
		t.Fatalf("no instance type %s", name)
	}
	return placement.Request{Type: info, Zone: "us-east-1a", Isolation: cloud.IsolationContainer}
}

func TestAnInstanceLargerThanEveryServerIsNotPlaced(t *testing.T) {
	res := placement.Place([]placement.Candidate{node("node-a", 2, 24<<10)}, request(t, "c5.18xlarge"))
	if res.Node != "" {
		t.Fatalf("placed on %s", res.Node)
	}
	if !strings.Contains(res.Reason(), "72 vCPUs") {
		t.Errorf("the reason %q does not name the 72 vCPUs", res.Reason())
	}
}

func TestTheEmptierNodeIsChosen(t *testing.T) {
	full := node("node-a", 8, 32<<10)
	full.Load.Add(request(t, "m5.large").Type)
	res := placement.Place([]placement.Candidate{full, node("node-b", 8, 32<<10)}, request(t, "t3.micro"))
	if res.Node != "node-b" {
		t.Errorf("placed on %q, want node-b", res.Node)
	}
}

func TestATieGoesToTheSmallerId(t *testing.T) {
	res := placement.Place([]placement.Candidate{node("node-b", 2, 4096), node("node-a", 2, 4096)}, request(t, "t3.micro"))
	if res.Node != "node-a" {
		t.Errorf("placed on %q, want node-a", res.Node)
	}
}

func TestBurstableSizesFitOnAServerWithOneCore(t *testing.T) {
	if res := placement.Place([]placement.Candidate{node("node-a", 1, 4096)}, request(t, "t3.micro")); res.Node == "" {
		t.Errorf("not placed: %s", res.Reason())
	}
}

func TestRoomStopsAtTheReservedMemory(t *testing.T) {
	// 4 GiB sold four times over hold 16 t3.micro of 1 GiB.
	n, res := placement.Room([]placement.Candidate{node("node-a", 8, 4096)}, request(t, "t3.micro"), 100)
	if n != 16 {
		t.Errorf("room for %d, want 16", n)
	}
	if !strings.Contains(res.Reason(), "MiB of memory are reserved") {
		t.Errorf("the reason %q does not name memory", res.Reason())
	}
}

func TestWrongZoneArchitectureAndIsolationRuleANodeOut(t *testing.T) {
	base := request(t, "t3.micro")
	vm, elsewhere, arm := base, base, request(t, "t4g.micro")
	vm.Isolation = cloud.IsolationVM
	elsewhere.Zone = "us-east-1b"
	for name, r := range map[string]placement.Request{"isolation": vm, "zone": elsewhere, "arm64": arm} {
		if res := placement.Place([]placement.Candidate{node("node-a", 2, 4096)}, r); res.Node != "" || !strings.Contains(res.Reason(), name) {
			t.Errorf("%s: placed on %q, reason %q", name, res.Node, res.Reason())
		}
	}
}

func TestAVirtualMachineOfAnotherArchitectureIsTranslatedWhereNoServerHasIt(t *testing.T) {
	r := request(t, "t4g.micro")
	if res := placement.Place([]placement.Candidate{node("node-a", 2, 4096)}, r); res.Node != "" {
		t.Error("a container runs on a foreign processor")
	}
	r.Isolation = cloud.IsolationVM
	engines := map[cloud.Isolation]string{cloud.IsolationVM: "QEMU"}
	foreign, own := node("node-a", 64, 256<<10), node("node-b", 2, 4096)
	if res := placement.Place([]placement.Candidate{foreign}, r); res.Node != "" {
		t.Error("a virtual machine runs without an engine")
	}
	foreign.Node.Engines, own.Node.Engines, own.Node.Architecture = engines, engines, "arm64"
	foreign.Node.Guests = []string{"x86_64"}
	if res := placement.Place([]placement.Candidate{foreign}, r); res.Node != "" || !strings.Contains(res.Reason(), "no hypervisor for arm64; `nacre doctor --install`") {
		t.Errorf("without a hypervisor for it, it is placed on %q: %s", res.Node, res.Reason())
	}
	foreign.Node.Guests = []string{"x86_64", "arm64"}
	if res := placement.Place([]placement.Candidate{foreign}, r); res.Node != "node-a" {
		t.Errorf("placed on %q: %s", res.Node, res.Reason())
	}
	if res := placement.Place([]placement.Candidate{foreign, own}, r); res.Node != "node-b" {
		t.Errorf("placed on %q, though another server is %s", res.Node, r.Type.Architecture)
	}
}
