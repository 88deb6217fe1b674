package cloud

import "time"

// Peering joins two VPCs, of one account or of two, once the second one's owner accepts.
type Peering struct {
	ID        PeeringID
	Requester PeeringSide
	Accepter  PeeringSide
	Status    PeeringStatus
	Message   string
	Expires   time.Time // while it waits to be accepted
	Ended     time.Time // when it was rejected, deleted or expired; zero before
	Tags      Tags      // the requester's
	// AccepterTags are the accepter's, when that is another account.
	AccepterTags Tags
	Created      time.Time
}

// PeeringSide is one of the two VPCs.
type PeeringSide struct {
	Account AccountID
	VPC     VPCID
	// RemoteDNS says that this side's public names are answered with private addresses in the other VPC.
	RemoteDNS bool
}

// Between returns a peering's side of a VPC, and the other one.
func (p *Peering) Between(vpc VPCID) (own, other PeeringSide) {
	if p.Requester.VPC == vpc {
		return p.Requester, p.Accepter
	}
	return p.Accepter, p.Requester
}

// PeeringStatus is what EC2 calls it.
type PeeringStatus string

const (
	PeeringPending  PeeringStatus = "pending-acceptance"
	PeeringActive   PeeringStatus = "active"
	PeeringRejected PeeringStatus = "rejected"
	PeeringDeleted  PeeringStatus = "deleted"
	PeeringExpired  PeeringStatus = "expired"
	PeeringFailed   PeeringStatus = "failed"
)
