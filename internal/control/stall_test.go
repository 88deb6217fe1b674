package control

import (
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestAMachineThatStandsStillIsKnownToUntilItGoesOnOrEnds(t *testing.T) {
	w := newWorld(t)
	id := w.launch("t3.micro", 10)
	w.reconcile()
	running := agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning}
	stalled := running
	stalled.Stalled = "the server has no room"
	w.tell(running)
	for range 2 {
		w.tell(stalled)
		if i := w.instance(id); i.State != cloud.StateRunning || i.Stalled.IsZero() || i.Tags[cloud.TagStalled] != stalled.Stalled {
			t.Fatalf("it is %+v", i)
		}
		w.tell(running)
		if i := w.instance(id); !i.Stalled.IsZero() || i.Tags[cloud.TagStalled] != "" {
			t.Errorf("it goes on and is %+v", i)
		}
	}
	w.tell(stalled)
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseExited})
	if i := w.instance(id); !i.Stalled.IsZero() || i.Tags[cloud.TagStalled] != "" {
		t.Errorf("it has ended and is %+v", i)
	}
}

func TestAHypervisorThatFailsIsNotItsGuestsDoing(t *testing.T) {
	for code, want := range map[int]cloud.StateReason{0: cloud.ReasonInstanceInitiated, 137: cloud.ReasonHypervisorEnded(137)} {
		w := newWorld(t)
		id := w.launch("t3.micro", 10)
		w.update(func(tx *store.Tx) {
			i, _ := store.Get(tx, store.Instances, id)
			i.Isolation = cloud.IsolationVM
			store.Put(tx, store.Instances, i)
		})
		w.update(func(tx *store.Tx) {
			n, _ := store.Get(tx, store.Nodes, w.node.ID)
			n.Engines = map[cloud.Isolation]string{cloud.IsolationVM: "QEMU"}
			store.Put(tx, store.Nodes, n)
		})
		w.reconcile()
		w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning})
		w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseExited, ExitCode: code})
		if i := w.instance(id); i.StateReason != want {
			t.Errorf("after the exit code %d: %+v", code, i)
		}
	}
}
