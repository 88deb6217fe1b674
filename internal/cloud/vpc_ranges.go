package cloud

import "net/netip"

var (
	net10  = netip.MustParsePrefix("10.0.0.0/8")
	net172 = netip.MustParsePrefix("172.16.0.0/12")
	net192 = netip.MustParsePrefix("192.168.0.0/16")
	// netAWS is what AWS keeps for its own services beside VPCs.
	netAWS = netip.MustParsePrefix("198.19.0.0/16")

	// families are the private ranges that EC2 doesn't mix within a VPC.
	families = []netip.Prefix{net10, net172, net192, netAWS}

	// reservedRanges have meanings of their own on every host: links, metadata, loopback, groups of hosts, broadcast.
	reservedRanges = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3")}
)

// Assignable tells whether a VPC may have an IPv4 range at all, whatever its size.
func Assignable(p netip.Prefix) bool {
	for _, r := range reservedRanges {
		if r.Overlaps(p) {
			return false
		}
	}
	return true
}

// Admits tells whether another IPv4 range may be associated with the VPC beside those that it has: by EC2's table, VPCs
// don't mix the families of private ranges. That nothing overlaps is another question.
func (v *VPC) Admits(p netip.Prefix) bool {
	switch own := familyOf(v.CIDR); familyOf(p) {
	case netip.Prefix{}: // routable ranges and 100.64.0.0/10 go with all
	case own:
		if own == net172 && netip.MustParsePrefix("172.31.0.0/16").Overlaps(p) {
			return false // kept for default VPCs
		}
	default:
		return false
	}
	if netip.MustParsePrefix("10.0.0.0/16").Overlaps(p) {
		for _, r := range v.Ranges() {
			if netip.MustParsePrefix("10.0.0.0/15").Overlaps(r) {
				return false
			}
		}
	}
	return Assignable(p)
}

// familyOf is the private range that p is of, the zero one when it is of none.
func familyOf(p netip.Prefix) netip.Prefix {
	for _, f := range families {
		if f.Overlaps(p) {
			return f
		}
	}
	return netip.Prefix{}
}
