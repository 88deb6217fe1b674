// Package attachments is what becomes of volumes in the store when their instance, or what is asked of it, changes: both the API and the
// control plane settle attachments, in the transaction that settles the instance.
//
// Its functions write the volumes that they change, and never the instance. They never ask whether the step is allowed.
package attachments

import (
	"slices"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Root is the volume that is attached as an instance's root, nil for none.
func Root(r store.Reader, i *cloud.Instance) *cloud.Volume {
	for _, v := range store.ListBy(r, store.VolumesByInstance, i.ID) {
		if v.Device == cloud.RootDevice {
			return v
		}
	}
	return nil
}

// Beside are the volumes that an instance has beside its root.
func Beside(r store.Reader, i *cloud.Instance) []*cloud.Volume {
	return slices.DeleteFunc(slices.Clone(store.ListBy(r, store.VolumesByInstance, i.ID)), func(v *cloud.Volume) bool { return v.Device == cloud.RootDevice })
}

// Place has an instance's node keep the volumes that are made with it.
func Place(tx *store.Tx, i *cloud.Instance) {
	for _, v := range store.ListBy(tx, store.VolumesByInstance, i.ID) {
		if v.Node == "" {
			v.Node = i.Node
			store.Put(tx, store.Volumes, v)
		}
	}
}

// Settle ends what is under way between an instance and its volumes when its node has done what it could of the newest wish: have are
// the volumes that the machine has, problems what kept others from being attached or detached.
//
// What could not be attached is free again: the node has undone it. What could not be detached stays busy, and the node goes on trying.
func Settle(tx *store.Tx, i *cloud.Instance, have []cloud.VolumeID, problems map[cloud.VolumeID]string) {
	for _, v := range store.ListBy(tx, store.VolumesByInstance, i.ID) {
		has := v.Layer || slices.Contains(have, v.ID) // a container that runs has its root
		before := *v
		switch {
		case v.Attach == cloud.Attaching && has:
			v.Attach = cloud.Attached
			v.Made() // it was made with the machine
		case v.Attach == cloud.Attaching:
			v.Free()
			v.Busy = problems[v.ID]
		case v.Attach == cloud.Detaching && has:
			v.Busy = problems[v.ID]
		case v.Attach == cloud.Detaching:
			v.Free()
		}
		if v.Attach != before.Attach || v.Busy != before.Busy {
			store.Put(tx, store.Volumes, v)
		}
	}
}

// Rest ends what is under way between an instance and its volumes when nothing of it is on any node: volumes that were asked for are
// its, and others are free.
func Rest(tx *store.Tx, i *cloud.Instance) {
	for _, v := range store.ListBy(tx, store.VolumesByInstance, i.ID) {
		switch v.Attach {
		case cloud.Attaching:
			v.Attach = cloud.Attached
			if v.Root { // of a machine that has run
				v.Made()
			}
		case cloud.Detaching:
			v.Free()
		default:
			continue
		}
		store.Put(tx, store.Volumes, v)
	}
}

// Leave is what becomes of an instance's volumes when it ends: those that are to go with it go, those that no node was ever asked to make, and roots
// that are their machine's own or that it never ran with.
func Leave(tx *store.Tx, i *cloud.Instance) {
	for _, v := range store.ListBy(tx, store.VolumesByInstance, i.ID) {
		if v.Node == "" || v.Layer {
			store.Delete(tx, store.Volumes, v.ID)
			continue
		}
		goes := v.DeleteOnTermination || v.Root && v.State == cloud.VolumeCreating
		v.Free()
		if goes {
			v.State = cloud.VolumeDeleting
		}
		store.Put(tx, store.Volumes, v)
	}
}
