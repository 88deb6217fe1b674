package control

import (
	"math/rand"
	"slices"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// withVolumes gives a launch volumes: the first goes with the instance, the second stays.
func (w *world) withVolumes(id cloud.InstanceID) (goes, stays cloud.VolumeID) {
	w.t.Helper()
	goes, stays = cloud.NewID[cloud.VolumeID](w.rand), cloud.NewID[cloud.VolumeID](w.rand)
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, id)
		i.Wiring = 1
		store.Put(tx, store.Instances, i)
		for n, v := range []cloud.VolumeID{goes, stays} {
			store.Put(tx, store.Volumes, &cloud.Volume{ID: v, Zone: "us-east-1a", Type: cloud.VolumeGP3, SizeGiB: 10, State: cloud.VolumeCreating, Instance: id,
				Device: "/dev/sd" + string(rune('f'+n)), Attach: cloud.Attaching, DeleteOnTermination: n == 0})
		}
	})
	return goes, stays
}

func (w *world) volume(id cloud.VolumeID) (v cloud.Volume, ok bool) {
	p, ok := store.Get(w.store.View(), store.Volumes, id)
	if ok {
		v = *p
	}
	return v, ok
}

func (w *world) keepsVolumes(gib int) {
	w.t.Helper()
	w.update(func(tx *store.Tx) {
		n, _ := store.Get(tx, store.Nodes, w.node.ID)
		n.VolumeGiB = gib
		store.Put(tx, store.Nodes, n)
	})
}

func TestVolumesOfALaunchAreKeptByItsNode(t *testing.T) {
	w := newWorld(t)
	w.keepsVolumes(100)
	id := w.launch("t3.micro", 5)
	goes, stays := w.withVolumes(id)
	w.reconcile()
	d := desiredOf(w.store.View(), w.node.ID)
	if len(d.volumes) != 2 || d.volumes[goes].Size != 10<<30 || len(d.machines[id].Volumes) != 2 {
		t.Fatalf("the node is to keep %+v, and the machine to have %+v", d.volumes, d.machines[id].Volumes)
	}
	// What a node says of a machine that it found again says nothing of volumes.
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseRunning})
	if v, _ := w.volume(stays); v.Attach != cloud.Attaching || v.Instance != id {
		t.Errorf("it is %s of %q", v.Attach, v.Instance)
	}
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Wiring: 1, Phase: agentrpc.PhaseRunning, Volumes: []cloud.VolumeID{goes, stays}})
	if v, _ := w.volume(stays); v.Attach != cloud.Attached || v.State != cloud.VolumeInUse {
		t.Errorf("it is %s, %s", v.Attach, v.State)
	}
}

func TestALaunchWhoseVolumesNoNodeCanKeepLeavesNone(t *testing.T) {
	for gib, why := range map[int]string{0: "it keeps no volumes", 9: "a volume of 10 GiB is larger than its disk, which has 9"} {
		w := newWorld(t)
		w.keepsVolumes(gib)
		id := w.launch("t3.micro", 5)
		w.withVolumes(id)
		w.reconcile()
		w.reconcile()
		if got := w.instance(id); got.State != cloud.StateTerminated || got.StateReason != cloud.ReasonInsufficientCapacity(string(w.node.ID)+": "+why) {
			t.Errorf("%d GiB: it is %s, %+v", gib, got.State, got.StateReason)
		}
		if left := store.List(w.store.View(), store.Volumes); len(left) > 0 {
			t.Errorf("%d GiB: left are %+v", gib, left)
		}
	}
}

