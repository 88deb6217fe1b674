package ec2

import (
	"context"
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerVPCLife(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateVpc, s.createVPC, awsapi.Honours("CidrBlock", "AmazonProvidedIpv6CidrBlock", "InstanceTenancy", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeleteVpc, s.deleteVPC, awsapi.Honours("VpcId"))
	awsapi.Handle(r, ec2.ActionModifyVpcAttribute, s.modifyVPCAttribute, awsapi.Honours("VpcId", "EnableDnsSupport", "EnableDnsHostnames", "EnableNetworkAddressUsageMetrics"))
	awsapi.Handle(r, ec2.ActionModifyVpcTenancy, s.modifyVPCTenancy, awsapi.Honours("VpcId", "InstanceTenancy"))
	awsapi.Handle(r, ec2.ActionAssociateVpcCidrBlock, s.associateVPCRange, awsapi.Honours("VpcId", "CidrBlock", "AmazonProvidedIpv6CidrBlock"))
	awsapi.Handle(r, ec2.ActionDisassociateVpcCidrBlock, s.disassociateVPCRange, awsapi.Honours("AssociationId"))
}

const (
	maxVPCs         = 100 // an account; EC2's own default is 5, and it raises it on request
	maxRangesPerVPC = 5   // IPv4 ranges, EC2's default
	largestRange    = 16  // bits of a VPC's or subnet's longest and shortest range
	smallestRange   = 28
)

// rangeOf parses a range for a VPC or a subnet, in its canonical form as EC2 keeps it.
func rangeOf(text, parameter, code string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() {
		return p, awsapi.InvalidParameterValue("Value (%s) for parameter %s is invalid. This is not a valid CIDR block.", text, parameter)
	}
	if p = p.Masked(); p.Bits() < largestRange || p.Bits() > smallestRange {
		return p, awsapi.Errorf(code, "The CIDR '%s' is invalid.", text)
	}
	return p, nil
}

func (s *Service) createVPC(ctx context.Context, call *awsapi.Call, req *ec2.CreateVpcRequest) (*ec2.CreateVpcResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "vpc")
	if err != nil {
		return nil, err
	}
	if req.CidrBlock == nil {
		return nil, awsapi.MissingParameter("cidrBlock")
	}
	block, err := rangeOf(*req.CidrBlock, "cidrBlock", "InvalidVpc.Range")
	if err != nil {
		return nil, err
	}
	if !cloud.Assignable(block) {
		return nil, awsapi.Errorf("InvalidVpc.Range", "The CIDR '%s' is invalid.", block)
	}
	if t := deref(req.InstanceTenancy); t != "" && t != "default" {
		return nil, awsapi.Unsupported("The tenancy '%s' is not supported by this cloud: no account has servers of its own.", t)
	}
	vpc := cloud.VPC{ID: newID[cloud.VPCID](s), Account: call.Account, CIDR: block, EnableDNSSupport: true, Tags: tags["vpc"], Created: call.Now}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		if len(store.ListBy(tx, store.VPCsByAccount, call.Account)) >= maxVPCs {
			return awsapi.Errorf("VpcLimitExceeded", "The maximum number of VPCs has been reached.")
		}
		vpc.IPv6 = nil
		vpc.DHCPOptions = s.defaultDHCPOptions(tx, call)
		s.furnish(tx, &vpc)
		if deref(req.AmazonProvidedIpv6CidrBlock) {
			_, err := s.addIPv6Range(tx, &vpc)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := vpcShape(&vpc, call.Region)
	shape.State = new("pending")
	for n := range shape.Ipv6CidrBlockAssociationSet {
		shape.Ipv6CidrBlockAssociationSet[n].Ipv6CidrBlockState.State = new("associating")
	}
	return &ec2.CreateVpcResult{Vpc: &shape}, nil
}

// furnish stores a new VPC with what EC2 puts into each: the main route table, the default group and the default ACL.
func (s *Service) furnish(tx *store.Tx, vpc *cloud.VPC) {
	store.Put(tx, store.VPCs, vpc)
	store.Put(tx, store.RouteTables, &cloud.RouteTable{ID: newID[cloud.RouteTableID](s), Account: vpc.Account, VPC: vpc.ID, Main: true, Created: vpc.Created,
		Routes:       []cloud.Route{{Destination: vpc.CIDR, Target: cloud.LocalTarget}},
		Associations: []cloud.RouteAssociation{{ID: newID[cloud.RouteAssociationID](s), Main: true}}})
	group := cloud.SecurityGroup{ID: newID[cloud.SecurityGroupID](s), Account: vpc.Account, VPC: vpc.ID, Name: "default", Description: "default VPC security group", Created: vpc.Created}
	group.Rules = []cloud.SecurityGroupRule{
		{ID: newID[cloud.SecurityGroupRuleID](s), Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, Group: group.ID},
		{ID: newID[cloud.SecurityGroupRuleID](s), Egress: true, Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, CIDR: cloud.AllIPv4},
	}
	store.Put(tx, store.SecurityGroups, &group)
	acl := cloud.NetworkACL{ID: newID[cloud.NetworkACLID](s), Account: vpc.Account, VPC: vpc.ID, Default: true, Created: vpc.Created}
	acl.AllowAll(cloud.AllIPv4)
	store.Put(tx, store.NetworkACLs, &acl)
}

func (s *Service) deleteVPC(ctx context.Context, call *awsapi.Call, req *ec2.DeleteVpcRequest) (*ec2.DeleteVpcResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		if vpcInUse(tx, vpc.ID) {
			return awsapi.Errorf("DependencyViolation", "The vpc '%s' has dependencies and cannot be deleted.", vpc.ID)
		}
		for _, t := range store.ListBy(tx, store.RouteTablesByVPC, vpc.ID) {
			store.Delete(tx, store.RouteTables, t.ID)
		}
		for _, g := range store.ListBy(tx, store.SecurityGroupsByVPC, vpc.ID) {
			store.Delete(tx, store.SecurityGroups, g.ID)
		}
		for _, a := range store.ListBy(tx, store.NetworkACLsByVPC, vpc.ID) {
			store.Delete(tx, store.NetworkACLs, a.ID)
		}
		for _, g := range store.ListBy(tx, store.EgressOnlyGatewaysByVPC, vpc.ID) {
			store.Delete(tx, store.EgressOnlyGateways, g.ID)
		}
		for _, r := range vpc.IPv6 {
			store.Delete(tx, store.Claims, store.IPv6RangeClaim(r.Prefix))
		}
		store.Delete(tx, store.VPCs, vpc.ID)
		return nil
	})
	return &ec2.DeleteVpcResult{}, err
}

