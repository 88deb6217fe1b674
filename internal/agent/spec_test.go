package agent

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/agent/network/dhcp"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestMachinesGetTheDNSServersAndDomainOfTheirVPCsOptions(t *testing.T) {
	vpc := cloud.VPC{CIDR: netip.MustParsePrefix("10.1.0.0/16"), DHCPOptions: "dopt-1"}
	none := vpc
	none.DHCPOptions = ""
	def := cloud.DefaultDHCPOptions("dopt-1", "1", "us-east-1", vpc.Created)
	own := cloud.DHCPOptions{Options: []cloud.DHCPOption{{Key: "domain-name", Values: []string{"a.example b.example"}},
		{Key: "domain-name-servers", Values: []string{"10.1.0.53", cloud.AmazonProvidedDNS}}}}
	for name, c := range map[string]struct {
		vpc       agentrpc.VPC
		resolvers []string
		domain    string
	}{
		"the default set":                      {agentrpc.VPC{VPC: vpc, DHCP: &def}, []string{"10.1.0.2"}, "ec2.internal"},
		"a set of one's own":                   {agentrpc.VPC{VPC: vpc, DHCP: &own}, []string{"10.1.0.53", "10.1.0.2"}, "a.example b.example"},
		"no set":                               {agentrpc.VPC{VPC: none}, nil, ""},
		"a control plane that tells of no set": {agentrpc.VPC{VPC: vpc}, []string{"10.1.0.2"}, "ec2.internal"},
	} {
		if resolvers, domain := namesOf(&c.vpc, "us-east-1"); !slices.Equal(resolvers, c.resolvers) || domain != c.domain {
			t.Errorf("%s: %v and %q", name, resolvers, domain)
		}
	}
}

func TestALeaseTellsWhatTheVPCsOptionsSay(t *testing.T) {
	vpc := agentrpc.VPC{VPC: cloud.VPC{CIDR: netip.MustParsePrefix("10.1.0.0/16"), DHCPOptions: "dopt-1"}, DHCP: &cloud.DHCPOptions{Options: []cloud.DHCPOption{
		{Key: "domain-name", Values: []string{"corp.example"}}, {Key: "domain-name-servers", Values: []string{cloud.AmazonProvidedDNS, "fd00::53", "192.0.2.53"}},
		{Key: "ntp-servers", Values: []string{"192.0.2.123"}}, {Key: "netbios-name-servers", Values: []string{"192.0.2.137"}}, {Key: "netbios-node-type", Values: []string{"2"}}}}}
	i := network.Interface{ID: "eni-1", PrivateIP: netip.MustParseAddr("10.1.2.3"), Secondary: []network.Address{{Private: netip.MustParseAddr("10.1.2.4")}}}
	got := leaseOf(&vpc, i, network.Subnet{CIDR: netip.MustParsePrefix("10.1.2.0/24")}, "us-east-1")
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	want := dhcp.Lease{Interface: "eni-1", Address: netip.MustParseAddr("10.1.2.3"), Others: addrs("10.1.2.4"), Subnet: netip.MustParsePrefix("10.1.2.0/24"), Hostname: "ip-10-1-2-3",
		Domain: "corp.example", DNS: addrs("10.1.0.2", "192.0.2.53"), NTP: addrs("192.0.2.123"), NetBIOS: addrs("192.0.2.137"), NetBIOSNodeType: 2}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the lease is %+v, not %+v", got, want)
	}
	if none := leaseOf(&agentrpc.VPC{VPC: cloud.VPC{CIDR: vpc.VPC.CIDR}}, i, network.Subnet{}, "us-east-1"); none.DNS != nil || none.Domain != "" {
		t.Errorf("without a set, a lease tells of %v and %q", none.DNS, none.Domain)
	}
}
