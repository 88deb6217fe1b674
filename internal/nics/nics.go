// Package nics is what becomes of network interfaces in the store when they lose an address, leave their instance or
// end: what they had is given back in the same transaction, so that nothing is lent twice and nothing is kept for nobody.
//
// Its functions change the interface that they are given and write what else is concerned; the caller writes the
// interface itself, unless it is deleted. They never ask whether the step is allowed.
package nics

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Unpublish takes away the public address that stands for a private one: a lent one goes back to the pool, an Elastic
// IP is free again.
func Unpublish(tx *store.Tx, n *cloud.Interface, private netip.Addr) {
	p := n.Public(private)
	if !p.Public.IsValid() {
		return
	}
	n.Unpublish(private)
	if p.Allocation == "" {
		store.Delete(tx, store.Claims, store.PublicAddressClaim(p.Public))
		return
	}
	if a, ok := store.Get(tx, store.Addresses, p.Allocation); ok && a.Interface == n.ID {
		a.Association, a.Interface, a.PrivateIP = "", "", netip.Addr{}
		store.Put(tx, store.Addresses, a)
	}
}

// TakeBack gives the lent public addresses back to the pool. Elastic IPs stay.
func TakeBack(tx *store.Tx, n *cloud.Interface) (changed bool) {
	for _, p := range slices.Clone(n.Publics) {
		if p.Allocation == "" {
			Unpublish(tx, n, p.Private)
			changed = true
		}
	}
	return changed
}

// Unassign takes a secondary or an IPv6 address away, with what stands for it.
func Unassign(tx *store.Tx, n *cloud.Interface, addr netip.Addr) {
	Unpublish(tx, n, addr)
	other := func(a netip.Addr) bool { return a == addr }
	n.Secondary, n.IPv6 = slices.DeleteFunc(n.Secondary, other), slices.DeleteFunc(n.IPv6, other)
	store.Delete(tx, store.Claims, store.AddressClaim(n.Subnet, addr))
}

// Free makes an interface one that is attached to nothing.
func Free(tx *store.Tx, n *cloud.Interface) {
	TakeBack(tx, n)
	n.Instance, n.Attachment, n.AttachState, n.AttachTime = "", "", "", time.Time{}
	n.DeviceIndex, n.DeleteOnTermination, n.AutoPublicIP = 0, false, false
}

// Delete ends an interface and gives back all that it had.
func Delete(tx *store.Tx, n *cloud.Interface) {
	for _, p := range slices.Clone(n.Publics) {
		Unpublish(tx, n, p.Private)
	}
	for _, addr := range append(n.Addresses(), n.IPv6...) {
		store.Delete(tx, store.Claims, store.AddressClaim(n.Subnet, addr))
	}
	store.Delete(tx, store.Interfaces, n.ID)
}

// Leave is what becomes of an instance's interface when its instance ends.
func Leave(tx *store.Tx, n *cloud.Interface) {
	if n.DeleteOnTermination {
		Delete(tx, n)
		return
	}
	Free(tx, n)
	store.Put(tx, store.Interfaces, n)
}

// Settle ends what is under way between an instance and its interfaces, when its node has done all of it or has nothing of
// the instance: what was being attached is, and what was being detached is free. It changes the instance's list of interfaces.
func Settle(tx *store.Tx, i *cloud.Instance) (changed bool) {
	for _, id := range slices.Clone(i.Interfaces) {
		n, ok := store.Get(tx, store.Interfaces, id)
		if !ok {
			continue
		}
		switch n.AttachState {
		case cloud.Attaching:
			n.AttachState = cloud.Attached
		case cloud.Detaching:
			Free(tx, n)
			i.Interfaces = slices.DeleteFunc(i.Interfaces, func(x cloud.InterfaceID) bool { return x == id })
		default:
			continue
		}
		store.Put(tx, store.Interfaces, n)
		changed = true
	}
	return changed
}
