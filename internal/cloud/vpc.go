package cloud

import (
	"net/netip"
	"time"
)

// VPC is a private network of an account.
type VPC struct {
	ID                 VPCID
	Account            AccountID
	CIDR               netip.Prefix
	Default            bool
	DHCPOptions        DHCPOptionsID
	EnableDNSSupport   bool
	EnableDNSHostnames bool
	Tags               Tags
	Created            time.Time
}

// Resolver is the address of the VPC's DNS server: its range's base plus two.
func (v *VPC) Resolver() netip.Addr { return v.CIDR.Masked().Addr().Next().Next() }

// Subnet is a range of a VPC in one zone.
type Subnet struct {
	ID                  SubnetID
	Account             AccountID
	VPC                 VPCID
	CIDR                netip.Prefix
	Zone                string
	DefaultForAZ        bool
	MapPublicIPOnLaunch bool
	ACL                 NetworkACLID     // the one around it
	ACLAssociation      ACLAssociationID // changes with ACL
	Tags                Tags
	Created             time.Time
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

// RouteTable directs a VPC's packets.
type RouteTable struct {
	ID           RouteTableID
	Account      AccountID
	VPC          VPCID
	Main         bool
	Routes       []Route
	Associations []RouteAssociation
	Tags         Tags
	Created      time.Time
}

// Route sends a destination to a target.
type Route struct {
	Destination netip.Prefix
	Gateway     string // "local" or an internet gateway's id
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
