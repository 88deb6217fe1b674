package ec2

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerPeerings(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeVpcPeeringConnections, s.describePeerings, awsapi.Honours("Filters", "MaxResults", "NextToken", "VpcPeeringConnectionIds"))
	awsapi.Handle(r, ec2.ActionCreateVpcPeeringConnection, s.createPeering, awsapi.Honours("VpcId", "PeerVpcId", "PeerOwnerId", "PeerRegion", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionAcceptVpcPeeringConnection, s.acceptPeering, awsapi.Honours("VpcPeeringConnectionId"))
	awsapi.Handle(r, ec2.ActionRejectVpcPeeringConnection, s.rejectPeering, awsapi.Honours("VpcPeeringConnectionId"))
	awsapi.Handle(r, ec2.ActionModifyVpcPeeringConnectionOptions, s.modifyPeeringOptions, awsapi.Honours("VpcPeeringConnectionId",
		"AccepterPeeringConnectionOptions.AllowDnsResolutionFromRemoteVpc", "RequesterPeeringConnectionOptions.AllowDnsResolutionFromRemoteVpc"))
	awsapi.Handle(r, ec2.ActionDeleteVpcPeeringConnection, s.deletePeering, awsapi.Honours("VpcPeeringConnectionId"))
}

var kindPeering = resourceKind{"InvalidVpcPeeringConnectionID", "vpcPeeringConnection"}

const (
	// peeringWaits is how long a request can be accepted, as on EC2.
	peeringWaits        = 7 * 24 * time.Hour
	maxPeeringsPerVPC   = 50 // EC2's default
	peeringFailed       = "Failed due to incorrect VPC-ID, Account ID, or overlapping CIDR range"
	peeringTagsResource = "vpc-peering-connection"
)

// sideOf tells an account's own resource from a stranger's: a peering belongs to both sides.
func sideOf(account cloud.AccountID) func(*cloud.Peering) cloud.AccountID {
	return func(p *cloud.Peering) cloud.AccountID {
		if p.Accepter.Account == account && p.Status != cloud.PeeringFailed {
			return account
		}
		return p.Requester.Account
	}
}

func lookupPeering(r store.Reader, account cloud.AccountID, id string) (*cloud.Peering, error) {
	return lookup(r, store.Peerings, sideOf(account), kindPeering, account, id)
}

// peeringStatus is what a peering is at a time: a request that nobody accepted expires.
func peeringStatus(p *cloud.Peering, now time.Time) (cloud.PeeringStatus, string) {
	if p.Status == cloud.PeeringPending && now.After(p.Expires) {
		return cloud.PeeringExpired, "Expired"
	}
	return p.Status, p.Message
}

