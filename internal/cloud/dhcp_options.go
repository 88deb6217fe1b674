package cloud

import (
	"net/netip"
	"strings"
	"time"
)

// DHCPOptions are what a VPC tells its interfaces by DHCP.
type DHCPOptions struct {
	ID      DHCPOptionsID
	Account AccountID
	// Options are in the order of their making: domain-name, domain-name-servers, ntp-servers, netbios-name-servers, netbios-node-type. "AmazonProvidedDNS" stands for the VPC's resolver.
	Options []DHCPOption
	// Default marks the set that the account's new VPCs get.
	Default bool
	Tags    Tags
	Created time.Time
}

// DHCPOption is one option with its values.
type DHCPOption struct {
	Key    string
	Values []string
}

// AmazonProvidedDNS is the value of domain-name-servers that stands for the VPC's own resolver.
const AmazonProvidedDNS = "AmazonProvidedDNS"

// Values returns an option's values, nil when it isn't set.
func (o *DHCPOptions) Values(key string) []string {
	for _, option := range o.Options {
		if option.Key == key {
			return option.Values
		}
	}
	return nil
}

// DefaultDHCPOptions is the set that an account begins with.
func DefaultDHCPOptions(id DHCPOptionsID, account AccountID, region string, now time.Time) DHCPOptions {
	return DHCPOptions{ID: id, Account: account, Default: true, Created: now, Options: []DHCPOption{
		{Key: "domain-name", Values: []string{PrivateDomain(region)}},
		{Key: "domain-name-servers", Values: []string{AmazonProvidedDNS}},
	}}
}

// Servers are the DNS servers for machines of a VPC, given the address of the VPC's own resolver.
func (o *DHCPOptions) Servers(resolver netip.Addr) (servers []string) {
	for _, v := range o.Values("domain-name-servers") {
		if v == AmazonProvidedDNS {
			v = resolver.String()
		}
		servers = append(servers, v)
	}
	return servers
}

// Domain is the search domain for machines, several with spaces between them, empty when none is set.
func (o *DHCPOptions) Domain() string { return strings.Join(o.Values("domain-name"), " ") }