// Whatever order facts come in: a volume that is to go goes when its instance has ended and not before, the other stays, and none is ever
// another's or nobody's while its machine may write to it.
func TestRandomFactsNeverLoseAVolumeOfALaunch(t *testing.T) {
	phases := []agentrpc.Phase{agentrpc.PhaseRunning, agentrpc.PhaseExited, agentrpc.PhaseFailed, agentrpc.PhaseStopped, agentrpc.PhaseGone}
	for seed := range int64(300) {
		w := newWorld(t)
		w.keepsVolumes(100)
		rnd := rand.New(rand.NewSource(seed))
		id := w.launch("t3.micro", 5)
		goes, stays := w.withVolumes(id)
		w.reconcile()
		for range 12 {
			before := w.instance(id)
			switch volume := []cloud.VolumeID{goes, stays}[rnd.Intn(2)]; {
			case rnd.Intn(4) == 0 && before.Desired != cloud.DesiredTerminated:
				w.update(func(tx *store.Tx) {
					i, _ := store.Get(tx, store.Instances, id)
					i.Desired = cloud.DesiredTerminated
					if err := i.Transition(cloud.StateShuttingDown, cloud.ReasonUserTerminate, start); err != nil {
						t.Fatal(err)
					}
					store.Put(tx, store.Instances, i)
				})
			case rnd.Intn(3) == 0:
				phase := []agentrpc.VolumePhase{agentrpc.VolumeReady, agentrpc.VolumeGone}[rnd.Intn(2)]
				if err := applyVolumeStatus(t.Context(), w.store, w.node.ID, agentrpc.VolumeStatus{Volume: volume, Phase: phase}, start); err != nil {
					t.Fatal(err)
				}
			default:
				st := agentrpc.MachineStatus{Instance: id, Boot: rnd.Intn(2) + rnd.Intn(2), Phase: phases[rnd.Intn(len(phases))]}
				if rnd.Intn(2) == 0 {
					st.Wiring, st.Volumes = 1, []cloud.VolumeID{goes, stays}
				}
				w.tell(st)
			}
			i := w.instance(id)
			kept, ok := w.volume(stays)
			gone, left := w.volume(goes)
			wanted := desiredOf(w.store.View(), w.node.ID)
			switch {
			case !ok:
				t.Fatalf("seed %d: the volume that stays is gone", seed)
			case i.State != cloud.StateTerminated && (kept.Instance != id || !left || gone.Instance != id || gone.State == cloud.VolumeDeleting):
				t.Fatalf("seed %d: of the instance, %s, are %+v and %+v", seed, i.State, kept, gone)
			case i.State == cloud.StateTerminated && (kept.Instance != "" || kept.State == cloud.VolumeInUse || left && gone.State != cloud.VolumeDeleting):
				t.Fatalf("seed %d: after its end there are %+v and %+v", seed, kept, gone)
			case left && wanted.volumes[goes].Delete != (i.State == cloud.StateTerminated) || wanted.volumes[stays].Delete:
				t.Fatalf("seed %d: in state %s the node is to keep %+v", seed, i.State, wanted.volumes)
			case i.State == cloud.StateRunning && !slices.ContainsFunc(wanted.machines[id].Volumes, func(a agentrpc.Attachment) bool { return a.Volume == stays }):
				t.Fatalf("seed %d: the running machine is to do without its volume", seed)
			}
		}
	}
}

func TestARootIsMadeWithItsMachine(t *testing.T) {
	for _, layer := range []bool{false, true} {
		w := newWorld(t)
		w.keepsVolumes(100)
		id := w.launch("t3.micro", 5)
		root := cloud.NewID[cloud.VolumeID](w.rand)
		w.update(func(tx *store.Tx) {
			i, _ := store.Get(tx, store.Instances, id)
			i.Wiring, i.RootVolume = 1, true
			store.Put(tx, store.Instances, i)
			store.Put(tx, store.Volumes, &cloud.Volume{ID: root, Zone: "us-east-1a", Type: cloud.VolumeGP3, SizeGiB: 10, State: cloud.VolumeCreating, Instance: id,
				Device: cloud.RootDevice, Attach: cloud.Attaching, Root: true, Layer: layer})
		})
		w.reconcile()
		d := desiredOf(w.store.View(), w.node.ID)
		if m := d.machines[id]; len(d.volumes) > 0 || len(m.Volumes) > 0 || layer != (m.Root == nil) || !layer && (m.Root.ID != root || !m.Root.Make) {
			t.Fatalf("the node is to keep %+v, and the machine to have %+v", d.volumes, m.Root)
		}
		have := []cloud.VolumeID{root}
		if layer {
			have = nil
		}
		w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Wiring: 1, Phase: agentrpc.PhaseRunning, Volumes: have})
		if v, _ := w.volume(root); v.Attach != cloud.Attached || v.State != cloud.VolumeInUse {
			t.Errorf("it is %s, %s", v.Attach, v.State)
		}
		d = desiredOf(w.store.View(), w.node.ID)
		if wish, ok := d.volumes[root]; ok == layer || wish.Make || !layer && d.machines[id].Root.Make {
			t.Errorf("the node is to keep %+v: a root is never made twice", d.volumes)
		}
		w.update(func(tx *store.Tx) {
			i, _ := store.Get(tx, store.Instances, id)
			i.Desired = cloud.DesiredTerminated
			store.Put(tx, store.Instances, i)
		})
		w.update(func(tx *store.Tx) {
			i, _ := store.Get(tx, store.Instances, id)
			if err := i.Transition(cloud.StateShuttingDown, cloud.ReasonUserTerminate, start); err != nil {
				t.Fatal(err)
			}
			store.Put(tx, store.Instances, i)
		})
		w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseGone})
		if v, ok := w.volume(root); ok == layer || ok && v.State != cloud.VolumeAvailable {
			t.Errorf("after its instance's end it is %+v", v)
		}
	}
}

// A root that its machine never ran with holds nothing, though it was to stay.
func TestTheRootOfALaunchThatFailsGoes(t *testing.T) {
	w := newWorld(t)
	w.keepsVolumes(100)
	id := w.launch("t3.micro", 5)
	_, root := w.withVolumes(id)
	w.update(func(tx *store.Tx) {
		v, _ := store.Get(tx, store.Volumes, root)
		v.Root, v.Device = true, cloud.RootDevice
		store.Put(tx, store.Volumes, v)
	})
	w.reconcile()
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseFailed, Error: "no kernel"})
	w.tell(agentrpc.MachineStatus{Instance: id, Boot: 1, Phase: agentrpc.PhaseGone})
	if d := desiredOf(w.store.View(), w.node.ID); !d.volumes[root].Delete {
		t.Errorf("the node is to keep %+v", d.volumes)
	}
}
