package cloud

import (
	"fmt"
	"time"
)

// VolumeState is EC2's volume state.
type VolumeState string

const (
	VolumeCreating  VolumeState = "creating"
	VolumeAvailable VolumeState = "available"
	VolumeInUse     VolumeState = "in-use"
	VolumeDeleting  VolumeState = "deleting"
	VolumeError     VolumeState = "error" // its node could not make it
)

// Volume is a block device that outlives the instances it is attached to.
//
// Size, type and limits are intent; Made and Failure tell what its node has made of them. A volume belongs to one machine at
// a time: the next gets it when the node has said that the last has let go.
type Volume struct {
	ID         VolumeID
	Account    AccountID
	Zone       string
	Node       NodeID // that keeps its bytes; "" while the instance that it is made with has none
	Type       VolumeType
	SizeGiB    int
	IOPS       int // operations a second; 0 for types that promise none
	Throughput int // MiB a second; 0 but for gp3
	Snapshot   SnapshotID
	// Root says that it was made as an instance's root, of the instance's image and with the instance's machine.
	Root bool
	// Layer says that it is a container's root: a layer over the image's, and no device. It goes nowhere without its container.
	Layer bool
	// Encrypted says that nothing of it is on a disk as it is, but what its root's image brought.
	Encrypted bool
	Origin    Origin
	Tags      Tags
	Created   time.Time
	AutoIO    bool // AutoEnableIO: EC2's flag, which nothing here clears IO for

	State   VolumeState
	Failure string // why it is in VolumeError
	// Wished counts what was asked of the volume's size and limits; a node that reports a number has done all up to it.
	Wished int
	// Change is the newest modification, nil when there was none.
	Change *VolumeChange

	Instance            InstanceID // "" when attached to nothing
	Device              string     // such as "/dev/sdf"
	Attach              AttachState
	AttachTime          time.Time
	DeleteOnTermination bool
	Forced              bool // the detachment doesn't wait for the guest
	// Busy is why the node could not take it away yet.
	Busy string
}

// VolumeChange is a modification of a volume.
type VolumeChange struct {
	Wished                int // the number of the wish that it is
	Started, Ended        time.Time
	OldType, Type         VolumeType
	OldSize, SizeGiB      int
	OldIOPS, IOPS         int
	OldThroughput, Stream int // throughput before and after
	Failure               string
}

// VolumeLimits are what a volume's machine may do with it in a second. Zero is no limit.
type VolumeLimits struct {
	IOPS       int64
	BurstIOPS  int64 // for BurstSeconds after a rest; 0 for none
	Bytes      int64 // read and written
	BurstBytes int64
	// BurstSeconds is how long a rested volume keeps its burst up.
	BurstSeconds int64
	// Unit is how many bytes one operation moves; a larger one counts as several.
	Unit int64
}

// VolumeType is EC2's.
type VolumeType string

// Types of volumes.
const (
	VolumeGP2      VolumeType = "gp2"
	VolumeGP3      VolumeType = "gp3"
	VolumeIO1      VolumeType = "io1"
	VolumeIO2      VolumeType = "io2"
	VolumeST1      VolumeType = "st1"
	VolumeSC1      VolumeType = "sc1"
	VolumeStandard VolumeType = "standard"
)

// volumeKind is what EC2 says of a type.
type volumeKind struct {
	minGiB, maxGiB   int
	minIOPS, maxIOPS int // of those that the caller chooses; 0 when he doesn't
	perGiB           int // operations a GiB at most
	needsIOPS        bool
}

var volumeKinds = map[VolumeType]volumeKind{
	VolumeGP2:      {minGiB: 1, maxGiB: 16384},
	VolumeGP3:      {minGiB: 1, maxGiB: 16384, minIOPS: 3000, maxIOPS: 16000, perGiB: 500},
	VolumeIO1:      {minGiB: 4, maxGiB: 16384, minIOPS: 100, maxIOPS: 64000, perGiB: 50, needsIOPS: true},
	VolumeIO2:      {minGiB: 4, maxGiB: 65536, minIOPS: 100, maxIOPS: 256000, perGiB: 1000, needsIOPS: true},
	VolumeST1:      {minGiB: 125, maxGiB: 16384},
	VolumeSC1:      {minGiB: 125, maxGiB: 16384},
	VolumeStandard: {minGiB: 1, maxGiB: 1024},
}

