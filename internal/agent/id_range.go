package agent

import (
	"fmt"
	"sync"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Host ids of machines start far above those of people and of other tools' ranges, and end
// below the ids that 32-bit signed software can't hold.
const (
	idRangeSize  = 65536
	firstIDBase  = 0x10000000
	lastIDBase   = 0x7fff0000
	idRangeCount = (lastIDBase-firstIDBase)/idRangeSize + 1
)

// idRanges gives each machine a range of host user and group ids of its own, so that even two
// machines' files and processes are strangers to each other.
type idRanges struct {
	mu    sync.Mutex
	taken map[uint32]cloud.InstanceID
	next  uint32
}

func newIDRanges() *idRanges {
	return &idRanges{taken: map[uint32]cloud.InstanceID{}, next: firstIDBase}
}

// adopt notes a range that a machine found on the disk already has.
func (r *idRanges) adopt(id cloud.InstanceID, base uint32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if base < firstIDBase || base > lastIDBase || base%idRangeSize != 0 {
		return fmt.Errorf("machine %s: the recorded id range %d is not one of this agent's", id, base)
	}
	if owner, ok := r.taken[base]; ok && owner != id {
		return fmt.Errorf("machine %s: its id range %d belongs to %s", id, base, owner)
	}
	r.taken[base] = id
	return nil
}

// allocate gives a free range to a machine. Ranges are reused as late as possible.
func (r *idRanges) allocate(id cloud.InstanceID) (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range idRangeCount {
		base := r.next
		if r.next += idRangeSize; r.next > lastIDBase {
			r.next = firstIDBase
		}
		if _, ok := r.taken[base]; !ok {
			r.taken[base] = id
			return base, nil
		}
	}
	return 0, fmt.Errorf("machine %s: all %d id ranges of this server are taken", id, idRangeCount)
}

func (r *idRanges) release(id cloud.InstanceID, base uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken[base] == id {
		delete(r.taken, base)
	}
}
