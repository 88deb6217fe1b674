package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

func cardDevice(id cloud.InterfaceID) string { return "nic-" + string(id) }
func cardLink(id cloud.InterfaceID) string   { return "net-" + string(id) }
func cardTap(id cloud.InterfaceID) string    { return "tap-" + string(id) }

// plug gives a machine a network card.
func plug(ctx context.Context, m *qmp.Client, vm *machine.VM, n machine.NIC) error {
	if n.Tap == nil {
		return fmt.Errorf("network card %s: it has no link", n.Interface)
	}
	if err := unlink(ctx, m, n.Interface); err != nil { // what a crash left of another attempt holds the tap
		return fmt.Errorf("network card %s: %w", n.Interface, err)
	}
	tap, err := n.Tap()
	if err != nil {
		return err
	}
	defer tap.Close()
	if err := m.RunWith(ctx, "getfd", map[string]any{"fdname": cardTap(n.Interface)}, nil, tap); err != nil {
		return fmt.Errorf("network card %s: %w", n.Interface, err)
	}
	if err := m.Run(ctx, "netdev_add", map[string]any{"type": "tap", "id": cardLink(n.Interface), "fd": cardTap(n.Interface), "vhost": false}, nil); err != nil {
		return fmt.Errorf("network card %s: %w", n.Interface, err)
	}
	if err := m.Run(ctx, "device_add", nicDevice(vm, n), nil); err != nil {
		return errors.Join(fmt.Errorf("network card %s: %w", n.Interface, err), unlink(context.WithoutCancel(ctx), m, n.Interface))
	}
	return nil
}

// unlink takes the link from behind a card. That it has none is no error.
func unlink(ctx context.Context, m *qmp.Client, id cloud.InterfaceID) error {
	_ = m.Run(ctx, "closefd", map[string]any{"fdname": cardTap(id)}, nil) // refused unless a crash left it
	err := m.Run(ctx, "netdev_del", map[string]any{"id": cardLink(id)}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) && refused.Class == "DeviceNotFound" {
		return nil
	}
	return err
}

func plugAll(ctx context.Context, m *qmp.Client, vm *machine.VM, nics []machine.NIC) error {
	for _, n := range nics {
		if err := plug(ctx, m, vm, n); err != nil {
			return err
		}
	}
	return nil
}

// AttachNIC gives a running machine a network card, and has its guest put it in force. A card that it has already may have other
// addresses now, which its guest is told. While a guest holds on to the device that the same interface had before, it is an error: that device
// can't be given a link again.
func (d *Driver) AttachNIC(ctx context.Context, id cloud.InstanceID, n machine.NIC) error {
	err := d.withMonitor(ctx, id, func(m *qmp.Client) error {
		left, err := d.reap(ctx, m, id)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(left, func(l machine.Left) bool { return l.Device == cardDevice(n.Interface) }) {
			gone, err := release(ctx, m, cardDevice(n.Interface))
			if err == nil && !gone {
				err = errors.Join(unlink(ctx, m, n.Interface), errors.New("its guest holds on to the network card that the interface had before; it is attached when the guest has let go, at the latest after a reboot"))
			}
			if err != nil {
				return err
			}
			if _, err := d.reap(ctx, m, id); err != nil {
				return err
			}
		}
		// Noted first, and for good: a card that is noted and not there is plugged in when it is asked for again.
		vm, err := d.noteCard(id, n)
		if err != nil {
			return err
		}
		if there, err := has(ctx, m, cardDevice(n.Interface)); there || err != nil {
			return err
		}
		return plug(ctx, m, vm, vm.NICs[slices.IndexFunc(vm.NICs, func(have machine.NIC) bool { return have.Interface == n.Interface })])
	})
	if err != nil {
		return fmt.Errorf("machine %s: attach %s: %w", id, n.Interface, err)
	}
	c := d.guestOf(id)
	if c == nil {
		return nil // one that still boots is told of all its cards, one without nacre's program finds them by itself
	}
	wait, cancel := context.WithTimeout(ctx, unplugLimit)
	defer cancel()
	if err := c.Connect(wait, interfaceOf(n)); err != nil {
		d.log.Warn("the guest did not put a network card in force", "instance", id, "interface", n.Interface, "error", err)
	}
	return nil
}

// noteCard notes a card, with the slot that it has or one that is free.
func (d *Driver) noteCard(id cloud.InstanceID, n machine.NIC) (vm *machine.VM, err error) {
	if _, err := d.Running(id); err != nil {
		return nil, err
	}
	noted := d.Note(id, func(s *machine.Spec) {
		with := *s.VM
		with.NICs = slices.Clone(with.NICs)
		k := slices.IndexFunc(with.NICs, func(have machine.NIC) bool { return have.Interface == n.Interface })
		if k < 0 {
			if n.Slot, err = freeSlot(&with, cardSlots); err != nil {
				return
			}
			k, with.NICs = len(with.NICs), append(with.NICs, n)
		}
		n.Slot = with.NICs[k].Slot
		with.NICs[k] = n
		s.VM, vm = &with, &with
	})
	if err = errors.Join(err, noted); err == nil && vm == nil {
		err = machine.ErrNotFound
	}
	return vm, err
}

// DetachNIC takes a network card from a running machine. A guest that does not let go of it in time loses the link all the same:
// the device stays without one, in its slot, until the guest lets go of it or is reset.
func (d *Driver) DetachNIC(ctx context.Context, id cloud.InstanceID, nic cloud.InterfaceID) error {
	if _, err := d.Running(id); err != nil {
		return nil // a machine that has ended holds no link
	}
	err := d.withMonitor(ctx, id, func(m *qmp.Client) error {
		if err := d.leave(id, cardDevice(nic)); err != nil {
			return err
		}
		gone, err := release(ctx, m, cardDevice(nic))
		if err != nil {
			return err
		}
		if !gone {
			d.log.Warn("the guest does not let go of a network card, which has no link from now on", "instance", id, "interface", nic)
		}
		if err := unlink(ctx, m, nic); err != nil {
			return err
		}
		_, err = d.reap(ctx, m, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("machine %s: take %s away: %w", id, nic, err)
	}
	return nil
}
