package cloud

import "time"

// Capture is an order to keep what is on an instance's disks at one instant: as snapshots of its volumes, and as a layer of an image. It is part of
// the instance until its node has said what came of it.
type Capture struct {
	// Image is the one that is being made, "" for snapshots alone. ID is its id, or that of the first snapshot.
	ID    string
	Image ImageID `json:",omitempty"`
	// Layer is the name of the container's image whose topmost layer is what the container wrote; "" where there is none to be made.
	Layer   string           `json:",omitempty"`
	Volumes []CapturedVolume `json:",omitempty"`
	// Rest is the boot before which it is to be done, while nothing runs; 0 for at once, while the instance's processes stand still.
	Rest  int `json:",omitempty"`
	Asked time.Time
}

// CapturedVolume is a volume and the snapshot that is to be made of it.
type CapturedVolume struct {
	Volume   VolumeID
	Snapshot SnapshotID
}

// ImageVolume is a volume that an image's instances are launched with: its root, or one beside that. Zeroes are for whoever launches to choose.
type ImageVolume struct {
	Device              string
	Snapshot            SnapshotID // its first content, "" for none
	SizeGiB             int
	Type                VolumeType
	IOPS                int `json:",omitempty"`
	Throughput          int `json:",omitempty"`
	DeleteOnTermination bool
	Encrypted           bool `json:",omitempty"` // as its snapshot is
}

// Shape is what the image says of the volume.
func (v *ImageVolume) Shape() VolumeShape {
	return VolumeShape{Type: v.Type, SizeGiB: v.SizeGiB, IOPS: v.IOPS, Throughput: v.Throughput}
}

// Origin is what a volume or snapshot holds that was the root of a virtual machine, or is made of one: by it machines are launched from a copy. The zero Origin is of
// volumes that were never a root: what is on them is theirs to know.
type Origin struct {
	Digest       string `json:",omitempty"` // of the image that the root was laid over
	Architecture string `json:",omitempty"`
	Hardware     Hardware
	System       bool `json:",omitempty"`
}

// Bootable tells whether anything is known of what starts there.
func (o Origin) Bootable() bool { return o.Digest != "" }
