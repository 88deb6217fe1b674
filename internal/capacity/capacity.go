// Package capacity reads from the store what placement decides on. It only reads.
package capacity

import (
	"sort"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Candidates is every node with what its instances reserve.
func Candidates(r store.Reader) []placement.Candidate {
	var list []placement.Candidate
	for _, n := range store.List(r, store.Nodes) {
		c := placement.Candidate{Node: *n}
		for _, i := range store.ListBy(r, store.InstancesByNode, n.ID) {
			if size, ok := cloud.LookupInstanceType(i.Type); ok && placement.Occupies(i.State) {
				c.Load.Add(size)
			}
		}
		list = append(list, c)
	}
	return list
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
func Promised(r store.Reader) []placement.Candidate {
	list := Candidates(r)
	for _, i := range Waiting(r) {
		size, ok := cloud.LookupInstanceType(i.Type)
		if !ok {
			continue
		}
		placement.Take(list, placement.Request{Type: size, Zone: i.Zone, Isolation: i.Isolation})
	}
	return list
}