func (s *Service) createPeering(ctx context.Context, call *awsapi.Call, req *ec2.CreateVpcPeeringConnectionRequest) (*ec2.CreateVpcPeeringConnectionResult, error) {
	tags, err := tagsFor(req.TagSpecifications, peeringTagsResource)
	if err != nil {
		return nil, err
	}
	switch {
	case deref(req.PeerVpcId) == "":
		return nil, awsapi.MissingParameter("peerVpcId")
	case !cloud.ValidID[cloud.VPCID](*req.PeerVpcId):
		return nil, kindVPC.malformed(*req.PeerVpcId)
	case req.PeerRegion != nil && *req.PeerRegion != call.Region:
		return nil, awsapi.InvalidParameterValue("The region %s is not part of this cloud: VPCs are peered within %s.", *req.PeerRegion, call.Region)
	}
	other := call.Account
	if req.PeerOwnerId != nil {
		if other = cloud.AccountID(*req.PeerOwnerId); !accountID(other) {
			return nil, awsapi.InvalidParameterValue("Value (%s) for parameter peerOwnerId is invalid. It is not an account's id.", other)
		}
	}
	made := cloud.Peering{ID: newID[cloud.PeeringID](s), Requester: cloud.PeeringSide{Account: call.Account},
		Accepter: cloud.PeeringSide{Account: other, VPC: cloud.VPCID(*req.PeerVpcId)}, Tags: tags[peeringTagsResource], Created: call.Now}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		made.Requester.VPC = vpc.ID
		living := 0
		for _, p := range store.ListBy(tx, store.PeeringsByVPC, vpc.ID) {
			if status, _ := peeringStatus(p, call.Now); status != cloud.PeeringPending && status != cloud.PeeringActive {
				continue
			}
			living++
			if p.Requester.VPC == made.Accepter.VPC || p.Accepter.VPC == made.Accepter.VPC {
				return awsapi.Errorf("VpcPeeringConnectionAlreadyExists", "A VPC peering connection %s between %s and %s already exists", p.ID, vpc.ID, made.Accepter.VPC)
			}
		}
		if living >= maxPeeringsPerVPC {
			return awsapi.Errorf("VpcPeeringConnectionsPerVpcLimitExceeded", "The VPC %s has %d peering connections, which is the most.", vpc.ID, living)
		}
		made.Status, made.Message = cloud.PeeringPending, "Pending Acceptance by "+string(other)
		made.Expires, made.Ended = call.Now.Add(peeringWaits), time.Time{}
		if !fitTogether(tx, &made) {
			made.Status, made.Message, made.Ended = cloud.PeeringFailed, peeringFailed, call.Now
		}
		store.Put(tx, store.Peerings, &made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := peeringShape(s.store.View(), &made, call)
	shape.Status = &ec2.VpcPeeringConnectionStateReason{Code: new("initiating-request"), Message: new("Initiating Request to " + string(other))}
	return &ec2.CreateVpcPeeringConnectionResult{VpcPeeringConnection: &shape}, nil
}

// accountID tells whether an account's id has the form of one.
func accountID(id cloud.AccountID) bool {
	return len(id) == 12 && !slices.ContainsFunc([]byte(id), func(c byte) bool { return c < '0' || c > '9' })
}

// fitTogether tells whether both VPCs of a peering are there, and no range of one overlaps one of the other.
func fitTogether(r store.Reader, p *cloud.Peering) bool {
	a, ok := store.Get(r, store.VPCs, p.Requester.VPC)
	b, there := store.Get(r, store.VPCs, p.Accepter.VPC)
	if !ok || !there || b.Account != p.Accepter.Account {
		return false
	}
	for _, own := range a.Ranges() {
		if slices.ContainsFunc(b.Ranges(), own.Overlaps) {
			return false
		}
	}
	return true
}

// overlappedPeer finds an active peering of a VPC whose other side has addresses of a range: it couldn't tell the two apart.
func overlappedPeer(r store.Reader, vpc cloud.VPCID, block netip.Prefix) cloud.PeeringID {
	for _, p := range store.ListBy(r, store.PeeringsByVPC, vpc) {
		_, other := p.Between(vpc)
		if peer, ok := store.Get(r, store.VPCs, other.VPC); ok && p.Status == cloud.PeeringActive && slices.ContainsFunc(peer.Ranges(), block.Overlaps) {
			return p.ID
		}
	}
	return ""
}

// badTransition is the answer to a step that a peering's status doesn't allow.
func badTransition(p *cloud.Peering, from cloud.PeeringStatus, to cloud.PeeringStatus) error {
	return awsapi.Errorf("InvalidStateTransition", "Invalid state transition for %s, attempted to transition from %s to %s", p.ID, from, to)
}

func (s *Service) acceptPeering(ctx context.Context, call *awsapi.Call, req *ec2.AcceptVpcPeeringConnectionRequest) (*ec2.AcceptVpcPeeringConnectionResult, error) {
	var done *cloud.Peering
	err := s.update(ctx, call, func(tx *store.Tx) error {
		p, err := s.answered(tx, call, deref(req.VpcPeeringConnectionId), cloud.PeeringActive)
		if err != nil {
			return err
		}
		if p.Status, p.Message = cloud.PeeringActive, "Active"; !fitTogether(tx, p) {
			p.Status, p.Message, p.Ended = cloud.PeeringFailed, peeringFailed, call.Now
		}
		store.Put(tx, store.Peerings, p)
		done = p
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.AcceptVpcPeeringConnectionResult{VpcPeeringConnection: new(peeringShape(s.store.View(), done, call))}, nil
}

// answered finds a peering that waits for the calling account's answer.
func (s *Service) answered(tx *store.Tx, call *awsapi.Call, id string, to cloud.PeeringStatus) (*cloud.Peering, error) {
	p, err := lookupPeering(tx, call.Account, id)
	if err != nil {
		return nil, err
	}
	if status, _ := peeringStatus(p, call.Now); status != cloud.PeeringPending {
		return nil, badTransition(p, status, to)
	}
	if p.Accepter.Account != call.Account {
		return nil, awsapi.Errorf("OperationNotPermitted", "User %s cannot answer peering %s, which waits for %s", call.Account, p.ID, p.Accepter.Account)
	}
	return p, nil
}

func (s *Service) rejectPeering(ctx context.Context, call *awsapi.Call, req *ec2.RejectVpcPeeringConnectionRequest) (*ec2.RejectVpcPeeringConnectionResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		p, err := s.answered(tx, call, deref(req.VpcPeeringConnectionId), cloud.PeeringRejected)
		if err != nil {
			return err
		}
		p.Status, p.Message, p.Ended = cloud.PeeringRejected, "Rejected by "+string(call.Account), call.Now
		store.Put(tx, store.Peerings, p)
		return nil
	})
	return &ec2.RejectVpcPeeringConnectionResult{Return: new(true)}, err
}

func (s *Service) deletePeering(ctx context.Context, call *awsapi.Call, req *ec2.DeleteVpcPeeringConnectionRequest) (*ec2.DeleteVpcPeeringConnectionResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		p, err := lookupPeering(tx, call.Account, deref(req.VpcPeeringConnectionId))
		if err != nil {
			return err
		}
		// The accepter refuses a request; taking it back is the requester's.
		status, _ := peeringStatus(p, call.Now)
		if status != cloud.PeeringActive && (status != cloud.PeeringPending || p.Requester.Account != call.Account) {
			return badTransition(p, status, cloud.PeeringDeleted)
		}
		p.Status, p.Message, p.Ended = cloud.PeeringDeleted, "Deleted by "+string(call.Account), call.Now
		store.Put(tx, store.Peerings, p)
		return nil
	})
	return &ec2.DeleteVpcPeeringConnectionResult{Return: new(true)}, err
}

