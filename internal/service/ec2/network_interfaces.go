package ec2

import (
	"context"
	"slices"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerNetworkInterfaces(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeNetworkInterfaces, s.describeNetworkInterfaces, awsapi.Honours("Filters", "NetworkInterfaceIds", "MaxResults", "NextToken"))
}

func (s *Service) describeNetworkInterfaces(_ context.Context, call *awsapi.Call, req *ec2.DescribeNetworkInterfacesRequest) (*ec2.DescribeNetworkInterfacesResult, error) {
	if err := pageBounds(req.MaxResults, 5, 1000, req.NetworkInterfaceIds, "networkInterfaceIds"); err != nil {
		return nil, err
	}
	view := s.store.View()
	list := store.ListBy(view, store.InterfacesByAccount, call.Account)
	if len(req.NetworkInterfaceIds) > 0 {
		var err error
		if list, err = lookupAll(view, store.Interfaces, ownerOfInterface, kindInterface, call.Account, req.NetworkInterfaceIds); err != nil {
			return nil, err
		}
	}
	pass, err := interfaceFilters(view, call.Region).Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(slices.Clone(list), func(n *cloud.Interface) bool { return !pass(n) })
	page, err := awsapi.Paginate(list, func(n *cloud.Interface) string { return string(n.ID) }, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	d := newDescriber(view)
	out := &ec2.DescribeNetworkInterfacesResult{NextToken: page.Next, NetworkInterfaces: []ec2.NetworkInterface{}}
	for _, n := range page.Items {
		out.NetworkInterfaces = append(out.NetworkInterfaces, d.elasticInterface(n))
	}
	return out, nil
}

func (d *describer) elasticInterface(n *cloud.Interface) ec2.NetworkInterface {
	ip, name := new(n.PrivateIP.String()), new(cloud.PrivateDNSName(n.PrivateIP, d.region))
	out := ec2.NetworkInterface{
		NetworkInterfaceId: text(n.ID), SubnetId: text(n.Subnet), VpcId: text(n.VPC), AvailabilityZone: &n.Zone, Description: new(n.Description),
		OwnerId: text(n.Account), RequesterManaged: new(false), Status: new("in-use"), MacAddress: &n.MAC, PrivateIpAddress: ip, PrivateDnsName: name,
		SourceDestCheck: &n.SourceDestCheck, Groups: d.groupList(n.Groups), InterfaceType: new("interface"), TagSet: tagList(n.Tags),
		Ipv6Addresses: []ec2.NetworkInterfaceIpv6Address{},
		Attachment: &ec2.NetworkInterfaceAttachment{AttachmentId: text(n.Attachment), InstanceId: text(n.Instance), InstanceOwnerId: text(n.Account),
			DeviceIndex: new(int64(n.DeviceIndex)), NetworkCardIndex: new(int64(0)), Status: new("attached"), AttachTime: &n.AttachTime,
			DeleteOnTermination: &n.DeleteOnTermination},
	}
	if n.PublicIP.IsValid() {
		out.Association = &ec2.NetworkInterfaceAssociation{PublicIp: new(n.PublicIP.String()), PublicDnsName: new(cloud.PublicDNSName(n.PublicIP, d.region)),
			IpOwnerId: new(ipOwner(n)), AllocationId: text(n.Allocation)}
		if a, ok := store.Get(d.r, store.Addresses, n.Allocation); ok {
			out.Association.AssociationId = text(a.Association)
		}
	}
	out.PrivateIpAddresses = []ec2.NetworkInterfacePrivateIpAddress{{PrivateIpAddress: ip, PrivateDnsName: name, Primary: new(true), Association: out.Association}}
	return out
}

// interfaceFilters are the documented filters of DescribeNetworkInterfaces.
func interfaceFilters(view *store.View, region string) awsapi.FilterSet[*cloud.Interface] {
	type get = func(*cloud.Interface) []string
	one := func(f func(*cloud.Interface) string) get {
		return func(n *cloud.Interface) []string {
			if v := f(n); v != "" {
				return []string{v}
			}
			return nil
		}
	}
	fixed := func(list ...string) get { return func(*cloud.Interface) []string { return list } }
	none := fixed()
	public := func(f func(*cloud.Interface) string) get {
		return one(func(n *cloud.Interface) string {
			if !n.PublicIP.IsValid() {
				return ""
			}
			return f(n)
		})
	}
	privateIP, privateName := one(func(n *cloud.Interface) string { return n.PrivateIP.String() }), one(func(n *cloud.Interface) string { return cloud.PrivateDNSName(n.PrivateIP, region) })
	publicIP, publicName := public(func(n *cloud.Interface) string { return n.PublicIP.String() }), public(func(n *cloud.Interface) string { return cloud.PublicDNSName(n.PublicIP, region) })
	association := one(func(n *cloud.Interface) string {
		if a, ok := store.Get(view, store.Addresses, n.Allocation); ok {
			return string(a.Association)
		}
		return ""
	})
	allocation := one(func(n *cloud.Interface) string { return string(n.Allocation) })
	return awsapi.FilterSet[*cloud.Interface]{Tags: func(n *cloud.Interface) map[string]string { return n.Tags }, Values: map[string]get{
		"addresses.association.owner-id": public(ipOwner), "addresses.association.public-ip": publicIP, "addresses.primary": fixed("true"),
		"addresses.private-ip-address": privateIP, "association.allocation-id": allocation, "association.association-id": association,
		"association.ip-owner-id": public(ipOwner), "association.public-dns-name": publicName, "association.public-ip": publicIP,
		"attachment.attach-time":           one(func(n *cloud.Interface) string { return timeText(n.AttachTime) }),
		"attachment.attachment-id":         one(func(n *cloud.Interface) string { return string(n.Attachment) }),
		"attachment.delete-on-termination": one(func(n *cloud.Interface) string { return boolText(n.DeleteOnTermination) }),
		"attachment.device-index":          one(func(n *cloud.Interface) string { return strconv.Itoa(n.DeviceIndex) }),
		"attachment.instance-id":           one(func(n *cloud.Interface) string { return string(n.Instance) }),
		"attachment.instance-owner-id":     one(func(n *cloud.Interface) string { return string(n.Account) }), "attachment.nat-gateway-id": none,
		"attachment.status": fixed("attached"), "availability-zone": one(func(n *cloud.Interface) string { return n.Zone }),
		"description": one(func(n *cloud.Interface) string { return n.Description }),
		"group-id":    func(n *cloud.Interface) []string { return strs(n.Groups) },
		"group-name": func(n *cloud.Interface) (out []string) {
			for _, id := range n.Groups {
				if g, ok := store.Get(view, store.SecurityGroups, id); ok {
					out = append(out, g.Name)
				}
			}
			return out
		},
		"interface-type": fixed("interface"), "ipv6-addresses.ipv6-address": none, "mac-address": one(func(n *cloud.Interface) string { return n.MAC }),
		"network-interface-id": one(func(n *cloud.Interface) string { return string(n.ID) }), "operator.managed": none, "operator.principal": none,
		"owner-id": one(func(n *cloud.Interface) string { return string(n.Account) }), "private-dns-name": privateName, "private-ip-address": privateIP,
		"requester-id": none, "requester-managed": fixed("false"), "source-dest-check": one(func(n *cloud.Interface) string { return boolText(n.SourceDestCheck) }),
		"status": fixed("in-use"), "subnet-id": one(func(n *cloud.Interface) string { return string(n.Subnet) }),
		"vpc-id": one(func(n *cloud.Interface) string { return string(n.VPC) }),
	}}
}
