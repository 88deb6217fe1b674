package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/qemu/qmp"
)

// smallHole is how large a hole in a template's memory must be for not being mapped, in bytes.
const smallHole = 2 << 20

// extent is a part of a template's memory that holds anything.
type extent struct{ from, to int64 }

// extents are the parts of a file that hold data, those with little between them as one.
func extents(f *os.File) ([]extent, error) {
	var found []extent
	for at := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("find what a memory holds: %w", err)
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find what a memory holds: %w", err)
		}
		if n := len(found); n > 0 && from-found[n-1].to < smallHole {
			found[n-1].to = to
		} else {
			found = append(found, extent{from, to})
		}
		at = to
	}
}

// overlays tells whether this host can put a template's memory over a hypervisor's own.
func overlays() bool {
	scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	return runtime.GOARCH == "amd64" && (err != nil || strings.TrimSpace(string(scope)) != "3")
}

// overlay maps a template's memory privately over the memory of a hypervisor that has not run its guest yet. QEMU could map the
// file by itself, and then would never give a page back: it punches a hole into the file before it drops the page, which a file
// that others use can't allow. Over memory that QEMU takes for its own, what it drops is its copy; and where the template holds
// nothing, the memory is its own indeed.
func overlay(ctx context.Context, m *qmp.Client, pid int, t *Template, vm *machine.VM) error {
	var said string
	if err := m.Run(ctx, "human-monitor-command", map[string]any{"command-line": fmt.Sprintf("gpa2hva %#x", boards[vm.Architecture].memoryAt)}, &said); err != nil {
		return err
	}
	_, text, ok := strings.Cut(said, " is 0x")
	var at uint64
	if _, err := fmt.Sscanf(text, "%x", &at); !ok || err != nil {
		return fmt.Errorf("ask where its memory is: it says %q", said)
	}
	if err := ownMemory(pid, at, uint64(vm.Memory)); err != nil {
		return err
	}
	return mapOver(pid, at, memoryFD, t.extents)
}

// ownMemory checks that a range of a process's addresses is memory of its own.
func ownMemory(pid int, at, size uint64) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return fmt.Errorf("read the hypervisor's mappings: %w", err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadString('\n')
		var from, to, offset, inode uint64
		var mode, device string
		if n, _ := fmt.Sscanf(line, "%x-%x %s %x %s %d", &from, &to, &mode, &offset, &device, &inode); n == 6 && from <= at && at < to {
			if at+size > to || mode != "rw-p" || inode != 0 {
				return fmt.Errorf("the hypervisor's memory is expected at %x, %d bytes, where it has %q", at, size, strings.TrimSpace(line))
			}
			return nil
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the hypervisor has no memory at %x", at)
		}
		if err != nil {
			return fmt.Errorf("read the hypervisor's mappings: %w", err)
		}
	}
}
