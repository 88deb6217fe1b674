package qemu

import (
	"context"
	"errors"
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

func plugAll(ctx context.Context, m *qmp.Client, vm *machine.VM, nics []machine.NIC) error {
	for _, n := range nics {
		if err := plug(ctx, m, vm, n); err != nil {
			return err
		}
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

// Update implements machine.Driver: share and quota of the hypervisor's control group, processors that are plugged in, and memory that
// the guest gives back or gets again. What a running machine can't have is an error that says how it can.
func (d *Driver) Update(ctx context.Context, id cloud.InstanceID, r machine.Resources) error {
	s, err := d.Running(id)
	if err != nil {
		return err
	}
	switch most := maxCPUs(s); {
	case r.VCPUs > most:
		return fmt.Errorf("machine %s: it can have %d processors while it runs, not %d; stop it, change its size, and start it", id, most, r.VCPUs)
	case r.Memory > s.VM.Memory:
		return fmt.Errorf("machine %s: it was started with %d MiB of memory and can't have %d while it runs; stop it, change its size, and start it", id, s.VM.Memory>>20, r.Memory>>20)
	case r.Memory != s.Resources.Memory && (s.VM.Forked || s.VM.Devices == cloud.DevicesEmulated):
		return fmt.Errorf("machine %s: its memory, which is shared with others or has no balloon, can't change while it runs; stop it, change its size, and start it", id)
	}
	if r.Memory != s.Resources.Memory {
		if err := d.balloon(ctx, s, r.Memory); err != nil {
			return fmt.Errorf("machine %s: change its memory: %w", id, err)
		}
	}
	if r.VCPUs != s.Resources.VCPUs {
		if err := d.plugCPUs(ctx, s, r.VCPUs); err != nil {
			return fmt.Errorf("machine %s: give it processors: %w", id, err)
		}
	}
	want := s
	want.Resources = r
	return d.Limit(ctx, id, limits(want), r)
}

const (
	balloonLimit = 30 * time.Second // for a guest to give memory back
	balloonSlack = 4 << 20          // that it may keep, in bytes
)

// balloon has a guest give memory back until it has size bytes, or get it again. One that needs its memory is left as it was.
func (d *Driver) balloon(ctx context.Context, s machine.Spec, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, balloonLimit)
	defer cancel()
	return d.withMonitor(ctx, s.ID, func(m *qmp.Client) error {
		if err := m.Run(ctx, "balloon", map[string]any{"value": size}, nil); err != nil {
			return err
		}
		for {
			var st struct{ Actual int64 }
			if err := m.Run(ctx, "query-balloon", nil, &st); err != nil {
				return err
			}
			if (st.Actual-size) <= balloonSlack && (size-st.Actual) <= balloonSlack {
				return nil
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				again, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				back := m.Run(again, "balloon", map[string]any{"value": s.Resources.Memory}, nil)
				return errors.Join(fmt.Errorf("its guest keeps %d MiB and was to have %d", st.Actual>>20, size>>20), back)
			}
		}
	})
}

// plugCPUs plugs processors into a machine until it has as many, and has the guest use just these. Processors are never unplugged:
// the guest puts those that are too many to rest, and the quota holds whatever it does.
func (d *Driver) plugCPUs(ctx context.Context, s machine.Spec, want int) error {
	err := d.withMonitor(ctx, s.ID, func(m *qmp.Client) error {
		var slots []struct {
			Type  string         `json:"type"`
			Props map[string]any `json:"props"`
			Path  string         `json:"qom-path"`
		}
		if err := m.Run(ctx, "query-hotpluggable-cpus", nil, &slots); err != nil {
			return err
		}
		have := 0
		for _, slot := range slots {
			if slot.Path != "" {
				have++
			}
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
