package ec2

import (
	"context"
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/defaultvpc"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerDefaultVPC(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateDefaultVpc, s.createDefaultVPC)
	awsapi.Handle(r, ec2.ActionCreateDefaultSubnet, s.createDefaultSubnet, awsapi.Honours("AvailabilityZone"))
}

func (s *Service) createDefaultVPC(ctx context.Context, call *awsapi.Call, _ *ec2.CreateDefaultVpcRequest) (*ec2.CreateDefaultVpcResult, error) {
	var vpc cloud.VPC
	err := s.update(ctx, call, func(tx *store.Tx) error {
		if _, err := defaultVPC(tx, call.Account); err == nil {
			return awsapi.Errorf("DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region.")
		}
		if len(store.ListBy(tx, store.VPCsByAccount, call.Account)) >= maxVPCs {
			return awsapi.Errorf("VpcLimitExceeded", "The maximum number of VPCs has been reached.")
		}
		if len(store.ListBy(tx, store.InternetGatewaysByAccount, call.Account)) >= maxInternetGateways {
			return awsapi.Errorf("InternetGatewayLimitExceeded", "The maximum number of internet gateways has been reached.")
		}
		region, ok := store.Region(tx)
		if !ok {
			return awsapi.Errorf("InternalError", "The region has no record")
		}
		vpc = defaultvpc.Layout{Account: call.Account, Zones: region.Zones, DHCPOptions: s.defaultDHCPOptions(tx, call), Rand: s.cfg.Rand, Now: call.Now}.Make(tx)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := vpcShape(&vpc, call.Region)
	shape.State = new("pending")
	return &ec2.CreateDefaultVpcResult{Vpc: &shape}, nil
}

func (s *Service) createDefaultSubnet(ctx context.Context, call *awsapi.Call, req *ec2.CreateDefaultSubnetRequest) (*ec2.CreateDefaultSubnetResult, error) {
	subnet := cloud.Subnet{ID: newID[cloud.SubnetID](s), Account: call.Account, DefaultForAZ: true, MapPublicIPOnLaunch: true,
		ACLAssociation: newID[cloud.ACLAssociationID](s), Created: call.Now}
	err := s.update(ctx, call, func(tx *store.Tx) (err error) {
		if subnet.Zone, err = zoneFor(tx, deref(req.AvailabilityZone), ""); err != nil {
			return err
		}
		vpc, err := defaultVPC(tx, call.Account)
		if err != nil {
			return awsapi.Errorf("DefaultVpcDoesNotExist", "No default VPC exists for this account in this region.")
		}
		others := store.ListBy(tx, store.SubnetsByVPC, vpc.ID)
		if slices.ContainsFunc(others, func(o *cloud.Subnet) bool { return o.DefaultForAZ && o.Zone == subnet.Zone }) {
			return awsapi.Errorf("DefaultSubnetAlreadyExistsInAvailabilityZone", "A default subnet already exists in the availability zone '%s'", subnet.Zone)
		}
		var free bool
		if subnet.CIDR, free = freeDefaultRange(vpc, others); !free {
			return awsapi.Errorf("InvalidSubnet.Conflict", "The default VPC has no free range of the size /%d for a default subnet", defaultvpc.SubnetBits)
		}
		if err := placeSubnet(tx, vpc, &subnet); err != nil {
			return err
		}
		store.Put(tx, store.Subnets, &subnet)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := subnetShape(s.store.View(), call.Region, &subnet)
	shape.State = new("pending")
	return &ec2.CreateDefaultSubnetResult{Subnet: &shape}, nil
}

// freeDefaultRange is the lowest range of a default subnet's size in a VPC's first range that no subnet is in.
func freeDefaultRange(vpc *cloud.VPC, others []*cloud.Subnet) (netip.Prefix, bool) {
	base := vpc.CIDR.Addr().As4()
	for n := range 1 << max(defaultvpc.SubnetBits-vpc.CIDR.Bits(), 0) {
		at := base
		at[2] += byte(n << (24 - defaultvpc.SubnetBits))
		block := netip.PrefixFrom(netip.AddrFrom4(at), defaultvpc.SubnetBits)
		if !slices.ContainsFunc(others, func(o *cloud.Subnet) bool { return o.CIDR.Overlaps(block) }) {
			return block, true
		}
	}
	return netip.Prefix{}, false
}
