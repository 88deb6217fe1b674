package ec2

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// interfaceStatus is EC2's word for where an interface is: in use from the attachment's first moment to its last.
func interfaceStatus(n *cloud.Interface) string {
	if n.Instance == "" && !n.RequesterManaged {
		return "available"
	}
	return "in-use"
}

func (d *describer) elasticInterface(n *cloud.Interface) ec2.NetworkInterface {
	out := ec2.NetworkInterface{
		NetworkInterfaceId: text(n.ID), SubnetId: text(n.Subnet), VpcId: text(n.VPC), AvailabilityZone: &n.Zone, Description: new(n.Description),
		OwnerId: text(n.Account), RequesterId: optional(n.Requester), RequesterManaged: &n.RequesterManaged, Status: new(interfaceStatus(n)), MacAddress: &n.MAC,
		PrivateIpAddress: new(n.PrivateIP.String()), PrivateDnsName: new(cloud.PrivateDNSName(n.PrivateIP, d.region)),
		SourceDestCheck: &n.SourceDestCheck, Groups: d.groupList(n.Groups), InterfaceType: new(n.InterfaceType), TagSet: tagList(n.Tags),
		PrivateIpAddresses: []ec2.NetworkInterfacePrivateIpAddress{}, Ipv6Addresses: []ec2.NetworkInterfaceIpv6Address{},
		Attachment: attachmentShape(n),
	}
	for _, addr := range n.Addresses() {
		out.PrivateIpAddresses = append(out.PrivateIpAddresses, ec2.NetworkInterfacePrivateIpAddress{PrivateIpAddress: new(addr.String()),
			PrivateDnsName: new(cloud.PrivateDNSName(addr, d.region)), Primary: new(addr == n.PrivateIP), Association: d.association(n, addr)})
	}
	out.Association = out.PrivateIpAddresses[0].Association
	for _, addr := range n.IPv6 {
		out.Ipv6Addresses = append(out.Ipv6Addresses, ec2.NetworkInterfaceIpv6Address{Ipv6Address: new(addr.String()), IsPrimaryIpv6: new(false)})
	}
	return out
}

func attachmentShape(n *cloud.Interface) *ec2.NetworkInterfaceAttachment {
	if n.Instance == "" {
		return nil
	}
	return &ec2.NetworkInterfaceAttachment{AttachmentId: text(n.Attachment), InstanceId: text(n.Instance), InstanceOwnerId: text(n.Account),
		DeviceIndex: new(int64(n.DeviceIndex)), NetworkCardIndex: new(int64(0)), Status: text(n.AttachState), AttachTime: &n.AttachTime,
		DeleteOnTermination: &n.DeleteOnTermination}
}

// association tells what stands for a private address, nil when nothing does.
func (d *describer) association(n *cloud.Interface, private netip.Addr) *ec2.NetworkInterfaceAssociation {
	p := n.Public(private)
	if !p.Public.IsValid() {
		return nil
	}
	out := &ec2.NetworkInterfaceAssociation{PublicIp: new(p.Public.String()), PublicDnsName: new(d.publicName(n.VPC, p.Public)),
		IpOwnerId: new(ipOwner(n, p)), AllocationId: text(p.Allocation)}
	if a, ok := store.Get(d.r, store.Addresses, p.Allocation); ok {
		out.AssociationId = text(a.Association)
	}
	return out
}

