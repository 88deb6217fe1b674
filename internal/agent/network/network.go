// Package network is a node's packet path: what makes a VPC a network on this server.
//
// One network namespace a VPC keeps overlapping ranges apart. Each interface is a routed
// point-to-point link: a veth pair into the machine's own namespace, or a virtual machine's tap; the subnet's router answers
// ARP for every address, no packet leaves an interface with a source that isn't its own, and
// security groups are enforced by nftables in the VPC's namespace. An uplink joins a VPC that
// has an internet gateway to the host, where the public pool lives.
//
// It promises that what it was told holds in the kernel when a call returns, that every call
// may be repeated, and that what it made outlives the process: Open adopts it.
// It never touches a link, namespace, table, route or setting that it did not make.
package network

import (
	"log/slog"
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Config says which cloud the network belongs to.
type Config struct {
	CloudID    string       // 6 hexadecimal digits that mark all names this package makes
	PublicPool netip.Prefix // unassigned addresses of it are unreachable from the host
	IPv6Pool   netip.Prefix // VPCs get their ranges of IPv6 from it; zero for none
	RunDir     string       // for namespace files, such as /run/nacre/<CloudID>
	StateDir   string       // survives a reboot: what must be put back by Destroy
	Logger     *slog.Logger
}

// VPC is the desired state of one VPC on this node.
type VPC struct {
	ID      cloud.VPCID
	CIDRs   []netip.Prefix // its ranges, those of IPv4 before those of IPv6, the first one first
	Gateway bool           // an internet gateway is attached
	Subnets []Subnet
	Groups  []Group // every group that an interface here carries or refers to
	// PrefixLists are the ranges of the lists that rules name, in any order. A list that isn't among them has none.
	PrefixLists map[cloud.PrefixListID][]netip.Prefix
	ACLs        []ACL // every one that a subnet names
	// NATGateways are those that work on this node.
	NATGateways []NATGateway
	Peerings    []Peering
	Logged      []Logged
}

// resolver is the address of the VPC's DNS server: its first range's base plus two.
func (v VPC) resolver() netip.Addr { return v.CIDRs[0].Masked().Addr().Next().Next() }

// Subnet is a range with its router and its ways out.
type Subnet struct {
	ID     cloud.SubnetID
	CIDR   netip.Prefix
	CIDR6  netip.Prefix       // zero when it has no IPv6
	Routes []Route            // out of the VPC
	ACL    cloud.NetworkACLID // "" for none; one that isn't known lets nothing pass
}

// ACL is a network ACL.
type ACL struct {
	ID      cloud.NetworkACLID
	Entries []cloud.NetworkACLEntry
}

// Group is a security group, with its members' addresses for the rules that refer to it.
type Group struct {
	ID      cloud.SecurityGroupID
	Rules   []cloud.SecurityGroupRule
	Members []netip.Addr // private addresses of all its interfaces in the VPC, on whatever node
}

// Interface is the desired state of one network interface on this node.
type Interface struct {
	ID              cloud.InterfaceID
	Instance        cloud.InstanceID
	IDBase          uint32 // first host id of the machine's user namespace
	VPC             cloud.VPCID
	Subnet          cloud.SubnetID
	MAC             string
	PrivateIP       netip.Addr
	PublicIP        netip.Addr // zero when there is none
	Secondary       []Address  // its other private addresses
	IPv6            []netip.Addr
	Groups          []cloud.SecurityGroupID
	SourceDestCheck bool
	DeviceIndex     int  // its name inside is eth<DeviceIndex>
	Gateway         bool // a NAT gateway's: in no security group
	Tap             bool // its other end is not in the machine's namespace but a virtual machine's, which OpenTap is for
}

// Address is a private address with the public one that stands for it, zero when none does.
type Address struct {
	Private, Public netip.Addr
}

// addresses are all of an interface's, the primary one first.
func (i Interface) addresses() []Address {
	return append([]Address{{i.PrivateIP, i.PublicIP}}, i.Secondary...)
}

func (i Interface) hasPrivate(a netip.Addr) bool {
	return slices.ContainsFunc(i.addresses(), func(x Address) bool { return x.Private == a })
}

func (i Interface) hasPublic(a netip.Addr) bool {
	return slices.ContainsFunc(i.addresses(), func(x Address) bool { return x.Public == a })
}

// Keep is what a sweep leaves alone.
type Keep struct {
	VPCs       map[cloud.VPCID]bool
	Instances  map[cloud.InstanceID]bool
	Interfaces map[cloud.InterfaceID]bool
}

// Namespaces are the files of a machine's namespaces.
type Namespaces struct {
	User string
	Net  string
}
