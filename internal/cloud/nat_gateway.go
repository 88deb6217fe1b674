package cloud

import "time"

// NATGateway lets a VPC's interfaces begin flows to where its own subnet's routes lead, under its own address.
type NATGateway struct {
	ID          NATGatewayID
	Account     AccountID
	VPC         VPCID
	Subnet      SubnetID
	Private     bool // it has no public address
	State       NATGatewayState
	FailureCode string
	Failure     string
	Interface   InterfaceID // its own; gone with it
	// Address is what it translates to, told also when the interface is gone.
	Address PublicAddress
	Node    NodeID // where it works, "" until it is placed
	Tags    Tags
	Created time.Time
	Deleted time.Time // zero until it was deleted
}

// NATGatewayState is what EC2 calls it.
type NATGatewayState string

const (
	NATPending   NATGatewayState = "pending"
	NATFailed    NATGatewayState = "failed"
	NATAvailable NATGatewayState = "available"
	NATDeleting  NATGatewayState = "deleting"
	NATDeleted   NATGatewayState = "deleted"
)
