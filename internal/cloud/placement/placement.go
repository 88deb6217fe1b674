// Package placement decides which node an instance goes to.
//
// It is a pure function from a snapshot of nodes and what they carry to a choice, with the
// reason for every node that was not chosen. It promises the same answer for the same input.
// It never writes a placement; the scheduler does, and a lost race asks again.
package placement

import (
	"fmt"
	"maps"
	"sort"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Load is what a node's instances have reserved: all that are not stopped or terminated.
type Load struct {
	CPU       float64 // in vCPUs; a burstable instance reserves its baseline only
	MemoryMiB int64
	Instances int
}

// Add reserves room for one instance of type t.
func (l *Load) Add(t cloud.InstanceTypeInfo) {
	l.CPU += reservedCPU(t)
	l.MemoryMiB += t.MemoryMiB
	l.Instances++
}

func reservedCPU(t cloud.InstanceTypeInfo) float64 {
	if t.Burstable() {
		return float64(t.VCPUs) * float64(t.BaselinePercent) / 100
	}
	return float64(t.VCPUs)
}

// Occupies tells whether an instance reserves room on its node.
func Occupies(s cloud.InstanceState) bool {
	switch s {
	case cloud.StatePending, cloud.StateRunning, cloud.StateStopping, cloud.StateShuttingDown:
		return true
	}
	return false
}

// Candidate is a node and what it carries.
type Candidate struct {
	Node cloud.Node
	Load Load
	// Groups are the placement groups of what it carries. The map is replaced, never written to.
	Groups map[cloud.PlacementGroupID]Members
}

// Carry adds an instance to what the node carries; partition is the one of its placement group, if it is in one that
// has them.
func (c *Candidate) Carry(r Request, partition int) {
	c.Load.Add(r.Type)
	if r.Group != nil {
		c.Groups = maps.Clone(c.Groups)
		if c.Groups == nil {
			c.Groups = map[cloud.PlacementGroupID]Members{}
		}
		c.Groups[r.Group.ID] = Members{c.Groups[r.Group.ID].Instances + 1, partition}
	}
}

// Request is an instance to place.
type Request struct {
	Type      cloud.InstanceTypeInfo
	Zone      string
	Isolation cloud.Isolation
	Group     *Group // nil for an instance that stands alone
	VolumeGiB int    // the largest volume that is to be made for it there
	// Keeper is the node that has what its volumes are made of, "" for none.
	Keeper cloud.NodeID
}

// Result is the choice, and for the nodes that were ruled out the reason.
type Result struct {
	Node cloud.NodeID // "" when no node has room
	// Partition is the one of the placement group, 0 where there are none.
	Partition int
	RuledOut  map[cloud.NodeID]string
}

// Reason says in one sentence why no node was chosen.
func (r Result) Reason() string {
	if len(r.RuledOut) == 0 {
		return "no node serves this zone"
	}
	list := make([]string, 0, len(r.RuledOut))
	for node, why := range r.RuledOut {
		list = append(list, fmt.Sprintf("%s: %s", node, why))
	}
	sort.Strings(list)
	return strings.Join(list, "; ")
}

// native outweighs all else in the choice of a node: translating another architecture's instructions costs more than any
// neighbour does.
const native = 1 << 20

// smallestCPUs is what every node may sell of one instance, so that burstable sizes, which all
// have two vCPUs, run on a server with a single core too.
const smallestCPUs = 2

// unfit names what keeps an instance off a node, "" when nothing does. One instance never
// gets more than the server really has; over-commitment applies to the sum.
func unfit(c Candidate, r Request) string {
	n := c.Node
	switch {
	case r.Zone != "" && n.Zone != r.Zone:
		return "it is in zone " + n.Zone
	case n.Architecture != r.Type.Architecture && r.Isolation != cloud.IsolationVM: // a VM's instructions can be translated
		return fmt.Sprintf("it is %s and %s is %s", n.Architecture, r.Type.Name, r.Type.Architecture)
	case n.Engines[r.Isolation] == "":
		return fmt.Sprintf("it runs no instances of isolation %q", r.Isolation)
	case r.Isolation == cloud.IsolationVM && !n.Virtualizes(r.Type.Architecture):
		return fmt.Sprintf("it has no hypervisor for %s; `nacre doctor --install` brings it one, which the next `nacre up` there finds", r.Type.Architecture)
	case r.Keeper != "" && n.ID != r.Keeper:
		return "what the instance's volumes are made of is on another server"
	case r.VolumeGiB > n.VolumeGiB && n.VolumeGiB == 0:
		return "it keeps no volumes"
	case r.VolumeGiB > n.VolumeGiB:
		return fmt.Sprintf("a volume of %d GiB is larger than its disk, which has %d", r.VolumeGiB, n.VolumeGiB)
	case r.Type.VCPUs > max(n.CPUs, smallestCPUs):
		return fmt.Sprintf("%s has %d vCPUs and the server %d", r.Type.Name, r.Type.VCPUs, n.CPUs)
	case r.Type.MemoryMiB > n.MemoryMiB:
		return fmt.Sprintf("%s has %d MiB of memory and the server %d", r.Type.Name, r.Type.MemoryMiB, n.MemoryMiB)
	}
	after := c.Load
	after.Add(r.Type)
	if limit := float64(n.CPUs) * n.CPUFactor; after.CPU > limit {
		return fmt.Sprintf("%.1f of %.1f vCPUs are reserved", c.Load.CPU, limit)
	}
	if limit := int64(float64(n.MemoryMiB) * n.MemoryFactor); after.MemoryMiB > limit {
		return fmt.Sprintf("%d of %d MiB of memory are reserved", c.Load.MemoryMiB, limit)
	}
	return ""
}

// Place chooses the node that has the largest share of memory left after taking the instance; ties go
// to the smaller id. Of a cluster group's instances it keeps as many on one node as fit.
func Place(candidates []Candidate, r Request) Result {
	partitions := []int{0}
	if r.Group != nil {
		partitions = r.Group.tries(candidates)
	}
	var res Result
	for _, p := range partitions {
		if res = placeIn(candidates, r, p); res.Node != "" {
			break
		}
	}
	return res
}

// placeIn is Place in one partition of the request's group.
func placeIn(candidates []Candidate, r Request, partition int) Result {
	res := Result{RuledOut: map[cloud.NodeID]string{}}
	best := -1.0
	var around standing
	if r.Group != nil {
		around = r.Group.standing(candidates)
	}
	for _, c := range candidates {
		why := unfit(c, r)
		if why == "" && r.Group != nil {
			why = r.Group.unfit(c, around, partition)
		}
		if why != "" {
			res.RuledOut[c.Node.ID] = why
			continue
		}
		total := float64(c.Node.MemoryMiB) * c.Node.MemoryFactor
		score := (total - float64(c.Load.MemoryMiB+r.Type.MemoryMiB)) / total
		if r.Group != nil && r.Group.Strategy == cloud.PlaceCluster {
			score += float64(c.Groups[r.Group.ID].Instances) // a share is below 1: where the others are comes first
		}
		if c.Node.Architecture == r.Type.Architecture {
			score += native
		}
		if score > best || score == best && c.Node.ID < res.Node {
			best, res.Node = score, c.Node.ID
		}
	}
	if res.Node != "" {
		res.Partition = partition
	}
	return res
}

// Take is Place, and reserves what it chose in candidates.
func Take(candidates []Candidate, r Request) Result {
	res := Place(candidates, r)
	for n := range candidates {
		if candidates[n].Node.ID == res.Node {
			candidates[n].Carry(r, res.Partition)
		}
	}
	return res
}

// Room counts how many instances of a request fit, up to limit.
func Room(candidates []Candidate, r Request, limit int) (int, Result) {
	scratch := append([]Candidate(nil), candidates...)
	for n := 0; ; n++ {
		if n == limit {
			return n, Result{}
		}
		if res := Take(scratch, r); res.Node == "" {
			return n, res
		}
	}
}
