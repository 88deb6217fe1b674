package ec2_test

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func (w *world) dhcpOptions(key string, values ...string) (string, error) {
	out, err := w.CreateDhcpOptions(w.t.Context(), &sdk.CreateDhcpOptionsInput{DhcpConfigurations: []types.NewDhcpConfiguration{{Key: &key, Values: values}}})
	if err != nil {
		return "", err
	}
	return *out.DhcpOptions.DhcpOptionsId, nil
}

// dhcpOf is the id of a VPC's options.
func (w *world) dhcpOf(vpc string) string {
	w.t.Helper()
	out, err := w.DescribeVpcs(w.t.Context(), &sdk.DescribeVpcsInput{VpcIds: []string{vpc}})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.Vpcs[0].DhcpOptionsId
}

func TestNewVPCsGetTheAccountsDefaultDHCPOptions(t *testing.T) {
	w := newWorld(t)
	vpc := w.vpc("10.0.0.0/16")
	out, err := w.DescribeDhcpOptions(t.Context(), &sdk.DescribeDhcpOptionsInput{DhcpOptionsIds: []string{w.dhcpOf(vpc)}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, c := range out.DhcpOptions[0].DhcpConfigurations {
		for _, v := range c.Values {
			got[*c.Key] = append(got[*c.Key], *v.Value)
		}
	}
	if len(got) != 2 || !slices.Equal(got["domain-name"], []string{"ec2.internal"}) || !slices.Equal(got["domain-name-servers"], []string{"AmazonProvidedDNS"}) {
		t.Errorf("the default options are %v", got)
	}
	if def := w.dhcpOf(string(w.subnet().VPC)); def != w.dhcpOf(vpc) {
		t.Errorf("the default VPC has %s, a new one %s", def, w.dhcpOf(vpc))
	}
}

func TestDHCPOptionsStayWhileAVPCHasThem(t *testing.T) {
	w := newWorld(t)
	vpc := w.vpc("10.0.0.0/16")
	id, err := w.dhcpOptions("domain-name-servers", "10.0.0.5", "AmazonProvidedDNS")
	if err != nil {
		t.Fatal(err)
	}
	associate := func(options string) error {
		_, err := w.AssociateDhcpOptions(t.Context(), &sdk.AssociateDhcpOptionsInput{DhcpOptionsId: &options, VpcId: &vpc})
		return err
	}
	remove := func() error {
		_, err := w.DeleteDhcpOptions(t.Context(), &sdk.DeleteDhcpOptionsInput{DhcpOptionsId: &id})
		return err
	}
	if err := associate(id); err != nil {
		t.Fatal(err)
	}
	if got := w.dhcpOf(vpc); got != id {
		t.Errorf("the VPC has %s, not %s", got, id)
	}
	refused(t, remove(), "DependencyViolation")
	if err := associate("default"); err != nil {
		t.Fatal(err)
	}
	if got := w.dhcpOf(vpc); got != "default" {
		t.Errorf("without options the VPC tells %q", got)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	refused(t, remove(), "InvalidDhcpOptionID.NotFound")
	refused(t, associate(id), "InvalidDhcpOptionID.NotFound")
	refused(t, associate("nonsense"), "InvalidDhcpOptionsId.Malformed")
}

func TestDHCPOptionsAreFoundByKeyAndValue(t *testing.T) {
	w := newWorld(t)
	id, err := w.dhcpOptions("domain-name", "corp.example.com")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"value": "corp.*", "dhcp-options-id": id} {
		out, err := w.DescribeDhcpOptions(t.Context(), &sdk.DescribeDhcpOptionsInput{Filters: []types.Filter{{Name: &name, Values: []string{value}}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.DhcpOptions) != 1 || aws.ToString(out.DhcpOptions[0].DhcpOptionsId) != id {
			t.Errorf("%s=%s finds %d sets", name, value, len(out.DhcpOptions))
		}
	}
}

func TestDHCPOptionsThatNoMachineCouldUseAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		key    string
		values []string
	}{
		{"domain-name", []string{"a\nnameserver 10.0.0.1"}},
		{"domain-name", []string{"a..b"}},
		{"domain-name", []string{"a.example", "b.example"}},
		{"domain-name-servers", []string{"ns.example.com"}},
		{"domain-name-servers", []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"}},
		{"ntp-servers", []string{"time.example.com"}},
		{"ntp-servers", []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"}},
		{"netbios-name-servers", []string{"fd00::137"}},
		{"netbios-node-type", []string{"3"}},
		{"netbios-node-type", []string{"1", "2"}},
		{"routers", []string{"10.0.0.1"}},
	} {
		_, err := w.dhcpOptions(c.key, c.values...)
		refused(t, err, "InvalidParameterValue")
	}
	for key, value := range map[string]string{"ntp-servers": "fd00::123", "ipv6-address-preferred-lease-time": "3600"} {
		_, err := w.dhcpOptions(key, value)
		refused(t, err, "UnsupportedOperation", key)
	}
}

func TestDHCPOptionsThatMachinesAreToldOfAreTaken(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		key    string
		values []string
	}{
		{"domain-name", []string{"a.example b.example"}},
		{"domain-name-servers", []string{"10.0.0.1", "10.0.0.2", "AmazonProvidedDNS", "fd00::53"}},
		{"ntp-servers", []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}},
		{"netbios-name-servers", []string{"192.0.2.1", "192.0.2.2"}},
		{"netbios-node-type", []string{"2"}},
	} {
		id, err := w.dhcpOptions(c.key, c.values...)
		if err != nil {
			t.Errorf("%s %v: %v", c.key, c.values, err)
			continue
		}
		out, err := w.DescribeDhcpOptions(t.Context(), &sdk.DescribeDhcpOptionsInput{DhcpOptionsIds: []string{id}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range out.DhcpOptions[0].DhcpConfigurations[0].Values {
			got = append(got, *v.Value)
		}
		if !slices.Equal(got, c.values) {
			t.Errorf("%s is told as %v, not %v", c.key, got, c.values)
		}
	}
}
