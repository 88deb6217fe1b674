package qemu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// board is the machine that an architecture's virtual machines have: what differs between architectures is here and nowhere else.
type board struct {
	program string // the hypervisor
	pkg     string // Debian's, which has it
	kind    string // QEMU's name for the machine
	kvm     string // what is added to kind with KVM, and with translation
	tcg     string
	cpu     string // the processor that is translated
	console string // Linux's name for the first serial port
	uefi    string // the firmware's file
	// ports tells whether devices are plugged into PCI Express ports, of which there is one in each slot for them.
	ports    bool
	memoryAt uint64 // the guest's physical address of its memory's beginning
	// plugsCPUs and plugsMemory tell whether there can be more of them while the machine runs, generationID whether a guest can see
	// that it is a copy. Guests with nacre's program are told by that.
	plugsCPUs, plugsMemory, generationID bool
}

// boards are those of all architectures, in EC2's words. The PC is the old one, the i440FX: all of its slots take devices while it
// runs, and every operating system for PCs knows it. Translated, the signatures of pointers by Arm's own algorithm take most of the
// time, so they are made by one that is cheap to make.
var boards = map[string]board{
	"x86_64": {program: "qemu-system-x86_64", pkg: "qemu-system-x86", kind: "pc", cpu: "max", console: "ttyS0", uefi: "/usr/share/ovmf/OVMF.fd",
		plugsCPUs: true, plugsMemory: true, generationID: true},
	"arm64": {program: "qemu-system-aarch64", pkg: "qemu-system-arm", kind: "virt", kvm: ",gic-version=host", tcg: ",gic-version=3", cpu: "max,pauth-impdef=on",
		console: "ttyAMA0", uefi: "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", ports: true, memoryAt: 1 << 30},
}

// boardOf is the machine of an architecture.
func boardOf(architecture string) (board, error) {
	b, ok := boards[architecture]
	if !ok {
		return b, fmt.Errorf("no hypervisor here runs the architecture %q", architecture)
	}
	return b, nil
}

// find looks for the board's hypervisor.
func (b board) find() (path string, err error) {
	if path, err = exec.LookPath(b.program); err != nil {
		return "", fmt.Errorf("virtual machines of this architecture need %s (Debian's %s), which is not installed; `nacre doctor --install` installs it", b.program, b.pkg)
	}
	return path, nil
}

// Architectures are those of the virtual machines that the hypervisors on this server run, in EC2's words, its own one first.
func Architectures() []string {
	own := map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH]
	var list []string
	for name, b := range boards {
		if _, err := b.find(); err == nil {
			list = append(list, name)
		}
	}
	slices.SortFunc(list, func(a, b string) int {
		if (a == own) != (b == own) {
			return map[bool]int{true: -1, false: 1}[a == own]
		}
		return strings.Compare(a, b)
	})
	return list
}

// Version asks the first hypervisor on this server for its version. The error says what to do when there is none.
func Version(ctx context.Context) (string, error) {
	found := Architectures()
	if len(found) == 0 {
		return "", errors.New("virtual machines need QEMU, which is not installed; `nacre doctor --install` installs it")
	}
	path, err := boards[found[0]].find()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	_, rest, _ := strings.Cut(string(out), "version ")
	version, _, _ := strings.Cut(rest, " ")
	return strings.TrimSpace(version), nil
}

// portName names the port in a slot, which is the name of the bus behind it too.
func portName(slot int) string { return fmt.Sprintf("port%d", slot) }

// addPorts puts a port into each slot that devices are plugged into, where such a slot takes nothing else while the machine runs.
func (l *line) addPorts(b board) {
	if !b.ports {
		return
	}
	for slot := firstSlot; slot <= lastSlot; slot++ {
		l.add("-device", object(map[string]any{"driver": "pcie-root-port", "id": portName(slot), "chassis": slot, "slot": slot, "addr": fmt.Sprintf("%#x", slot)}))
	}
}

// place says of a device in which slot it is.
func (b board) place(device map[string]any, slot int) {
	switch {
	case slot == 0: // any
	case b.ports:
		device["bus"] = portName(slot)
	default:
		device["addr"] = fmt.Sprintf("%#x", slot)
	}
}
