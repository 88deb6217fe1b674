// Package dhcp tells the interfaces of a VPC by DHCPv4 what the VPC has for them: their address, router and name servers, and what the
// VPC's DHCP options add.
//
// It lends nothing: each interface has one address, known before it asks, which every answer tells. Who asks is known by the link that
// the question came by, never by what it says; the answer goes out by the same link. Each question costs bounded work and is forgotten
// with its answer. How often an interface may ask is bounded before the questions come here, by the VPC's packet filter.
package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	clientPort = 68
	maxMessage = 1500 // bytes of a datagram that are read
)

// Lease is what an interface is told.
type Lease struct {
	Interface cloud.InterfaceID
	MAC       net.HardwareAddr
	Address   netip.Addr   // the primary one, which is offered
	Others    []netip.Addr // secondary ones, for which an interface may ask for the other values (DHCPINFORM)
	Subnet    netip.Prefix // its first host is the router, under whose address the server answers
	MTU       int          // bytes
	Hostname  string
	Domain    string // as the option domain-name has it: one name, or several with spaces between them
	// Servers of IPv4; none leaves the option out.
	DNS, NTP, NetBIOS []netip.Addr
	NetBIOSNodeType   byte // 1, 2, 4 or 8; 0 for none
}

// Router is the address of the subnet's router.
func (l *Lease) Router() netip.Addr { return l.Subnet.Masked().Addr().Next() }

// Server answers on the socket that it is given.
type Server struct {
	// Lookup finds the interface whose link has an index in the socket's namespace.
	Lookup func(link int) (Lease, bool)
	Logger *slog.Logger
}

// Serve answers until ctx ends, and closes the socket: one of UDP on port 67 of all addresses of a VPC's namespace.
func (s *Server) Serve(ctx context.Context, socket net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	defer socket.Close()
	conn := ipv4.NewPacketConn(socket)
	if err := conn.SetControlMessage(ipv4.FlagInterface, true); err != nil {
		return fmt.Errorf("serve DHCP: learn who asks: %w", err)
	}
	buf := make([]byte, maxMessage)
	for {
		n, from, _, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve DHCP: %w", err)
		}
		if from == nil {
			continue
		}
		if err := s.serve(conn, buf[:n], from.IfIndex); err != nil {
			s.Logger.Debug("a DHCP message is not answered", "link", from.IfIndex, "error", err)
		}
	}
}

func (s *Server) serve(conn *ipv4.PacketConn, message []byte, link int) error {
	lease, ok := s.Lookup(link)
	if !ok {
		return errors.New("it came by no interface's link")
	}
	reply, to, err := answer(&lease, message)
	if err != nil {
		return fmt.Errorf("interface %s: %w", lease.Interface, err)
	}
	if reply == nil {
		return nil
	}
	// The way to the interface's addresses, and its hardware address, are known to the namespace: an answer to one of them reaches it
	// though it may not use the address yet.
	by := &ipv4.ControlMessage{IfIndex: link, Src: lease.Router().AsSlice()}
	if _, err := conn.WriteTo(reply, by, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, clientPort))); err != nil {
		return fmt.Errorf("interface %s: answer it: %w", lease.Interface, err)
	}
	return nil
}
