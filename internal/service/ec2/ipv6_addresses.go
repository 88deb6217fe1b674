package ec2

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// claimIPv6 takes a free IPv6 address of a subnet for an interface: the one that is wanted, else one that the interface's id
// decides. A subnet has so many that looking for a free one ends soon.
func claimIPv6(tx *store.Tx, s *cloud.Subnet, owner cloud.InterfaceID, wanted netip.Addr) (netip.Addr, error) {
	within := s.IPv6
	if !within.IsValid() {
		return wanted, awsapi.InvalidParameterValue("The subnet %s has no IPv6 CIDR block", s.ID)
	}
	reserved := reservationsOf(tx, s.ID)
	if wanted.IsValid() {
		if !usableIPv6(within, wanted) {
			return wanted, awsapi.InvalidParameterValue("Address %s does not fall within the subnet's address range", wanted)
		}
		if err := reserved.admit(wanted); err != nil {
			return wanted, err
		}
		if err := store.Insert(tx, store.Claims, &store.Claim{Key: store.AddressClaim(s.ID, wanted), Owner: string(owner)}); err != nil {
			return wanted, awsapi.Errorf("InvalidIPAddress.InUse", "Address %s is in use.", wanted)
		}
		return wanted, nil
	}
	at, ok := claimFree(tx, ipv6Tries, 0, owner, func(n uint32) store.ClaimKey {
		return reserved.claim(s.ID, ipv6At(within, owner, n))
	})
	if !ok {
		return netip.Addr{}, awsapi.Errorf("InsufficientFreeAddressesInSubnet", "The specified subnet does not have enough free addresses to satisfy the request.")
	}
	return ipv6At(within, owner, at), nil
}

// ipv6Tries bounds the search: what is taken is next to nothing of a subnet, so that only one that is nearly all reserved counts as full.
const ipv6Tries = 4096

// ipv6At spreads addresses over a subnet's 64 bits, as EC2 does; n counts the tries. It is never one that EC2 reserves.
func ipv6At(within netip.Prefix, owner cloud.InterfaceID, n uint32) netip.Addr {
	b := within.Masked().Addr().As16()
	h := sha256.Sum256(fmt.Appendf(nil, "%s/%d", owner, n))
	copy(b[8:], h[:8])
	b[8] = max(1, min(b[8], 0xfe))
	return netip.AddrFrom16(b)
}

// usableIPv6 tells whether a subnet lends an address: the first four and the last one stay EC2's.
func usableIPv6(within netip.Prefix, addr netip.Addr) bool {
	if !within.Contains(addr) {
		return false
	}
	first, last := within.Masked().Addr(), within.Masked().Addr().As16()
	for range 4 {
		if addr == first {
			return false
		}
		first = first.Next()
	}
	for i := within.Bits() / 8; i < 16; i++ {
		last[i] = 0xff
	}
	return addr != netip.AddrFrom16(last)
}

func vpcHasIPv6(r store.Reader, id cloud.VPCID) bool {
	vpc, ok := store.Get(r, store.VPCs, id)
	return ok && len(vpc.IPv6) > 0
}
