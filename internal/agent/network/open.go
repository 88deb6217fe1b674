package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Network is this cloud's packet path on this node. It is safe for concurrent use.
type Network struct {
	cfg  Config
	mtu  int
	six  bool // the kernel carries IPv6
	host *netlink.Handle

	mu         sync.Mutex
	vpcs       map[cloud.VPCID]*vpc
	interfaces map[cloud.InterfaceID]Interface // as last plugged
	host6      bool                            // the host is known to forward IPv6
}

// hostSettings are what the host had before this cloud changed it.
type hostSettings struct {
	Forwarding string
}

const (
	forwarding   = "net/ipv4/ip_forward"
	settingsFile = "host.json"
	defaultMTU   = 1500
)

// Open adopts the cloud's network on this host, and prepares the host for it: forwarding, the filter between the uplinks and
// the host, and a route that refuses the public pool's unassigned addresses.
func Open(ctx context.Context, cfg Config) (*Network, error) {
	if _, err := exec.LookPath("nft"); err != nil {
		return nil, errors.New("security groups need nft, which is not installed; `nacre doctor --install` installs it")
	}
	for _, dir := range []string{filepath.Join(cfg.RunDir, "vpc"), filepath.Join(cfg.RunDir, "net"), filepath.Join(cfg.RunDir, "user"), filepath.Join(cfg.StateDir, "interfaces")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("open the network: %w", err)
		}
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open the network: %w", err)
	}
	n := &Network{cfg: cfg, six: supportsIPv6(), host: host, vpcs: map[cloud.VPCID]*vpc{}, interfaces: map[cloud.InterfaceID]Interface{}}
	if err := errors.Join(n.prepareHost(ctx), n.adopt()); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close lets the kernel's handles go. The packet path goes on.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, v := range n.vpcs {
		v.close()
	}
	n.host.Close()
	return nil
}

func (n *Network) prepareHost(ctx context.Context) error {
	n.mtu = n.hostMTU()
	if err := n.rememberSettings(); err != nil {
		return err
	}
	if err := setting(forwarding, "1"); err != nil {
		return err
	}
	if err := nft(ctx, nil, n.hostTable(inet4, n.cfg.PublicPool)); err != nil {
		return fmt.Errorf("the host's side of the cloud: %w", err)
	}
	if n.routesIPv6() {
		if err := nft(ctx, nil, n.hostTable(inet6, n.cfg.IPv6Pool)); err != nil {
			return fmt.Errorf("the host's side of the cloud: %w", err)
		}
		if err := n.host.RouteReplace(refusal(n.cfg.IPv6Pool)); err != nil {
			return fmt.Errorf("refuse the unassigned addresses of %s: %w", n.cfg.IPv6Pool, err)
		}
	}
	if err := n.host.RouteReplace(refusal(n.cfg.PublicPool)); err != nil {
		return fmt.Errorf("refuse the unassigned addresses of %s: %w", n.cfg.PublicPool, err)
	}
	return nil
}

func (n *Network) routesIPv6() bool { return n.six && n.cfg.IPv6Pool.IsValid() }

// refusal is the route that answers for a pool's unassigned addresses.
func refusal(pool netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: prefixNet(pool), Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_STATIC}
}

func ipNet(ip net.IP, ones, bits int) *net.IPNet {
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(ones, bits)}
}

// hostMTU is that of the host's way out: larger packets would only be cut later.
func (n *Network) hostMTU() int {
	routes, err := n.host.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return defaultMTU
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := n.host.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU > 0 {
			return link.Attrs().MTU
		}
	}
	return defaultMTU
}

// rememberSettings notes once what Destroy has to put back.
func (n *Network) rememberSettings() error {
	path := filepath.Join(n.cfg.StateDir, settingsFile)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	b, err := os.ReadFile(filepath.Join("/proc/sys", forwarding))
	if err != nil {
		return fmt.Errorf("read the host's settings: %w", err)
	}
	if b, err = json.Marshal(hostSettings{Forwarding: strings.TrimSpace(string(b))}); err != nil {
		return fmt.Errorf("remember the host's settings: %w", err)
	}
	if err := renameio.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("remember the host's settings: %w", err)
	}
	return nil
}

// adopt reads what the last process attached. The VPCs themselves are adopted when they are applied.
func (n *Network) adopt() error {
	names, err := listFiles(filepath.Join(n.cfg.StateDir, "interfaces"), ".json")
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := os.ReadFile(n.recordFile(cloud.InterfaceID(name)))
		var i Interface
		if err == nil {
			err = json.Unmarshal(b, &i)
		}
		if err != nil {
			return fmt.Errorf("read what is known of interface %s: %w", name, err)
		}
		n.interfaces[i.ID] = i
	}
	return nil
}

// record keeps an interface known over a crash.
func (n *Network) record(i Interface) error {
	b, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("interface %s: encode it: %w", i.ID, err)
	}
	// Not synced: after a power cut the kernel has forgotten the interface too.
	path := n.recordFile(i.ID)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("interface %s: keep it known: %w", i.ID, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("interface %s: keep it known: %w", i.ID, err)
	}
	n.mu.Lock()
	n.interfaces[i.ID] = i
	n.mu.Unlock()
	return nil
}
