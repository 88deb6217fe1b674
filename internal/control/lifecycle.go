package control

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/attachments"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/nics"
	"github.com/nacre-cloud/nacre/internal/store"
)

// applyStatus turns a node's fact about a machine into the instance's state. It is idempotent, and
// facts about another boot, or from a node that the instance is not on, change nothing.
func applyStatus(ctx context.Context, s *store.Store, node cloud.NodeID, st agentrpc.MachineStatus, now time.Time) error {
	err := s.Update(ctx, func(tx *store.Tx) error {
		tx.At(now)
		i, ok := store.Get(tx, store.Instances, st.Instance)
		if !ok || i.Node != node {
			return nil
		}
		changed, err := advance(tx, i, st, now)
		if err != nil || !changed {
			return err
		}
		store.Put(tx, store.Instances, i)
		return nil
	})
	if err != nil {
		return fmt.Errorf("instance %s: note that it is %s: %w", st.Instance, st.Phase, err)
	}
	return nil
}

// advance is the step that one fact causes. It changes i, and releases in tx what the instance no longer has.
func advance(tx *store.Tx, i *cloud.Instance, st agentrpc.MachineStatus, now time.Time) (changed bool, err error) {
	current := st.Boot == i.Boot
	if current && !st.At.IsZero() && st.Phase != agentrpc.PhaseRunning {
		i.MachineEnded = endOf(i, st.At, now)
	}
	defer func() {
		if changed && i.State != cloud.StateRunning {
			i.Stall("", now)
		}
	}()
	switch st.Phase {
	case agentrpc.PhaseRunning:
		if !current || i.Desired != cloud.DesiredRunning {
			return false, nil
		}
		// An older number tells of interfaces as they were before the newest wish.
		if st.Wiring == i.Wiring {
			changed = nics.Settle(tx, i)
			attachments.Settle(tx, i, st.Volumes, st.VolumeErrors)
		}
		if st.Sized == i.Sized && i.Resized(st.SizeError) {
			changed = true
		}
		if i.Stall(st.Stalled, now) {
			changed = true
		}
		if i.State != cloud.StatePending {
			return changed, nil
		}
		i.Hibernated = false
		i.HostID = st.Engine
		i.Launched(st.Launch)
		return true, i.Transition(cloud.StateRunning, cloud.StateReason{}, now)

	case agentrpc.PhaseExited:
		if !current || i.Desired != cloud.DesiredRunning {
			return false, nil
		}
		i.Hibernated = false
		reason := cloud.ReasonInstanceInitiated
		switch {
		case st.OOMKilled:
			reason = cloud.ReasonOutOfMemory(memoryLimit(i))
		case i.Isolation == cloud.IsolationVM && st.ExitCode != 0:
			reason = cloud.ReasonHypervisorEnded(st.ExitCode)
		}
		return true, end(i, i.ShutdownBehavior == cloud.ShutdownTerminate, reason, now)

	case agentrpc.PhaseFailed:
		if !current || i.Desired != cloud.DesiredRunning {
			return false, nil
		}
		i.Hibernated = false // what was saved may be what failed: the next start boots
		// A first launch that fails leaves nothing worth keeping; a later start keeps its disk.
		return true, end(i, i.RunningSince.IsZero(), cloud.ReasonLaunchFailed(st.Error), now)

	case agentrpc.PhaseStopped:
		if i.Desired != cloud.DesiredStopped || i.State == cloud.StateStopped {
			return false, nil
		}
		nics.Settle(tx, i)
		attachments.Rest(tx, i)
		releasePublicAddresses(tx, i.ID)
		i.Hibernated = i.Hibernate && st.Hibernated
		i.Resized("") // the next start is of the newest size
		reason := i.StateReason
		if i.Hibernate && !st.Hibernated {
			reason = cloud.ReasonNotHibernated(cmp.Or(st.Error, "the node says nothing of why"))
		}
		return true, i.Transition(cloud.StateStopped, reason, now)

	case agentrpc.PhaseGone:
		if i.Desired != cloud.DesiredTerminated || i.State == cloud.StateTerminated {
			return false, nil
		}
		return true, terminate(tx, i, now)
	}
	return false, fmt.Errorf("unknown phase %q", st.Phase)
}

// endOf is when a machine stopped by its node's clock, which may be wrong: not before it ran, and not after now.
func endOf(i *cloud.Instance, at, now time.Time) time.Time {
	switch {
	case at.After(now):
		at = now
	case at.Before(i.RunningSince):
		at = i.RunningSince
	}
	return at.UTC()
}

// end starts the way to stopped or terminated for an instance that ended by itself.
func end(i *cloud.Instance, terminate bool, reason cloud.StateReason, now time.Time) error {
	if terminate {
		i.Desired = cloud.DesiredTerminated
		return i.Transition(cloud.StateShuttingDown, reason, now)
	}
	i.Desired = cloud.DesiredStopped
	return i.Transition(cloud.StateStopping, reason, now)
}

// terminate ends an instance of which nothing is left on any node, and gives back what it had.
func terminate(tx *store.Tx, i *cloud.Instance, now time.Time) error {
	for _, n := range store.ListBy(tx, store.InterfacesByInstance, i.ID) {
		nics.Leave(tx, n)
	}
	i.Interfaces = nil
	dropCaptures(tx, i)
	attachments.Leave(tx, i)
	return i.Transition(cloud.StateTerminated, i.StateReason, now)
}

// releasePublicAddresses gives back the addresses that were assigned at the start. Elastic IPs stay.
func releasePublicAddresses(tx *store.Tx, id cloud.InstanceID) {
	for _, n := range store.ListBy(tx, store.InterfacesByInstance, id) {
		if nics.TakeBack(tx, n) {
			store.Put(tx, store.Interfaces, n)
		}
	}
}

func memoryLimit(i *cloud.Instance) string {
	size, ok := i.Size()
	if !ok {
		return "memory"
	}
	return fmt.Sprintf("%d MiB of memory", size.MemoryMiB)
}
