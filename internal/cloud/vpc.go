package cloud

import (
	"encoding/json"
	"net/netip"
	"time"
)

// VPC is a private network of an account.
type VPC struct {
	ID      VPCID
	Account AccountID
	CIDR    netip.Prefix // the first range, which lives as long as the VPC
	// Secondary are further IPv4 ranges, IPv6 the /56s from the region's pool, each in the order of association.
	Secondary          []VPCRange
	IPv6               []VPCRange
	Default            bool
	DHCPOptions        DHCPOptionsID // "" for none: "default" was associated
	EnableDNSSupport   bool
	EnableDNSHostnames bool
	// UsageMetrics is EnableNetworkAddressUsageMetrics.
	UsageMetrics bool
	Tags         Tags
	Created      time.Time
}

// VPCRange is a range that was associated with a VPC after it was made.
type VPCRange struct {
	ID     VPCRangeID
	Prefix netip.Prefix
}

// Resolver is the address of the VPC's DNS server: its first range's base plus two.
func (v *VPC) Resolver() netip.Addr { return v.CIDR.Masked().Addr().Next().Next() }

// FirstRange is the id of the association of the first range.
func (v *VPC) FirstRange() VPCRangeID {
	return VPCRangeID(Prefix[VPCRangeID]() + string(v.ID)[len(Prefix[VPCID]()):])
}

// Ranges are all ranges, IPv4 before IPv6, the first one first.
func (v *VPC) Ranges() []netip.Prefix {
	list := []netip.Prefix{v.CIDR}
	for _, r := range v.Secondary {
		list = append(list, r.Prefix)
	}
	for _, r := range v.IPv6 {
		list = append(list, r.Prefix)
	}
	return list
}

// Contains tells whether a range lies within one of the VPC's.
func (v *VPC) Contains(p netip.Prefix) bool {
	for _, r := range v.Ranges() {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// Subnet is a range of a VPC in one zone.
type Subnet struct {
	ID      SubnetID
	Account AccountID
	VPC     VPCID
	CIDR    netip.Prefix
	// IPv6 is a /64 of one of the VPC's IPv6 ranges; zero when there is none.
	IPv6                 netip.Prefix
	IPv6Range            SubnetRangeID
	AssignIPv6OnCreation bool
	Zone                 string
	DefaultForAZ         bool
	MapPublicIPOnLaunch  bool
	// HostnameType is PrivateDnsNameOptionsOnLaunch's: "" means "ip-name". The flags ask for further DNS records.
	HostnameType     string
	ResourceNameA    bool
	ResourceNameAAAA bool
	ACL              NetworkACLID     // the one around it
	ACLAssociation   ACLAssociationID // changes with ACL
	Tags             Tags
	Created          time.Time
}

// Gateway is the subnet's router: its range's base plus one.
func (s *Subnet) Gateway() netip.Addr { return s.CIDR.Masked().Addr().Next() }

// InternetGateway joins a VPC to the public address pool and the world.
type InternetGateway struct {
	ID      InternetGatewayID
	Account AccountID
	VPC     VPCID // "" when detached
	Tags    Tags
	Created time.Time
}

// EgressOnlyGateway lets a VPC's IPv6 flows out, and none in.
type EgressOnlyGateway struct {
	ID      EgressGatewayID
	Account AccountID
	VPC     VPCID
	Tags    Tags
	Created time.Time
}

// RouteTable directs a VPC's packets.
type RouteTable struct {
	ID      RouteTableID
	Account AccountID
	VPC     VPCID
	// Main says that subnets without a table of their own follow it.
	Main         bool
	Routes       []Route // the local ones first, then in the order of their making
	Associations []RouteAssociation
	Tags         Tags
	Created      time.Time
}

// LocalTarget is the target of the routes within a VPC.
const LocalTarget = "local"

// Route sends a destination to a target. Exactly one of Destination and PrefixList is set.
type Route struct {
	Destination netip.Prefix
	PrefixList  PrefixListID
	// Target is LocalTarget or the id of what packets are sent to: an internet gateway, an egress-only one, a NAT
	// gateway, a network interface or a peering.
	Target string
}

// UnmarshalJSON reads also what clouds kept that had no other targets than gateways: a route with a member Gateway in Target's place.
func (r *Route) UnmarshalJSON(b []byte) error {
	type kept Route
	read := struct {
		*kept
		Gateway string
	}{kept: (*kept)(r)}
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	if r.Target == "" {
		r.Target = read.Gateway
	}
	return nil
}

// Main returns the table that a VPC's subnets follow unless they have their own; nil when there is none.
func Main(tables []*RouteTable) *RouteTable {
	for _, t := range tables {
		if t.Main {
			return t
		}
	}
	return nil
}

// TableOf returns the table that a subnet follows.
func TableOf(tables []*RouteTable, subnet SubnetID) *RouteTable {
	for _, t := range tables {
		for _, a := range t.Associations {
			if a.Subnet == subnet {
				return t
			}
		}
	}
	return Main(tables)
}

// RouteAssociation ties a route table to a subnet, or makes it the VPC's main table.
type RouteAssociation struct {
	ID     RouteAssociationID
	Subnet SubnetID // "" for the main association
	Main   bool
}

// Address is an Elastic IP.
type Address struct {
	ID          AllocationID
	Account     AccountID
	PublicIP    netip.Addr
	Association AssociationID // "" when not associated
	Interface   InterfaceID
	PrivateIP   netip.Addr // which of the interface's addresses it stands for
	// PTR is the name that resolvers answer for it, with the root's dot; "" for EC2's own.
	PTR     string
	Tags    Tags
	Created time.Time
}
