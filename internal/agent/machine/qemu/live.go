package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

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
