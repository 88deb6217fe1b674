package cloud

import (
	"net/netip"
	"time"
)

// Limits of prefix lists, EC2's own.
const (
	MaxPrefixListEntries  = 1000
	MaxPrefixListVersions = 1000 // kept; the oldest goes when one more is made
)

// PrefixListState is how far the last change of a list is, in EC2's words.
type PrefixListState string

// States of a prefix list. A change is made in one transaction, so that those in progress are seen in its own answer only.
const (
	PrefixListCreating     PrefixListState = "create-in-progress"
	PrefixListCreated      PrefixListState = "create-complete"
	PrefixListModifying    PrefixListState = "modify-in-progress"
	PrefixListModified     PrefixListState = "modify-complete"
	PrefixListModifyFailed PrefixListState = "modify-failed"
	PrefixListRestoring    PrefixListState = "restore-in-progress"
	PrefixListRestored     PrefixListState = "restore-complete"
	PrefixListDeleting     PrefixListState = "delete-in-progress"
)

// PrefixList is a managed list of ranges that groups and routes refer to. Its entries are those of its newest version.
type PrefixList struct {
	ID         PrefixListID
	Account    AccountID
	Name       string
	IPv6       bool
	MaxEntries int   // what a reference to it counts for
	Version    int64 // of the newest version, from 1
	Oldest     int64 // of the oldest version that is kept
	State      PrefixListState
	Message    string // why the last change failed
	Tags       Tags
	Created    time.Time
}

// Everything is the range that has all addresses of the list's family.
func (l *PrefixList) Everything() netip.Prefix {
	if l.IPv6 {
		return AllIPv6
	}
	return AllIPv4
}

// PrefixListVersion is a list as it was or is. It is never changed.
type PrefixListVersion struct {
	List    PrefixListID
	Number  int64
	Entries []PrefixListEntry // each range once, in the order of their coming
}

// PrefixListEntry is one range.
type PrefixListEntry struct {
	Prefix      netip.Prefix
	Description string
}
