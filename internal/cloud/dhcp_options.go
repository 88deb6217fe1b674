package cloud

import "time"

// DHCPOptions are what a VPC tells its interfaces by DHCP.
type DHCPOptions struct {
	ID      DHCPOptionsID
	Account AccountID
	// Options are in the order of their making: domain-name, domain-name-servers, ntp-servers, netbios-name-servers,
	// netbios-node-type, ipv6-address-preferred-lease-time. "AmazonProvidedDNS" stands for the VPC's resolver.
	Options []DHCPOption
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
