package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A peering is a pair of links between two VPCs' namespaces. Routes lead to it; what comes over it has a source in the peer's ranges
// and goes to an interface of the VPC or nowhere: not to the internet, not to a third VPC. The sender's groups and ACLs
// hold on its side, the receiver's on the other.

// Peering joins a VPC to another one. The pair is there while both VPCs name it on this node.
type Peering struct {
	ID     cloud.PeeringID
	Peer   cloud.VPCID
	Ranges []netip.Prefix // the peer's
}

// peeringLinks begins the names of all links of peerings.
const peeringLinks = "p"

// peeringLink is either end of a peering.
func peeringLink(id cloud.PeeringID) string {
	s := string(id)
	return peeringLinks + s[max(0, len(s)-14):]
}

func (v VPC) peering(id cloud.PeeringID) (Peering, bool) {
	for _, p := range v.Peerings {
		if p.ID == id {
			return p, true
		}
	}
	return Peering{}, false
}

// joinPeers makes a VPC's peerings as told, as far as the peers are here, and removes the others.
func (n *Network) joinPeers(v *vpc, spec VPC) error {
	for _, p := range spec.Peerings {
		n.mu.Lock()
		peer := n.vpcs[p.Peer]
		n.mu.Unlock()
		if peer == nil {
			continue // it makes the pair when it comes
		}
		peer.mu.Lock()
		_, wanted := peer.spec.peering(p.ID)
		peer.mu.Unlock()
		if !wanted {
			continue
		}
		made, err := n.join(v, peer, spec.ID, p)
		if err != nil {
			return fmt.Errorf("peering %s: %w", p.ID, err)
		}
		if made {
			if err := n.reroute(peer, func(r Route) bool { return r.Kind == RoutePeering && r.Peering == p.ID }); err != nil {
				return fmt.Errorf("peering %s: %w", p.ID, err)
			}
		}
	}
	if v.joined != nil && slices.EqualFunc(v.joined, spec.Peerings, func(a, b Peering) bool { return a.ID == b.ID }) {
		return nil
	}
	links, err := v.nl.LinkList()
	if err != nil {
		return fmt.Errorf("VPC %s: list its links: %w", spec.ID, err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if !strings.HasPrefix(name, peeringLinks) || slices.ContainsFunc(spec.Peerings, func(p Peering) bool { return peeringLink(p.ID) == name }) {
			continue
		}
		if err := v.nl.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("VPC %s: remove the link of a former peering: %w", spec.ID, err)
		}
	}
	v.joined = append([]Peering{}, spec.Peerings...)
	return nil
}

// join makes the pair of links between two VPCs, or adopts it. Its ends know each other as those of an uplink do.
func (n *Network) join(v, peer *vpc, id cloud.VPCID, p Peering) (made bool, err error) {
	name := peeringLink(p.ID)
	mac, peerMAC := macFor(name+"/"+string(id)), macFor(name+"/"+string(p.Peer))
	if _, err := v.nl.LinkByName(name); err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, n.mtu, mac
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerHardwareAddr: peerMAC, PeerNamespace: netlink.NsFd(int(peer.ns.Fd())), PeerMTU: uint32(n.mtu)}
		if err := exists(v.nl.LinkAdd(pair)); err != nil {
			return false, fmt.Errorf("make its links: %w", err)
		}
		made = true
	}
	for _, end := range []struct {
		v     *vpc
		other []byte
	}{{v, peerMAC}, {peer, mac}} {
		link, err := end.v.nl.LinkByName(name)
		if err != nil {
			return made, fmt.Errorf("find its link: %w", err)
		}
		err = within(end.v.ns, func() error { return setting("net/ipv4/conf/"+name+"/proxy_arp", "0") })
		if err = errors.Join(err, end.v.nl.LinkSetUp(link), end.v.nl.NeighSet(neighbour(link, outsideAddr, end.other))); err != nil {
			return made, fmt.Errorf("set its link up: %w", err)
		}
		if !n.six {
			continue
		}
		err = within(end.v.ns, func() error { return switchOn(name) })
		if err = errors.Join(err, end.v.nl.NeighSet(neighbour(link, outsideAddr6, end.other))); err != nil {
			return made, fmt.Errorf("let IPv6 over its link: %w", err)
		}
	}
	return made, nil
}

func setOf(list []string) string { return "{ " + strings.Join(list, ", ") + " }" }

// peeringRules are what peerings add to a VPC's packet filter: to the check of sources, to what is forwarded, to where senders' packets may go, to what the VPC's own services answer.
func peeringRules(f family, spec VPC) (sources, forward, arriving, input []string) {
	var links []string
	for _, p := range spec.Peerings {
		ranges := f.of(p.Ranges)
		if len(ranges) == 0 {
			continue
		}
		link := fmt.Sprintf("%q", peeringLink(p.ID))
		links = append(links, link)
		sources = append(sources, fmt.Sprintf("iifname %s %s saddr %s accept", link, f.word, setOf(ranges)))
	}
	if links == nil {
		return nil, nil, nil, nil
	}
	slices.Sort(links)
	set := setOf(links)
	return sources, []string{"iifname " + set + " oifname vmap @in", "iifname " + set + " drop"}, []string{`iifname != "uplink" oifname ` + set + " accept"}, []string{"iifname " + set + " drop"}
}