const (
	gp3IOPS          = 3000 // unless chosen
	gp3Throughput    = 125  // MiB/s, unless chosen
	gp3MaxThroughput = 1000
)

// VolumeShape is what a caller chooses of a volume. Zero means not chosen.
type VolumeShape struct {
	Type       VolumeType
	SizeGiB    int
	IOPS       int
	Throughput int // MiB a second
}

// ShapeError tells which of the chosen values can't be; Parameter is EC2's name of it.
type ShapeError struct {
	Parameter string
	Message   string
	// Combination says that the value would be right with another type.
	Combination bool
}

func (e *ShapeError) Error() string { return e.Message }

// Settle checks a shape by EC2's rules and fills in what was not chosen. Errors are *ShapeError.
func (s VolumeShape) Settle() (VolumeShape, error) {
	kind, ok := volumeKinds[s.Type]
	if !ok {
		return s, &ShapeError{Parameter: "volumeType", Message: fmt.Sprintf("Invalid volume type: %s", s.Type)}
	}
	if s.SizeGiB < kind.minGiB || s.SizeGiB > kind.maxGiB {
		return s, &ShapeError{Parameter: "size", Message: fmt.Sprintf("Volume of %dGiB is invalid for volumes of type %s: they have %d to %d GiB.", s.SizeGiB, s.Type, kind.minGiB, kind.maxGiB)}
	}
	if s.Type == VolumeGP3 && s.IOPS == 0 {
		s.IOPS = gp3IOPS
	}
	switch {
	case s.IOPS != 0 && kind.maxIOPS == 0:
		return s, &ShapeError{Parameter: "iops", Combination: true, Message: fmt.Sprintf("The parameter iops is not supported for %s volumes.", s.Type)}
	case s.IOPS == 0 && kind.needsIOPS:
		return s, &ShapeError{Parameter: "iops", Combination: true, Message: fmt.Sprintf("The parameter iops must be specified for %s volumes.", s.Type)}
	case s.IOPS != 0 && (s.IOPS < kind.minIOPS || s.IOPS > kind.maxIOPS):
		return s, &ShapeError{Parameter: "iops", Message: fmt.Sprintf("Volume iops of %d is out of range for %s: it is from %d to %d.", s.IOPS, s.Type, kind.minIOPS, kind.maxIOPS)}
	case s.IOPS > max(gp3IOPS, 0) && s.Type == VolumeGP3 && s.IOPS > kind.perGiB*s.SizeGiB,
		s.IOPS != 0 && s.Type != VolumeGP3 && s.IOPS > kind.perGiB*s.SizeGiB:
		return s, &ShapeError{Parameter: "iops", Message: fmt.Sprintf("Iops to volume size ratio of %d/%d is too high; maximum is %d to 1", s.IOPS, s.SizeGiB, kind.perGiB)}
	}
	if s.Type != VolumeGP3 {
		if s.Throughput != 0 {
			return s, &ShapeError{Parameter: "throughput", Combination: true, Message: fmt.Sprintf("The parameter throughput is not supported for %s volumes.", s.Type)}
		}
		return s, nil
	}
	if s.Throughput == 0 {
		s.Throughput = gp3Throughput
	}
	if s.Throughput < gp3Throughput || s.Throughput > gp3MaxThroughput {
		return s, &ShapeError{Parameter: "throughput", Message: fmt.Sprintf("Volume throughput of %d MiB/s is out of range: it is from %d to %d.", s.Throughput, gp3Throughput, gp3MaxThroughput)}
	}
	if s.Throughput*4 > s.IOPS {
		return s, &ShapeError{Parameter: "throughput", Message: fmt.Sprintf("Throughput (MiBps) to iops ratio of %d/%d is too high; maximum is 0.25 MiBps per iops.", s.Throughput, s.IOPS)}
	}
	return s, nil
}

