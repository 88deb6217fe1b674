package control

import (
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	volumeNode = cloud.NodeID("node-00000000000000001")
	aVolume    = cloud.VolumeID("vol-00000000000000001")
	aSnapshot  = cloud.SnapshotID("snap-00000000000000001")
	aMachine   = cloud.InstanceID("i-00000000000000001")
)

func withVolume(t *testing.T, v cloud.Volume) *store.Store {
	t.Helper()
	s := store.OpenMemory()
	t.Cleanup(func() { s.Close() })
	v.ID, v.Node, v.Type, v.SizeGiB = aVolume, volumeNode, cloud.VolumeGP3, 10
	put(t, s, func(tx *store.Tx) {
		store.Put(tx, store.Volumes, &v)
		store.Put(tx, store.Instances, &cloud.Instance{ID: aMachine, Node: volumeNode, State: cloud.StateRunning, Desired: cloud.DesiredRunning, Boot: 1, Wiring: 2, Type: "t3.micro"})
	})
	return s
}

func put(t *testing.T, s *store.Store, fn func(*store.Tx)) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func theVolume(t *testing.T, s *store.Store) cloud.Volume {
	t.Helper()
	v, ok := store.Get(s.View(), store.Volumes, aVolume)
	if !ok {
		t.Fatal("the volume is gone")
	}
	return *v
}

func TestAVolumeIsWhatItsNodeSays(t *testing.T) {
	s := withVolume(t, cloud.Volume{State: cloud.VolumeCreating})
	now := time.Now().UTC()
	tell := func(node cloud.NodeID, st agentrpc.VolumeStatus) {
		t.Helper()
		st.Volume = aVolume
		for range 2 { // facts may come twice
			if err := applyVolumeStatus(t.Context(), s, node, st, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	tell("node-00000000000000002", agentrpc.VolumeStatus{Phase: agentrpc.VolumeReady})
	if v := theVolume(t, s); v.State != cloud.VolumeCreating {
		t.Errorf("another node's word made it %s", v.State)
	}
	tell(volumeNode, agentrpc.VolumeStatus{Phase: agentrpc.VolumeGone})
	tell(volumeNode, agentrpc.VolumeStatus{Phase: agentrpc.VolumeReady})
	if v := theVolume(t, s); v.State != cloud.VolumeAvailable {
		t.Errorf("it is %s", v.State)
	}
	put(t, s, func(tx *store.Tx) {
		v, _ := store.Get(tx, store.Volumes, aVolume)
		v.Wished, v.SizeGiB = 1, 30
		v.Change = &cloud.VolumeChange{Wished: 1, Started: now, OldType: v.Type, Type: v.Type, OldSize: 10, SizeGiB: 30}
		store.Put(tx, store.Volumes, v)
	})
	tell(volumeNode, agentrpc.VolumeStatus{Phase: agentrpc.VolumeReady, Wished: 0})
	if v := theVolume(t, s); !v.Change.Ended.IsZero() {
		t.Error("a fact about an older wish ended the change")
	}
	tell(volumeNode, agentrpc.VolumeStatus{Phase: agentrpc.VolumeFailed, Wished: 1, Error: "no room"})
	if v := theVolume(t, s); v.SizeGiB != 10 || v.Change.Failure != "no room" || v.Wished != 2 {
		t.Errorf("after a change that failed it is %+v, %+v", v, v.Change)
	}
	put(t, s, func(tx *store.Tx) {
		v, _ := store.Get(tx, store.Volumes, aVolume)
		v.State = cloud.VolumeDeleting
		store.Put(tx, store.Volumes, v)
		store.Put(tx, store.Snapshots, &cloud.Snapshot{ID: aSnapshot, Volume: aVolume, Node: volumeNode, State: cloud.SnapshotPending})
	})
	if desiredOf(s.View(), volumeNode).volumes[aVolume].Delete {
		t.Error("it is deleted before the snapshot of it is made")
	}
	if err := applySnapshotStatus(t.Context(), s, volumeNode, agentrpc.SnapshotStatus{Snapshot: aSnapshot}); err != nil {
		t.Fatal(err)
	}
	if !desiredOf(s.View(), volumeNode).volumes[aVolume].Delete {
		t.Error("it is not deleted")
	}
	tell(volumeNode, agentrpc.VolumeStatus{Phase: agentrpc.VolumeGone})
	if _, ok := store.Get(s.View(), store.Volumes, aVolume); ok {
		t.Error("it is there still")
	}
}

// A volume changes hands only when the node of the one that had it says that it let go, about the newest wish.
func TestAVolumeIsFreeWhenItsNodeHasLetGo(t *testing.T) {
	for name, c := range map[string]struct {
		attach cloud.AttachState
		fact   agentrpc.MachineStatus
		want   cloud.AttachState
		state  cloud.VolumeState
	}{
		"attached":                    {cloud.Attaching, agentrpc.MachineStatus{Wiring: 2, Volumes: []cloud.VolumeID{aVolume}}, cloud.Attached, cloud.VolumeInUse},
		"not yet":                     {cloud.Attaching, agentrpc.MachineStatus{Wiring: 1}, cloud.Attaching, cloud.VolumeInUse},
		"refused":                     {cloud.Attaching, agentrpc.MachineStatus{Wiring: 2, VolumeErrors: map[cloud.VolumeID]string{aVolume: "why"}}, "", cloud.VolumeAvailable},
		"detached":                    {cloud.Detaching, agentrpc.MachineStatus{Wiring: 2}, "", cloud.VolumeAvailable},
		"before it was to be":         {cloud.Detaching, agentrpc.MachineStatus{Wiring: 1}, cloud.Detaching, cloud.VolumeInUse},
		"busy":                        {cloud.Detaching, agentrpc.MachineStatus{Wiring: 2, Volumes: []cloud.VolumeID{aVolume}}, cloud.Detaching, cloud.VolumeInUse},
		"an attached one that failed": {cloud.Attached, agentrpc.MachineStatus{Wiring: 2, VolumeErrors: map[cloud.VolumeID]string{aVolume: "why"}}, cloud.Attached, cloud.VolumeInUse},
	} {
		s := withVolume(t, cloud.Volume{State: cloud.VolumeInUse, Instance: aMachine, Device: "/dev/sdf", Attach: c.attach})
		c.fact.Instance, c.fact.Boot, c.fact.Phase = aMachine, 1, agentrpc.PhaseRunning
		if err := applyStatus(t.Context(), s, volumeNode, c.fact, time.Now()); err != nil {
			t.Fatal(err)
		}
		v := theVolume(t, s)
		if v.Attach != c.want || v.State != c.state || (v.Instance == "") != (c.want == "") {
			t.Errorf("%s: it is %q, %s, of %q", name, v.Attach, v.State, v.Instance)
		}
	}
}
