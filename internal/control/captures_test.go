package control

import (
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// withCapture gives an instance an image that is being made of its disks, with one snapshot.
func withCapture(t *testing.T) *store.Store {
	t.Helper()
	s := withVolume(t, cloud.Volume{State: cloud.VolumeInUse, Instance: aMachine, Attach: cloud.Attached, Device: "/dev/sdf"})
	put(t, s, func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, aMachine)
		i.Captures = []cloud.Capture{{ID: "ami-1", Image: "ami-1", Layer: "made", Volumes: []cloud.CapturedVolume{{Volume: aVolume, Snapshot: aSnapshot}}}}
		store.Put(tx, store.Instances, i)
		store.Put(tx, store.Images, &cloud.Image{ID: "ami-1", Name: "made", State: cloud.ImagePending, Maker: aMachine, Volumes: []cloud.ImageVolume{{Device: "/dev/sdf", Snapshot: aSnapshot}}})
		store.Put(tx, store.Snapshots, &cloud.Snapshot{ID: aSnapshot, Volume: aVolume, Node: volumeNode, State: cloud.SnapshotPending, Captured: aMachine})
	})
	return s
}

func TestAnImageIsWhatItsNodeSaysOfTheCapture(t *testing.T) {
	made := agentrpc.CaptureStatus{Instance: aMachine, Capture: "ami-1", Image: &agentrpc.Imported{Digest: "sha256:aa", System: true, SizeMiB: 3, LoginUser: "admin"}}
	failed := agentrpc.CaptureStatus{Instance: aMachine, Capture: "ami-1", Error: "the disk is full"}
	for what, c := range map[string]struct {
		tell func(*testing.T, *store.Store)
		want cloud.ImageState
		says string
		snap cloud.SnapshotState
	}{
		"done":                  {told(volumeNode, made), cloud.ImageAvailable, "", cloud.SnapshotCompleted},
		"failed":                {told(volumeNode, failed), cloud.ImageFailed, "full", cloud.SnapshotError},
		"done, by another node": {told("node-00000000000000002", made), cloud.ImagePending, "", cloud.SnapshotPending},
		"its instance ended": {func(t *testing.T, s *store.Store) {
			put(t, s, func(tx *store.Tx) {
				i, _ := store.Get(tx, store.Instances, aMachine)
				i.State = cloud.StateShuttingDown
				if err := terminate(tx, i, start); err != nil {
					t.Error(err)
				}
				store.Put(tx, store.Instances, i)
			})
		}, cloud.ImageFailed, "terminated", cloud.SnapshotError},
	} {
		t.Run(what, func(t *testing.T) {
			s := withCapture(t)
			// The machine's worker makes the snapshot, and nobody else.
			if d := desiredOf(s.View(), volumeNode); len(d.snapshots) != 0 || len(d.machines[aMachine].Instance.Captures) != 1 {
				t.Errorf("the node is told %+v", d)
			}
			c.tell(t, s)
			img, _ := store.Get(s.View(), store.Images, "ami-1")
			snap, _ := store.Get(s.View(), store.Snapshots, aSnapshot)
			if img.State != c.want || !strings.Contains(img.Failure, c.says) || snap.State != c.snap {
				t.Errorf("the image is %+v, its snapshot %+v", img, snap)
			}
			if c.want == cloud.ImageAvailable && (img.Digest != "sha256:aa" || !img.System || img.Tags[LoginUserTag] != "admin") {
				t.Errorf("it is %+v", img)
			}
			if i, _ := store.Get(s.View(), store.Instances, aMachine); (c.want == cloud.ImagePending) != (len(i.Captures) == 1) {
				t.Errorf("the instance has still to keep %+v", i.Captures)
			}
		})
	}
}

// told tells what a node says twice, as facts may come twice.
func told(node cloud.NodeID, st agentrpc.CaptureStatus) func(*testing.T, *store.Store) {
	return func(t *testing.T, s *store.Store) {
		for range 2 {
			if err := applyCapture(t.Context(), s, node, st); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestWhatIsGivenUpIsNotMade(t *testing.T) {
	s := withCapture(t)
	put(t, s, func(tx *store.Tx) {
		store.Delete(tx, store.Images, "ami-1")
		snap, _ := store.Get(tx, store.Snapshots, aSnapshot)
		snap.State = cloud.SnapshotDeleting
		store.Put(tx, store.Snapshots, snap)
	})
	if d := desiredOf(s.View(), volumeNode); len(d.snapshots) != 0 {
		t.Errorf("the node is to be rid of what it may still be making: %+v", d.snapshots)
	}
	told(volumeNode, agentrpc.CaptureStatus{Instance: aMachine, Capture: "ami-1", Image: &agentrpc.Imported{Digest: "sha256:aa"}})(t, s)
	d := desiredOf(s.View(), volumeNode)
	if len(store.List(s.View(), store.Images)) != 0 || !d.snapshots[aSnapshot].Delete {
		t.Errorf("the node is told %+v", d.snapshots)
	}
}

func TestACopyIsThereWhenItsSnapshotsAre(t *testing.T) {
	for state, want := range map[cloud.SnapshotState]cloud.ImageState{cloud.SnapshotPending: cloud.ImagePending, cloud.SnapshotCompleted: cloud.ImageAvailable,
		cloud.SnapshotError: cloud.ImageFailed, cloud.SnapshotDeleting: cloud.ImageFailed} {
		s := withVolume(t, cloud.Volume{State: cloud.VolumeAvailable})
		put(t, s, func(tx *store.Tx) {
			store.Put(tx, store.Images, &cloud.Image{ID: "ami-1", State: cloud.ImagePending, Volumes: []cloud.ImageVolume{{Device: "/dev/xvda", Snapshot: aSnapshot}, {Device: "/dev/sdf"}}})
			store.Put(tx, store.Snapshots, &cloud.Snapshot{ID: aSnapshot, Node: volumeNode, State: state})
		})
		if err := settleCopies(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if img, _ := store.Get(s.View(), store.Images, "ami-1"); img.State != want {
			t.Errorf("with a snapshot that is %s it is %s", state, img.State)
		}
	}
}

func TestARootsImageIsKeptAsLongAsItsSnapshot(t *testing.T) {
	s := withVolume(t, cloud.Volume{State: cloud.VolumeAvailable, Origin: cloud.Origin{Digest: "sha256:volume"}})
	put(t, s, func(tx *store.Tx) {
		store.Put(tx, store.Snapshots, &cloud.Snapshot{ID: aSnapshot, Node: volumeNode, State: cloud.SnapshotCompleted, Origin: cloud.Origin{Digest: "sha256:snapshot", Hardware: cloud.Hardware{KernelDigest: "sha256:kernel"}}})
	})
	if got := strings.Join(imagesToKeep(s.View()), " "); got != "sha256:kernel sha256:snapshot sha256:volume" {
		t.Errorf("kept are %s", got)
	}
}