// vpcInUse tells whether a VPC has anything besides what was made with it.
func vpcInUse(r store.Reader, id cloud.VPCID) bool {
	waiting := func(p *cloud.Peering) bool { return p.Status == cloud.PeeringActive }
	return len(store.ListBy(r, store.SubnetsByVPC, id)) > 0 || len(store.ListBy(r, store.InternetGatewaysByVPC, id)) > 0 ||
		len(store.ListBy(r, store.InterfacesByVPC, id)) > 0 || slices.ContainsFunc(store.ListBy(r, store.PeeringsByVPC, id), waiting) ||
		slices.ContainsFunc(store.ListBy(r, store.RouteTablesByVPC, id), func(t *cloud.RouteTable) bool { return !t.Main }) ||
		slices.ContainsFunc(store.ListBy(r, store.SecurityGroupsByVPC, id), func(g *cloud.SecurityGroup) bool { return g.Name != "default" }) ||
		slices.ContainsFunc(store.ListBy(r, store.NetworkACLsByVPC, id), func(a *cloud.NetworkACL) bool { return !a.Default })
}

func (s *Service) modifyVPCAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ModifyVpcAttributeRequest) (*ec2.ModifyVpcAttributeResult, error) {
	given := 0
	for _, a := range []*ec2.AttributeBooleanValue{req.EnableDnsSupport, req.EnableDnsHostnames, req.EnableNetworkAddressUsageMetrics} {
		if a == nil {
			continue
		}
		if given++; a.Value == nil {
			return nil, awsapi.MissingParameter("value")
		}
	}
	switch {
	case given == 0:
		return nil, awsapi.Errorf("MissingParameter", "An attribute to be modified must be specified")
	case given > 1:
		return nil, awsapi.InvalidCombination("Fields for multiple attribute types specified")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		for field, a := range map[*bool]*ec2.AttributeBooleanValue{&vpc.EnableDNSSupport: req.EnableDnsSupport, &vpc.EnableDNSHostnames: req.EnableDnsHostnames,
			&vpc.UsageMetrics: req.EnableNetworkAddressUsageMetrics} {
			if a != nil {
				*field = *a.Value
			}
		}
		store.Put(tx, store.VPCs, vpc)
		return nil
	})
	return &ec2.ModifyVpcAttributeResult{}, err
}

