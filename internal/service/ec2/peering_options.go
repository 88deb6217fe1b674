package ec2

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// modifyPeeringOptions says whether a side's public names are answered with private addresses in the other VPC. Each side is its owner's.
func (s *Service) modifyPeeringOptions(ctx context.Context, call *awsapi.Call, req *ec2.ModifyVpcPeeringConnectionOptionsRequest) (*ec2.ModifyVpcPeeringConnectionOptionsResult, error) {
	out := &ec2.ModifyVpcPeeringConnectionOptionsResult{}
	if req.AccepterPeeringConnectionOptions == nil && req.RequesterPeeringConnectionOptions == nil {
		return nil, awsapi.MissingParameter("AccepterPeeringConnectionOptions or RequesterPeeringConnectionOptions")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		p, err := lookupPeering(tx, call.Account, deref(req.VpcPeeringConnectionId))
		if err != nil {
			return err
		}
		if status, _ := peeringStatus(p, call.Now); status != cloud.PeeringActive {
			return awsapi.Errorf("OperationNotPermitted", "The peering %s is %s: only those of an active one can be modified.", p.ID, status)
		}
		change := func(side *cloud.PeeringSide, options *ec2.PeeringConnectionOptionsRequest) (*ec2.PeeringConnectionOptions, error) {
			if options == nil {
				return nil, nil
			}
			if side.Account != call.Account {
				return nil, awsapi.Errorf("OperationNotPermitted", "User %s cannot modify the options of the side of %s in %s", call.Account, side.Account, p.ID)
			}
			if allow := options.AllowDnsResolutionFromRemoteVpc; allow != nil {
				if vpc, ok := store.Get(tx, store.VPCs, side.VPC); *allow && ok && !(vpc.EnableDNSHostnames && vpc.EnableDNSSupport) {
					return nil, awsapi.Errorf("InvalidVpcPeeringConnectionState.DnsHostnamesDisabled", "The VPC %s has no DNS hostnames or no DNS support enabled", vpc.ID)
				}
				side.RemoteDNS = *allow
			}
			return &ec2.PeeringConnectionOptions{AllowDnsResolutionFromRemoteVpc: new(side.RemoteDNS), AllowEgressFromLocalClassicLinkToRemoteVpc: new(false),
				AllowEgressFromLocalVpcToRemoteClassicLink: new(false)}, nil
		}
		if out.AccepterPeeringConnectionOptions, err = change(&p.Accepter, req.AccepterPeeringConnectionOptions); err != nil {
			return err
		}
		if out.RequesterPeeringConnectionOptions, err = change(&p.Requester, req.RequesterPeeringConnectionOptions); err != nil {
			return err
		}
		store.Put(tx, store.Peerings, p)
		return nil
	})
	return out, err
}