// interfaceValues are the values of an interface by the names that DescribeNetworkInterfaces' filters have.
func interfaceValues(view *store.View, region string) map[string]func(*cloud.Interface) []string {
	type N = *cloud.Interface
	fixed := func(list ...string) func(N) []string { return func(N) []string { return list } }
	none := fixed()
	each := func(f func(netip.Addr) string) func(N) []string {
		return func(n N) (out []string) {
			for _, addr := range n.Addresses() {
				out = append(out, f(addr))
			}
			return out
		}
	}
	publics := func(f func(N, cloud.PublicAddress) string) func(N) []string {
		return func(n N) (out []string) {
			for _, p := range n.Publics {
				if v := f(n, p); v != "" {
					out = append(out, v)
				}
			}
			return out
		}
	}
	attached := func(f func(N) string) func(N) []string {
		return one(func(n N) string {
			if n.Instance == "" {
				return ""
			}
			return f(n)
		})
	}
	ipv6 := func(n N) (out []string) {
		for _, addr := range n.IPv6 {
			out = append(out, addr.String())
		}
		return out
	}
	publicIP := publics(func(_ N, p cloud.PublicAddress) string { return p.Public.String() })
	d := newDescriber(view)
	publicName := publics(func(n N, p cloud.PublicAddress) string { return d.publicName(n.VPC, p.Public) })
	owner := publics(ipOwner)
	allocation := publics(func(_ N, p cloud.PublicAddress) string { return string(p.Allocation) })
	association := publics(func(_ N, p cloud.PublicAddress) string {
		if a, ok := store.Get(view, store.Addresses, p.Allocation); ok {
			return string(a.Association)
		}
		return ""
	})
	return map[string]func(N) []string{
		"addresses.association.owner-id": owner, "addresses.association.public-ip": publicIP,
		"addresses.primary":            func(n N) []string { return []string{"true", "false"}[:min(len(n.Addresses()), 2)] },
		"addresses.private-ip-address": each(netip.Addr.String), "association.allocation-id": allocation, "association.association-id": association,
		"association.ip-owner-id": owner, "association.public-dns-name": publicName, "association.public-ip": publicIP,
		"attachment.attach-time":           attached(func(n N) string { return timeText(n.AttachTime) }),
		"attachment.attachment-id":         attached(func(n N) string { return string(n.Attachment) }),
		"attachment.delete-on-termination": attached(func(n N) string { return boolText(n.DeleteOnTermination) }),
		"attachment.device-index":          attached(func(n N) string { return strconv.Itoa(n.DeviceIndex) }),
		"attachment.instance-id":           one(func(n N) string { return string(n.Instance) }),
		"attachment.instance-owner-id":     attached(func(n N) string { return string(n.Account) }), "attachment.nat-gateway-id": none,
		"attachment.status": attached(func(n N) string { return string(n.AttachState) }), "availability-zone": one(func(n N) string { return n.Zone }),
		"description": one(func(n N) string { return n.Description }),
		"group-id":    func(n N) []string { return strs(n.Groups) },
		"group-name": func(n N) (out []string) {
			for _, id := range n.Groups {
				if g, ok := store.Get(view, store.SecurityGroups, id); ok {
					out = append(out, g.Name)
				}
			}
			return out
		},
		"interface-type": one(func(n N) string { return n.InterfaceType }), "ipv6-addresses.ipv6-address": ipv6, "mac-address": one(func(n N) string { return n.MAC }),
		"network-interface-id": one(func(n N) string { return string(n.ID) }), "operator.managed": fixed("false"), "operator.principal": none,
		"owner-id": one(func(n N) string { return string(n.Account) }), "private-dns-name": one(func(n N) string { return cloud.PrivateDNSName(n.PrivateIP, region) }),
		"private-ip-address": each(netip.Addr.String), "requester-id": one(func(n N) string { return n.Requester }),
		"requester-managed": one(func(n N) string { return boolText(n.RequesterManaged) }), "source-dest-check": one(func(n N) string { return boolText(n.SourceDestCheck) }),
		"status": one(interfaceStatus), "subnet-id": one(func(n N) string { return string(n.Subnet) }),
		"vpc-id": one(func(n N) string { return string(n.VPC) }),
	}
}

// instanceInterfaceValues are the values of all interfaces of an instance, by the names that DescribeInstances' filters have
// behind "network-interface.".
func instanceInterfaceValues(view *store.View, region string) map[string]func(*cloud.Instance) []string {
	type N = *cloud.Interface
	of := interfaceValues(view, region)
	none := func(N) []string { return nil }
	for _, name := range []string{"addresses.association.carrier-ip", "addresses.association.customer-owned-ip", "association.carrier-ip",
		"association.customer-owned-ip", "deny-all-igw-traffic", "ipv4-prefixes.ipv4-prefix", "ipv6-prefixes.ipv6-prefix", "outpost-arn"} {
		of[name] = none
	}
	of["addresses.association.allocation-id"], of["addresses.association.association-id"] = of["association.allocation-id"], of["association.association-id"]
	of["addresses.association.ip-owner-id"], of["addresses.association.public-dns-name"] = of["association.ip-owner-id"], of["association.public-dns-name"]
	of["addresses.private-dns-name"], of["public-dns-name"] = of["private-dns-name"], of["association.public-dns-name"]
	of["attachment.network-card-index"] = func(N) []string { return []string{"0"} }
	of["ipv6-address"] = of["ipv6-addresses.ipv6-address"]
	of["ipv6-addresses.is-primary-ipv6"] = func(n N) []string { return []string{"false"}[:min(len(n.IPv6), 1)] }
	of["ipv6-native"] = func(N) []string { return []string{"false"} }
	of["tag-key"] = func(n N) []string { return slices.Collect(maps.Keys(n.Tags)) }
	of["tag-value"] = func(n N) []string { return slices.Collect(maps.Values(n.Tags)) }
	out := map[string]func(*cloud.Instance) []string{}
	for name, get := range of {
		out[name] = func(i *cloud.Instance) (values []string) {
			for _, id := range i.Interfaces {
				if n, ok := store.Get(view, store.Interfaces, id); ok {
					values = append(values, get(n)...)
				}
			}
			return values
		}
	}
	return out
}