// modifyVPCTenancy is EC2's way back from dedicated tenancy, which no VPC here has.
func (s *Service) modifyVPCTenancy(_ context.Context, call *awsapi.Call, req *ec2.ModifyVpcTenancyRequest) (*ec2.ModifyVpcTenancyResult, error) {
	if _, err := lookup(s.store.View(), store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId)); err != nil {
		return nil, err
	}
	if t := deref(req.InstanceTenancy); t != "default" {
		return nil, awsapi.InvalidParameterValue("The tenancy of a VPC can be changed to 'default' only, not to '%s'", t)
	}
	return &ec2.ModifyVpcTenancyResult{ReturnValue: new(true)}, nil
}

func (s *Service) associateVPCRange(ctx context.Context, call *awsapi.Call, req *ec2.AssociateVpcCidrBlockRequest) (*ec2.AssociateVpcCidrBlockResult, error) {
	switch {
	case deref(req.AmazonProvidedIpv6CidrBlock) && req.CidrBlock != nil:
		return nil, awsapi.InvalidCombination("Only one of amazonProvidedIpv6CidrBlock and cidrBlock may be specified")
	case deref(req.AmazonProvidedIpv6CidrBlock):
		return s.associateIPv6Range(ctx, call, req)
	case req.CidrBlock == nil:
		return nil, awsapi.MissingParameter("cidrBlock")
	}
	block, err := rangeOf(*req.CidrBlock, "cidrBlock", "InvalidVpc.Range")
	if err != nil {
		return nil, err
	}
	added := cloud.VPCRange{ID: newID[cloud.VPCRangeID](s), Prefix: block}
	var id cloud.VPCID
	err = s.update(ctx, call, func(tx *store.Tx) error {
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		if 1+len(vpc.Secondary) >= maxRangesPerVPC {
			return awsapi.Errorf("CidrLimitExceeded", "This network '%s' has met its maximum number of allowed CIDRs: %d", vpc.ID, maxRangesPerVPC)
		}
		if slices.ContainsFunc(vpc.Ranges(), block.Overlaps) {
			return awsapi.Errorf("InvalidVpc.Range", "The CIDR '%s' overlaps with another CIDR of the VPC.", block)
		}
		if p := overlappedPeer(tx, vpc.ID, block); p != "" {
			return awsapi.Errorf("InvalidVpc.Range", "The CIDR '%s' overlaps with a CIDR of the VPC that %s joins to this one.", block, p)
		}
		if !vpc.Admits(block) {
			return awsapi.Errorf("InvalidVpc.Range", "The CIDR '%s' is restricted. Use a CIDR from the same private address range as the current VPC CIDR, or use a publicly-routable CIDR.", block)
		}
		for _, t := range store.ListBy(tx, store.RouteTablesByVPC, vpc.ID) {
			for _, r := range t.Routes {
				for _, d := range destinations(tx, r) {
					if r.Target != cloud.LocalTarget && d.Bits() >= block.Bits() && block.Contains(d.Addr()) {
						return awsapi.InvalidParameterValue("The CIDR '%s' contains the destination %s of a route in %s", block, d, t.ID)
					}
				}
			}
			t.Routes = slices.Insert(t.Routes, locals(t), cloud.Route{Destination: block, Target: cloud.LocalTarget})
			store.Put(tx, store.RouteTables, t)
		}
		vpc.Secondary = append(vpc.Secondary, added)
		store.Put(tx, store.VPCs, vpc)
		id = vpc.ID
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := rangeShape(added, "associating")
	return &ec2.AssociateVpcCidrBlockResult{VpcId: text(id), CidrBlockAssociation: &shape}, nil
}

// locals is how many local routes a table begins with.
func locals(t *cloud.RouteTable) int {
	n := 0
	for n < len(t.Routes) && t.Routes[n].Target == cloud.LocalTarget {
		n++
	}
	return n
}

func (s *Service) disassociateVPCRange(ctx context.Context, call *awsapi.Call, req *ec2.DisassociateVpcCidrBlockRequest) (*ec2.DisassociateVpcCidrBlockResult, error) {
	id := deref(req.AssociationId)
	if !cloud.ValidID[cloud.VPCRangeID](id) {
		return nil, awsapi.Malformed("InvalidAssociationID.Malformed", id)
	}
	var gone cloud.VPCRange
	var of cloud.VPCID
	v6 := false
	err := s.update(ctx, call, func(tx *store.Tx) error {
		for _, vpc := range store.ListBy(tx, store.VPCsByAccount, call.Account) {
			if string(vpc.FirstRange()) == id {
				return awsapi.Errorf("OperationNotPermitted", "The vpc CIDR block with association ID %s may not be disassociated. It is the primary IPv4 CIDR block of the VPC", id)
			}
			if n := slices.IndexFunc(vpc.IPv6, func(r cloud.VPCRange) bool { return string(r.ID) == id }); n >= 0 {
				var err error
				of, v6 = vpc.ID, true
				gone, err = dropIPv6Range(tx, vpc, n)
				return err
			}
			n := slices.IndexFunc(vpc.Secondary, func(r cloud.VPCRange) bool { return string(r.ID) == id })
			if n < 0 {
				continue
			}
			gone, of = vpc.Secondary[n], vpc.ID
			for _, subnet := range store.ListBy(tx, store.SubnetsByVPC, vpc.ID) {
				if gone.Prefix.Overlaps(subnet.CIDR) {
					return awsapi.Errorf("DependencyViolation", "The vpc CIDR block with association ID %s has dependencies and cannot be disassociated.", id)
				}
			}
			for _, t := range store.ListBy(tx, store.RouteTablesByVPC, vpc.ID) {
				t.Routes = slices.DeleteFunc(t.Routes, func(r cloud.Route) bool { return r.Target == cloud.LocalTarget && r.Destination == gone.Prefix })
				store.Put(tx, store.RouteTables, t)
			}
			vpc.Secondary = slices.Delete(vpc.Secondary, n, n+1)
			store.Put(tx, store.VPCs, vpc)
			return nil
		}
		return awsapi.Errorf("InvalidVpcCidrBlockAssociationID.NotFound", "The vpc CIDR block association ID '%s' does not exist", id)
	})
	if err != nil {
		return nil, err
	}
	if v6 {
		return &ec2.DisassociateVpcCidrBlockResult{VpcId: text(of), Ipv6CidrBlockAssociation: new(ipv6RangeShape(gone, call.Region, "disassociating"))}, nil
	}
	shape := rangeShape(gone, "disassociating")
	return &ec2.DisassociateVpcCidrBlockResult{VpcId: text(of), CidrBlockAssociation: &shape}, nil
}

func rangeShape(r cloud.VPCRange, state string) ec2.VpcCidrBlockAssociation {
	return ec2.VpcCidrBlockAssociation{AssociationId: text(r.ID), CidrBlock: new(r.Prefix.String()), CidrBlockState: &ec2.VpcCidrBlockState{State: &state}}
}

func vpcShape(v *cloud.VPC, region string) ec2.Vpc {
	out := ec2.Vpc{VpcId: text(v.ID), OwnerId: text(v.Account), State: new("available"), CidrBlock: new(v.CIDR.String()), DhcpOptionsId: new("default"),
		InstanceTenancy: new("default"), IsDefault: &v.Default, Tags: tagList(v.Tags), Ipv6CidrBlockAssociationSet: []ec2.VpcIpv6CidrBlockAssociation{},
		CidrBlockAssociationSet: []ec2.VpcCidrBlockAssociation{rangeShape(cloud.VPCRange{ID: v.FirstRange(), Prefix: v.CIDR}, "associated")}}
	if v.DHCPOptions != "" {
		out.DhcpOptionsId = text(v.DHCPOptions)
	}
	for _, r := range v.Secondary {
		out.CidrBlockAssociationSet = append(out.CidrBlockAssociationSet, rangeShape(r, "associated"))
	}
	for _, r := range v.IPv6 {
		out.Ipv6CidrBlockAssociationSet = append(out.Ipv6CidrBlockAssociationSet, ipv6RangeShape(r, region, "associated"))
	}
	return out
}
