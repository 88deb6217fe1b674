package cloud

import (
	"net/netip"
	"time"
)

// SubnetReservation is a range of a subnet, of either family, from which nothing is given out unasked. The ranges of a subnet's
// reservations don't overlap.
type SubnetReservation struct {
	ID     SubnetReservationID
	Subnet SubnetID
	// Account is the subnet's.
	Account AccountID
	Prefix  netip.Prefix
	// Explicit lets single addresses be asked for by name; without it the range is for prefixes only, which nobody has here.
	Explicit    bool
	Description string
	Tags        Tags
	Created     time.Time
}
