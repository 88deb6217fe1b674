// Package reclaim decides which virtual machines lend memory to their server while it has little left, and when they get it again.
//
// It is a pure function from a look at the server and its machines to a list of steps; who looks and carries out is the agent. A machine
// is sold its whole size and is never kept from it: it lends what its guest does not use, and gets back what it needs as soon as it says so,
// short as the server may be. A guest that needs memory at once takes it from the balloon by itself.
package reclaim

import (
	"cmp"
	"slices"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// stepShare is the part of a machine's memory that is moved in one step: one of so many.
	stepShare = 4
	// keepShare and keepLeast are what stays available to a guest: one of so many parts of its memory, and so many bytes at least.
	keepShare = 8
	keepLeast = 64 << 20
	// floorShare is the part of its memory that no machine has less than: one of so many.
	floorShare = 4
	// worth is the least that is worth a step, in bytes.
	worth = 4 << 20
	// calm is how much more than its reserve a server has available before it gives back, in eighths of the reserve.
	calm = 12
	// stalls is the part of the time that processes wait for memory, in percent, from which on twice the reserve counts.
	stalls = 20
)

// Server is a look at a server's memory, in bytes.
type Server struct {
	Available int64   // that could be used without taking any away
	Reserve   int64   // that is to stay available; 0 for never taking any
	Stalled   float64 // percent of the last ten seconds in which some process waited for memory
}

// Machine is a look at a machine that runs.
type Machine struct {
	ID cloud.InstanceID
	// First is what a balloon can take from: the memory that it was started with, or less where it was given less, in bytes. Held is what
	// its guest has of that.
	First, Held int64
	// Available is what its guest could use without giving anything up, in bytes; negative when it did not tell lately.
	Available int64
}

// Step gives a machine's guest so much of its first memory.
type Step struct {
	ID       cloud.InstanceID
	From, To int64 // bytes
}

// Plan are the steps to take now: one a machine at most, sorted by their ids.
func Plan(s Server, machines []Machine) []Step {
	var steps []Step
	rest := slices.Clone(machines)
	available := s.Available
	// Those that need theirs come first, whatever the server has.
	rest = slices.DeleteFunc(rest, func(m Machine) bool {
		if m.Held >= m.First || m.Available < 0 || m.Available >= keep(m)/2 {
			return false
		}
		to := min(m.First, m.Held+max(step(m), keep(m)))
		available -= to - m.Held
		steps = append(steps, Step{m.ID, m.Held, to})
		return true
	})
	reserve := s.Reserve
	if s.Stalled >= stalls {
		reserve *= 2
	}
	switch short := reserve - available; {
	case short > 0:
		// Who has most to spare lends first.
		slices.SortFunc(rest, func(a, b Machine) int { return cmp.Or(cmp.Compare(spare(b), spare(a)), cmp.Compare(a.ID, b.ID)) })
		for _, m := range rest {
			if lent := min(spare(m), step(m), short); lent >= worth {
				steps = append(steps, Step{m.ID, m.Held, m.Held - lent})
				short -= lent
			}
		}
	case available > reserve*calm/8:
		// Who has lent most gets first.
		free := available - reserve*calm/8
		slices.SortFunc(rest, func(a, b Machine) int {
			return cmp.Or(cmp.Compare(b.First-b.Held, a.First-a.Held), cmp.Compare(a.ID, b.ID))
		})
		for _, m := range rest {
			if back := min(m.First-m.Held, step(m), free); back > 0 {
				steps = append(steps, Step{m.ID, m.Held, m.Held + back})
				free -= back
			}
		}
	}
	slices.SortFunc(steps, func(a, b Step) int { return cmp.Compare(a.ID, b.ID) })
	return steps
}

// step is what is moved at a time.
func step(m Machine) int64 { return max(m.First/stepShare, worth) }

// keep is what stays available to a guest.
func keep(m Machine) int64 { return max(m.First/keepShare, keepLeast) }

// spare is what a machine can lend.
func spare(m Machine) int64 {
	if m.Available < 0 {
		return 0
	}
	return max(0, min(m.Available-keep(m), m.Held-m.First/floorShare))
}