func (s *Service) describePeerings(_ context.Context, call *awsapi.Call, req *ec2.DescribeVpcPeeringConnectionsRequest) (*ec2.DescribeVpcPeeringConnectionsResult, error) {
	view := s.store.View()
	type P = *cloud.Peering
	shaped := func(f func(ec2.VpcPeeringConnection) []string) func(P) []string {
		return func(p P) []string { return f(peeringShape(view, p, call)) }
	}
	blocks := func(i *ec2.VpcPeeringConnectionVpcInfo) (out []string) {
		for _, b := range i.CidrBlockSet {
			out = append(out, *b.CidrBlock)
		}
		return out
	}
	l := listing[cloud.PeeringID, cloud.Peering]{store.Peerings, store.PeeringsByAccount, sideOf(call.Account), kindPeering, func(p P) cloud.PeeringID { return p.ID },
		awsapi.FilterSet[P]{Tags: func(p P) map[string]string { return *peeringTags(p, call.Account) }, Values: map[string]func(P) []string{
			"accepter-vpc-info.cidr-block":  shaped(func(p ec2.VpcPeeringConnection) []string { return blocks(p.AccepterVpcInfo) }),
			"accepter-vpc-info.owner-id":    one(func(p P) string { return string(p.Accepter.Account) }),
			"accepter-vpc-info.vpc-id":      one(func(p P) string { return string(p.Accepter.VPC) }),
			"requester-vpc-info.cidr-block": shaped(func(p ec2.VpcPeeringConnection) []string { return blocks(p.RequesterVpcInfo) }),
			"requester-vpc-info.owner-id":   one(func(p P) string { return string(p.Requester.Account) }),
			"requester-vpc-info.vpc-id":     one(func(p P) string { return string(p.Requester.VPC) }),
			"expiration-time":               one(func(p P) string { return p.Expires.UTC().Format("2006-01-02T15:04:05.000Z") }),
			"status-code":                   shaped(func(p ec2.VpcPeeringConnection) []string { return []string{*p.Status.Code} }),
			"status-message":                shaped(func(p ec2.VpcPeeringConnection) []string { return []string{*p.Status.Message} }),
			"vpc-peering-connection-id":     one(func(p P) string { return string(p.ID) }),
		}}}
	page, err := l.page(view, call.Account, req.VpcPeeringConnectionIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVpcPeeringConnectionsResult{NextToken: page.Next, VpcPeeringConnections: []ec2.VpcPeeringConnection{}}
	for _, p := range page.Items {
		if sideOf(call.Account)(p) == call.Account {
			out.VpcPeeringConnections = append(out.VpcPeeringConnections, peeringShape(view, p, call))
		}
	}
	return out, nil
}

// peeringTags are an account's own tags of a peering: each side has its own.
func peeringTags(p *cloud.Peering, account cloud.AccountID) *cloud.Tags {
	if p.Requester.Account == account {
		return &p.Tags
	}
	return &p.AccepterTags
}

// peeringTaggable is how CreateTags and its kin reach peerings, which have two owners.
var peeringTaggable = taggable{prefix: cloud.Prefix[cloud.PeeringID](), name: peeringTagsResource, kind: kindPeering,
	change: func(tx *store.Tx, account cloud.AccountID, id string, apply func(cloud.Tags) (cloud.Tags, error)) (bool, error) {
		p, ok := store.Get(tx, store.Peerings, cloud.PeeringID(id))
		if !ok || sideOf(account)(p) != account {
			return false, nil
		}
		tags := peeringTags(p, account)
		changed, err := apply(*tags)
		if err != nil {
			return true, err
		}
		*tags = changed
		store.Put(tx, store.Peerings, p)
		return true, nil
	},
	each: func(r store.Reader, account cloud.AccountID, tell func(string, cloud.Tags)) {
		for _, p := range store.ListBy(r, store.PeeringsByAccount, account) {
			tell(string(p.ID), *peeringTags(p, account))
		}
	}}

func peeringShape(r store.Reader, p *cloud.Peering, call *awsapi.Call) ec2.VpcPeeringConnection {
	status, message := peeringStatus(p, call.Now)
	out := ec2.VpcPeeringConnection{VpcPeeringConnectionId: text(p.ID), Tags: tagList(*peeringTags(p, call.Account)),
		Status: &ec2.VpcPeeringConnectionStateReason{Code: text(status), Message: &message}}
	side := func(s cloud.PeeringSide, known bool) *ec2.VpcPeeringConnectionVpcInfo {
		info := &ec2.VpcPeeringConnectionVpcInfo{OwnerId: text(s.Account), VpcId: text(s.VPC), Region: &call.Region}
		vpc, ok := store.Get(r, store.VPCs, s.VPC)
		if !ok || !known {
			return info
		}
		info.CidrBlock, info.CidrBlockSet = new(vpc.CIDR.String()), []ec2.CidrBlock{{CidrBlock: new(vpc.CIDR.String())}}
		for _, more := range vpc.Secondary {
			info.CidrBlockSet = append(info.CidrBlockSet, ec2.CidrBlock{CidrBlock: new(more.Prefix.String())})
		}
		for _, more := range vpc.IPv6 {
			info.Ipv6CidrBlockSet = append(info.Ipv6CidrBlockSet, ec2.Ipv6CidrBlock{Ipv6CidrBlock: new(more.Prefix.String())})
		}
		info.PeeringOptions = &ec2.VpcPeeringConnectionOptionsDescription{AllowDnsResolutionFromRemoteVpc: new(s.RemoteDNS),
			AllowEgressFromLocalClassicLinkToRemoteVpc: new(false), AllowEgressFromLocalVpcToRemoteClassicLink: new(false)}
		return info
	}
	out.RequesterVpcInfo = side(p.Requester, true)
	// Whoever asks for a peering learns the other one's ranges when that one has agreed.
	out.AccepterVpcInfo = side(p.Accepter, status == cloud.PeeringActive)
	if status == cloud.PeeringPending {
		out.ExpirationTime = new(p.Expires.UTC())
	}
	return out
}
