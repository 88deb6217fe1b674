package control

import (
	"context"
	"io"
	"log/slog"
	"math/rand"
	"net/netip"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a region in memory with one node.
type world struct {
	t      *testing.T
	store  *store.Store
	rand   io.Reader
	region cloud.Region
	node   cloud.Node
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: store.OpenMemory(), rand: rand.New(rand.NewSource(1))}
	t.Cleanup(func() { w.store.Close() })
	region, _, err := Bootstrap(t.Context(), w.store, FirstStart{Region: "us-east-1",
		PublicPool: netip.MustParsePrefix("198.18.0.0/24"), Rand: w.rand, Now: start})
	if err != nil {
		t.Fatal(err)
	}
	w.region = region
	w.node = cloud.Node{ID: cloud.NewID[cloud.NodeID](w.rand), Zone: "us-east-1a", Architecture: "x86_64", CPUs: 2, MemoryMiB: 4096,
		Engines: map[cloud.Isolation]string{cloud.IsolationContainer: "runc"}, CPUFactor: 8, MemoryFactor: 1}
	w.update(func(tx *store.Tx) { store.Put(tx, store.Nodes, &w.node) })
	return w
}

func (w *world) update(fn func(*store.Tx)) {
	w.t.Helper()
	if err := w.store.Update(w.t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// launch writes what RunInstances does: an instance, its interface and its addresses.
func (w *world) launch(size cloud.InstanceType, last byte) cloud.InstanceID {
	w.t.Helper()
	id := cloud.NewID[cloud.InstanceID](w.rand)
	w.update(func(tx *store.Tx) {
		subnet := store.List(tx, store.Subnets)[0]
		n := cloud.Interface{ID: cloud.NewID[cloud.InterfaceID](w.rand), VPC: subnet.VPC, Subnet: subnet.ID, Instance: id,
			PrivateIP: netip.AddrFrom4([4]byte{172, 31, 0, last}), Publics: []cloud.PublicAddress{{Private: netip.AddrFrom4([4]byte{172, 31, 0, last}), Public: netip.AddrFrom4([4]byte{198, 18, 0, last})}},
			AutoPublicIP: true, DeleteOnTermination: true, Groups: []cloud.SecurityGroupID{store.List(tx, store.SecurityGroups)[0].ID}}
		store.Put(tx, store.Interfaces, &n)
		store.Put(tx, store.Claims, &store.Claim{Key: store.AddressClaim(n.Subnet, n.PrivateIP), Owner: string(n.ID)})
		store.Put(tx, store.Claims, &store.Claim{Key: store.PublicAddressClaim(n.PublicIP()), Owner: string(n.ID)})
		store.Put(tx, store.Instances, &cloud.Instance{ID: id, Type: size, Zone: "us-east-1a", Isolation: cloud.IsolationContainer,
			VPC: subnet.VPC, Subnet: subnet.ID, Interfaces: []cloud.InterfaceID{n.ID}, ImageDigest: "sha256:aa",
			State: cloud.StatePending, Desired: cloud.DesiredRunning, Boot: 1, ShutdownBehavior: cloud.ShutdownStop, Created: start})
	})
	return id
}

func (w *world) instance(id cloud.InstanceID) cloud.Instance {
	w.t.Helper()
	i, ok := store.Get(w.store.View(), store.Instances, id)
	if !ok {
		w.t.Fatalf("no instance %s", id)
	}
	return *i
}

func (w *world) claims() int { return len(store.List(w.store.View(), store.Claims)) }

func (w *world) tell(st agentrpc.MachineStatus) {
	w.t.Helper()
	if err := applyStatus(w.t.Context(), w.store, w.node.ID, st, start); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) reconcile() {
	w.t.Helper()
	r := Reconcilers{Store: w.store, Now: func() time.Time { return start }, Logger: slog.New(slog.DiscardHandler)}
	if err := r.reconcile(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func TestASecondFirstStartChangesNothing(t *testing.T) {
	w := newWorld(t)
	before := w.store.View().Revision()
	region, key, err := Bootstrap(t.Context(), w.store, FirstStart{Region: "us-east-1", Rand: w.rand, Now: start.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if region.Root != w.region.Root || key.Account != w.region.Root {
		t.Errorf("the account changed from %s to %s, key of %s", w.region.Root, region.Root, key.Account)
	}
	if after := w.store.View().Revision(); after != before {
		t.Errorf("the store went from revision %d to %d", before, after)
	}
	if _, _, err := Bootstrap(t.Context(), w.store, FirstStart{Region: "eu-west-1", Rand: w.rand, Now: start}); err == nil {
		t.Error("another region was accepted")
	}
}

func TestTheDHCPOptionsOfOlderCloudsAreMadeAtTheNextStart(t *testing.T) {
	w := newWorld(t)
	id := store.List(w.store.View(), store.VPCs)[0].DHCPOptions
	w.update(func(tx *store.Tx) { store.Delete(tx, store.DHCPOptions, id) })
	if _, _, err := Bootstrap(t.Context(), w.store, FirstStart{Region: "us-east-1", Rand: w.rand, Now: start}); err != nil {
		t.Fatal(err)
	}
	o, ok := store.Get(w.store.View(), store.DHCPOptions, id)
	if !ok || !o.Default || o.Account != w.region.Root || o.Domain() != "ec2.internal" {
		t.Errorf("the set is %+v", o)
	}
}

func TestAPendingInstanceIsPlacedAndRunsWhenItsNodeSaysSo(t *testing.T) {
	w := newWorld(t)
	id := w.launch("t3.micro", 5)
	w.reconcile()
	if got := w.instance(id).Node; got != w.node.ID {
		t.Fatalf("placed on %q", got)
	}
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning, Engine: "runc 1.1.5"})
	if got := w.instance(id); got.State != cloud.StateRunning || got.HostID != "runc 1.1.5" {
		t.Errorf("state %s on %q", got.State, got.HostID)
	}
}

func TestAFactAboutAnEarlierBootChangesNothing(t *testing.T) {
	w := newWorld(t)
	id := w.launch("t3.micro", 5)
	w.reconcile()
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, id)
		i.Boot = 2
		store.Put(tx, store.Instances, i)
	})
	for _, phase := range []agentrpc.Phase{agentrpc.PhaseRunning, agentrpc.PhaseExited, agentrpc.PhaseFailed} {
		w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: phase})
		if got := w.instance(id); got.State != cloud.StatePending || got.Desired != cloud.DesiredRunning {
			t.Errorf("after an old %q: %s, desired %s", phase, got.State, got.Desired)
		}
	}
}

