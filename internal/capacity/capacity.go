// Package capacity reads from the store what placement decides on. It only reads.
package capacity

import (
	"sort"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Candidates is every node with what its instances reserve.
func Candidates(r store.Reader) []placement.Candidate { return candidates(r, "") }

// candidates leaves one instance out.
func candidates(r store.Reader, without cloud.InstanceID) []placement.Candidate {
	var list []placement.Candidate
	for _, n := range store.List(r, store.Nodes) {
		c := placement.Candidate{Node: *n}
		for _, i := range store.ListBy(r, store.InstancesByNode, n.ID) {
			if wanted, ok := Wanted(r, i); ok && i.ID != without && placement.Occupies(i.State) {
				c.Carry(wanted, i.Partition)
			}
		}
		list = append(list, c)
	}
	return list
}

// Wanted is what an instance needs of a server; ok is false when its type isn't known any more.
func Wanted(r store.Reader, i *cloud.Instance) (req placement.Request, ok bool) {
	req = placement.Request{Zone: i.Zone, Isolation: i.Isolation}
	if i.Node == "" {
		volumesOf(r, i, &req)
	}
	if req.Type, ok = i.Reserved(); !ok || i.PlacementGroup == "" {
		return req, ok
	}
	if g, found := store.Get(r, store.PlacementGroups, i.PlacementGroup); found {
		req.Group = &placement.Group{ID: g.ID, Name: g.Name, Strategy: g.Strategy, Partitions: g.Partitions, Partition: i.Partition}
	}
	return req, true
}

// volumesOf adds what the volumes that are made with an instance need of the server.
func volumesOf(r store.Reader, i *cloud.Instance, req *placement.Request) {
	for _, v := range store.ListBy(r, store.VolumesByInstance, i.ID) {
		if !v.Layer { // which every node that runs containers has room for
			req.VolumeGiB = max(req.VolumeGiB, v.SizeGiB)
		}
		if s, ok := store.Get(r, store.Snapshots, v.Snapshot); ok {
			req.Keeper = s.Node
		}
	}
}

// Waiting is the instances that no node has yet, in the order in which they are placed: oldest first.
func Waiting(r store.Reader) []*cloud.Instance {
	var waiting []*cloud.Instance
	for _, i := range store.ListBy(r, store.InstancesByState, cloud.StatePending) {
		if i.Node == "" {
			waiting = append(waiting, i)
		}
	}
	sort.Slice(waiting, func(a, b int) bool {
		if !waiting[a].Created.Equal(waiting[b].Created) {
			return waiting[a].Created.Before(waiting[b].Created)
		}
		return waiting[a].LaunchIndex < waiting[b].LaunchIndex
	})
	return waiting
}

// Promised is Candidates with the waiting instances where they would be placed now: what is left of it can be
// promised to new ones, however fast calls follow one another.
func Promised(r store.Reader) []placement.Candidate { return Without(r, "") }

// Without is Promised as it would be without one instance, which has a node: what that one can have.
func Without(r store.Reader, id cloud.InstanceID) []placement.Candidate {
	list := candidates(r, id)
	for _, i := range Waiting(r) {
		if wanted, ok := Wanted(r, i); ok {
			placement.Take(list, wanted)
		}
	}
	return list
}
