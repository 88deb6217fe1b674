package control

import (
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// hibernating is a machine that runs and is being saved.
func (w *world) hibernating() cloud.InstanceID {
	w.t.Helper()
	id := w.launch("t3.micro", 10)
	w.reconcile()
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning})
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, id)
		i.Desired, i.Hibernate = cloud.DesiredStopped, true
		if err := i.Transition(cloud.StateStopping, cloud.ReasonUserHibernate, start); err != nil {
			w.t.Error(err)
		}
		store.Put(tx, store.Instances, i)
	})
	return id
}

func (w *world) startAgain(id cloud.InstanceID) {
	w.t.Helper()
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, id)
		i.Desired, i.Hibernate, i.Boot = cloud.DesiredRunning, false, i.Boot+1
		if err := i.Transition(cloud.StatePending, cloud.StateReason{}, start); err != nil {
			w.t.Error(err)
		}
		store.Put(tx, store.Instances, i)
	})
}

func TestTheNodeIsToldOfSavedMemoryUntilTheMachineGoesOn(t *testing.T) {
	w := newWorld(t)
	id := w.hibernating()
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseStopped, Hibernated: true})
	if i := w.instance(id); i.State != cloud.StateStopped || !i.Hibernated || i.StateReason != cloud.ReasonUserHibernate {
		t.Fatalf("it is %+v", i)
	}
	w.startAgain(id)
	if m := desiredOf(w.store.View(), w.node.ID).machines[id]; !m.Instance.Hibernated || m.Instance.Boot != 2 {
		t.Errorf("the node is told %+v", m.Instance)
	}
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 2, Phase: agentrpc.PhaseRunning})
	if i := w.instance(id); i.State != cloud.StateRunning || i.Hibernated {
		t.Errorf("it is %+v", i)
	}
}

func TestMemoryThatCouldNotBeSavedIsSaidSo(t *testing.T) {
	w := newWorld(t)
	id := w.hibernating()
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseStopped, Error: "the disk is full"})
	i := w.instance(id)
	if i.State != cloud.StateStopped || i.Hibernated || i.StateReason.Code != "Client.UserInitiatedShutdown" || !strings.Contains(i.StateReason.Message, "the disk is full") {
		t.Errorf("it is %+v", i)
	}
}

func TestAStartThatFailsFromSavedMemoryLeavesANextOneThatBoots(t *testing.T) {
	w := newWorld(t)
	id := w.hibernating()
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseStopped, Hibernated: true})
	w.startAgain(id)
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 2, Phase: agentrpc.PhaseFailed, Error: "the saved memory is damaged"})
	if i := w.instance(id); i.State != cloud.StateStopping || i.Hibernated || !strings.Contains(i.StateReason.Message, "damaged") {
		t.Errorf("it is %+v", i)
	}
}
