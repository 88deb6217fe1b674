package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/nacre-cloud/nacre/internal/agent/access"
	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/program"
	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Hypervisor is what the agent asks of the driver of virtual machines beyond what every driver does.
type Hypervisor interface {
	machine.Driver
	// AttachNIC gives a running machine a network card; DetachNIC takes one away, before its link goes. Its guest may hold on to the device, which is
	// without a link then: until it has let go, AttachNIC of the same interface is an error, to be tried again.
	AttachNIC(ctx context.Context, id cloud.InstanceID, n machine.NIC) error
	DetachNIC(ctx context.Context, id cloud.InstanceID, nic cloud.InterfaceID) error
	// Freeze boots a machine up to where its guest waits to be told who it is and settle agrees, and makes a template of it; only
	// the machine's disk is left. StartFrom starts a machine there, on a copy of that disk.
	Freeze(ctx context.Context, s machine.Spec, settle func(ctx context.Context, exec machine.Exec) error) (machine.Template, error)
	StartFrom(ctx context.Context, s machine.Spec, t machine.Template) (machine.Status, error)
	// Build changes with the program that runs an architecture's machines: a template is good for the one that froze it.
	Build(architecture string) (string, error)
	// Hibernate saves a running machine's memory below its directory and ends it; Hibernated tells whether one is saved there; Resume
	// starts the machine where it was saved, and leaves nothing saved, whatever comes of it.
	Hibernate(ctx context.Context, id cloud.InstanceID) error
	Hibernated(dir string) bool
	Resume(ctx context.Context, s machine.Spec) (machine.Status, error)
	// Screen connects to the screen, keyboard and pointer of a running machine with emulated devices; the connection speaks RFB
	// (RFC 6143). Break sends a break down a running machine's serial line.
	Screen(ctx context.Context, id cloud.InstanceID) (net.Conn, error)
	Break(ctx context.Context, id cloud.InstanceID) error
	// AttachVolume gives a running machine a volume; DetachVolume takes one away, without waiting for its guest when it is forced. OpensVolume tells whether a
	// running machine has a volume, and VolumeDoor leads to its hypervisor.
	AttachVolume(ctx context.Context, id cloud.InstanceID, g volume.Graph) error
	DetachVolume(ctx context.Context, id cloud.InstanceID, vol cloud.VolumeID, force bool) error
	OpensVolume(ctx context.Context, id cloud.InstanceID, vol cloud.VolumeID) (bool, error)
	VolumeDoor(id cloud.InstanceID) volume.Door
	// Tend tells how a running machine is, and lets one go on that stalled for lack of room, when there is room.
	Tend(ctx context.Context, id cloud.InstanceID) (machine.Condition, error)
	// LeaveMemory has the guest of a running machine lend what it has of its first memory beyond so many bytes, or gives it back.
	LeaveMemory(ctx context.Context, id cloud.InstanceID, first int64) error
	// AwaitGuest waits until the guest of a running machine is in touch and knows who it is.
	AwaitGuest(ctx context.Context, id cloud.InstanceID) error
}

// ownRoot is how large the root disk of a virtual machine is that is no volume, in bytes: EC2's default for Linux images.
const ownRoot = 8 << 30

// systemLine is the kernel's command line of machines made of layers; init is added. Memory that is plugged in is used at once, and as
// much of it as can be is such that it can be taken out again.
const systemLine = "root=/dev/vda rw quiet panic=-1 net.ifnames=0 memhp_default_state=online memory_hotplug.online_policy=auto-movable init="

// vmSpec adds what makes a machine a virtual one.
func (w *worker) vmSpec(ctx context.Context, d *agentrpc.Machine, img image.Image, spec *machine.Spec) error {
	h := d.Instance.Hardware
	accelerator, err := w.a.cfg.Accelerator(ctx, d.Instance.Architecture)
	if err != nil {
		return fmt.Errorf("machine %s: %w", w.id, err)
	}
	vm := &machine.VM{
		Architecture: d.Instance.Architecture, Firmware: h.Firmware, Devices: h.Devices, Accelerator: accelerator,
		GuestAgent: img.Kind == image.KindLayers, SSHServer: img.Config.SSHServer, Product: string(d.Instance.Type),
	}
	if vm.GuestAgent {
		vm.LoginUser = img.Config.LoginUser
		if vm.SSHKeys, err = access.HostKeyFile(w.a.machineDir(w.id)); err != nil {
			return fmt.Errorf("machine %s: its host keys: %w", w.id, err)
		}
	}
	if h.Firmware == cloud.FirmwareNone {
		if vm.Kernel, err = w.a.cfg.Images.File(h.KernelDigest); err != nil {
			return fmt.Errorf("machine %s: its kernel: %w", w.id, err)
		}
		if h.RamdiskDigest != "" {
			if vm.Initrd, err = w.a.cfg.Images.File(h.RamdiskDigest); err != nil {
				return fmt.Errorf("machine %s: its RAM disk: %w", w.id, err)
			}
		}
		init := program.Path
		if spec.System && img.Config.Systemd {
			init = "/sbin/init"
		}
		vm.Cmdline = systemLine + init
	}
	for _, i := range d.Interfaces {
		vm.NICs = append(vm.NICs, w.nic(d, i))
	}
	spec.VM = vm
	return nil
}

