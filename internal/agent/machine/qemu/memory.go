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
	if s.VM.Architecture != "x86_64" || s.VM.Devices == cloud.DevicesEmulated {
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
	ctx, cancel := context.WithTimeout(ctx, memoryLimit)
	defer cancel()
	return d.withMonitor(ctx, s.ID, func(m *qmp.Client) error {
		err := askMemory(ctx, m, s.VM, size)
		if err == nil {
			err = awaitMemory(ctx, m, s.VM, size)
		}
		if err != nil {
			again, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			err = errors.Join(err, askMemory(again, m, s.VM, s.Resources.Memory))
		}
		return err
	})
}

// askMemory tells a guest how much memory it is to have.
func askMemory(ctx context.Context, m *qmp.Client, vm *machine.VM, size int64) error {
	if vm.MaxMemory > vm.Memory {
		more := max(size-vm.Memory, 0) &^ (2<<20 - 1)
		if err := m.Run(ctx, "qom-set", map[string]any{"path": "/machine/peripheral/" + moreID + "-device", "property": "requested-size", "value": more}, nil); err != nil {
			return err
		}
	}
	return m.Run(ctx, "balloon", map[string]any{"value": min(size, vm.Memory)}, nil)
}

// heldMemory is how much memory a guest has.
func heldMemory(ctx context.Context, m *qmp.Client, vm *machine.VM) (int64, error) {
	var st struct{ Actual int64 }
	if err := m.Run(ctx, "query-balloon", nil, &st); err != nil {
		return 0, err
	}
	var more int64
	if vm.MaxMemory > vm.Memory {
		if err := m.Run(ctx, "qom-get", map[string]any{"path": "/machine/peripheral/" + moreID + "-device", "property": "size"}, &more); err != nil {
			return 0, err
		}
	}
	return min(st.Actual, vm.Memory) + more, nil
}

func awaitMemory(ctx context.Context, m *qmp.Client, vm *machine.VM, size int64) error {
	for {
		held, err := heldMemory(ctx, m, vm)
		if err != nil {
			return err
		}
		if held-size <= memorySlack && size-held <= memorySlack {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("its guest has %d MiB and was to have %d; it needs what it keeps, or does not know the devices (virtio-balloon, virtio-mem)", held>>20, size>>20)
		}
	}
}
