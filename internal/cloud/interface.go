package cloud

import (
	"net/netip"
	"slices"
	"time"
)

// Interface is an elastic network interface.
type Interface struct {
	ID          InterfaceID
	Account     AccountID
	VPC         VPCID
	Subnet      SubnetID
	Zone        string
	Description string
	// InterfaceType is EC2's word for what it serves: InterfaceOrdinary or InterfaceNAT.
	InterfaceType string
	// Requester is who had it made, as EC2 names users; "" for those that launches make.
	Requester string
	// RequesterManaged says that another resource owns it: its owner alone changes and deletes it.
	RequesterManaged bool
	MAC              string       // "0a:…", lower case; kept when the interface moves to another instance
	PrivateIP        netip.Addr   // the primary one
	Secondary        []netip.Addr // the other private IPv4 addresses, in the order of their assignment
	IPv6             []netip.Addr // in the order of their assignment
	Groups           []SecurityGroupID
	// SourceDestCheck drops what is neither from nor to the interface's own addresses.
	SourceDestCheck bool
	Tags            Tags
	Created         time.Time

	Instance            InstanceID // "" when not attached
	Attachment          AttachmentID
	AttachState         AttachState // "" when not attached
	AttachTime          time.Time
	DeviceIndex         int // its name inside is eth<DeviceIndex>
	DeleteOnTermination bool

	// Publics are the internet gateway's 1:1 translations, at most one for each private IPv4 address.
	Publics []PublicAddress
	// AutoPublicIP says that each start assigns a public address to the primary private one.
	AutoPublicIP bool
}

// The types of interfaces.
const (
	InterfaceOrdinary = "interface"
	InterfaceNAT      = "natGateway"
)

// AttachState is how far an interface is on its way to its instance or away from it.
type AttachState string

const (
	Attaching AttachState = "attaching" // the node has still to make it
	Attached  AttachState = "attached"
	Detaching AttachState = "detaching" // the node has still to take it away
)

// PublicAddress is a public address that stands for a private one: lent at a start and given back at the stop, or,
// with an allocation, an Elastic IP that stays.
type PublicAddress struct {
	Private    netip.Addr
	Public     netip.Addr
	Allocation AllocationID // "" for a lent one
}

// Addresses lists the private IPv4 addresses, the primary one first.
func (n *Interface) Addresses() []netip.Addr {
	return append([]netip.Addr{n.PrivateIP}, n.Secondary...)
}

// Owns tells whether an address, private and of either family, is the interface's.
func (n *Interface) Owns(addr netip.Addr) bool {
	return n.PrivateIP == addr || slices.Contains(n.Secondary, addr) || slices.Contains(n.IPv6, addr)
}

// Public finds what stands for a private address; zero when nothing does.
func (n *Interface) Public(private netip.Addr) PublicAddress {
	for _, p := range n.Publics {
		if p.Private == private {
			return p
		}
	}
	return PublicAddress{}
}

// PublicIP is the public address of the primary private one; zero when there is none.
func (n *Interface) PublicIP() netip.Addr { return n.Public(n.PrivateIP).Public }

// Publish lets a public address stand for a private one, in the place of the one that does.
func (n *Interface) Publish(p PublicAddress) {
	n.Unpublish(p.Private)
	n.Publics = append(n.Publics, p)
}

// Unpublish takes away what stands for a private address.
func (n *Interface) Unpublish(private netip.Addr) {
	n.Publics = slices.DeleteFunc(n.Publics, func(p PublicAddress) bool { return p.Private == private })
}
