package cloud

import (
	"net/netip"
	"slices"
	"time"
)

// NetworkACL is a stateless filter around subnets: each packet that enters or leaves is judged by the first entry that
// matches it, in the order of their numbers, and refused when none does.
type NetworkACL struct {
	ID      NetworkACLID
	Account AccountID
	VPC     VPCID
	// Default says that the VPC's new subnets get it.
	Default bool
	Entries []NetworkACLEntry // egress first, then by number
	Tags    Tags
	Created time.Time
}

// NetworkACLEntry allows or refuses what matches it. No two of one ACL have the same number and direction.
type NetworkACLEntry struct {
	Number   int // 1 to MaxACLEntryNumber
	Egress   bool
	Protocol Protocol
	FromPort int          // TCP and UDP: 0 to 65535; ICMP: the type, -1 for all; otherwise -1
	ToPort   int          // TCP and UDP: 0 to 65535; ICMP: the code, -1 for all; otherwise -1
	Prefix   netip.Prefix // of either family
	Allow    bool
}

// MaxACLEntryNumber is the highest number that an entry may have; the next one is that of EC2's own last entry, which refuses
// all IPv4, and the one after it refuses all IPv6.
const MaxACLEntryNumber = 32766

// Find returns the index of an entry, -1 when there is none.
func (a *NetworkACL) Find(number int, egress bool) int {
	return slices.IndexFunc(a.Entries, func(e NetworkACLEntry) bool { return e.Number == number && e.Egress == egress })
}

// Add puts an entry into its place.
func (a *NetworkACL) Add(e NetworkACLEntry) {
	a.Entries = append(a.Entries, e)
	slices.SortFunc(a.Entries, func(x, y NetworkACLEntry) int {
		if x.Egress != y.Egress {
			if x.Egress {
				return -1
			}
			return 1
		}
		return x.Number - y.Number
	})
}

// AllowAll adds the entries with which a VPC's default ACL lets everything of a family pass: number 100 for IPv4, 101 for IPv6.
func (a *NetworkACL) AllowAll(family netip.Prefix) {
	number := 100
	if family.Addr().Is6() {
		number = 101
	}
	for _, egress := range []bool{true, false} {
		if a.Find(number, egress) < 0 {
			a.Add(NetworkACLEntry{Number: number, Egress: egress, Protocol: ProtocolAll, FromPort: -1, ToPort: -1, Prefix: family, Allow: true})
		}
	}
}

// The whole of each family.
var (
	AllIPv4 = netip.MustParsePrefix("0.0.0.0/0")
	AllIPv6 = netip.MustParsePrefix("::/0")
)
