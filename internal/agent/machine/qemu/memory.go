package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// A machine has two kinds of memory. What it starts with is the board's: a balloon takes pages of it away and gives them back. What it
// gets beyond that is plugged in by a virtio-mem device, which every machine that can have more has from its first boot on, empty, so
// that a template and what is forked from it are alike.

const (
	// growth is how many times its first memory a machine can have. The kernel of a guest calls three plugged bytes to each other one movable,
	// so that all of it can be taken out again.
	growth = 4
	// memoryBlock is the piece in which guests' kernels take memory in, in bytes.
	memoryBlock = 128 << 20
	// memoryLimit is how long a guest may take to give memory back or to take it in.
	memoryLimit = 30 * time.Second
	// tellLimit is how long a hypervisor may take to take a wish back.
	tellLimit = 5 * time.Second
	// spareLimit is how long a guest may take to say what it uses.
	spareLimit = 10 * time.Second
	// leastLeft is what stays available to a guest, in bytes.
	leastLeft = 16 << 20
	// memorySlack is what a guest may have more or less than was asked for: it counts in larger pieces, in bytes.
	memorySlack = 4 << 20
)

// hostMemory is how much memory this server has, in bytes.
func hostMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// maxMemory is the most that a machine can have while it runs.
func maxMemory(s machine.Spec) int64 {
	if !boards[s.VM.Architecture].plugsMemory || s.VM.Devices == cloud.DevicesEmulated {
		return s.Resources.Memory
	}
	more := min(growth*s.Resources.Memory, hostMemory()) - s.Resources.Memory
	return s.Resources.Memory + max(more, 0)/memoryBlock*memoryBlock
}

// hand passes a memory on that is a file: the template's, for reading alone where it is put over the hypervisor's own.
func (s sources) hand(l *line, vm *machine.VM) error {
	file, mode := s.memfd, os.O_RDWR
	if s.template != nil {
		file = s.template.memory
		if !vm.Mapped {
			mode = os.O_RDONLY
		}
	}
	if file == nil {
		return nil
	}
	f, err := again(file, mode)
	if err != nil {
		return fmt.Errorf("its memory: %w", err)
	}
	l.hand(f)
	return nil
}

// memory describes a machine's memory. A file without a name is opened by a descriptor's, as QEMU knows no other way.
func (s sources) memory(l *line, vm *machine.VM) {
	ram := fmt.Sprintf("memory-backend-ram,id=%s,size=%d", memoryID, vm.Memory)
	if s.memfd != nil || s.template != nil && vm.Mapped {
		ram = fmt.Sprintf("memory-backend-file,id=%s,size=%d,mem-path=/proc/self/fd/%d,share=%s", memoryID, vm.Memory, memoryFD,
			map[bool]string{true: "on", false: "off"}[s.memfd != nil])
	}
	l.add("-object", ram)
	if vm.MaxMemory <= vm.Memory {
		l.add("-m", fmt.Sprintf("%dM", vm.Memory>>20))
		return
	}
	l.add("-m", fmt.Sprintf("size=%dM,slots=1,maxmem=%dM", vm.Memory>>20, vm.MaxMemory>>20),
		"-object", fmt.Sprintf("memory-backend-ram,id=%s,size=%d,reserve=off", moreID, vm.MaxMemory-vm.Memory),
		"-device", fmt.Sprintf("virtio-mem-pci,id=%s-device,memdev=%s,block-size=2M,requested-size=0", moreID, moreID))
}

// memoryChanges refuses what a running machine can't have.
func memoryChanges(s machine.Spec, size int64) error {
	const instead = "stop it, change its size, and start it"
	now := s.Resources.Memory
	switch {
	case size == now:
		return nil
	case s.VM.Devices == cloud.DevicesEmulated:
		return fmt.Errorf("it has no device by which its memory could change while it runs; %s", instead)
	case size > s.VM.MaxMemory:
		return fmt.Errorf("it was started with %d MiB of memory, and can have up to %d while it runs, not %d; %s", s.VM.Memory>>20, s.VM.MaxMemory>>20, size>>20, instead)
	case size < s.VM.Memory && s.VM.Mapped:
		return fmt.Errorf("it shares its first %d MiB of memory with others, on a server that can't take them away while it runs; %s", s.VM.Memory>>20, instead)
	}
	return nil
}

