package cloud_test

import (
	"net/netip"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestVPCsDontMixFamiliesOfPrivateRanges(t *testing.T) {
	for _, c := range []struct {
		has, more string
		may       bool
	}{
		{"10.5.0.0/16", "10.9.0.0/16", true},
		{"10.5.0.0/16", "10.0.0.0/24", true},
		{"10.1.0.0/16", "10.0.0.0/24", false},
		{"10.1.0.0/16", "10.2.0.0/24", true},
		{"10.5.0.0/16", "172.16.0.0/16", false},
		{"10.5.0.0/16", "192.168.0.0/24", false},
		{"10.5.0.0/16", "198.19.0.0/24", false},
		{"10.5.0.0/16", "100.64.0.0/16", true},
		{"10.5.0.0/16", "8.8.0.0/16", true},
		{"172.20.0.0/16", "172.21.0.0/16", true},
		{"172.20.0.0/16", "172.31.0.0/24", false},
		{"172.20.0.0/16", "10.0.0.0/24", false},
		{"192.168.0.0/20", "192.168.64.0/20", true},
		{"192.168.0.0/20", "10.0.0.0/24", false},
		{"198.19.0.0/20", "198.19.64.0/20", true},
		{"198.19.0.0/20", "192.168.64.0/20", false},
		{"100.64.0.0/16", "10.0.0.0/16", false},
		{"100.64.0.0/16", "100.65.0.0/16", true},
		{"8.8.0.0/16", "169.254.0.0/24", false},
		{"8.8.0.0/16", "127.0.0.0/16", false},
	} {
		v := cloud.VPC{CIDR: netip.MustParsePrefix(c.has)}
		if got := v.Admits(netip.MustParsePrefix(c.more)); got != c.may {
			t.Errorf("a VPC of %s takes %s: %v", c.has, c.more, got)
		}
	}
}

func TestNoVPCHasARangeThatHostsNeedThemselves(t *testing.T) {
	for _, p := range []string{"127.0.0.0/16", "169.254.0.0/16", "169.254.169.0/28", "0.0.0.0/16", "224.0.0.0/16", "255.255.0.0/16"} {
		if cloud.Assignable(netip.MustParsePrefix(p)) {
			t.Errorf("a VPC may have %s", p)
		}
	}
	for _, p := range []string{"10.0.0.0/16", "172.31.0.0/16", "8.8.0.0/16", "198.18.0.0/16"} {
		if !cloud.Assignable(netip.MustParsePrefix(p)) {
			t.Errorf("no VPC may have %s", p)
		}
	}
}
