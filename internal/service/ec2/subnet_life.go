package ec2

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerSubnetLife(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateSubnet, s.createSubnet, awsapi.Honours("VpcId", "CidrBlock", "Ipv6CidrBlock", "AvailabilityZone", "AvailabilityZoneId", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeleteSubnet, s.deleteSubnet, awsapi.Honours("SubnetId"))
	awsapi.Handle(r, ec2.ActionModifySubnetAttribute, s.modifySubnetAttribute, awsapi.Honours("SubnetId", "MapPublicIpOnLaunch", "AssignIpv6AddressOnCreation"))
}

// maxSubnetsPerVPC is EC2's default limit.
const maxSubnetsPerVPC = 200

// zoneFor finds the zone that a call names, by name or id; the first one when it names none.
func zoneFor(r store.Reader, name, id string) (string, error) {
	region, ok := store.Region(r)
	if !ok || len(region.Zones) == 0 {
		return "", awsapi.Errorf("InternalError", "The region has no zones")
	}
	var names []string
	for _, z := range region.Zones {
		if (name == "" || z.Name == name) && (id == "" || z.ID == id) {
			return z.Name, nil
		}
		names = append(names, z.Name)
	}
	parameter, value := "availabilityZone", name
	if name == "" {
		parameter, value = "availabilityZoneId", id
	}
	return "", awsapi.InvalidParameterValue("Value (%s) for parameter %s is invalid. Subnets can currently only be created in the following availability zones: %s.", value, parameter, strings.Join(names, ", "))
}

func (s *Service) createSubnet(ctx context.Context, call *awsapi.Call, req *ec2.CreateSubnetRequest) (*ec2.CreateSubnetResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "subnet")
	if err != nil {
		return nil, err
	}
	if req.CidrBlock == nil {
		return nil, awsapi.MissingParameter("cidrBlock")
	}
	block, err := rangeOf(*req.CidrBlock, "cidrBlock", "InvalidSubnet.Range")
	if err != nil {
		return nil, err
	}
	var block6 netip.Prefix
	if req.Ipv6CidrBlock != nil {
		if block6, err = subnetIPv6Of(*req.Ipv6CidrBlock); err != nil {
			return nil, err
		}
	}
	range6 := newID[cloud.SubnetRangeID](s)
	subnet := cloud.Subnet{ID: newID[cloud.SubnetID](s), Account: call.Account, CIDR: block, ACLAssociation: newID[cloud.ACLAssociationID](s), Tags: tags["subnet"], Created: call.Now}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		if subnet.Zone, err = zoneFor(tx, deref(req.AvailabilityZone), deref(req.AvailabilityZoneId)); err != nil {
			return err
		}
		if err := placeSubnet(tx, vpc, &subnet); err != nil {
			return err
		}
		if block6.IsValid() {
			if err := giveSubnetIPv6(tx, vpc, &subnet, block6, range6); err != nil {
				return err
			}
		}
		store.Put(tx, store.Subnets, &subnet)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := subnetShape(s.store.View(), call.Region, &subnet)
	shape.State = new("pending")
	for n := range shape.Ipv6CidrBlockAssociationSet {
		shape.Ipv6CidrBlockAssociationSet[n].Ipv6CidrBlockState.State = new("associating")
	}
	return &ec2.CreateSubnetResult{Subnet: &shape}, nil
}

// placeSubnet puts a new subnet into a VPC, where nothing may be in its way, and under the VPC's default ACL.
func placeSubnet(tx *store.Tx, vpc *cloud.VPC, subnet *cloud.Subnet) error {
	if !vpc.Contains(subnet.CIDR) {
		return awsapi.Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid.", subnet.CIDR)
	}
	others := store.ListBy(tx, store.SubnetsByVPC, vpc.ID)
	if len(others) >= maxSubnetsPerVPC {
		return awsapi.Errorf("SubnetLimitExceeded", "The maximum number of subnets has been reached.")
	}
	for _, o := range others {
		if o.CIDR.Overlaps(subnet.CIDR) {
			return awsapi.Errorf("InvalidSubnet.Conflict", "The CIDR '%s' conflicts with another subnet", subnet.CIDR)
		}
	}
	subnet.VPC = vpc.ID
	for _, a := range store.ListBy(tx, store.NetworkACLsByVPC, vpc.ID) {
		if a.Default {
			subnet.ACL = a.ID
		}
	}
	return nil
}

