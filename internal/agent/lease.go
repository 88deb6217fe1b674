package agent

import (
	"net"
	"net/netip"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agent/network/dhcp"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// lease is what the interface at a link of a VPC's namespace is told by DHCP.
func (a *Agent) lease(id cloud.VPCID, link int) (dhcp.Lease, bool) {
	vpc := a.vpcs.get(id)
	i, subnet, ok := a.cfg.Network.InterfaceAt(id, link)
	if !ok || vpc == nil {
		return dhcp.Lease{}, false
	}
	mac, err := net.ParseMAC(i.MAC)
	if err != nil {
		return dhcp.Lease{}, false
	}
	a.mu.Lock()
	region := a.region.Name
	a.mu.Unlock()
	l := leaseOf(vpc, i, subnet, region)
	l.MAC, l.MTU = mac, a.cfg.Network.MTU()
	return l, true
}

// leaseOf is a lease but for what is the link's. IPv6's values are none of DHCPv4's.
func leaseOf(vpc *agentrpc.VPC, i network.Interface, subnet network.Subnet, region string) dhcp.Lease {
	l := dhcp.Lease{Interface: i.ID, Address: i.PrivateIP, Subnet: subnet.CIDR, Hostname: cloud.HostName(i.PrivateIP)}
	for _, a := range i.Secondary {
		l.Others = append(l.Others, a.Private)
	}
	servers, domain := namesOf(vpc, region)
	l.DNS, l.Domain = addressesIPv4(servers), domain
	if o := vpc.DHCP; o != nil {
		l.NTP, l.NetBIOS = addressesIPv4(o.Values("ntp-servers")), addressesIPv4(o.Values("netbios-name-servers"))
		for _, v := range o.Values("netbios-node-type") {
			if n, err := strconv.ParseUint(v, 10, 8); err == nil {
				l.NetBIOSNodeType = byte(n)
			}
		}
	}
	return l
}

func addressesIPv4(values []string) (list []netip.Addr) {
	for _, v := range values {
		if a, err := netip.ParseAddr(v); err == nil && a.Is4() {
			list = append(list, a)
		}
	}
	return list
}
