package network

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// The packet filter of a VPC. A packet that an interface sends meets, in this order: the check of its source; the
// translation of a public destination; the rules of the sender's groups; the rules of the receiver's groups, or
// the way out; the translation of its source on the way out. Flows that were let in are let through from then on.
//
// Groups are chains, and sets of their members' addresses; an interface's own two chains call its groups'. Maps from
// the interface to its chains keep the way short, however many interfaces there are.

const filterFrame = `
add table ip nacre
delete table ip nacre
table ip nacre {
	map out { type ifname : verdict; }
	map in { type ifname : verdict; }
	set own { type ifname . ipv4_addr; }
	set unchecked { type ifname; }
	set senders { type ipv4_addr; }
	map public { type ipv4_addr : ipv4_addr; }
	map private { type ipv4_addr : ipv4_addr; }
	chain spoof {
		type filter hook prerouting priority raw; policy drop;
		iifname { "lo", "uplink" } accept
		iifname . ip saddr @own accept
		iifname @unchecked accept
	}
	chain translate {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "uplink" dnat to ip daddr map @public
		ip saddr @senders dnat to ip daddr map @public
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid drop
		ct state established,related accept
		iifname vmap @out
		iifname "uplink" goto arriving
	}
	chain arriving {
		oifname vmap @in
		oifname "uplink" ip saddr @senders accept
		drop
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname "lo" accept
		ip daddr 169.254.169.254 tcp dport 80 accept
		ip daddr { 169.254.169.253, RESOLVER } meta l4proto { tcp, udp } th dport 53 accept
		icmp type echo-request accept
	}
	chain leave {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "uplink" snat to ip saddr map @private
		ct status dnat ip saddr @senders snat to ip saddr map @private
	}
}
`

// frame is a VPC's empty filter, in the place of whatever was there.
func frame(v VPC) string {
	resolver := v.CIDR.Masked().Addr().Next().Next()
	return strings.ReplaceAll(filterFrame, "RESOLVER", resolver.String())
}

func chainsOf(id cloud.SecurityGroupID) (in, out, members string) {
	return "in-" + string(id), "out-" + string(id), "of-" + string(id)
}

// declareGroup makes a group's chains and set, empty when they are new.
func declareGroup(b *strings.Builder, id cloud.SecurityGroupID) {
	in, out, members := chainsOf(id)
	fmt.Fprintf(b, "add chain ip nacre %s\nadd chain ip nacre %s\nadd set ip nacre %s { type ipv4_addr; }\n", in, out, members)
}

// fillGroup sets a group's rules and members, in the place of what it had.
func fillGroup(b *strings.Builder, g Group) {
	in, out, members := chainsOf(g.ID)
	fmt.Fprintf(b, "flush chain ip nacre %s\nflush chain ip nacre %s\nflush set ip nacre %s\n", in, out, members)
	if len(g.Members) > 0 {
		fmt.Fprintf(b, "add element ip nacre %s { ", members)
		for i, a := range g.Members {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(a.String())
		}
		b.WriteString(" }\n")
	}
	for _, r := range g.Rules {
		chain, peer, verdict := in, "saddr", "accept"
		if r.Egress {
			chain, peer, verdict = out, "daddr", "goto arriving"
		}
		fmt.Fprintf(b, "add rule ip nacre %s%s%s %s\n", chain, peerMatch(r, peer), protocolMatch(r), verdict)
	}
}

// removeGroup deletes a group that no interface calls and no rule names any more.
func removeGroup(b *strings.Builder, id cloud.SecurityGroupID) {
	in, out, members := chainsOf(id)
	fmt.Fprintf(b, "flush chain ip nacre %s\nflush chain ip nacre %s\ndelete chain ip nacre %s\ndelete chain ip nacre %s\ndelete set ip nacre %s\n", in, out, in, out, members)
}

func peerMatch(r cloud.SecurityGroupRule, side string) string {
	if r.Group != "" {
		_, _, members := chainsOf(r.Group)
		return " ip " + side + " @" + members
	}
	if r.CIDR.Bits() == 0 {
		return ""
	}
	return " ip " + side + " " + r.CIDR.String()
}