// rootSize is how large a machine's root disk is made.
func rootSize(d *agentrpc.Machine, img image.Image) int64 {
	size := int64(ownRoot)
	if d.Root != nil {
		size = d.Root.Size
	}
	return max(size, (img.VirtualSize+1<<20-1)>>20<<20)
}

// startVM starts a virtual machine: forked from a template where its first boot finds one, booted where not, and then a
// template is made for the next. Network cards that are still to be plugged must be there already.
func (w *worker) startVM(ctx context.Context, d *agentrpc.Machine, img image.Image, spec machine.Spec) (machine.Status, error) {
	m, forks := w.a.templates.moldOf(d, &spec, img)
	var from *template
	if forks {
		from, spec.VM.WhyBooted = w.a.templates.take(m)
	}
	if from != nil {
		defer w.a.templates.giveBack(from)
	}
	if d.Root != nil {
		// Until the machine has started, nothing changes the volume's files behind its hypervisor's back.
		defer w.a.volumes.lock(d.Root.ID)()
	}
	if from != nil {
		if err := w.forkRoot(ctx, d, img, from); err != nil {
			w.log.Warn("the template's disk can't be copied; the machine boots", "error", err)
			from, spec.VM.WhyBooted = nil, "the template's disk could not be copied"
		}
	}
	if err := w.openRoot(ctx, d, img, spec.VM); err != nil {
		return machine.Status{}, fmt.Errorf("machine %s: root disk: %w", w.id, err)
	}
	if w.a.cfg.VMs != nil && w.a.cfg.VMs.Hibernated(spec.Dir) {
		st, err := w.a.cfg.VMs.Resume(ctx, spec)
		if err == nil || ctx.Err() != nil {
			return st, err
		}
		w.log.Warn("the machine can't be resumed; it boots", "error", err)
		spec.VM.WhyBooted = "its saved memory does not start"
	}
	if from != nil {
		st, err := w.a.cfg.VMs.StartFrom(ctx, spec, from.frozen)
		if err == nil || ctx.Err() != nil {
			return st, err
		}
		// The disk is a booted system's whatever became of its memory: it boots as after a power cut.
		w.log.Warn("the machine can't be forked; it boots, and the template is dropped", "error", err)
		w.a.templates.spoilt(m, from, err)
		spec.VM.WhyBooted = "its template does not start"
	}
	st, err := w.a.cfg.Driver.Start(ctx, spec)
	if err == nil && forks && from == nil {
		w.a.templates.want(w.a.life, m, spec, img)
	}
	return st, err
}

// firstTable is the number before that of the routing table of a guest's second interface.
const firstTable = 1000

// nic is a virtual machine's end of an interface.
func (w *worker) nic(d *agentrpc.Machine, i cloud.Interface) machine.NIC {
	n := machine.NIC{Interface: i.ID, MAC: i.MAC, MTU: w.a.cfg.Network.MTU(), Tap: func() (*os.File, error) { return w.a.cfg.Network.OpenTap(i.ID) }}
	bits, gateway := 32, netip.Addr{}
	if vpc := w.a.vpcs.get(i.VPC); vpc != nil {
		for _, s := range vpc.Subnets {
			if s.Subnet.ID == i.Subnet {
				bits, gateway = s.Subnet.CIDR.Bits(), s.Subnet.CIDR.Masked().Addr().Next()
			}
		}
	}
	for _, a := range append([]netip.Addr{i.PrivateIP}, i.Secondary...) {
		n.Addresses = append(n.Addresses, netip.PrefixFrom(a, bits).String())
	}
	if gateway.IsValid() {
		n.Gateway = gateway.String()
	}
	if i.DeviceIndex > 0 {
		n.Table = firstTable + i.DeviceIndex
	}
	for _, a := range i.IPv6 {
		n.Addresses = append(n.Addresses, netip.PrefixFrom(a, 128).String())
	}
	return n
}

// hibernate saves the memory of a running virtual machine and ends it. The answer is why it was not saved, "" when it was: then the
// machine is to be shut down as any.
func (w *worker) hibernate(ctx context.Context, d *agentrpc.Machine) string {
	if !isVM(d) || w.a.cfg.VMs == nil {
		return "only virtual machines hibernate"
	}
	if w.a.cfg.VMs.Hibernated(w.a.machineDir(w.id)) {
		return "" // before a crash
	}
	if err := w.a.cfg.VMs.Hibernate(ctx, w.id); err != nil {
		w.log.Warn("the machine's memory was not saved; it is shut down", "error", err)
		return err.Error()
	}
	return ""
}
