package cloud

import (
	"net/netip"
	"time"
)

// PrefixList is a managed list of ranges that groups and routes refer to.
type PrefixList struct {
	ID         PrefixListID
	Account    AccountID
	Name       string
	IPv6       bool
	MaxEntries int
	// Versions holds all versions, the newest last; it is never empty, and Versions[n].Number is n+1.
	Versions []PrefixListVersion
	Tags     Tags
	Created  time.Time
}

// PrefixListVersion is a list as it was or is.
type PrefixListVersion struct {
	Number  int64
	Entries []PrefixListEntry
}

// PrefixListEntry is one range.
type PrefixListEntry struct {
	Prefix      netip.Prefix
	Description string
}

// Current is the newest version.
func (l *PrefixList) Current() PrefixListVersion { return l.Versions[len(l.Versions)-1] }
