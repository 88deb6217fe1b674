package cloud

import "time"

// FleetState is EC2's state of a fleet.
type FleetState string

const (
	FleetActive             FleetState = "active"
	FleetDeletedTerminating FleetState = "deleted_terminating"
)

// Fleet is one order of instances of several kinds, of the type instant: it was filled when it was made, as far
// as that was possible, and is only looked at since.
type Fleet struct {
	ID          FleetID
	Account     AccountID
	State       FleetState
	ClientToken string
	// Order is the call that made the fleet, a JSON object of EC2's members.
	Order     string
	Fulfilled float64 // in units of the order's target
	Groups    []FleetGroup
	Errors    []FleetError
	Tags      Tags
	Created   time.Time
	Deleted   time.Time // zero while it isn't
}

// FleetGroup is the instances that one entry of the order brought.
type FleetGroup struct {
	FleetEntry
	Instances []InstanceID
}

// FleetError says why an entry brought fewer instances than were asked of it.
type FleetError struct {
	FleetEntry
	Code, Message string
}

// FleetEntry is one combination of launch template and overrides.
type FleetEntry struct {
	Type InstanceType
	// Config and Override are its place in the order, from 0; Override is -1 where there are none.
	Config, Override int
}
