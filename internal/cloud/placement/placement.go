// Package placement decides which node an instance goes to.
//
// It is a pure function from a snapshot of nodes and what they carry to a choice, with the
// reason for every node that was not chosen. It promises the same answer for the same input.
// It never writes a placement; the scheduler does, and a lost race asks again.
package placement

import (
	"fmt"
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
}

// Request is an instance to place.
type Request struct {
	Type      cloud.InstanceTypeInfo
	Zone      string
	Isolation cloud.Isolation
}

// Result is the choice, and for the nodes that were ruled out the reason.
type Result struct {
	Node     cloud.NodeID // "" when no node has room
	RuledOut map[cloud.NodeID]string
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
	case n.Architecture != r.Type.Architecture:
		return fmt.Sprintf("it is %s and %s is %s", n.Architecture, r.Type.Name, r.Type.Architecture)
	case n.Engines[r.Isolation] == "":
		return fmt.Sprintf("it runs no instances of isolation %q", r.Isolation)
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
// to the smaller id.
func Place(candidates []Candidate, r Request) Result {
	res := Result{RuledOut: map[cloud.NodeID]string{}}
	best := -1.0
	for _, c := range candidates {
		if why := unfit(c, r); why != "" {
			res.RuledOut[c.Node.ID] = why
			continue
		}
		total := float64(c.Node.MemoryMiB) * c.Node.MemoryFactor
		left := (total - float64(c.Load.MemoryMiB+r.Type.MemoryMiB)) / total
		if left > best || left == best && c.Node.ID < res.Node {
			best, res.Node = left, c.Node.ID
		}
	}
	return res
}

// Take is Place, and reserves what it chose in candidates.
func Take(candidates []Candidate, r Request) Result {
	res := Place(candidates, r)
	for n := range candidates {
		if candidates[n].Node.ID == res.Node {
			candidates[n].Load.Add(r.Type)
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