// setMemory has a guest give memory back, or take memory in, until it has size bytes. One that does not is left as it was.
func (d *Driver) setMemory(ctx context.Context, s machine.Spec, size int64) error {
	limited, cancel := context.WithTimeout(ctx, memoryLimit)
	defer cancel()
	asked := false
	err := d.withMonitor(limited, s.ID, func(m *qmp.Client) error {
		if size < s.Resources.Memory {
			if err := spares(limited, m, s, size); err != nil {
				return err
			}
		}
		asked = true
		if err := ask(limited, m, s.VM, size); err != nil {
			return err
		}
		return awaitMemory(limited, m, s.VM, size)
	})
	if err != nil && asked {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellLimit)
		defer cancel()
		err = errors.Join(err, d.withMonitor(back, s.ID, func(m *qmp.Client) error { return ask(back, m, s.VM, s.Resources.Memory) }))
	}
	return err
}

// spares refuses to take from a guest what it says now that it uses. One that says nothing is asked to give all the same.
func spares(ctx context.Context, m *qmp.Client, s machine.Spec, size int64) error {
	begin := time.Now()
	for time.Since(begin) < spareLimit {
		says, err := guestMemory(ctx, m, 1)
		if err != nil {
			return err
		}
		if says.available >= 0 && says.at.After(begin) {
			if take, most := s.Resources.Memory-size, max(says.available-leastLeft, 0); take > most {
				return fmt.Errorf("its guest uses %d MiB, and %d MiB stay available to it; %d MiB can be taken, not %d", (s.Resources.Memory-says.available)>>20, leastLeft>>20, most>>20, take>>20)
			}
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// memoryNow is what a guest has of both kinds, in bytes.
type memoryNow struct{ first, plugged int64 }

func look(ctx context.Context, m *qmp.Client) (now memoryNow, err error) {
	var sum struct {
		Plugged int64 `json:"plugged-memory"`
	}
	if err := m.Run(ctx, "query-memory-size-summary", nil, &sum); err != nil {
		return now, err
	}
	var st struct{ Actual int64 }
	if err := m.Run(ctx, "query-balloon", nil, &st); err != nil {
		return now, err
	}
	return memoryNow{st.Actual, sum.Plugged}, nil
}

// setBalloon leaves a guest so much of its first memory. Plugged memory counts for nothing there.
func setBalloon(ctx context.Context, m *qmp.Client, first int64) error {
	return m.Run(ctx, "balloon", map[string]any{"value": first}, nil)
}

// ask tells a guest how much memory it is to have.
func ask(ctx context.Context, m *qmp.Client, vm *machine.VM, size int64) error {
	if err := setBalloon(ctx, m, min(size, vm.Memory)); err != nil || vm.MaxMemory <= vm.Memory {
		return err
	}
	more := max(size-vm.Memory, 0) &^ (2<<20 - 1)
	return m.Run(ctx, "qom-set", map[string]any{"path": "/machine/peripheral/" + moreID + "-device", "property": "requested-size", "value": more}, nil)
}

// awaitMemory waits until a guest has the memory that it was told to have.
func awaitMemory(ctx context.Context, m *qmp.Client, vm *machine.VM, size int64) error {
	first, plugged := min(size, vm.Memory), max(size-vm.Memory, 0)
	near := func(a, b int64) bool { return a-b <= memorySlack && b-a <= memorySlack }
	for {
		now, err := look(ctx, m)
		if err != nil {
			return err
		}
		if near(now.first, first) && near(now.plugged, plugged) {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("its guest has %d MiB and was to have %d; it needs what it keeps, or does not know the devices (virtio-balloon, virtio-mem)", (now.first+now.plugged)>>20, size>>20)
		}
	}
}
