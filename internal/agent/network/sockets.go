package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Sockets are made by a thread inside a namespace and used from anywhere.

// freebind lets a service listen on an address before the kernel has it.
func freebind(network, _ string, c syscall.RawConn) error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if strings.HasSuffix(network, "6") {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); cerr != nil {
		return cerr
	}
	return err
}

// ListenVPC listens for TCP inside a VPC.
func (n *Network) ListenVPC(id cloud.VPCID, network, address string) (l net.Listener, err error) {
	v, err := n.known(id)
	if err != nil {
		return nil, err
	}
	err = within(v.ns, func() (err error) {
		l, err = (&net.ListenConfig{Control: freebind, KeepAlive: -1}).Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// ListenPacketVPC listens for UDP inside a VPC.
func (n *Network) ListenPacketVPC(id cloud.VPCID, network, address string) (c net.PacketConn, err error) {
	v, err := n.known(id)
	if err != nil {
		return nil, err
	}
	err = within(v.ns, func() (err error) {
		c, err = (&net.ListenConfig{Control: freebind}).ListenPacket(context.Background(), network, address)
		return err
	})
	return c, err
}

// InterfaceAt finds the interface that a link of a VPC's namespace, by its index there, leads to, and its subnet.
func (n *Network) InterfaceAt(id cloud.VPCID, link int) (Interface, Subnet, bool) {
	v, err := n.known(id)
	if err != nil {
		return Interface{}, Subnet{}, false
	}
	l, err := v.nl.LinkByIndex(link)
	if err != nil {
		return Interface{}, Subnet{}, false
	}
	for _, i := range n.interfacesOf(id) {
		if linkOf(i.ID) == l.Attrs().Name {
			s, ok := v.subnet(i.Subnet)
			return i, s, ok
		}
	}
	return Interface{}, Subnet{}, false
}

// interfacesOf are the machines' interfaces that are plugged into a VPC.
func (n *Network) interfacesOf(id cloud.VPCID) (list []Interface) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range n.interfaces {
		if i.VPC == id && !i.Gateway {
			list = append(list, i)
		}
	}
	return list
}

func (n *Network) inside(id cloud.InstanceID, fn func() error) error {
	ns, err := os.Open(n.namespaceFiles(id).Net)
	if err != nil {
		return fmt.Errorf("machine %s: its network namespace: %w", id, err)
	}
	defer ns.Close()
	return within(ns, fn)
}

// DialInstance connects from inside a machine. The address is an IP address and a port.
func (n *Network) DialInstance(ctx context.Context, id cloud.InstanceID, network, address string) (c net.Conn, err error) {
	err = n.inside(id, func() (err error) {
		c, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// ListenInstance listens inside a machine.
func (n *Network) ListenInstance(ctx context.Context, id cloud.InstanceID, network, address string) (l net.Listener, err error) {
	err = n.inside(id, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	return l, err
}

const (
	// sshPort is where the agent's SSH listens inside a machine, in the stead of port 22. It can't be reached itself. The table of IPv4
	// alone is what versions before IPv6 made.
	sshPort  = 65022
	redirect = `
add table ip nacre
delete table ip nacre
add table inet nacre
delete table inet nacre
table inet nacre {
	HOOKS
}
`
)

// redirects lead port 22 to the agent, the best one first: for a server of the machine's own, on this address or on all, connections are let
// alone. The first one hands them to the agent's socket, and the kernel keeps nothing of any flow; the others translate, which
// makes every packet of the machine pay for the tracking of its flow. The last one is for kernels that can't look for a socket:
// the agent's server answers always.
var redirects = []string{
	`chain ssh {
		type filter hook prerouting priority raw; policy accept;
		tcp dport != { 22, PORT } accept
		iifname "lo" accept
		tcp dport PORT drop
		tcp dport 22 socket wildcard 0 accept
		tcp dport 22 socket wildcard 1 accept
		tcp dport 22 tproxy to :PORT
	}`,
	guard + `chain ssh {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 22 socket wildcard 0 accept
		tcp dport 22 socket wildcard 1 accept
		tcp dport 22 redirect to :PORT
	}`,
	guard + `chain ssh {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 22 redirect to :PORT
	}`,
}

const guard = `chain guard {
		type filter hook prerouting priority raw; policy accept;
		iifname != "lo" tcp dport PORT drop
	}
	`

// transparent lets a socket take connections to other ports than its own.
func transparent(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1); err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
			if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) {
				err = nil // a socket of IPv4: the kernel has no IPv6
			}
		}
	})
	return errors.Join(cerr, err)
}

// ListenSSH listens in the stead of the machine's port 22, for as long as none of its own processes listens there.
func (n *Network) ListenSSH(ctx context.Context, id cloud.InstanceID) (l net.Listener, err error) {
	err = n.inside(id, func() (err error) {
		l, err = (&net.ListenConfig{Control: transparent}).Listen(ctx, "tcp", fmt.Sprintf(":%d", sshPort))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("machine %s: listen for SSH: %w", id, err)
	}
	ns, err := os.Open(n.namespaceFiles(id).Net)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("machine %s: its network namespace: %w", id, err)
	}
	defer ns.Close()
	for _, hook := range redirects {
		script := strings.Replace(redirect, "HOOKS", hook, 1)
		if err = nft(ctx, ns, strings.ReplaceAll(script, "PORT", fmt.Sprint(sshPort))); err == nil {
			return l, nil
		}
		n.cfg.Logger.Debug("this kernel lacks what leads port 22 best", "error", err)
	}
	l.Close()
	return nil, fmt.Errorf("machine %s: lead port 22 to the agent: %w", id, err)
}
