package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// firstPassed is the first descriptor that the hypervisor inherits; of one that is forked it is the template's memory.
	firstPassed = 3
	memoryFD    = firstPassed
	// translated bounds the cache of translated code, in MiB.
	translated = 128
	// memoryID and so on name objects of the hypervisor's.
	memoryID  = "ram"
	moreID    = "more" // memory that is plugged in while the machine runs; its device is moreID + "-device"
	portID    = "guest"
	consoleID = "console"
)

// Where the hypervisor finds files inside its container.
const (
	kernelTarget = "/boot/kernel"
	initrdTarget = "/boot/initrd"
	uefiTarget   = "/boot/uefi"
)

// line collects a hypervisor's command line and the descriptors that go with it.
type line struct {
	args []string
	pass []*os.File
}

func (l *line) add(args ...string) { l.args = append(l.args, args...) }

// hand passes a descriptor on and returns its number there.
func (l *line) hand(f *os.File) int {
	l.pass = append(l.pass, f)
	return firstPassed + len(l.pass) - 1
}

func (l *line) close() {
	for _, f := range l.pass {
		f.Close()
	}
}

// object formats JSON, which QEMU takes where commas in values would be ambiguous.
func object(v map[string]any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(b)
}

// modelOf names the processor that a machine sees.
func modelOf(vm *machine.VM) string {
	if vm.Accelerator == "kvm" {
		return "host"
	}
	return boards[vm.Architecture].cpu
}

// device names a kind of device for a machine.
func device(vm *machine.VM, kind string) string {
	if vm.Devices == cloud.DevicesEmulated {
		switch kind {
		case "net":
			return "e1000"
		case "disk":
			return "ide-hd"
		}
	}
	return map[string]string{"net": "virtio-net-pci", "disk": "virtio-blk-pci"}[kind]
}

// machine says what the machine is: processors, memory, firmware.
func (l *line) machine(b board, s machine.Spec, from sources) {
	vm := s.VM
	accelerator, kind := "kvm", b.kind+b.kvm
	if vm.Accelerator != accelerator {
		accelerator, kind = fmt.Sprintf("tcg,thread=multi,tb-size=%d", translated), b.kind+b.tcg
	}
	l.add("-name", "guest="+string(s.ID)+",debug-threads=on", "-nodefaults", "-no-user-config", "-display", "none", "-accel", accelerator, "-cpu", modelOf(vm),
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-msg", "timestamp=off", "-rtc", "base=utc")
	l.add("-machine", kind+",memory-backend="+memoryID)
	l.add("-smp", fmt.Sprintf("cpus=%d,maxcpus=%d", vm.CPUs, vm.MaxCPUs))
	from.memory(l, vm)
	l.add("-uuid", machineUUID(s.ID))
	l.add("-smbios", "type=1,manufacturer=Amazon EC2,product="+strings.ReplaceAll(vm.Product, ",", "")+",serial="+machineUUID(s.ID))
	switch vm.Firmware {
	case cloud.FirmwareNone:
		l.add("-kernel", kernelTarget, "-append", "console="+b.console+" "+vm.Cmdline)
		if vm.Initrd != "" {
			l.add("-initrd", initrdTarget)
		}
	case cloud.FirmwareUEFI:
		l.add("-bios", uefiTarget)
	}
	l.addPorts(b)
}

// maxCPUs is up to how many processors a machine may grow while it runs.
func maxCPUs(s machine.Spec) int {
	if !boards[s.VM.Architecture].plugsCPUs {
		return max(1, s.Resources.VCPUs)
	}
	return max(1, s.Resources.VCPUs, min(2*hostCPUs, 64))
}

// channels are the ways in and out: console, monitor, the guest's program.
func (l *line) channels(b board, s machine.Spec, monitor, port *os.File) {
	l.add("-chardev", "stdio,id="+consoleID+",signal=off", "-serial", "chardev:"+consoleID)
	l.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d,server=on,wait=off", l.hand(monitor)), "-mon", "chardev=monitor,mode=control")
	if s.VM.Devices == cloud.DevicesEmulated {
		// The screen's server listens nowhere: connections are handed to it.
		l.add("-device", "VGA", "-device", "piix3-usb-uhci", "-device", "usb-tablet", "-vnc", "none,share=ignore")
	} else {
		l.add("-device", "virtio-rng-pci,rng=random", "-object", "rng-builtin,id=random", "-device",
			"virtio-balloon-pci,id=balloon,deflate-on-oom=on,page-poison=off,free-page-reporting="+map[bool]string{true: "off", false: "on"}[s.VM.Mapped])
		if b.generationID {
			l.add("-device", "vmgenid,guid=auto")
		}
	}
	if port != nil {
		l.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", portID, l.hand(port)), "-device", "virtio-serial-pci",
			"-device", "virtserialport,chardev="+portID+",name="+wire.Port)
	}
}

