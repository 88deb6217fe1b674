package ec2

import (
	"encoding/binary"
	"net/netip"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// AWS keeps the first four addresses of a subnet and the last one for itself.
const (
	reservedFirst = 4
	reservedLast  = 1
)

// addressAt is the n-th address of a range, from 0.
func addressAt(p netip.Prefix, n uint32) netip.Addr {
	base := p.Masked().Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+n)
	return netip.AddrFrom4(a)
}

func sizeOf(p netip.Prefix) uint32 { return 1 << (32 - p.Bits()) }

// usable tells whether a subnet lends an address to interfaces.
func usable(subnet netip.Prefix, addr netip.Addr) bool {
	if !subnet.Contains(addr) {
		return false
	}
	n := offset(subnet, addr)
	return n >= reservedFirst && n < sizeOf(subnet)-reservedLast
}

// offset is the place of an address in a range, from 0.
func offset(within netip.Prefix, addr netip.Addr) uint32 {
	b, base := addr.As4(), within.Masked().Addr().As4()
	return binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:])
}

// availableAddresses is how many private addresses a subnet has left to be given out unasked: interfaces may hold several each.
func availableAddresses(r store.Reader, s *cloud.Subnet) int64 {
	reserved := reservationsOf(r, s.ID)
	left := int64(sizeOf(s.CIDR)) - reservedFirst - reservedLast - reserved.within(s.CIDR)
	for _, n := range store.ListBy(r, store.InterfacesBySubnet, s.ID) {
		for _, addr := range n.Addresses() {
			if reserved.at(addr) == nil {
				left--
			}
		}
	}
	return left
}

// claimPrivate takes a free address of a subnet for an interface. It starts looking at a place that the
// interface's id decides, so that launches side by side seldom meet; the claim makes sure that
// no address is ever given twice.
func claimPrivate(tx *store.Tx, s *cloud.Subnet, owner cloud.InterfaceID, wanted netip.Addr) (netip.Addr, error) {
	reserved := reservationsOf(tx, s.ID)
	if wanted.IsValid() {
		if !usable(s.CIDR, wanted) {
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
	room := sizeOf(s.CIDR) - reservedFirst - reservedLast
	at, ok := claimFree(tx, room, start(string(owner), room), owner, func(n uint32) store.ClaimKey {
		return reserved.claim(s.ID, addressAt(s.CIDR, n+reservedFirst))
	})
	if !ok {
		return netip.Addr{}, awsapi.Errorf("InsufficientFreeAddressesInSubnet", "The specified subnet does not have enough free addresses to satisfy the request.")
	}
	return addressAt(s.CIDR, at+reservedFirst), nil
}

// claimPublic takes a free address of the region's pool. The first and the last stay unused, as in any network.
func claimPublic[S ~string](tx *store.Tx, pool netip.Prefix, owner S, wanted netip.Addr) (netip.Addr, error) {
	room := sizeOf(pool) - 2
	if wanted.IsValid() {
		if !pool.Contains(wanted) || wanted == addressAt(pool, 0) || wanted == addressAt(pool, room+1) {
			return wanted, awsapi.Errorf("InvalidAddress.NotFound", "Address '%s' not found.", wanted)
		}
		if err := store.Insert(tx, store.Claims, &store.Claim{Key: store.PublicAddressClaim(wanted), Owner: string(owner)}); err != nil {
			return wanted, awsapi.Errorf("InvalidAddress.NotFound", "Address '%s' is taken.", wanted)
		}
		return wanted, nil
	}
	at, ok := claimFree(tx, room, start(string(owner), room), owner, func(n uint32) store.ClaimKey {
		return store.PublicAddressClaim(addressAt(pool, n+1))
	})
	if !ok {
		return netip.Addr{}, awsapi.Errorf("InsufficientAddressCapacity", "The public address pool %s is used up.", pool)
	}
	return addressAt(pool, at+1), nil
}

// start spreads the places at which looking for a free address begins.
func start(owner string, room uint32) uint32 {
	h := uint32(2166136261)
	for i := range len(owner) {
		h = (h ^ uint32(owner[i])) * 16777619
	}
	return h % room
}

// claimFree claims the first free place at or after first, going round. Places that the transaction's own view shows
// as taken, and those without a key, are skipped without guarding them: only the claim itself must be new.
func claimFree[S ~string](tx *store.Tx, room, first uint32, owner S, key func(uint32) store.ClaimKey) (uint32, bool) {
	view := tx.View()
	for i := range room {
		n := (first + i) % room
		k := key(n)
		if k == "" {
			continue
		}
		if _, taken := store.Get(view, store.Claims, k); taken {
			continue
		}
		// Insert fails for what this transaction itself claimed before; a rival's claim fails its commit.
		if store.Insert(tx, store.Claims, &store.Claim{Key: k, Owner: string(owner)}) == nil {
			return n, true
		}
	}
	return 0, false
}

// publicPool is the region's.
func publicPool(r store.Reader) (netip.Prefix, error) {
	region, ok := store.Region(r)
	if !ok {
		return netip.Prefix{}, awsapi.Errorf("InternalError", "The region is not set up.")
	}
	return netip.ParsePrefix(region.PublicPool)
}
