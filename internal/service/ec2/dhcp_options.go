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

func (s *Service) registerDHCPOptions(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateDhcpOptions, s.createDHCPOptions, awsapi.Honours("DhcpConfigurations", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeleteDhcpOptions, s.deleteDHCPOptions, awsapi.Honours("DhcpOptionsId"))
	awsapi.Handle(r, ec2.ActionAssociateDhcpOptions, s.associateDHCPOptions, awsapi.Honours("DhcpOptionsId", "VpcId"))
	awsapi.Handle(r, ec2.ActionDescribeDhcpOptions, s.describeDHCPOptions, awsapi.Honours("DhcpOptionsIds", "Filters", "MaxResults", "NextToken"))
}

const (
	maxDHCPServers  = 4   // addresses an option, EC2's limit
	maxSearchDomain = 255 // bytes
)

// defaultDHCPOptions finds the set that an account's new VPCs get, and makes it for an account that has none.
func (s *Service) defaultDHCPOptions(tx *store.Tx, call *awsapi.Call) cloud.DHCPOptionsID {
	for _, o := range store.ListBy(tx, store.DHCPOptionsByAccount, call.Account) {
		if o.Default {
			return o.ID
		}
	}
	o := cloud.DefaultDHCPOptions(newID[cloud.DHCPOptionsID](s), call.Account, call.Region, call.Now)
	store.Put(tx, store.DHCPOptions, &o)
	return o.ID
}

// dhcpOption validates one option of a new set.
func dhcpOption(c ec2.NewDhcpConfiguration) (cloud.DHCPOption, error) {
	option := cloud.DHCPOption{Key: deref(c.Key), Values: c.Values}
	most := 1
	var valid func(string) bool
	switch option.Key {
	case "":
		return option, awsapi.MissingParameter("DhcpConfiguration.Key")
	case "domain-name":
		valid = searchDomain
	case "domain-name-servers":
		most, valid = maxDHCPServers, func(v string) bool { return v == cloud.AmazonProvidedDNS || isServer(v, true) }
	case "ntp-servers":
		most, valid = maxDHCPServers, func(v string) bool { return isServer(v, true) }
		for _, v := range option.Values {
			if isServer(v, true) && !isServer(v, false) {
				return option, awsapi.Unsupported("The address %s in the DHCP option ntp-servers is not supported by this cloud: it has no DHCPv6 to tell of it.", v)
			}
		}
	case "netbios-name-servers":
		most, valid = maxDHCPServers, func(v string) bool { return isServer(v, false) }
	case "netbios-node-type":
		valid = func(v string) bool { return slices.Contains([]string{"1", "2", "4", "8"}, v) }
	case "ipv6-address-preferred-lease-time":
		return option, awsapi.Unsupported("The DHCP option %s is not supported by this cloud, which has no DHCPv6: no machine would be told of it.", option.Key)
	default:
		return option, awsapi.InvalidParameterValue("Value (%s) for parameter name is invalid. Unknown DHCP option", option.Key)
	}
	if len(option.Values) == 0 {
		return option, awsapi.MissingParameter("DhcpConfiguration.Value")
	}
	if len(option.Values) > most {
		return option, awsapi.InvalidParameterValue("Too many values for DHCP option %s: %d at most", option.Key, most)
	}
	for _, v := range option.Values {
		if !valid(v) {
			return option, awsapi.InvalidParameterValue("Value (%s) for parameter value is invalid. Invalid DHCP option value.", v)
		}
	}
	return option, nil
}

// isServer tells whether v is a server's address; six allows those of IPv6.
func isServer(v string, six bool) bool {
	addr, err := netip.ParseAddr(v)
	return err == nil && addr.Zone() == "" && (six || addr.Is4())
}

// searchDomain tells whether v is one or several domain names with single spaces between them. What passes is one
// line of a machine's resolv.conf.
func searchDomain(v string) bool {
	if len(v) > maxSearchDomain {
		return false
	}
	for name := range strings.SplitSeq(v, " ") {
		for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
			odd := func(r rune) bool {
				return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
			}
			if label == "" || len(label) > 63 || strings.ContainsFunc(label, odd) {
				return false
			}
		}
	}
	return true
}

