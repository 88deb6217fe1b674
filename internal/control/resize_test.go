package control

import (
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/capacity"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// resizing is a running t3.micro that is to have 512 MiB and 1 CPU.
func (w *world) resizing() cloud.InstanceID {
	w.t.Helper()
	id := w.launch("t3.micro", 10)
	w.reconcile()
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning})
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, id)
		before := i.Sizing()
		i.SetSizing(cloud.Sizing{Type: i.Type, CPUs: 1, MemoryMiB: 512})
		i.Before, i.Sized, i.Tags[cloud.TagResize] = &before, 1, cloud.ResizePending
		store.Put(tx, store.Instances, i)
	})
	return id
}

func (w *world) reservedMemory() int64 {
	return capacity.Candidates(w.store.View())[0].Load.MemoryMiB
}

func TestAChangeOfSizeIsDoneWhenTheNodeSaysSo(t *testing.T) {
	w := newWorld(t)
	id := w.resizing()
	if got := w.reservedMemory(); got != 1024 {
		t.Errorf("while it shrinks %d MiB are reserved", got)
	}
	if m := desiredOf(w.store.View(), w.node.ID).machines[id]; m.Instance.MemoryMiB != 512 || m.Instance.CPUs != 1 || m.Instance.Sized != 1 || m.Instance.Before != nil {
		t.Errorf("the node is told %+v", m.Instance)
	}
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning, Sized: 0})
	if w.instance(id).Tags[cloud.TagResize] != cloud.ResizePending {
		t.Error("an older fact ends the change")
	}
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning, Sized: 1})
	i := w.instance(id)
	if _, pending := i.Tags[cloud.TagResize]; pending || i.Before != nil || i.MemoryMiB != 512 || i.Tags[cloud.TagMemory] != "512" {
		t.Errorf("it is %+v", i)
	}
	if got := w.reservedMemory(); got != 512 {
		t.Errorf("%d MiB are reserved", got)
	}
}

func TestAChangeOfSizeThatTheNodeRefusesIsTakenBackAndSaidSo(t *testing.T) {
	w := newWorld(t)
	id := w.resizing()
	why := "its processes hold " + strings.Repeat("ü", 300)
	for range 2 { // a fact may be repeated
		w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning, Sized: 1, SizeError: why})
		i := w.instance(id)
		said := i.Tags[cloud.TagResize]
		if i.MemoryMiB != 0 || i.CPUs != 0 || i.Before != nil || i.Tags[cloud.TagMemory] != "" || !strings.HasPrefix(said, "failed: its processes hold ü") || len(said) > cloud.MaxTagValueLength {
			t.Errorf("it is %+v", i)
		}
	}
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning, Sized: 1})
	if !strings.HasPrefix(w.instance(id).Tags[cloud.TagResize], "failed: ") {
		t.Error("going back to the earlier size hides the failure")
	}
}

func TestAStopEndsAChangeOfSize(t *testing.T) {
	w := newWorld(t)
	id := w.resizing()
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, id)
		i.Desired = cloud.DesiredStopped
		if err := i.Transition(cloud.StateStopping, cloud.ReasonUserStop, start); err != nil {
			t.Error(err)
		}
		store.Put(tx, store.Instances, i)
	})
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseStopped})
	if i := w.instance(id); i.Before != nil || i.MemoryMiB != 512 || i.Tags[cloud.TagResize] != "" {
		t.Errorf("it is %+v", i)
	}
}