func (s *Service) deleteSubnet(ctx context.Context, call *awsapi.Call, req *ec2.DeleteSubnetRequest) (*ec2.DeleteSubnetResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		subnet, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, call.Account, deref(req.SubnetId))
		if err != nil {
			return err
		}
		if len(store.ListBy(tx, store.InterfacesBySubnet, subnet.ID)) > 0 {
			return awsapi.Errorf("DependencyViolation", "The subnet '%s' has dependencies and cannot be deleted.", subnet.ID)
		}
		for _, t := range store.ListBy(tx, store.RouteTablesByVPC, subnet.VPC) {
			kept := slices.DeleteFunc(slices.Clone(t.Associations), func(a cloud.RouteAssociation) bool { return a.Subnet == subnet.ID })
			if len(kept) < len(t.Associations) {
				t.Associations = kept
				store.Put(tx, store.RouteTables, t)
			}
		}
		for _, x := range reservationsOf(tx, subnet.ID) {
			store.Delete(tx, store.SubnetReservations, x.ID)
		}
		store.Delete(tx, store.Subnets, subnet.ID)
		return nil
	})
	return &ec2.DeleteSubnetResult{}, err
}

func (s *Service) modifySubnetAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ModifySubnetAttributeRequest) (*ec2.ModifySubnetAttributeResult, error) {
	public, v6 := req.MapPublicIpOnLaunch, req.AssignIpv6AddressOnCreation
	switch {
	case public == nil && v6 == nil:
		return nil, awsapi.Errorf("MissingParameter", "An attribute to be modified must be specified")
	case public != nil && v6 != nil:
		return nil, awsapi.InvalidCombination("Fields for multiple attribute types specified")
	case public != nil && public.Value == nil || v6 != nil && v6.Value == nil:
		return nil, awsapi.MissingParameter("value")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		subnet, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, call.Account, deref(req.SubnetId))
		if err != nil {
			return err
		}
		switch {
		case public != nil:
			subnet.MapPublicIPOnLaunch = *public.Value
		case *v6.Value && !subnet.IPv6.IsValid():
			return awsapi.InvalidParameterValue("Invalid value 'true' for assignIpv6AddressOnCreation. The subnet %s does not have any IPv6 CIDR block associated with it", subnet.ID)
		default:
			subnet.AssignIPv6OnCreation = *v6.Value
		}
		store.Put(tx, store.Subnets, subnet)
		return nil
	})
	return &ec2.ModifySubnetAttributeResult{}, err
}

func subnetARN(region string, n *cloud.Subnet) string {
	return "arn:aws:ec2:" + region + ":" + string(n.Account) + ":subnet/" + string(n.ID)
}

func subnetShape(r store.Reader, region string, n *cloud.Subnet) ec2.Subnet {
	out := ec2.Subnet{SubnetId: text(n.ID), SubnetArn: new(subnetARN(region, n)), OwnerId: text(n.Account), VpcId: text(n.VPC), State: new("available"),
		CidrBlock: new(n.CIDR.String()), AvailabilityZone: &n.Zone, AvailableIpAddressCount: new(availableAddresses(r, n)),
		DefaultForAz: &n.DefaultForAZ, MapPublicIpOnLaunch: &n.MapPublicIPOnLaunch, MapCustomerOwnedIpOnLaunch: new(false), AssignIpv6AddressOnCreation: &n.AssignIPv6OnCreation,
		EnableDns64: new(false), Ipv6Native: new(false), Ipv6CidrBlockAssociationSet: []ec2.SubnetIpv6CidrBlockAssociation{}, Tags: tagList(n.Tags),
		PrivateDnsNameOptionsOnLaunch: &ec2.PrivateDnsNameOptionsOnLaunch{HostnameType: new("ip-name"), EnableResourceNameDnsARecord: new(false), EnableResourceNameDnsAAAARecord: new(false)}}
	if n.IPv6.IsValid() {
		out.Ipv6CidrBlockAssociationSet = append(out.Ipv6CidrBlockAssociationSet, subnetRangeShape(n.IPv6Range, n.IPv6, "associated"))
	}
	if reg, ok := store.Region(r); ok {
		for _, z := range reg.Zones {
			if z.Name == n.Zone {
				out.AvailabilityZoneId = text(z.ID)
			}
		}
	}
	return out
}