func (s *Service) createDHCPOptions(ctx context.Context, call *awsapi.Call, req *ec2.CreateDhcpOptionsRequest) (*ec2.CreateDhcpOptionsResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "dhcp-options")
	if err != nil {
		return nil, err
	}
	if len(req.DhcpConfigurations) == 0 {
		return nil, awsapi.MissingParameter("dhcpConfiguration")
	}
	o := cloud.DHCPOptions{ID: newID[cloud.DHCPOptionsID](s), Account: call.Account, Tags: tags["dhcp-options"], Created: call.Now}
	for _, c := range req.DhcpConfigurations {
		option, err := dhcpOption(c)
		if err != nil {
			return nil, err
		}
		if o.Values(option.Key) != nil {
			return nil, awsapi.InvalidParameterValue("The DHCP option %s is given more than once", option.Key)
		}
		o.Options = append(o.Options, option)
	}
	if err := s.update(ctx, call, func(tx *store.Tx) error { store.Put(tx, store.DHCPOptions, &o); return nil }); err != nil {
		return nil, err
	}
	return &ec2.CreateDhcpOptionsResult{DhcpOptions: new(dhcpOptionsShape(&o))}, nil
}

func (s *Service) deleteDHCPOptions(ctx context.Context, call *awsapi.Call, req *ec2.DeleteDhcpOptionsRequest) (*ec2.DeleteDhcpOptionsResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		o, err := lookup(tx, store.DHCPOptions, ownerOfDHCP, kindDHCP, call.Account, deref(req.DhcpOptionsId))
		if err != nil {
			return err
		}
		if len(store.ListBy(tx, store.VPCsByDHCPOptions, o.ID)) > 0 {
			return awsapi.Errorf("DependencyViolation", "The dhcpOptions '%s' has dependencies and cannot be deleted.", o.ID)
		}
		store.Delete(tx, store.DHCPOptions, o.ID)
		return nil
	})
	return &ec2.DeleteDhcpOptionsResult{}, err
}

// associateDHCPOptions gives a VPC another set; "default" is EC2's word for none. Machines get it as they boot, or renew their
// lease by DHCP.
func (s *Service) associateDHCPOptions(ctx context.Context, call *awsapi.Call, req *ec2.AssociateDhcpOptionsRequest) (*ec2.AssociateDhcpOptionsResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		vpc.DHCPOptions = ""
		if id := deref(req.DhcpOptionsId); id != "default" {
			o, err := lookup(tx, store.DHCPOptions, ownerOfDHCP, kindDHCP, call.Account, id)
			if err != nil {
				return err
			}
			vpc.DHCPOptions = o.ID
		}
		store.Put(tx, store.VPCs, vpc)
		return nil
	})
	return &ec2.AssociateDhcpOptionsResult{}, err
}

func (s *Service) describeDHCPOptions(_ context.Context, call *awsapi.Call, req *ec2.DescribeDhcpOptionsRequest) (*ec2.DescribeDhcpOptionsResult, error) {
	type O = *cloud.DHCPOptions
	l := listing[cloud.DHCPOptionsID, cloud.DHCPOptions]{store.DHCPOptions, store.DHCPOptionsByAccount, ownerOfDHCP, kindDHCP,
		func(o O) cloud.DHCPOptionsID { return o.ID }, awsapi.FilterSet[O]{Tags: func(o O) map[string]string { return o.Tags }, Values: map[string]func(O) []string{
			"dhcp-options-id": one(func(o O) string { return string(o.ID) }), "owner-id": one(func(o O) string { return string(o.Account) }),
			"key": func(o O) (keys []string) {
				for _, option := range o.Options {
					keys = append(keys, option.Key)
				}
				return keys
			},
			"value": func(o O) (values []string) {
				for _, option := range o.Options {
					values = append(values, option.Values...)
				}
				return values
			},
		}}}
	page, err := l.page(s.store.View(), call.Account, req.DhcpOptionsIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeDhcpOptionsResult{NextToken: page.Next, DhcpOptions: []ec2.DhcpOptions{}}
	for _, o := range page.Items {
		out.DhcpOptions = append(out.DhcpOptions, dhcpOptionsShape(o))
	}
	return out, nil
}

func dhcpOptionsShape(o *cloud.DHCPOptions) ec2.DhcpOptions {
	shape := ec2.DhcpOptions{DhcpOptionsId: text(o.ID), OwnerId: text(o.Account), Tags: tagList(o.Tags), DhcpConfigurations: []ec2.DhcpConfiguration{}}
	for _, option := range o.Options {
		c := ec2.DhcpConfiguration{Key: &option.Key}
		for _, v := range option.Values {
			c.Values = append(c.Values, ec2.AttributeValue{Value: &v})
		}
		shape.DhcpConfigurations = append(shape.DhcpConfigurations, c)
	}
	return shape
}
