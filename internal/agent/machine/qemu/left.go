package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A device is gone only when its guest has let go of it. One that was taken away nevertheless is noted as left, with its slot, before anything is
// done to it, and is noted so until the hypervisor has it no more: the guest may let go of it late, such as when its system has come up, and a
// reset of the machine lets go for it. All notes of this kind change while the monitor is held.

// unplugLimit is how long a guest may take to let go of a device before what is behind it goes all the same.
const unplugLimit = 10 * time.Second

// peripherals are the names of the devices that a hypervisor has been given.
func peripherals(ctx context.Context, m *qmp.Client) ([]string, error) {
	var devices []struct{ Name string }
	err := m.Run(ctx, "qom-list", map[string]any{"path": "/machine/peripheral"}, &devices)
	var names []string
	for _, d := range devices {
		names = append(names, d.Name)
	}
	return names, err
}

// has tells whether a hypervisor has a device.
func has(ctx context.Context, m *qmp.Client, device string) (bool, error) {
	names, err := peripherals(ctx, m)
	return slices.Contains(names, device), err
}

// deleted tells whether an event says that the guest has let go of just this device: others may go at the same time.
func deleted(e qmp.Event, device string) bool {
	var of struct{ Device string }
	return e.Name == "DEVICE_DELETED" && json.Unmarshal(e.Data, &of) == nil && of.Device == device
}

// release asks a guest for a device, and tells whether it is gone within unplugLimit.
func release(ctx context.Context, m *qmp.Client, device string) (gone bool, err error) {
	if there, err := has(ctx, m, device); !there || err != nil {
		return !there && err == nil, err
	}
	// It may have been asked already, which is refused a second time.
	_ = m.Run(ctx, "device_del", map[string]any{"id": device}, nil)
	wait, cancel := context.WithTimeout(ctx, unplugLimit)
	defer cancel()
	for {
		e, err := m.Next(wait)
		if err != nil {
			there, err := has(ctx, m, device)
			return !there && err == nil, err
		}
		if deleted(e, device) {
			return true, nil
		}
	}
}

// leave notes that a card or a volume is taken away and that its guest may hold on to the device.
func (d *Driver) leave(id cloud.InstanceID, device string) error {
	return d.Note(id, func(s *machine.Spec) {
		vm := *s.VM
		vm.Left = slices.Clone(vm.Left)
		left := func(name string, slot int) bool {
			if name == device {
				vm.Left = append(vm.Left, machine.Left{Device: name, Slot: slot})
			}
			return name == device
		}
		vm.NICs = slices.DeleteFunc(slices.Clone(vm.NICs), func(n machine.NIC) bool { return left(cardDevice(n.Interface), n.Slot) })
		vm.Volumes = slices.DeleteFunc(slices.Clone(vm.Volumes), func(v machine.Volume) bool { return left(volumeDevice(v.Graph.ID), v.Slot) })
		s.VM = &vm
	})
}

// reap notes which of the devices that were left the guest has let go of since, and returns the others.
func (d *Driver) reap(ctx context.Context, m *qmp.Client, id cloud.InstanceID) ([]machine.Left, error) {
	s, err := d.Running(id)
	if err != nil || len(s.VM.Left) == 0 {
		return nil, err
	}
	there, err := peripherals(ctx, m)
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(s.VM.Left), func(l machine.Left) bool { return !slices.Contains(there, l.Device) })
	if len(left) == len(s.VM.Left) {
		return left, nil
	}
	return left, d.Note(id, func(s *machine.Spec) {
		vm := *s.VM
		vm.Left = left
		s.VM = &vm
	})
}

// askAgain asks a guest once more for what it holds on to: it may not have been listening.
func (d *Driver) askAgain(ctx context.Context, m *qmp.Client, id cloud.InstanceID) error {
	left, err := d.reap(ctx, m, id)
	for _, l := range left {
		_ = m.Run(ctx, "device_del", map[string]any{"id": l.Device}, nil) // refused while it is being asked
	}
	return err
}

// whole refuses to save a machine whose devices are not those that it would be resumed with.
func (d *Driver) whole(ctx context.Context, m *qmp.Client, id cloud.InstanceID) error {
	left, err := d.reap(ctx, m, id)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("its guest holds on to %s, which was taken away; it hibernates when the guest has let go of it, or after a reboot", left[0].Device)
	}
	s, err := d.Running(id)
	if err != nil {
		return err
	}
	there, err := peripherals(ctx, m)
	if err != nil {
		return err
	}
	for _, n := range s.VM.NICs {
		if !slices.Contains(there, cardDevice(n.Interface)) {
			return fmt.Errorf("its network card %s is not plugged in yet", n.Interface)
		}
	}
	for _, v := range s.VM.Volumes {
		if !slices.Contains(there, volumeDevice(v.Graph.ID)) {
			return fmt.Errorf("its volume %s is not plugged in", v.Graph.ID)
		}
	}
	return nil
}