func TestAnInstanceThatNoNodeCanHoldIsTerminatedWithTheReason(t *testing.T) {
	w := newWorld(t)
	id := w.launch("c5.18xlarge", 5)
	w.reconcile()
	w.reconcile()
	got := w.instance(id)
	if got.State != cloud.StateTerminated || got.StateReason.Code != "Server.InsufficientInstanceCapacity" {
		t.Errorf("state %s, reason %+v", got.State, got.StateReason)
	}
	if n := w.claims(); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

func TestAShutdownFromInsideStopsAndKeepsThePrivateAddressOnly(t *testing.T) {
	w := newWorld(t)
	id := w.launch("t3.micro", 5)
	w.reconcile()
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning})
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseExited})
	if got := w.instance(id); got.State != cloud.StateStopping || got.Desired != cloud.DesiredStopped {
		t.Fatalf("state %s, desired %s", got.State, got.Desired)
	}
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseStopped})
	got := w.instance(id)
	if got.State != cloud.StateStopped || got.StateReason != cloud.ReasonInstanceInitiated {
		t.Errorf("state %s, reason %+v", got.State, got.StateReason)
	}
	if n := w.claims(); n != 1 {
		t.Errorf("%d claims are left, want the private address's only", n)
	}
}

func TestRunningOutOfMemoryIsNamed(t *testing.T) {
	w := newWorld(t)
	id := w.launch("t3.micro", 5)
	w.reconcile()
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning})
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseExited, OOMKilled: true})
	if got := w.instance(id).StateReason.Message; got != cloud.ReasonOutOfMemory("1024 MiB of memory").Message {
		t.Errorf("the reason is %q", got)
	}
}

func TestAFirstLaunchThatFailsIsTerminatedAndALaterStartKeepsItsDisk(t *testing.T) {
	w := newWorld(t)
	first, later := w.launch("t3.micro", 5), w.launch("t3.micro", 6)
	w.reconcile()
	w.tell(agentrpc.MachineStatus{Instance: first, Boot: 1, Phase: agentrpc.PhaseFailed, Error: "no such image"})
	if got := w.instance(first); got.State != cloud.StateShuttingDown || got.Desired != cloud.DesiredTerminated {
		t.Errorf("the first launch: %s, desired %s", got.State, got.Desired)
	}
	w.tell(agentrpc.MachineStatus{Instance: later, Boot: 1, Phase: agentrpc.PhaseRunning})
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, later)
		i.State, i.Boot = cloud.StatePending, 2
		store.Put(tx, store.Instances, i)
	})
	w.tell(agentrpc.MachineStatus{Instance: later, Boot: 2, Phase: agentrpc.PhaseFailed, Error: "no memory"})
	if got := w.instance(later); got.State != cloud.StateStopping || got.Desired != cloud.DesiredStopped {
		t.Errorf("the later start: %s, desired %s", got.State, got.Desired)
	}
}

