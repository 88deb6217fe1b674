package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

// plugged tells whether a machine has a card.
func plugged(ctx context.Context, m *qmp.Client, id cloud.InterfaceID) (bool, error) {
	var devices []struct{ Name string }
	err := m.Run(ctx, "qom-list", map[string]any{"path": "/machine/peripheral"}, &devices)
	return slices.ContainsFunc(devices, func(d struct{ Name string }) bool { return d.Name == "nic-"+string(id) }), err
}

func plugAll(ctx context.Context, m *qmp.Client, vm *machine.VM, nics []machine.NIC) error {
	for _, n := range nics {
		if err := plug(ctx, m, vm, n); err != nil {
			return err
		}
	}
	return nil
}

// Cards have the slots of the bus from firstSlot on; those before are for what machines are made with. A machine that goes on from
// a saved state must have each where it was.
const (
	firstSlot = 0x10
	lastSlot  = 0x1f
)

// slots are a machine's cards, each with a slot of its own.
func slots(vm *machine.VM) []machine.NIC {
	taken := map[int]bool{}
	for _, n := range vm.NICs {
		taken[n.Slot] = true
	}
	for _, v := range vm.Volumes {
		taken[v.Slot] = true
	}
	cards := slices.Clone(vm.NICs)
	for i := range cards {
		for slot := firstSlot; cards[i].Slot == 0 && slot <= lastSlot; slot++ {
			if !taken[slot] {
				cards[i].Slot, taken[slot] = slot, true
			}
		}
	}
	return cards
}

