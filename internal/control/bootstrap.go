package control

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/defaultvpc"
	"github.com/nacre-cloud/nacre/internal/store"
)

// FirstStart is what a new region is made from.
type FirstStart struct {
	Region     string // such as "us-east-1"
	PublicPool netip.Prefix
	VolumeKey  string // the id of the master key, which a region that has one keeps
	Rand       io.Reader
	Now        time.Time
}

// ErrSettled reports a setting that the first start settled and that can't be changed by a flag.
var ErrSettled = errors.New("settled by the first start")

// Bootstrap returns the region's record and the operator's access key, making both, the
// account and its default VPC when the store is empty. All of it is one transaction.
func Bootstrap(ctx context.Context, s *store.Store, f FirstStart) (cloud.Region, cloud.AccessKey, error) {
	var region cloud.Region
	var key cloud.AccessKey
	err := s.Update(ctx, func(tx *store.Tx) error {
		if r, ok := store.Region(tx); ok {
			if !r.IPv6Pool.IsValid() { // it was made before there was IPv6
				r.IPv6Pool = newIPv6Pool(f.Rand)
				store.Put(tx, store.Regions, r)
			}
			if r.VolumeKey == "" && f.VolumeKey != "" {
				r.VolumeKey = f.VolumeKey
				store.Put(tx, store.Regions, r)
			}
			region = *r
			storeDefaultDHCPOptions(tx, region.Name)
			return findRootKey(tx, region.Root, &key)
		}
		account := cloud.Account{ID: newAccountID(f.Rand), Name: "root", Created: f.Now}
		region = cloud.Region{
			Name: f.Region, Zones: []cloud.Zone{{Name: f.Region + "a", ID: zoneID(f.Region, 1)}}, Created: f.Now,
			CloudID: newCloudID(f.Rand), PublicPool: f.PublicPool.String(), Root: account.ID, IPv6Pool: newIPv6Pool(f.Rand), VolumeKey: f.VolumeKey,
		}
		key = newAccessKey(f.Rand, account.ID, f.Now)
		store.Put(tx, store.Regions, &region)
		store.Put(tx, store.Accounts, &account)
		store.Put(tx, store.AccessKeys, &key)
		options := cloud.DefaultDHCPOptions(cloud.NewID[cloud.DHCPOptionsID](f.Rand), account.ID, region.Name, f.Now)
		store.Put(tx, store.DHCPOptions, &options)
		defaultvpc.Layout{Account: account.ID, Zones: region.Zones, DHCPOptions: options.ID, Rand: f.Rand, Now: f.Now}.Make(tx)
		return nil
	})
	if err != nil {
		return region, key, fmt.Errorf("set up the region: %w", err)
	}
	if f.Region != "" && f.Region != region.Name {
		return region, key, fmt.Errorf("the region is %s, not %s: %w", region.Name, f.Region, ErrSettled)
	}
	if f.PublicPool.IsValid() && f.PublicPool.String() != region.PublicPool {
		return region, key, fmt.Errorf("the public pool is %s, not %s: %w", region.PublicPool, f.PublicPool, ErrSettled)
	}
	return region, key, nil
}

// storeDefaultDHCPOptions makes the sets that VPCs of older clouds have by name only.
func storeDefaultDHCPOptions(tx *store.Tx, region string) {
	for _, v := range store.List(tx, store.VPCs) {
		if _, ok := store.Get(tx, store.DHCPOptions, v.DHCPOptions); !ok && v.DHCPOptions != "" {
			store.Put(tx, store.DHCPOptions, new(cloud.DefaultDHCPOptions(v.DHCPOptions, v.Account, region, v.Created)))
		}
	}
}

func findRootKey(tx *store.Tx, root cloud.AccountID, key *cloud.AccessKey) error {
	for _, k := range store.List(tx, store.AccessKeys) {
		if k.Account == root {
			*key = *k
			return nil
		}
	}
	return fmt.Errorf("account %s has no access key", root)
}

func newAccountID(r io.Reader) cloud.AccountID {
	n, err := rand.Int(r, big.NewInt(900_000_000_000))
	if err != nil {
		panic(fmt.Sprintf("control: draw an account number: %v", err))
	}
	return cloud.AccountID(fmt.Sprint(n.Int64() + 100_000_000_000))
}

// newIPv6Pool draws a /40 of the unique local addresses that anybody may assign.
func newIPv6Pool(r io.Reader) netip.Prefix {
	b := [16]byte{0xfd}
	copy(b[1:5], draw(r, 4))
	return netip.PrefixFrom(netip.AddrFrom16(b), 40)
}

func newCloudID(r io.Reader) string { return hex.EncodeToString(draw(r, 3)) }

func newAccessKey(r io.Reader, account cloud.AccountID, now time.Time) cloud.AccessKey {
	return cloud.AccessKey{
		ID:      cloud.AccessKeyID("AKIA" + base32.StdEncoding.EncodeToString(draw(r, 10))),
		Secret:  base64.StdEncoding.EncodeToString(draw(r, 30)),
		Account: account, Created: now,
	}
}

func draw(r io.Reader, n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		panic(fmt.Sprintf("control: draw random bytes: %v", err))
	}
	return b
}

// zoneID forms AWS's zone id: "use1-az1" for us-east-1.
func zoneID(region string, n int) string {
	short := ""
	for part := range strings.SplitSeq(region, "-") {
		switch {
		case len(part) <= 2:
			short += part
		case part == "northeast" || part == "northwest" || part == "southeast" || part == "southwest":
			short += part[:1] + part[5:6]
		default:
			short += part[:1]
		}
	}
	return fmt.Sprintf("%s-az%d", short, n)
}
