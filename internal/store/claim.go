package store

import (
	"net/netip"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// ClaimKey names something that at most one resource may have: an address, a name, a
// range. Whoever takes it inserts the claim in the transaction that uses it; Insert fails
// with ErrExists if another has it. Every claim is made by one of the functions below.
type ClaimKey string

// Claim says who has it.
type Claim struct {
	Key   ClaimKey
	Owner string // the identifier of the resource
}

// AddressClaim is a private address of a subnet.
func AddressClaim(subnet cloud.SubnetID, addr netip.Addr) ClaimKey {
	return ClaimKey(JoinKey("ip", string(subnet), addr.String()))
}

// PublicAddressClaim is an address of the region's public pool.
func PublicAddressClaim(addr netip.Addr) ClaimKey {
	return ClaimKey(JoinKey("public", addr.String()))
}

// IPv6RangeClaim is a VPC's range of the region's IPv6 pool.
func IPv6RangeClaim(p netip.Prefix) ClaimKey { return ClaimKey(JoinKey("ipv6", p.String())) }

// NameClaim is a name of one kind of resource ("keypair", "image", "security-group") that
// is unique in scope: an account, or a VPC.
func NameClaim[S ~string](kind string, scope S, name string) ClaimKey {
	return ClaimKey(JoinKey("name", kind, string(scope), name))
}

// MACClaim is a hardware address in a VPC.
func MACClaim(vpc cloud.VPCID, mac string) ClaimKey {
	return ClaimKey(JoinKey("mac", string(vpc), mac))
}

// IDRangeClaim is a range of user ids of a node, by its first id.
func IDRangeClaim(node cloud.NodeID, first uint32) ClaimKey {
	return ClaimKey(JoinKey("idrange", string(node), strconv.FormatUint(uint64(first), 10)))
}