// disks opens root and disks, and lays each over its base.
func (l *line) disks(vm *machine.VM) error {
	n := 0
	if vm.Root != nil {
		if err := l.volume(*vm.Root); err != nil {
			return err
		}
		l.disk(vm, n, map[string]any{"id": volumeDevice(vm.Root.ID), "drive": volume.Top(vm.Root.ID), "serial": VolumeSerial(vm.Root.ID)})
		n++
	}
	for i, d := range vm.Disks {
		base := ""
		if d.Base != "" {
			base = fmt.Sprintf("base%d", i)
			if err := l.block(base, d.Base, d.BaseFormat, "", true); err != nil {
				return err
			}
		}
		node := fmt.Sprintf("disk%d", i)
		if err := l.block(node, d.Path, d.Format, base, d.ReadOnly); err != nil {
			return err
		}
		dev := map[string]any{"id": "dev-" + node, "drive": node}
		if d.Serial != "" {
			dev["serial"] = d.Serial
		}
		l.disk(vm, n, dev)
		n++
	}
	return nil
}

// disk adds the front end of the n-th disk, from 0: the first is what the machine starts from.
func (l *line) disk(vm *machine.VM, n int, dev map[string]any) {
	dev["driver"] = device(vm, "disk")
	if vm.Devices == cloud.DevicesEmulated {
		if n == 0 {
			l.add("-device", "ahci,id=ahci")
		}
		dev["bus"] = "ahci." + strconv.Itoa(n)
	} else {
		dev["num-queues"] = 1 // not as many as there are processors, which change
	}
	if n == 0 && vm.Firmware != cloud.FirmwareNone {
		dev["bootindex"] = 1
	}
	l.add("-device", object(dev))
}

// volume opens a volume. A layer that is written to can be read by another descriptor, too: it is opened anew when a snapshot freezes it.
func (l *line) volume(g volume.Graph) error {
	objects, nodes, err := volume.Arguments(g, func(path string, writable bool) (string, error) {
		modes, set := []int{os.O_RDONLY}, len(l.pass)+1
		if writable {
			modes = append(modes, os.O_RDWR)
		}
		for _, mode := range modes {
			f, err := os.OpenFile(path, mode, 0)
			if err != nil {
				return "", fmt.Errorf("open the root's file: %w", err)
			}
			l.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", l.hand(f), set))
		}
		return fmt.Sprintf("/dev/fdset/%d", set), nil
	}, func(key keyring.Key) (string, error) {
		f, err := key.File()
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("/proc/self/fd/%d", l.hand(f)), nil // QEMU reads secrets from paths only
	})
	if err != nil {
		return fmt.Errorf("volume %s: %w", g.ID, err)
	}
	for _, o := range objects {
		l.add("-object", object(o))
	}
	for _, node := range nodes {
		l.add("-blockdev", object(node))
	}
	return nil
}

// block opens a file and makes a node of the block layer of it. The file is known to the hypervisor by its descriptor alone.
func (l *line) block(node, path, format, backing string, readOnly bool) error {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return fmt.Errorf("open a disk: %w", err)
	}
	set := len(l.pass) + 1
	l.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", l.hand(f), set))
	file := map[string]any{"driver": "file", "node-name": node + "-file", "filename": fmt.Sprintf("/dev/fdset/%d", set), "read-only": readOnly, "discard": "unmap", "locking": "off"}
	l.add("-blockdev", object(file))
	if format != "qcow2" && format != "raw" {
		return fmt.Errorf("the disk %s has the format %q, which is neither qcow2 nor raw", path, format)
	}
	top := map[string]any{"driver": format, "node-name": node, "file": node + "-file", "read-only": readOnly, "discard": "unmap"}
	if format == "qcow2" {
		// Said always, also that there is none: no header ever names another file.
		top["backing"] = nil
		if backing != "" {
			top["backing"] = backing
		}
	}
	l.add("-blockdev", object(top))
	return nil
}

// nicDevice is a card's front end. Direct boots need no option ROM.
func nicDevice(vm *machine.VM, n machine.NIC) map[string]any {
	dev := map[string]any{"driver": device(vm, "net"), "id": "nic-" + string(n.Interface), "netdev": "net-" + string(n.Interface), "mac": n.MAC, "romfile": ""}
	boards[vm.Architecture].place(dev, n.Slot)
	if n.MTU > 0 && vm.Devices != cloud.DevicesEmulated {
		dev["host_mtu"] = n.MTU
	}
	return dev
}

// machineUUID begins with "ec2", by which guests know where they are, and ends with the instance's own digits.
func machineUUID(id cloud.InstanceID) string {
	digits := strings.TrimPrefix(string(id), "i-")
	digits = "ec2" + strings.Repeat("0", max(0, 29-len(digits))) + digits
	return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]}, "-")
}
