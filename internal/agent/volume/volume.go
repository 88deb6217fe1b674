// Package volume is the seam between the agent and whatever keeps volumes' bytes.
//
// # Terms
//
// A volume is a block device's bytes, of a size that only grows. A snapshot is a volume's content at one instant, which nobody
// changes. A Backend keeps both. It moves no data to or from machines: that is done by QEMU's block layer, in one of two
// processes. A virtual machine's hypervisor has one already; for a container, and for whoever else needs a kernel's block
// device, package daemon runs qemu-storage-daemon. A Door leads to such a process, and a Graph says which files it opens and how
// they are laid over one another. A volume is open while a process has its graph.
//
// A volume has one holder at most: the machine that may open it. Hold is asked before Graph, and Release after the process
// has shut the graph, or is gone for certain.
//
// # Order of calls
//
// Recover comes first, once, after every start of the agent. Then Create, any number of Hold, Graph, Release, Grow, Limit and
// Snapshot, and Delete, which a held volume refuses. Calls for one volume never overlap; calls for different ones may. A method that
// takes a Door is given the one by which the volume is open now, nil when it is not: a backend must never change files
// behind an open graph.
//
// # What may be repeated
//
// Every call. Create of a volume that is there, Delete of one that isn't, Grow to the size that it has, Snapshot of an id that
// exists, Hold by its holder and Release by somebody else succeed and change nothing.
//
// # What survives
//
// Everything that a call which succeeded has done, also a power cut. What a call that was cut off at any instruction had begun is finished or
// undone by Recover or by the same call's repetition: a volume or snapshot is there whole or not at all. A write that a machine was told is
// on the disk (a flush that was answered) is in the volume from then on, and in every later snapshot.
//
// # Encryption
//
// Of an encrypted volume, its snapshots and what is made of them, nothing that a machine wrote is on a disk as it is: layers are enciphered by QEMU, in the process that has
// them open, and their keys are kept sealed (package keyring). A Graph carries the keys in the open; it is for a Door, and for no record and no log. Who deletes the
// last that needs a layer has destroyed its key.
//
// # Errors
//
// ErrNotFound, ErrHeld, ErrTooLarge, ErrTooManyLayers and, for what is encrypted, keyring.ErrNoKey, wrapped with what was tried; others are the host's. A lack of room on the host's disk fails the
// writes of an open volume with ENOSPC and loses nothing that was written before.
//
// # Backends
//
// Package local keeps a qcow2 file a volume on the node's own disk. The seam is cut for two more: RADOS block devices are a
// Graph of one node with the driver "rbd", whose snapshots are the cluster's; a volume of another node is a Graph of one node with the
// driver "nbd", whose server is that node's daemon. Neither is built.
package volume

import (
	"context"
	"errors"

	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

var (
	// ErrNotFound is returned for volumes and snapshots that a backend doesn't have.
	ErrNotFound = errors.New("no such volume or snapshot")
	// ErrHeld is returned when a volume belongs to another machine, or is to be deleted while it belongs to one.
	ErrHeld = errors.New("the volume is held by a machine")
	// ErrTooManyLayers is returned for a snapshot of a volume that is made of too many already.
	ErrTooManyLayers = errors.New("the volume is made of too many snapshots already; copy it to a new one")
	// ErrTooLarge is returned for a volume that could never be filled.
	ErrTooLarge = errors.New("the volume is larger than the disk that it would be on")
)

// Spec is a volume to make.
type Spec struct {
	ID       cloud.VolumeID
	Size     int64            // bytes, a multiple of 1 MiB
	Snapshot cloud.SnapshotID // its first content, "" for zeros
	Base     Base             // its first content in the place of a snapshot's
	Limits   cloud.VolumeLimits
	// Encrypted says that nothing of it is to be on the disk as it is, but what a Base brings. A volume of an encrypted snapshot is so anyway; of another, it
	// takes as long to make as there is content.
	Encrypted bool
}

// Base is a disk that a volume is laid over: the zero Base is none. The volume keeps what it needs of it: the files may be deleted afterwards, and are
// never changed.
type Base struct {
	Path   string // absolute, on the file system that volumes are on
	Format string // "raw" or "qcow2"
	// Written is a qcow2 over it that the volume begins with a copy of, "" for none; its header names no other file.
	Written string
}

// Info is what a backend knows of a volume.
type Info struct {
	ID        cloud.VolumeID
	Size      int64
	Limits    cloud.VolumeLimits
	Holder    cloud.InstanceID // "" when nobody holds it
	Encrypted bool
}

// Backend keeps volumes. See the package's comment for what is promised.
type Backend interface {
	// Recover finishes or undoes what was cut off, and lists the volumes and snapshots that there are.
	Recover(ctx context.Context) ([]Info, []cloud.SnapshotID, error)

	// Capacity is the size of the largest volume that could be filled, in bytes.
	Capacity() (int64, error)

	// Create makes a volume. Of a snapshot, it takes no longer for a large one than for a small one.
	Create(ctx context.Context, s Spec) (Info, error)

	// Delete ends a volume. Its snapshots stay.
	Delete(ctx context.Context, id cloud.VolumeID) error

	// Info tells about one volume.
	Info(id cloud.VolumeID) (Info, error)

	// Usage is how many bytes of the host's disk a volume's layers take, and those of what it is laid over, which others may share.
	Usage(id cloud.VolumeID) (layers, base int64, err error)

	// Hold makes a machine the volume's holder, for good: a restart keeps it. Release ends that.
	Hold(ctx context.Context, id cloud.VolumeID, holder cloud.InstanceID) error
	Release(ctx context.Context, id cloud.VolumeID, holder cloud.InstanceID) error

	// Held are the volumes that a machine holds.
	Held(holder cloud.InstanceID) ([]cloud.VolumeID, error)

	// Graph is how the volume is opened, with its limits, until the next Snapshot.
	Graph(id cloud.VolumeID) (Graph, error)

	// Grow makes a volume larger; what is added reads as zeros. A smaller size is an error.
	Grow(ctx context.Context, id cloud.VolumeID, size int64, open Door) error

	// Limit sets a volume's limits, at once where it is open.
	Limit(ctx context.Context, id cloud.VolumeID, l cloud.VolumeLimits, open Door) error

	// Snapshot keeps the volume's present content. It takes no longer for a large volume than for a small one.
	Snapshot(ctx context.Context, id cloud.VolumeID, snapshot cloud.SnapshotID, open Door) error

	// SnapshotAll keeps the content of several volumes as it is at one instant. One process has all of them open, to which open leads, or none has any.
	// Cut off before that instant, it has made none of them.
	SnapshotAll(ctx context.Context, list map[cloud.VolumeID]cloud.SnapshotID, open Door) error

	// CopySnapshot makes a second snapshot with the content of a first one, which may end before it. To encrypt what was not takes as long as there is content.
	CopySnapshot(ctx context.Context, from, to cloud.SnapshotID, encrypted bool) error

	// DeleteSnapshot ends a snapshot, in any order. Volumes that were made of it stay.
	DeleteSnapshot(ctx context.Context, id cloud.SnapshotID) error
}

// Door leads to a process with QEMU's block layer, which opens volumes.
type Door interface {
	// Do speaks with the process; the connection ends with f.
	Do(ctx context.Context, f func(m *qmp.Client) error) error
	// Name lets the process open a file of a volume, and tells the name that it has there.
	Name(ctx context.Context, m *qmp.Client, path string, writable bool) (string, error)
}
