package agent

import (
	"net/netip"
	"slices"
	"testing"

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
