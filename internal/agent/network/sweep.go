package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Sweep removes everything of this cloud that is not to be kept.
func (n *Network) Sweep(ctx context.Context, keep Keep) error {
	var problems []error
	instances := n.keepNATGateways(keep)
	n.mu.Lock()
	var stray []cloud.InterfaceID
	for id, i := range n.interfaces {
		if !keep.Interfaces[id] && !instances[i.Instance] {
			stray = append(stray, id)
		}
	}
	n.mu.Unlock()
	for _, id := range stray {
		problems = append(problems, n.Detach(ctx, n.holder(id), id))
	}
	for _, dir := range []string{"net", "user"} {
		names, err := listFiles(filepath.Join(n.cfg.RunDir, dir), "")
		problems = append(problems, err)
		for _, name := range names {
			if !instances[cloud.InstanceID(name)] {
				problems = append(problems, n.RemoveInstance(ctx, cloud.InstanceID(name)))
			}
		}
	}
	vpcs, err := n.listVPCs()
	problems = append(problems, err)
	for _, id := range vpcs {
		if !keep.VPCs[id] {
			problems = append(problems, n.RemoveVPC(ctx, id))
		}
	}
	// Uplinks whose VPC has no namespace any more.
	kept := map[string]bool{}
	for id := range keep.VPCs {
		kept[n.hostUplink(id)] = true
	}
	links, err := n.host.LinkList()
	problems = append(problems, err)
	for _, l := range links {
		if name := l.Attrs().Name; strings.HasPrefix(name, n.hostPrefix()) && !kept[name] {
			problems = append(problems, n.host.LinkDel(l))
		}
	}
	return errors.Join(problems...)
}

// holder is the instance that has an interface, "" when none has.
func (n *Network) holder(id cloud.InterfaceID) cloud.InstanceID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.interfaces[id].Instance
}

// Destroy removes everything of this cloud and puts the host's settings back.
func (n *Network) Destroy(ctx context.Context) error {
	problems := []error{n.Sweep(ctx, Keep{})}
	problems = append(problems, nft(ctx, nil, fmt.Sprintf("add table ip nacre-%[1]s\ndelete table ip nacre-%[1]s\n", n.cfg.CloudID)))
	if err := n.host.RouteDel(refusal(n.cfg.PublicPool)); err != nil {
		problems = append(problems, fmt.Errorf("remove the public pool's route: %w", err))
	}
	if n.routesIPv6() {
		problems = append(problems, nft(ctx, nil, fmt.Sprintf("add table ip6 nacre-%[1]s\ndelete table ip6 nacre-%[1]s\n", n.cfg.CloudID)))
		if err := n.host.RouteDel(refusal(n.cfg.IPv6Pool)); err != nil {
			problems = append(problems, fmt.Errorf("remove the route of the pool of IPv6: %w", err))
		}
	}
	problems = append(problems, n.restoreSettings())
	for _, dir := range []string{"vpc", "net", "user", ""} {
		if err := os.Remove(filepath.Join(n.cfg.RunDir, dir)); err != nil && !errors.Is(err, os.ErrNotExist) && dir != "" {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// restoreSettings puts forwarding back as it was, unless another cloud on this host still needs it.
func (n *Network) restoreSettings() error {
	path := filepath.Join(n.cfg.StateDir, settingsFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var s hostSettings
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return fmt.Errorf("read the host's former settings: %w", err)
	}
	links, err := n.host.LinkList()
	if err != nil {
		return fmt.Errorf("look for other clouds: %w", err)
	}
	others := false
	for _, l := range links {
		others = others || strings.HasPrefix(l.Attrs().Name, "nu") && strings.Contains(l.Attrs().Name, "-") && l.Type() == "veth"
	}
	if !others {
		if err := setting(forwarding, s.Forwarding); err != nil {
			return err
		}
	}
	return errors.Join(n.restoreIPv6(others), os.Remove(path))
}