// Whatever order facts come in, states only move as the state machine has it, addresses stay
// claimed until the machine is gone, and a terminated instance holds nothing.
func TestRandomFactsNeverBreakTheStateMachine(t *testing.T) {
	phases := []agentrpc.Phase{agentrpc.PhaseRunning, agentrpc.PhaseExited, agentrpc.PhaseFailed, agentrpc.PhaseStopped, agentrpc.PhaseGone}
	for seed := range int64(300) {
		w := newWorld(t)
		rnd := rand.New(rand.NewSource(seed))
		id := w.launch("t3.micro", 5)
		w.reconcile()
		for range 12 {
			before := w.instance(id)
			if rnd.Intn(3) == 0 && before.Desired != cloud.DesiredTerminated {
				w.update(func(tx *store.Tx) {
					i, _ := store.Get(tx, store.Instances, id)
					i.Desired = cloud.DesiredTerminated
					if err := i.Transition(cloud.StateShuttingDown, cloud.ReasonUserTerminate, start); err != nil {
						t.Fatal(err)
					}
					store.Put(tx, store.Instances, i)
				})
			} else {
				w.tell(agentrpc.MachineStatus{Instance: id, Boot: rnd.Intn(3), Phase: phases[rnd.Intn(len(phases))], OOMKilled: rnd.Intn(2) == 0})
			}
			after := w.instance(id)
			_, claimed := store.Get(w.store.View(), store.Claims, store.AddressClaim(after.Subnet, netip.AddrFrom4([4]byte{172, 31, 0, 5})))
			if claimed == (after.State == cloud.StateTerminated) {
				t.Fatalf("seed %d: in state %s the private address is claimed: %v", seed, after.State, claimed)
			}
			if before.State == cloud.StateTerminated && after.State != cloud.StateTerminated {
				t.Fatalf("seed %d: a terminated instance became %s", seed, after.State)
			}
		}
	}
}

func TestANodeIsToldEverythingFirstAndThenOnlyWhatChanged(t *testing.T) {
	w := newWorld(t)
	a, b := w.launch("t3.micro", 5), w.launch("t3.micro", 6)
	w.reconcile()
	full := desiredOf(w.store.View(), w.node.ID)
	var vpcFirst bool
	machines := 0
	for n, m := range difference(desired{}, full) {
		vpcFirst = vpcFirst || n == 0 && m.VPC != nil
		if m.Machine != nil {
			machines++
		}
	}
	if !vpcFirst || machines != 2 {
		t.Fatalf("VPC first: %v, machines: %d", vpcFirst, machines)
	}
	w.tell(agentrpc.MachineStatus{Instance: a, Boot: 1, Phase: agentrpc.PhaseRunning})
	next := desiredOf(w.store.View(), w.node.ID)
	if d := difference(full, next); len(d) != 0 {
		t.Errorf("a state change alone sent %d messages", len(d))
	}
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, b)
		i.Desired = cloud.DesiredStopped
		store.Put(tx, store.Instances, i)
	})
	d := difference(next, desiredOf(w.store.View(), w.node.ID))
	if len(d) != 1 || d[0].Machine == nil || d[0].Machine.Instance.ID != b {
		t.Errorf("stopping one instance sent %d messages", len(d))
	}
}

func TestWhatIsOverIsForgottenAfterItsTime(t *testing.T) {
	w := newWorld(t)
	id := w.launch("t3.micro", 5)
	w.reconcile()
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, id)
		i.Desired = cloud.DesiredTerminated
		store.Put(tx, store.Instances, i)
		store.Put(tx, store.ClientTokens, &cloud.ClientToken{Account: w.region.Root, Action: "RunInstances", Token: "a", Created: start})
	})
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseGone})
	at := start
	r := Reconcilers{Store: w.store, Now: func() time.Time { return at }, Logger: slog.New(slog.DiscardHandler)}
	clean := func() (instances, tokens int) {
		if err := r.clean(context.Background()); err != nil {
			t.Fatal(err)
		}
		v := w.store.View()
		return len(store.List(v, store.Instances)), len(store.List(v, store.ClientTokens))
	}
	at = start.Add(TerminatedFor)
	if i, k := clean(); i != 1 || k != 1 {
		t.Errorf("within the hour: %d instances, %d tokens", i, k)
	}
	at = start.Add(TokensFor + time.Second)
	if i, k := clean(); i != 0 || k != 0 {
		t.Errorf("a day later: %d instances, %d tokens", i, k)
	}
}
