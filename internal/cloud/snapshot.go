package cloud

import "time"

// SnapshotState is EC2's snapshot state.
type SnapshotState string

const (
	SnapshotPending   SnapshotState = "pending"
	SnapshotCompleted SnapshotState = "completed"
	SnapshotError     SnapshotState = "error"
	// SnapshotDeleting is nacre's own: nobody sees it any more, and its node has still to free its bytes.
	SnapshotDeleting SnapshotState = "deleting"
)

// Snapshot is a volume's content at one instant.
type Snapshot struct {
	ID          SnapshotID
	Account     AccountID
	Volume      VolumeID // that it was made of
	SizeGiB     int      // of the volume then
	Node        NodeID   // that keeps its bytes
	Source      SnapshotID
	Encrypted   bool // as its volume is, or made so by the copy
	Description string
	Tags        Tags
	Created     time.Time
	State       SnapshotState
	Failure     string
	// Captured is the instance whose node makes it together with others, "" for one that is made by itself.
	Captured InstanceID `json:",omitempty"`
	Origin   Origin

	// Written says that it was written block by block, over the snapshot Parent, "" for zeros. Writing says that its writer has not said yet that all is there: then
	// Progress is how far he says he is, in percent.
	Written, Writing bool
	Parent           SnapshotID
	Progress         int
}

// BlockTokenKey is what the tokens of snapshots' blocks are signed with.
type BlockTokenKey struct {
	Key []byte
}
