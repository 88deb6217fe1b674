package qemu

import (
	"context"
	"fmt"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// unplugLimit is how long a guest may take to let go of a device.
const unplugLimit = 10 * time.Second

// plug gives a machine a network card.
func plug(ctx context.Context, m *qmp.Client, vm *machine.VM, n machine.NIC) error {
	if n.Tap == nil {
		return fmt.Errorf("network card %s: it has no link", n.Interface)
	}
	tap, err := n.Tap()
	if err != nil {
		return err
	}
	defer tap.Close()
	name := "tap-" + string(n.Interface)
	if err := m.RunWith(ctx, "getfd", map[string]any{"fdname": name}, nil, tap); err != nil {
		return fmt.Errorf("network card %s: %w", n.Interface, err)
	}
	if err := m.Run(ctx, "netdev_add", map[string]any{"type": "tap", "id": "net-" + string(n.Interface), "fd": name, "vhost": false}, nil); err != nil {
		return fmt.Errorf("network card %s: %w", n.Interface, err)
	}
	if err := m.Run(ctx, "device_add", nicDevice(vm, n), nil); err != nil {
		m.Run(ctx, "netdev_del", map[string]any{"id": "net-" + string(n.Interface)}, nil)
		return fmt.Errorf("network card %s: %w", n.Interface, err)
	}
	return nil
}

// AttachNIC gives a running machine one more network card. A card that it has already is no error.
func (d *Driver) AttachNIC(ctx context.Context, id cloud.InstanceID, n machine.NIC) error {
	s, err := d.Running(id)
	if err != nil {
		return err
	}
	for _, have := range s.VM.NICs {
		if have.Interface == n.Interface {
			return nil
		}
	}
	err = d.withMonitor(ctx, id, func(m *qmp.Client) error { return plug(ctx, m, s.VM, n) })
	if err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	return d.Note(id, func(s *machine.Spec) {
		vm := *s.VM
		vm.NICs = append(append([]machine.NIC(nil), vm.NICs...), n)
		s.VM = &vm
	})
}

// DetachNIC takes a network card from a running machine. A guest that does not let go of it in time loses the link all the same:
// the card stays without one until the next boot.
func (d *Driver) DetachNIC(ctx context.Context, id cloud.InstanceID, nic cloud.InterfaceID) error {
	if _, err := d.Running(id); err != nil {
		return nil // a machine that has ended holds no link
	}
	err := d.withMonitor(ctx, id, func(m *qmp.Client) error {
		device := "nic-" + string(nic)
		if err := m.Run(ctx, "device_del", map[string]any{"id": device}, nil); err == nil {
			wait, cancel := context.WithTimeout(ctx, unplugLimit)
			defer cancel()
			for {
				e, err := m.Next(wait)
				if err != nil || e.Name == "DEVICE_DELETED" {
					break
				}
			}
		}
		// Without a back end already, or it never had one.
		_ = m.Run(ctx, "netdev_del", map[string]any{"id": "net-" + string(nic)}, nil)
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("machine %s: take %s away: %w", id, nic, err)
	}
	return d.Note(id, func(s *machine.Spec) {
		vm := *s.VM
		vm.NICs = nil
		for _, n := range s.VM.NICs {
			if n.Interface != nic {
				vm.NICs = append(vm.NICs, n)
			}
		}
		s.VM = &vm
	})
}

// Update implements machine.Driver: limits and share of the hypervisor's control group.
func (d *Driver) Update(ctx context.Context, id cloud.InstanceID, r machine.Resources) error {
	s, err := d.Running(id)
	if err != nil {
		return err
	}
	s.Resources = r
	return d.Limit(ctx, id, limits(s), r)
}
