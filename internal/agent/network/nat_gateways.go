package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A NAT gateway is a machine without a machine: a network namespace with one interface of the VPC, which forwards what routes
// lead to it under its own address. From there its packets are like any other's: its own subnet's routes, ACLs and public address
// apply. No security group does.

// NATGateway is the desired state of a NAT gateway on this node.
type NATGateway struct {
	ID        cloud.NATGatewayID
	Interface Interface // only what an interface without a machine and groups has
}

// attached is the gateway's interface as the rest of the packet path knows it.
func (g NATGateway) attached() Interface {
	i := g.Interface
	i.Instance, i.DeviceIndex, i.Groups = cloud.InstanceID(g.ID), 0, nil
	i.SourceDestCheck, i.Gateway = false, true
	return i
}

// masquerade is a NAT gateway's own filter. Flows begin on the VPC's side only: those come to other addresses than its own.
const masquerade = `
add table ip nacre
delete table ip nacre
table ip nacre {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related,new accept
	}
	chain leave {
		type nat hook postrouting priority srcnat; policy accept;
		snat to ADDRESS
	}
}
`

// gatewaySettings make a NAT gateway's namespace forward back over the link by which packets come, without telling anybody of a shorter way.
var gatewaySettings = [][2]string{
	{"net/ipv4/conf/all/send_redirects", "0"}, {"net/ipv4/conf/default/send_redirects", "0"}, {"net/ipv4/conf/eth0/send_redirects", "0"},
	{"net/ipv4/conf/all/rp_filter", "0"}, {"net/ipv4/conf/eth0/rp_filter", "0"},
	{forwarding, "1"},
}

// openNATGateways makes the NAT gateways of a VPC as told and removes the others. The packet filter lets them in with its next
// transaction.
func (n *Network) openNATGateways(ctx context.Context, v *vpc, spec VPC) error {
	for _, g := range spec.NATGateways {
		if err := n.openNATGateway(ctx, v, g); err != nil {
			return fmt.Errorf("NAT gateway %s: %w", g.ID, err)
		}
	}
	return n.closeNATGateways(ctx, spec.ID, func(id cloud.InstanceID) bool {
		return slices.ContainsFunc(spec.NATGateways, func(g NATGateway) bool { return cloud.InstanceID(g.ID) == id })
	})
}

func (n *Network) openNATGateway(ctx context.Context, v *vpc, g NATGateway) error {
	i := g.attached()
	n.mu.Lock()
	old := n.interfaces[i.ID]
	n.mu.Unlock()
	files, err := n.Plug(ctx, i)
	if err != nil {
		return err
	}
	if !v.translating[g.ID] {
		ns, err := os.Open(files.Net)
		if err != nil {
			return fmt.Errorf("open its namespace: %w", err)
		}
		defer ns.Close()
		if err := nft(ctx, ns, strings.ReplaceAll(masquerade, "ADDRESS", i.PrivateIP.String())); err != nil {
			return err
		}
		err = within(ns, func() error {
			for _, s := range gatewaySettings {
				if err := setting(s[0], s[1]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		v.translating[g.ID] = true
	}
	if old.PublicIP != i.PublicIP {
		if err := n.unpublish(i, old.PublicIP); err != nil {
			return err
		}
	}
	if v.internet(i.Subnet) {
		return n.publish(i, i.PublicIP)
	}
	return nil
}

// closeNATGateways removes the NAT gateways of a VPC that are not to be kept.
func (n *Network) closeNATGateways(ctx context.Context, vpc cloud.VPCID, keep func(cloud.InstanceID) bool) error {
	n.mu.Lock()
	var gone []cloud.InstanceID
	for _, i := range n.interfaces {
		if i.VPC == vpc && i.Gateway && !keep(i.Instance) {
			gone = append(gone, i.Instance)
		}
	}
	v := n.vpcs[vpc]
	n.mu.Unlock()
	var problems []error
	for _, id := range gone {
		problems = append(problems, n.RemoveInstance(ctx, id))
		if v != nil {
			delete(v.translating, cloud.NATGatewayID(id))
		}
	}
	return errors.Join(problems...)
}

// gatewayNamespace returns the namespace of a NAT gateway, and makes it the first time. It is the host's: nobody is in it.
func (n *Network) gatewayNamespace(id cloud.InstanceID) (Namespaces, error) {
	files := Namespaces{Net: n.namespaceFiles(id).Net}
	if pinned(files.Net) {
		return files, nil
	}
	if err := n.dropNamespaces(id); err != nil {
		return files, err
	}
	ns, err := newNetNS()
	if err != nil {
		return files, err
	}
	defer ns.Close()
	return files, pin(ns, files.Net)
}

// keepNATGateways adds the NAT gateways of the VPCs that a sweep keeps to what it keeps.
func (n *Network) keepNATGateways(keep Keep) map[cloud.InstanceID]bool {
	kept := map[cloud.InstanceID]bool{}
	for id := range keep.Instances {
		kept[id] = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, v := range n.vpcs {
		if !keep.VPCs[id] {
			continue
		}
		v.mu.Lock()
		for _, g := range v.spec.NATGateways {
			kept[cloud.InstanceID(g.ID)] = true
		}
		v.mu.Unlock()
	}
	return kept
}
