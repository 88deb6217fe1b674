package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Counting flows, for flow logs. The packet filter counts the packets of logged interfaces by their addresses and ports in sets
// that it fills by itself, one for each verdict and kind of ports; what was not seen for countsFor is forgotten. A VPC without
// flow logs has none of this.

// Flow is what was counted of one flow at one interface since it was first seen; counts begin anew when the packet filter
// is made anew.
type Flow struct {
	FlowKey
	Packets, Bytes uint64
}

// FlowKey names a flow in one direction, as an interface sees it.
type FlowKey struct {
	Interface            cloud.InterfaceID
	Accepted             bool
	Protocol             uint8
	Source, Destination  netip.Addr
	FromPort, TargetPort uint16 // 0 for protocols without ports
}

// Logged says whose flows are counted: an interface's, a subnet's, or, with neither, the VPC's.
type Logged struct {
	Subnet    cloud.SubnetID
	Interface cloud.InterfaceID
}

const (
	countsFor = "5m"
	// maxFlows bounds each set, and with it the kernel's memory: flows beyond are not counted.
	maxFlows = 16384
)

// flowSets are the kinds of ports that flows are told apart by.
var flowSets = []struct {
	name, match, typ, key string
	protocol              uint8 // 0 when the key says it
}{
	{"tcp", "meta l4proto tcp ", "inet_service . inet_service", "tcp sport . tcp dport", 6},
	{"udp", "meta l4proto udp ", "inet_service . inet_service", "udp sport . udp dport", 17},
	{"other", "meta l4proto != { tcp, udp } ", "inet_proto", "meta l4proto", 0},
}

// countFlows adds what counts, when anything is logged, and says where refused packets go.
func countFlows(r *ruleset, v VPC) {
	r.refuseOut, r.refuseIn = "drop", "drop"
	if len(v.Logged) == 0 {
		return
	}
	r.refuseOut, r.refuseIn = "goto refuse-out", "goto refuse-in"
	r.set("set", "logged", "type ifname")
	for _, verdict := range []string{"accepted", "rejected"} {
		for _, s := range flowSets {
			r.set("set", verdict+"-"+s.name, fmt.Sprintf("type ifname . %[1]s . %[1]s . %[2]s; flags dynamic,timeout; timeout %[3]s; size %[4]d", r.address, s.typ, countsFor, maxFlows))
		}
	}
	count := func(verdict, side string) (rules []string) {
		for _, s := range flowSets {
			// What the VPC's own services send comes in nowhere and is nobody's flow, as with EC2's.
			rules = append(rules, fmt.Sprintf(`iifname != "lo" %[1]s @logged %[2]supdate @%[3]s-%[4]s { %[1]s . %[5]s saddr . %[5]s daddr . %[6]s counter }`, side, s.match, verdict, s.name, r.word, s.key))
		}
		return rules
	}
	r.chain("count", "type filter hook postrouting priority filter; policy accept", append(count("accepted", "iifname"), count("accepted", "oifname")...)...)
	r.chain("refuse-out", "", append(count("rejected", "iifname"), "drop")...)
	r.chain("refuse-in", "", append(append(count("accepted", "iifname"), count("rejected", "oifname")...), "drop")...)
}

// logInterface lets an interface's packets be counted when it is logged.
func logInterface(r *ruleset, v VPC, i Interface) {
	for _, l := range v.Logged {
		if l == (Logged{}) || l.Subnet != "" && l.Subnet == i.Subnet || l.Interface != "" && l.Interface == i.ID {
			r.element("logged", quoted(i.ID), "")
		}
	}
}

// Flows returns what was counted in a VPC.
func (n *Network) Flows(ctx context.Context, id cloud.VPCID) ([]Flow, error) {
	v, err := n.known(id)
	if err != nil {
		return nil, err
	}
	byLink := map[string]cloud.InterfaceID{}
	v.mu.Lock()
	for _, i := range v.interfaces {
		byLink[linkOf(i.ID)] = i.ID
	}
	for _, g := range v.spec.NATGateways {
		byLink[linkOf(g.Interface.ID)] = g.Interface.ID
	}
	families := []family{inet4}
	if v.spec.hasIPv6() {
		families = append(families, inet6)
	}
	v.mu.Unlock()
	var flows []Flow
	for _, f := range families {
		for _, verdict := range []string{"accepted", "rejected"} {
			for _, s := range flowSets {
				listing, err := v.list(ctx, f, verdict+"-"+s.name)
				if err != nil {
					return nil, fmt.Errorf("VPC %s: list its flows: %w", id, err)
				}
				list, err := parseFlows(listing, s.protocol, verdict == "accepted", byLink)
				if err != nil {
					return nil, fmt.Errorf("VPC %s: %w", id, err)
				}
				flows = append(flows, list...)
			}
		}
	}
	return flows, nil
}

// list is nft's listing of a set of the VPC's filter.
func (v *vpc) list(ctx context.Context, f family, set string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "nft", "-n", "-j", "list", "set", f.word, "nacre", set)
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	err := within(v.ns, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, firstLines(messages.String(), 2))
	}
	return out.Bytes(), nil
}

// parseFlows reads nft's listing of one set; protocol is 0 when the elements say it. Flows of links that are gone are left out.
func parseFlows(listing []byte, protocol uint8, accepted bool, byLink map[string]cloud.InterfaceID) ([]Flow, error) {
	var doc struct {
		Nftables []struct {
			Set struct {
				Elem []struct {
					Elem struct {
						Val     struct{ Concat []json.RawMessage }
						Counter struct{ Packets, Bytes uint64 }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(listing, &doc); err != nil {
		return nil, fmt.Errorf("read the packet filter's flows: %w", err)
	}
	var flows []Flow
	for _, part := range doc.Nftables {
		for _, e := range part.Set.Elem {
			f := Flow{FlowKey: FlowKey{Accepted: accepted, Protocol: protocol}, Packets: e.Elem.Counter.Packets, Bytes: e.Elem.Counter.Bytes}
			var link string
			into := []any{&link, &f.Source, &f.Destination, &f.FromPort, &f.TargetPort}
			if protocol == 0 {
				into = []any{&link, &f.Source, &f.Destination, &f.Protocol}
			}
			if len(e.Elem.Val.Concat) != len(into) {
				return nil, fmt.Errorf("read the packet filter's flows: a key of %d parts", len(e.Elem.Val.Concat))
			}
			for n, raw := range e.Elem.Val.Concat {
				if err := json.Unmarshal(raw, into[n]); err != nil {
					return nil, fmt.Errorf("read the packet filter's flows: %w", err)
				}
			}
			if f.Interface = byLink[link]; f.Interface != "" {
				flows = append(flows, f)
			}
		}
	}
	return flows, nil
}