const (
	mib = 1 << 20
	// ssdUnit and hddUnit are how EC2 counts operations.
	ssdUnit = 256 << 10
	hddUnit = mib
	// gp2Credits is how many operations a full gp2 bucket holds, which lasts for half an hour at its burst.
	gp2Credits = 5_400_000
	gp2Burst   = 3000
)

// Limits are those of a settled shape.
func (s VolumeShape) Limits() VolumeLimits {
	size := int64(s.SizeGiB)
	perTiB := func(each, most int64) int64 { return min(most, max(1, each*size/1024)) * mib }
	switch s.Type {
	case VolumeGP3:
		return VolumeLimits{IOPS: int64(s.IOPS), Bytes: int64(s.Throughput) * mib, Unit: ssdUnit}
	case VolumeGP2:
		l := VolumeLimits{IOPS: s.Baseline(), Bytes: 250 * mib, Unit: ssdUnit}
		if size <= 170 {
			l.Bytes = 128 * mib
		}
		if l.IOPS < gp2Burst {
			l.BurstIOPS, l.BurstSeconds = gp2Burst, gp2Credits/gp2Burst
		}
		return l
	case VolumeIO1:
		return VolumeLimits{IOPS: int64(s.IOPS), Bytes: min(1000*mib, int64(s.IOPS)*ssdUnit), Unit: ssdUnit}
	case VolumeIO2:
		return VolumeLimits{IOPS: int64(s.IOPS), Bytes: min(4000*mib, int64(s.IOPS)*ssdUnit), Unit: ssdUnit}
	case VolumeST1:
		return VolumeLimits{IOPS: 500, Bytes: perTiB(40, 500), BurstBytes: perTiB(250, 500), BurstSeconds: 1800, Unit: hddUnit}
	case VolumeSC1:
		return VolumeLimits{IOPS: 250, Bytes: perTiB(12, 192), BurstBytes: perTiB(80, 250), BurstSeconds: 1800, Unit: hddUnit}
	}
	return VolumeLimits{IOPS: 100, Bytes: 90 * mib, BurstIOPS: 200, BurstSeconds: 60, Unit: ssdUnit} // standard
}

// Baseline is what EC2 shows as a volume's operations a second, 0 for types where it shows none.
func (s VolumeShape) Baseline() int64 {
	if s.Type == VolumeGP2 {
		return min(16000, max(100, 3*int64(s.SizeGiB)))
	}
	return int64(s.IOPS)
}

// Shape is what a volume is asked to be.
func (v *Volume) Shape() VolumeShape {
	return VolumeShape{Type: v.Type, SizeGiB: v.SizeGiB, IOPS: v.IOPS, Throughput: v.Throughput}
}

// Made notes that its node has made a volume, and tells whether that is news.
func (v *Volume) Made() bool {
	if v.State != VolumeCreating {
		return false
	}
	v.State = VolumeAvailable
	if v.Instance != "" { // it was made for it
		v.State = VolumeInUse
	}
	return true
}

// Free lets a volume go from its instance.
func (v *Volume) Free() {
	v.Instance, v.Device, v.Attach, v.AttachTime, v.DeleteOnTermination, v.Forced, v.Busy = "", "", "", time.Time{}, false, false, ""
	if v.State == VolumeInUse {
		v.State = VolumeAvailable
	}
}

// RootDevice is the name of every instance's root device. A volume that is attached there is the instance's root.
const RootDevice = "/dev/xvda"

// rootGiB is how large a root is that nobody chose a size for: EC2's for Linux images.
const rootGiB = 8

// RootGiB is how large the root of an image's instances is, and the least that it may be.
func (i *Image) RootGiB() (size, least int) {
	if r := i.Root(); r != nil {
		return r.SizeGiB, r.SizeGiB
	}
	// A file system made of layers has its own structures, and room for the guest's program.
	least = int((i.SizeMiB + i.SizeMiB/8 + 128 + 1023) / 1024)
	if i.Hardware.Content == ContentDisk {
		least = int((i.SizeMiB + 1023) / 1024)
	}
	return max(rootGiB, least), max(1, least)
}

// TagMount is the tag of a volume by which the agent makes a file system on it and mounts it inside a container: an absolute path.
const TagMount = "nacre:mount"
