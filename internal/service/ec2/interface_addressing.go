package ec2

import (
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// maxAddressesPerInterface bounds each family on an interface that no instance type bounds further: the most that any has.
const maxAddressesPerInterface = 50

// addressing is the addresses that a call wants for an interface.
type addressing struct {
	primary        netip.Addr // zero for any
	secondary      []netip.Addr
	secondaryCount int // as many more, of any value
	ipv6           []netip.Addr
	ipv6Count      int
	ipv6Given      bool // the call says something of IPv6, so that the subnet's own setting doesn't count
}

// addressRequest is the members in which several calls carry it, under one set of names.
type addressRequest struct {
	private   *string
	list      []ec2.PrivateIpAddressSpecification
	count     *int64
	ipv6      []string
	ipv6Count *int64
}

func parseIPv4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return a, awsapi.InvalidParameterValue("Value (%s) for parameter privateIpAddress is invalid. Invalid IPv4 address.", s)
	}
	return a, nil
}

func parseIPv6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return a, awsapi.InvalidParameterValue("Value (%s) for parameter ipv6Address is invalid. Invalid IPv6 address.", s)
	}
	return a, nil
}

func addressCount(name string, n *int64) (int, error) {
	if v := deref(n); v < 0 || v > maxAddressesPerInterface {
		return 0, awsapi.InvalidParameterValue("Value (%d) for parameter %s is invalid: it is from 0 to %d.", v, name, maxAddressesPerInterface)
	}
	return int(deref(n)), nil
}

func (q addressRequest) parse() (a addressing, err error) {
	if s := deref(q.private); s != "" {
		if a.primary, err = parseIPv4(s); err != nil {
			return a, err
		}
	}
	for _, x := range q.list {
		addr, err := parseIPv4(deref(x.PrivateIpAddress))
		switch {
		case err != nil:
			return a, err
		case !deref(x.Primary):
			a.secondary = append(a.secondary, addr)
		case a.primary.IsValid():
			return a, awsapi.InvalidCombination("Only one primary private IP address can be specified")
		default:
			a.primary = addr
		}
	}
	if a.secondaryCount, err = addressCount("secondaryPrivateIpAddressCount", q.count); err != nil {
		return a, err
	}
	if a.secondaryCount > 0 && len(q.list) > 0 {
		return a, awsapi.InvalidCombination("Secondary private addresses are given by their number or one by one, not both")
	}
	if a.ipv6, a.ipv6Count, err = parseIPv6Request(q.ipv6, q.ipv6Count); err != nil {
		return a, err
	}
	a.ipv6Given = len(q.ipv6) > 0 || q.ipv6Count != nil
	seen := map[netip.Addr]bool{}
	for _, addr := range append([]netip.Addr{a.primary}, a.secondary...) {
		if addr.IsValid() && seen[addr] {
			return a, awsapi.InvalidParameterValue("The private address %s is specified more than once", addr)
		}
		seen[addr] = true
	}
	return a, nil
}

func parseIPv6Request(list []string, count *int64) (addrs []netip.Addr, more int, err error) {
	if more, err = addressCount("ipv6AddressCount", count); err != nil {
		return nil, 0, err
	}
	if more > 0 && len(list) > 0 {
		return nil, 0, awsapi.InvalidCombination("IPv6 addresses are given by their number or one by one, not both")
	}
	for _, s := range list {
		addr, err := parseIPv6(s)
		if err != nil {
			return nil, 0, err
		}
		if slices.Contains(addrs, addr) {
			return nil, 0, awsapi.InvalidParameterValue("The IPv6 address %s is specified more than once", addr)
		}
		addrs = append(addrs, addr)
	}
	return addrs, more, nil
}

// single tells whether the addresses can be those of one interface only.
func (a addressing) single() bool {
	return a.primary.IsValid() || len(a.secondary) > 0 || len(a.ipv6) > 0
}

// assign claims an interface's first addresses.
func (a addressing) assign(tx *store.Tx, n *cloud.Interface, subnet *cloud.Subnet) (err error) {
	if n.PrivateIP, err = claimPrivate(tx, subnet, n.ID, a.primary); err != nil {
		return err
	}
	if err := assignSecondary(tx, n, subnet, a.secondary, a.secondaryCount); err != nil {
		return err
	}
	count := a.ipv6Count
	if !a.ipv6Given && subnet.AssignIPv6OnCreation {
		count = 1
	}
	return assignIPv6(tx, n, subnet, a.ipv6, count)
}

func assignSecondary(tx *store.Tx, n *cloud.Interface, subnet *cloud.Subnet, list []netip.Addr, count int) error {
	if len(n.Addresses())+len(list)+count > maxAddressesPerInterface {
		return tooManyAddresses("private", maxAddressesPerInterface)
	}
	for _, addr := range append(slices.Clone(list), make([]netip.Addr, count)...) {
		got, err := claimPrivate(tx, subnet, n.ID, addr)
		if err != nil {
			return err
		}
		n.Secondary = append(n.Secondary, got)
	}
	return nil
}

func assignIPv6(tx *store.Tx, n *cloud.Interface, subnet *cloud.Subnet, list []netip.Addr, count int) error {
	if len(n.IPv6)+len(list)+count > maxAddressesPerInterface {
		return tooManyAddresses("IPv6", maxAddressesPerInterface)
	}
	for _, addr := range append(slices.Clone(list), make([]netip.Addr, count)...) {
		got, err := claimIPv6(tx, subnet, n.ID, addr)
		if err != nil {
			return err
		}
		n.IPv6 = append(n.IPv6, got)
	}
	return nil
}

func tooManyAddresses(family string, limit int) error {
	return awsapi.Errorf("PrivateIpAddressLimitExceeded", "Number of %s addresses will exceed limit of %d.", family, limit)
}

// fits refuses what an instance type doesn't carry: too many addresses on one interface.
func fits(size cloud.InstanceTypeInfo, n *cloud.Interface) error {
	if len(n.Addresses()) > size.IPv4PerENI {
		return tooManyAddresses("private", size.IPv4PerENI)
	}
	if len(n.IPv6) > size.IPv4PerENI {
		return tooManyAddresses("IPv6", size.IPv4PerENI)
	}
	return nil
}

// fitsItsInstance is fits for an interface where it is.
func fitsItsInstance(r store.Reader, n *cloud.Interface) error {
	if n.Instance == "" {
		return nil
	}
	i, ok := store.Get(r, store.Instances, n.Instance)
	if !ok {
		return nil
	}
	size, ok := cloud.LookupInstanceType(i.Type)
	if !ok {
		return nil
	}
	return fits(size, n)
}

// carries refuses an instance type that has no room for an instance's interfaces and their addresses.
func carries(r store.Reader, size cloud.InstanceTypeInfo, i *cloud.Instance) error {
	if len(i.Interfaces) > size.MaxInterfaces {
		return tooManyInterfaces(size, len(i.Interfaces))
	}
	for _, id := range i.Interfaces {
		if n, ok := store.Get(r, store.Interfaces, id); ok {
			if err := fits(size, n); err != nil {
				return err
			}
		}
	}
	return nil
}
