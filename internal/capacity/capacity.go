// Package capacity reads from the store what placement decides on. It only reads.
package capacity

import (
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