func protocolMatch(r cloud.SecurityGroupRule) string {
	switch r.Protocol {
	case cloud.ProtocolAll:
		return ""
	case cloud.ProtocolTCP, cloud.ProtocolUDP:
		name := map[cloud.Protocol]string{cloud.ProtocolTCP: "tcp", cloud.ProtocolUDP: "udp"}[r.Protocol]
		return fmt.Sprintf(" %s dport %d-%d", name, r.FromPort, r.ToPort)
	case cloud.ProtocolICMP:
		s := " ip protocol icmp"
		if r.FromPort >= 0 {
			s += fmt.Sprintf(" icmp type %d", r.FromPort)
		}
		if r.ToPort >= 0 {
			s += fmt.Sprintf(" icmp code %d", r.ToPort)
		}
		return s
	}
	return fmt.Sprintf(" ip protocol %d", r.Protocol)
}

// elements are an interface's entries in the filter's maps and sets.
func elements(i Interface, internet bool) []string {
	link := linkOf(i.ID)
	list := []string{
		fmt.Sprintf("out { %q : jump from-%s }", link, link), fmt.Sprintf("in { %q : jump to-%s }", link, link),
		fmt.Sprintf("own { %q . %s }", link, i.PrivateIP),
	}
	if !i.SourceDestCheck {
		list = append(list, fmt.Sprintf("unchecked { %q }", link))
	}
	if i.PublicIP.IsValid() && internet {
		list = append(list, fmt.Sprintf("senders { %s }", i.PrivateIP), fmt.Sprintf("public { %s : %s }", i.PublicIP, i.PrivateIP),
			fmt.Sprintf("private { %s : %s }", i.PrivateIP, i.PublicIP))
	}
	return list
}

// addInterface lets an interface into the filter, in the place of what it had before.
func addInterface(b *strings.Builder, i Interface, internet bool) {
	link := linkOf(i.ID)
	fmt.Fprintf(b, "add chain ip nacre from-%s\nadd chain ip nacre to-%s\nflush chain ip nacre from-%s\nflush chain ip nacre to-%s\n", link, link, link, link)
	for _, g := range i.Groups {
		declareGroup(b, g)
		in, out, _ := chainsOf(g)
		fmt.Fprintf(b, "add rule ip nacre from-%s jump %s\nadd rule ip nacre to-%s jump %s\n", link, out, link, in)
	}
	fmt.Fprintf(b, "add rule ip nacre from-%s drop\nadd rule ip nacre to-%s drop\n", link, link)
	for _, e := range elements(i, internet) {
		fmt.Fprintf(b, "add element ip nacre %s\n", e)
	}
}

// dropElements takes an interface's entries out. Adding each first makes it be there, whatever a crash left.
func dropElements(b *strings.Builder, i Interface, internet bool) {
	for _, e := range elements(i, internet) {
		fmt.Fprintf(b, "add element ip nacre %s\ndelete element ip nacre %s\n", e, e)
	}
}

// removeInterface takes an interface out of the filter.
func removeInterface(b *strings.Builder, i Interface, internet bool) {
	link := linkOf(i.ID)
	fmt.Fprintf(b, "add chain ip nacre from-%s\nadd chain ip nacre to-%s\n", link, link)
	dropElements(b, i, internet)
	fmt.Fprintf(b, "flush chain ip nacre from-%s\nflush chain ip nacre to-%s\ndelete chain ip nacre from-%s\ndelete chain ip nacre to-%s\n", link, link, link, link)
}

// nft applies a script as one transaction, in a namespace, or on the host when ns is nil.
func nft(ctx context.Context, ns *os.File, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	err := error(nil)
	if ns == nil {
		err = cmd.Run()
	} else if err = within(ns, cmd.Start); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("change the packet filter: %w: %s", err, firstLines(messages.String(), 5))
	}
	return nil
}

func firstLines(s string, n int) string {
	lines := strings.SplitN(strings.TrimSpace(s), "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

// hostTable is the cloud's filter on the host: what comes from a VPC's uplink carries a public source, reaches no address
// of the host's own, and leaves translated to the host's.
func (n *Network) hostTable() string {
	t, pool := "nacre-"+n.cfg.CloudID, n.cfg.PublicPool.Masked().String()
	ups := n.hostPrefix() + "*"
	return strings.NewReplacer("TABLE", t, "POOL", pool, "UPS", fmt.Sprintf("%q", ups)).Replace(`
add table ip TABLE
delete table ip TABLE
table ip TABLE {
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname UPS ip saddr != POOL drop
		oifname UPS ip daddr != POOL drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname UPS ct state established,related accept
		iifname UPS drop
	}
	chain leave {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr POOL oifname != UPS masquerade
	}
}
`)
}
