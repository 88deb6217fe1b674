package cloud

import (
	"fmt"
	"time"
)

// InstanceState is EC2's instance state.
type InstanceState string

const (
	StatePending      InstanceState = "pending"
	StateRunning      InstanceState = "running"
	StateShuttingDown InstanceState = "shutting-down"
	StateTerminated   InstanceState = "terminated"
	StateStopping     InstanceState = "stopping"
	StateStopped      InstanceState = "stopped"
)

// Code is EC2's number for the state (the low byte of InstanceState.Code).
func (s InstanceState) Code() int64 {
	switch s {
	case StatePending:
		return 0
	case StateRunning:
		return 16
	case StateShuttingDown:
		return 32
	case StateTerminated:
		return 48
	case StateStopping:
		return 64
	case StateStopped:
		return 80
	}
	panic("cloud: unknown instance state " + string(s))
}

// DesiredState is what the last accepted API call wants of an instance.
type DesiredState string

const (
	DesiredRunning    DesiredState = "running"
	DesiredStopped    DesiredState = "stopped"
	DesiredTerminated DesiredState = "terminated"
)

// transitions is the whole state machine; what isn't here doesn't happen.
var transitions = map[InstanceState][]InstanceState{
	StatePending:      {StateRunning, StateShuttingDown, StateTerminated, StateStopping, StateStopped},
	StateRunning:      {StateStopping, StateShuttingDown, StateStopped, StateTerminated, StatePending},
	StateStopping:     {StateStopped, StateShuttingDown, StateTerminated},
	StateStopped:      {StatePending, StateShuttingDown, StateTerminated},
	StateShuttingDown: {StateTerminated},
	StateTerminated:   {},
}

// CanTransition tells whether the state machine has a step from one state to another.
func CanTransition(from, to InstanceState) bool {
	for _, s := range transitions[from] {
		if s == to {
			return true
		}
	}
	return false
}

// TransitionError reports a step that the state machine doesn't have.
type TransitionError struct {
	Instance InstanceID
	From, To InstanceState
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("instance %s cannot go from %s to %s", e.Instance, e.From, e.To)
}

// Transition moves the instance to a state and notes why. It is the only way that State
// changes. Moving to the present state changes nothing and is no error.
func (i *Instance) Transition(to InstanceState, reason StateReason, now time.Time) error {
	if i.State == to {
		return nil
	}
	if !CanTransition(i.State, to) {
		return &TransitionError{Instance: i.ID, From: i.State, To: to}
	}
	i.State, i.StateReason, i.StateChanged = to, reason, now.UTC()
	i.TransitionReason = reason.transitionText(now)
	switch to {
	case StateRunning:
		i.RunningSince, i.MachineEnded = now.UTC(), time.Time{}
	case StateTerminated:
		i.Terminated = now.UTC()
	}
	return nil
}

// StateReason is why an instance is in its state: one of EC2's codes and a sentence.
type StateReason struct {
	Code    string
	Message string
}

// EC2's state reasons, with its own sentences.
var (
	ReasonUserStop          = StateReason{"Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"}
	ReasonUserHibernate     = StateReason{"Client.UserInitiatedHibernate", "Client.UserInitiatedHibernate: User initiated hibernate"}
	ReasonUserTerminate     = StateReason{"Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"}
	ReasonInstanceInitiated = StateReason{"Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown"}
	ReasonPending           = StateReason{"pending", "pending"}
)

// ReasonInsufficientCapacity ends a launch that no node has room for.
func ReasonInsufficientCapacity(detail string) StateReason {
	return StateReason{"Server.InsufficientInstanceCapacity", "Server.InsufficientInstanceCapacity: " + detail}
}

// ReasonOutOfMemory names the kernel's killing of an instance at its memory limit.
func ReasonOutOfMemory(limit string) StateReason {
	return StateReason{"Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Out of memory: the instance used more than its " + limit + " and its main process was killed"}
}

// ReasonHypervisorEnded tells of a virtual machine whose hypervisor ended by itself with a failure: its guest had no part in that.
func ReasonHypervisorEnded(code int) StateReason {
	return StateReason{"Server.InternalError", fmt.Sprintf("Server.InternalError: The virtual machine's hypervisor was killed or failed (exit code %d)", code)}
}

// ReasonLaunchFailed ends a launch that failed on its node.
func ReasonLaunchFailed(detail string) StateReason {
	return StateReason{"Server.InternalError", "Server.InternalError: " + detail}
}

// ReasonNotHibernated tells of a stop that was to save the memory and could not.
func ReasonNotHibernated(detail string) StateReason {
	return StateReason{ReasonUserStop.Code, ReasonUserStop.Code + ": The instance was shut down, because its memory could not be saved: " + detail}
}

// transitionText is EC2's StateTransitionReason, which it sends only for shutdowns.
func (r StateReason) transitionText(now time.Time) string {
	switch r.Code {
	case "Client.UserInitiatedShutdown", "Client.UserInitiatedHibernate":
		return "User initiated (" + now.UTC().Format("2006-01-02 15:04:05") + " GMT)"
	case "Client.InstanceInitiatedShutdown":
		return "Instance initiated (" + now.UTC().Format("2006-01-02 15:04:05") + " GMT)"
	case "", "pending":
		return ""
	}
	return r.Message
}
