package metadata

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// tree is an instance's meta-data.
func tree(i Instance) *node {
	n := &node{}
	in := i.Instance
	n.set("ami-id", string(in.Image))
	n.set("ami-launch-index", strconv.Itoa(in.LaunchIndex))
	n.set("ami-manifest-path", "(unknown)")
	n.set("block-device-mapping/ami", "xvda")
	n.set("block-device-mapping/root", "/dev/xvda")
	n.set("instance-action", "none")
	n.set("instance-id", string(in.ID))
	n.set("instance-life-cycle", "on-demand")
	n.set("instance-type", string(in.Type))
	if h := in.Hardware; h.Kernel != "" {
		n.set("kernel-id", string(h.Kernel))
		if h.Ramdisk != "" {
			n.set("ramdisk-id", string(h.Ramdisk))
		}
	}
	n.set("placement/availability-zone", in.Zone)
	n.set("placement/availability-zone-id", i.ZoneID)
	if in.GroupName != "" {
		n.set("placement/group-name", in.GroupName)
	}
	if in.Partition > 0 {
		n.set("placement/partition-number", strconv.Itoa(in.Partition))
	}
	n.set("placement/region", i.Region)
	n.set("profile", "default-hvm")
	n.set("reservation-id", string(in.Reservation))
	n.set("services/domain", "amazonaws.com")
	n.set("services/partition", "aws")
	if in.PublicKey != "" {
		n.set("public-keys/0", "0="+in.KeyName)
		n.set("public-keys/0/openssh-key", strings.TrimSpace(in.PublicKey)+" "+in.KeyName)
	}
	if in.Metadata.InstanceTags {
		for k, v := range in.Tags {
			if !strings.Contains(k, "/") { // EC2 refuses such tags where tags are shown here
				n.set("tags/instance/"+k, v)
			}
		}
	}
	for at, nic := range i.Interfaces {
		interfaceTree(n, i, nic)
		if at > 0 {
			continue
		}
		name := cloud.PrivateDNSName(nic.PrivateIP, i.Region)
		n.set("security-groups", groupNames(i, nic))
		n.set("hostname", name)
		n.set("local-hostname", name)
		n.set("local-ipv4", nic.PrivateIP.String())
		n.set("mac", nic.MAC)
		if nic.PublicIP().IsValid() {
			if i.VPC == nil || i.VPC.EnableDNSHostnames {
				n.set("public-hostname", cloud.PublicDNSName(nic.PublicIP(), i.Region))
			}
			n.set("public-ipv4", nic.PublicIP().String())
		}
		if len(nic.IPv6) > 0 {
			n.set("ipv6", nic.IPv6[0].String())
		}
	}
	return n
}

func interfaceTree(n *node, i Instance, nic cloud.Interface) {
	at := "network/interfaces/macs/" + nic.MAC + "/"
	n.set(at+"device-number", strconv.Itoa(nic.DeviceIndex))
	n.set(at+"interface-id", string(nic.ID))
	n.set(at+"local-hostname", cloud.PrivateDNSName(nic.PrivateIP, i.Region))
	n.set(at+"local-ipv4s", lines(nic.Addresses()))
	n.set(at+"mac", nic.MAC)
	n.set(at+"owner-id", string(nic.Account))
	n.set(at+"subnet-id", string(nic.Subnet))
	n.set(at+"vpc-id", string(nic.VPC))
	ids := make([]string, len(nic.Groups))
	for k, g := range nic.Groups {
		ids[k] = string(g)
	}
	n.set(at+"security-group-ids", strings.Join(ids, "\n"))
	n.set(at+"security-groups", groupNames(i, nic))
	n.set(at+"network-card", "0")
	if len(nic.IPv6) > 0 {
		n.set(at+"ipv6s", lines(nic.IPv6))
	}
	if s, ok := i.Subnets[nic.Subnet]; ok {
		n.set(at+"subnet-ipv4-cidr-block", s.CIDR.String())
		if s.IPv6.IsValid() {
			n.set(at+"subnet-ipv6-cidr-blocks", s.IPv6.String())
		}
	}
	if i.VPC != nil {
		n.set(at+"vpc-ipv4-cidr-block", i.VPC.CIDR.String())
		var four, six []netip.Prefix
		for _, p := range i.VPC.Ranges() {
			if p.Addr().Is4() {
				four = append(four, p)
			} else {
				six = append(six, p)
			}
		}
		n.set(at+"vpc-ipv4-cidr-blocks", lines(four))
		if len(six) > 0 {
			n.set(at+"vpc-ipv6-cidr-blocks", lines(six))
		}
	}
	var publics []netip.Addr
	for _, addr := range nic.Addresses() {
		if p := nic.Public(addr); p.Public.IsValid() {
			n.set(at+"ipv4-associations/"+p.Public.String(), addr.String())
			publics = append(publics, p.Public)
		}
	}
	if len(publics) > 0 {
		if i.VPC == nil || i.VPC.EnableDNSHostnames {
			n.set(at+"public-hostname", cloud.PublicDNSName(publics[0], i.Region))
		}
		n.set(at+"public-ipv4s", lines(publics))
	}
}

func lines[T fmt.Stringer](list []T) string {
	out := make([]string, len(list))
	for n, a := range list {
		out[n] = a.String()
	}
	return strings.Join(out, "\n")
}

func groupNames(i Instance, nic cloud.Interface) string {
	out := make([]string, len(nic.Groups))
	for n, g := range nic.Groups {
		out[n] = i.GroupNames[g]
	}
	return strings.Join(out, "\n")
}
