package network

import (
	"slices"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Network ACLs. They judge each packet alone, in both directions, before anything is known of flows: on its way out of
// the sender's subnet, then on its way into the receiver's. What stays within a subnet meets none, nor does what goes to the VPC's own
// services, which no router forwards.
//
// A subnet whose ACL lets everything pass is not in the maps, so that its packets pay one look-up.

// addACLs adds the chains of the subnets' ACLs, and tells whether there are any.
func addACLs(r *ruleset, v VPC) (any bool) {
	entries := map[cloud.NetworkACLID][]cloud.NetworkACLEntry{}
	for _, a := range v.ACLs {
		entries[a.ID] = a.Entries
	}
	for _, s := range v.Subnets {
		for _, egress := range []bool{true, false} {
			if s.ACL == "" || r.passesAll(entries[s.ACL], egress) {
				continue
			}
			if !any {
				r.set("map", "leaving", "type ifname : verdict")
				r.set("map", "entering", "type ifname : verdict")
				any = true
			}
			if _, ok := r.sets[linksOf(s.ID)]; !ok {
				r.set("set", linksOf(s.ID), "type ifname")
			}
			// Who is in the subnet is at the other end of what doesn't leave it.
			other := "oifname"
			if !egress {
				other = "iifname"
			}
			acl, refuse := aclChain(s.ACL, egress), r.refuseIn
			if egress {
				refuse = r.refuseOut
			}
			r.chain(subnetChain(s.ID, egress), "", other+" @"+linksOf(s.ID)+" return", "goto "+acl)
			if _, ok := r.chains[acl]; !ok {
				r.chain(acl, "", r.aclRules(entries[s.ACL], egress, refuse)...)
			}
		}
	}
	return any
}

func linksOf(id cloud.SubnetID) string { return "links-" + string(id) }

func subnetChain(id cloud.SubnetID, egress bool) string {
	if egress {
		return "leave-" + string(id)
	}
	return "enter-" + string(id)
}

func aclChain(id cloud.NetworkACLID, egress bool) string {
	if egress {
		return "egress-" + string(id)
	}
	return "ingress-" + string(id)
}

// underACL puts an interface under its subnet's ACL, where that refuses anything.
func underACL(r *ruleset, i Interface) {
	if _, ok := r.sets[linksOf(i.Subnet)]; !ok {
		return
	}
	link := quoted(i.ID)
	r.element(linksOf(i.Subnet), link, "")
	for _, egress := range []bool{true, false} {
		name := subnetChain(i.Subnet, egress)
		if _, ok := r.chains[name]; !ok {
			continue
		}
		way := "entering"
		if egress {
			way = "leaving"
		}
		r.element(way, link, "jump "+name)
	}
}

// inOrder are the entries of one direction for a family, as they are tried.
func (f family) inOrder(list []cloud.NetworkACLEntry, egress bool) []cloud.NetworkACLEntry {
	var out []cloud.NetworkACLEntry
	for _, e := range list {
		if e.Egress == egress && f.has(e.Prefix.Addr()) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b cloud.NetworkACLEntry) int { return a.Number - b.Number })
	return out
}

func (f family) passesAll(list []cloud.NetworkACLEntry, egress bool) bool {
	entries := f.inOrder(list, egress)
	return len(entries) > 0 && entries[0].Allow && entries[0].Protocol == cloud.ProtocolAll && entries[0].Prefix.Bits() == 0
}

// aclRules are an ACL's entries of one direction; refuse is the verdict of those that let nothing pass.
func (f family) aclRules(list []cloud.NetworkACLEntry, egress bool, refuse string) (rules []string) {
	for _, e := range f.inOrder(list, egress) {
		side, verdict := "saddr", refuse
		if egress {
			side = "daddr"
		}
		if e.Allow {
			verdict = "return"
		}
		match := ""
		if e.Prefix.Bits() > 0 {
			match = f.word + " " + side + " " + e.Prefix.String() + " "
		}
		rules = append(rules, match+f.protocolMatch(cloud.SecurityGroupRule{Protocol: e.Protocol, FromPort: e.FromPort, ToPort: e.ToPort})+verdict)
	}
	return append(rules, refuse)
}