// AttachNIC gives a running machine a network card, and has its guest put it in force. A card that it has already may have other
// addresses now, which its guest is told.
func (d *Driver) AttachNIC(ctx context.Context, id cloud.InstanceID, n machine.NIC) error {
	s, err := d.Running(id)
	if err != nil {
		return err
	}
	vm := *s.VM
	vm.NICs = slices.Clone(vm.NICs)
	k := slices.IndexFunc(vm.NICs, func(have machine.NIC) bool { return have.Interface == n.Interface })
	switch {
	case k >= 0:
		n.Slot = vm.NICs[k].Slot
		vm.NICs[k] = n
	case len(vm.NICs) > lastSlot-firstSlot:
		return fmt.Errorf("machine %s: it has %d network cards, and no place for another", id, len(vm.NICs))
	default:
		vm.NICs = append(vm.NICs, n)
		vm.NICs = slots(&vm)
		err := d.withMonitor(ctx, id, func(m *qmp.Client) error {
			if there, err := plugged(ctx, m, n.Interface); there || err != nil {
				return err // since before a crash
			}
			return plug(ctx, m, &vm, vm.NICs[len(vm.NICs)-1])
		})
		if err != nil {
			return fmt.Errorf("machine %s: %w", id, err)
		}
	}
	if err := d.Note(id, func(s *machine.Spec) { s.VM = &vm }); err != nil {
		return err
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

// deleted tells whether an event says that the guest has let go of just this device: others may go at the same time.
func deleted(e qmp.Event, device string) bool {
	var of struct{ Device string }
	return e.Name == "DEVICE_DELETED" && json.Unmarshal(e.Data, &of) == nil && of.Device == device
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
				if err != nil || deleted(e, device) {
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

// Update implements machine.Driver: share and quota of the hypervisor's control group, processors that are plugged in, and memory that
// the guest gives back or gets. What a running machine can't have is an error that says how it can.
func (d *Driver) Update(ctx context.Context, id cloud.InstanceID, r machine.Resources) error {
	s, err := d.Running(id)
	if err != nil {
		return err
	}
	if most := s.VM.MaxCPUs; r.VCPUs > most {
		return fmt.Errorf("machine %s: it can have %d processors while it runs, not %d; stop it, change its size, and start it", id, most, r.VCPUs)
	}
	if err := memoryChanges(s, r.Memory); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	want := s
	want.Resources = r
	if r.Memory > s.Resources.Memory { // room first
		more := s
		more.Resources.Memory = r.Memory
		if err := d.Limit(ctx, id, limits(more), s.Resources); err != nil {
			return err
		}
	}
	if r.Memory != s.Resources.Memory {
		if err := d.setMemory(ctx, s, r.Memory); err != nil {
			err = fmt.Errorf("machine %s: change its memory: %w", id, err)
			if r.Memory > s.Resources.Memory {
				err = errors.Join(err, d.Limit(context.WithoutCancel(ctx), id, limits(s), s.Resources))
			}
			return err
		}
	}
	if r.VCPUs != s.Resources.VCPUs {
		if err := d.plugCPUs(ctx, s, r.VCPUs); err != nil {
			return fmt.Errorf("machine %s: give it processors: %w", id, err)
		}
	}
	return d.Limit(ctx, id, limits(want), r)
}

// cpuSlot is a place for a processor.
type cpuSlot struct {
	Type  string         `json:"type"`
	Props map[string]any `json:"props"`
	Path  string         `json:"qom-path"` // "" when it is empty
}

// pluggedCPUs are a machine's places for processors, and how many hold one. A board that takes no more has no such places.
func pluggedCPUs(ctx context.Context, m *qmp.Client, vm *machine.VM) (slots []cpuSlot, have int, err error) {
	if !boards[vm.Architecture].plugsCPUs {
		return nil, vm.CPUs, nil
	}
	err = m.Run(ctx, "query-hotpluggable-cpus", nil, &slots)
	for _, slot := range slots {
		if slot.Path != "" {
			have++
		}
	}
	return slots, have, err
}

// plugCPUs plugs processors into a machine until it has as many, and has the guest use just these. Processors are never unplugged:
// the guest puts those that are too many to rest, and the quota holds whatever it does.
func (d *Driver) plugCPUs(ctx context.Context, s machine.Spec, want int) error {
	err := d.withMonitor(ctx, s.ID, func(m *qmp.Client) error {
		slots, have, err := pluggedCPUs(ctx, m, s.VM)
		if err != nil {
			return err
		}
		for i := len(slots) - 1; i >= 0 && have < want; i-- { // QEMU lists the last one first
			if slots[i].Path != "" {
				continue
			}
			device := map[string]any{"driver": slots[i].Type, "id": fmt.Sprintf("cpu-%d", have)}
			for name, v := range slots[i].Props {
				device[name] = v
			}
			if err := m.Run(ctx, "device_add", device, nil); err != nil {
				return err
			}
			have++
		}
		return nil
	})
	if err != nil || !s.VM.GuestAgent {
		return err
	}
	c := d.guestOf(s.ID)
	if c == nil {
		return errors.New("its guest is still booting; try again when it is up")
	}
	ctx, cancel := context.WithTimeout(ctx, unplugLimit)
	defer cancel()
	p, err := c.Exec(ctx, machine.ExecSpec{Args: []string{"/bin/sh", "-c", fmt.Sprintf(restCPUs, want, want)}})
	if err != nil {
		return err
	}
	if code, err := p.Wait(); err != nil || code != 0 {
		return fmt.Errorf("its guest does not use just %d processors (exit %d, %v)", want, code, err)
	}
	return nil
}

// restCPUs has a guest use the first processors only, as soon as the kernel has found those that were just plugged in.
const restCPUs = `n=0
while [ ! -e /sys/devices/system/cpu/cpu$((%d - 1)) ]; do n=$((n + 1)); [ $n -lt 50 ] || exit 1; sleep 0.1; done
for c in /sys/devices/system/cpu/cpu[0-9]*; do
	i=${c##*/cpu}
	want=0; [ "$i" -lt %d ] && want=1
	[ ! -e "$c/online" ] || [ "$(cat "$c/online")" = $want ] || echo $want >"$c/online" || exit 1
done`
