package network

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestARuleThatNamesAPrefixListLetsInWhatTheListHas(t *testing.T) {
	w := newWorld(t)
	web := Group{ID: "sg-web", Rules: []cloud.SecurityGroupRule{{Protocol: cloud.ProtocolTCP, FromPort: 80, ToPort: 80, PrefixList: "pl-1"}, out()}}
	mute := Group{ID: "sg-mute", Rules: []cloud.SecurityGroupRule{{Egress: true, Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, PrefixList: "pl-2"}}}
	v := vpcOf("vpc-a", web, mute)
	w.apply(v)
	server, six, seven := w.box("vpc-a", 5, false, "sg-web"), w.box("vpc-a", 6, false, "sg-mute"), w.box("vpc-a", 7, false, "sg-mute")
	server.serve(80)
	all := prefixes("0.0.0.0/0", "10.7.0.5/32")
	for _, c := range []struct {
		in, out            []netip.Prefix
		fromSix, fromSeven bool
		what               string
	}{
		{nil, nil, false, false, "lists that nobody knows"},
		{prefixes("10.7.0.6/32", "192.0.2.0/24"), all, true, false, "one address"},
		{prefixes("10.7.0.7/32", "10.7.0.0/24", "10.7.0.6/32", "10.7.0.7/32"), all, true, true, "ranges within others"},
		{prefixes("10.7.0.6/31"), prefixes("10.7.0.4/32"), false, false, "nowhere to send to"},
		{prefixes("192.0.2.0/24", "10.7.0.7/32"), prefixes("10.7.0.5/32", "10.7.0.4/32"), false, true, "the other address"},
		{all, all, true, true, "everything"},
		{[]netip.Prefix{}, all, false, false, "an empty list"},
	} {
		v.PrefixLists = map[cloud.PrefixListID][]netip.Prefix{"pl-1": c.in, "pl-2": c.out}
		if c.in == nil {
			v.PrefixLists = nil
		}
		w.apply(v)
		if got := six.ask(server.i.PrivateIP, 80) != ""; got != c.fromSix {
			t.Errorf("%s: 10.7.0.6 is answered: %v", c.what, got)
		}
		if got := seven.ask(server.i.PrivateIP, 80) != ""; got != c.fromSeven {
			t.Errorf("%s: 10.7.0.7 is answered: %v", c.what, got)
		}
	}
}

func TestRangesWithinOthersAreLeftOut(t *testing.T) {
	for _, c := range [][2][]netip.Prefix{
		{nil, nil},
		{prefixes("10.1.0.0/16", "10.0.0.0/16"), prefixes("10.0.0.0/16", "10.1.0.0/16")},
		{prefixes("10.0.0.1/32", "10.0.0.0/8", "10.0.0.0/8", "10.255.0.0/16", "11.0.0.0/8"), prefixes("10.0.0.0/8", "11.0.0.0/8")},
		{prefixes("fd00::/8", "0.0.0.0/0", "10.0.0.0/8", "fd00::1/128"), prefixes("0.0.0.0/0", "fd00::/8")},
	} {
		if got := outermost(c[0]); !slices.Equal(got, c[1]) {
			t.Errorf("of %v stay %v", c[0], got)
		}
	}
}
