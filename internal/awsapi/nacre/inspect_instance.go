package nacre

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

// ActionInspectInstance looks inside an instance that runs.
var ActionInspectInstance = awsapi.Define[InspectInstanceRequest, InspectInstanceResponse](Service, "InspectInstance")

// InspectInstance tells what an instance is made of and what it does, and follows addresses of a virtual machine down to the server's memory.
// What is about the server and about other accounts' instances is told to the operator's account alone. It fails with ConflictException when the
// instance does not run, and with ValidationException when what is looked for is not there.
func (c Client) InspectInstance(ctx context.Context, in *InspectInstanceRequest) (*InspectInstanceResponse, error) {
	return awsapi.Invoke(ctx, c.Client, ActionInspectInstance, in)
}

// InspectInstanceRequest says what to look at. Address and Process are for virtual machines.
type InspectInstanceRequest struct {
	InstanceId *string `json:"InstanceId" required:"true"`
	Address    *string `json:"Address" min:"1" max:"32"`     // guest virtual, in hexadecimal
	Process    *string `json:"Process" min:"1" max:"64"`     // id or name of a process in the guest, whose tables count; absent: those of Processor as they are
	Pages      *int64  `json:"Pages" min:"1" max:"512"`      // pages of 4096 bytes from Address on, or the first of Process; absent: one, or one of each of the process's mappings
	Processor  *int64  `json:"Processor" min:"0" max:"1023"` // number of a virtual CPU; absent: 0
}

// InspectInstanceResponse is what a look inside finds. What is not known, or not the caller's to know, is left out.
type InspectInstanceResponse struct {
	InstanceId   *string       `json:"InstanceId"`
	ImageId      *string       `json:"ImageId"`
	Isolation    *string       `json:"Isolation"`
	Engine       *string       `json:"Engine"`       // such as "QEMU 7.2.22 (tcg, forked)"
	VM           *InsideVM     `json:"VM"`           // of a virtual machine
	Translation  *Translation  `json:"Translation"`  // of the look's address or process
	Processes    []Process     `json:"Processes"`    // that run in a container
	MoreRunning  *int64        `json:"MoreRunning"`  // processes that are not in the list, which is bounded
	Confinement  *Confinement  `json:"Confinement"`  // of a container, or of a virtual machine's hypervisor
	ControlGroup *ControlGroup `json:"ControlGroup"` // limits and use
	Footprint    *Footprint    `json:"Footprint"`
	Root         *RootMakeup   `json:"Root"`
}

// InsideVM is what a virtual machine is and does.
type InsideVM struct {
	Architecture *string      `json:"Architecture"`
	Accelerator  *string      `json:"Accelerator"` // "kvm" or "tcg"
	Reason       *string      `json:"Reason"`      // why this one
	Started      *string      `json:"Started"`     // "booted" or "forked"
	Firmware     *string      `json:"Firmware"`    // what it starts with: "none" for a kernel of its image's, "bios" or "uefi"
	KernelId     *string      `json:"KernelId"`    // what it is started with; absent with firmware
	RamdiskId    *string      `json:"RamdiskId"`
	Model        *string      `json:"Model"`   // the processor that the guest sees, by the hypervisor's name: "host" or "max"
	Guest        *string      `json:"Guest"`   // nacre's program inside: "in touch", "booting" or "none"
	State        *string      `json:"State"`   // the hypervisor's word: "running", "paused" …
	Devices      *string      `json:"Devices"` // "paravirtual" or "emulated"
	Bus          []PCIDevice  `json:"Bus"`     // what the guest finds on it
	Processors   []Processor  `json:"Processors"`
	Translator   *Translator  `json:"Translator"` // with tcg
	Exits        []Counter    `json:"Exits"`      // with kvm: how often the processors came back to the host, and why
	Memory       *GuestMemory `json:"Memory"`
}

// PCIDevice is a device that a guest finds on its bus.
type PCIDevice struct {
	Slot  *string `json:"Slot"`  // such as "0:05.0"
	Class *string `json:"Class"` // such as "SCSI controller"
	ID    *string `json:"ID"`    // vendor and device, such as "1af4:1001"
	// Paravirtual is one that knows of the hypervisor (virtio); others are emulated.
	Paravirtual *bool `json:"Paravirtual"`
}

// Processor is a virtual CPU, as it was when it was looked at.
type Processor struct {
	Number    *int64  `json:"Number"`
	Privilege *string `json:"Privilege"` // "ring 0", "ring 3" (x86_64), "EL0", "EL1" (arm64)
	Mode      *string `json:"Mode"`      // "kernel" or "user"
	Halted    *bool   `json:"Halted"`    // it waits for an interrupt; nil where the hypervisor does not tell
	At        *string `json:"At"`        // the instruction that is next, guest virtual
	Tables    *string `json:"Tables"`    // where its page tables begin, guest physical (CR3); "" where it is not shown
	Thread    *int64  `json:"Thread"`    // on the server
	CPUTime   *int64  `json:"CPUTime"`   // of the thread, in milliseconds
}

// Translator is what QEMU's translator has done since the machine started on this server.
type Translator struct {
	Blocks      *int64 `json:"Blocks"`      // translated and in its cache
	CodeBytes   *int64 `json:"CodeBytes"`   // host code in its cache
	CacheBytes  *int64 `json:"CacheBytes"`  // the cache's size
	Flushes     *int64 `json:"Flushes"`     // of the whole cache
	Invalidated *int64 `json:"Invalidated"` // blocks whose guest code was written over
}

// Counter is a figure with its name.
type Counter struct {
	Name  *string `json:"Name"`
	Value *int64  `json:"Value"`
}

// GuestMemory is where a guest's memory is on the server, in bytes.
type GuestMemory struct {
	Size     *int64 `json:"Size"`
	Balloon  *int64 `json:"Balloon"`  // what the guest has of it; 0 where nobody tells
	Resident *int64 `json:"Resident"` // has pages
	Shared   *int64 `json:"Shared"`   // of these, the template's: not written since the fork
	Copied   *int64 `json:"Copied"`   // of these, its own
	// SharedWith are the instances that were forked from the same template.
	SharedWith []string `json:"SharedWith"`
}

// Translation is how addresses of a guest lead to the server's memory.
type Translation struct {
	PID       *int64      `json:"PID"`     // of the process in the guest, 0 for none
	Process   *string     `json:"Process"` // its name
	Processor *int64      `json:"Processor"`
	Tables    *string     `json:"Tables"` // where the page tables begin, guest physical
	Found     *string     `json:"Found"`  // how they were found, or why not
	Pages     []PageChain `json:"Pages"`
}

// PageChain is one page's way: guest virtual, guest physical, host virtual, host physical.
type PageChain struct {
	Virtual      *string      `json:"Virtual"`
	Mapping      *string      `json:"Mapping"`     // of the process: what it is, such as "rw-p [stack]"
	Levels       []TableEntry `json:"Levels"`      // of the guest's tables, the topmost first
	Size         *int64       `json:"Size"`        // of the page in the guest's tables, in bytes
	Physical     *string      `json:"Physical"`    // "" when the guest has no page there
	Flags        []string     `json:"Flags"`       // the guest's, of the whole way
	Problem      *string      `json:"Problem"`     // why the chain ends
	HostVirtual  *string      `json:"HostVirtual"` // in the hypervisor's process
	HostPhysical *string      `json:"HostPhysical"`
	HostFlags    []string     `json:"HostFlags"`
	// Backing tells what the page is: "template" (not written since the fork), "copied", "anonymous", "absent", "swapped".
	Backing    *string  `json:"Backing"`
	Mapped     *int64   `json:"Mapped"`     // how many mappings of the page there are on the server, 0 when that isn't known
	SharedWith []string `json:"SharedWith"` // instances that have the very same page of the server's
}

// TableEntry is what one level of page tables says.
type TableEntry struct {
	Level *string  `json:"Level"` // "PML5", "PML4", "PDPT", "PD", "PT"
	Table *string  `json:"Table"` // where the table is, guest physical
	Index *int64   `json:"Index"` // 0 to 511
	Entry *string  `json:"Entry"` // its value
	Flags []string `json:"Flags"`
}

// Process is one of a container's.
type Process struct {
	PID     *int64  `json:"PID"`    // inside
	Parent  *int64  `json:"Parent"` // inside; 0 for the first, and for those that were started from outside
	HostPID *int64  `json:"HostPID"`
	Name    *string `json:"Name"`
	Share   *int64  `json:"Share"` // PSS, in bytes
}

// Confinement is what stands around a process on the server.
type Confinement struct {
	Namespaces      []Namespace `json:"Namespaces"`
	UserIDs         []IDMapping `json:"UserIDs"`
	GroupIDs        []IDMapping `json:"GroupIDs"`
	Capabilities    []string    `json:"Capabilities"` // effective ones of its first process
	Bounding        []string    `json:"Bounding"`     // those that any of its processes can have
	Seccomp         *string     `json:"Seccomp"`      // "filter", "strict" or "off"
	NoNewPrivileges *bool       `json:"NoNewPrivileges"`
}

// Namespace is one that the instance's first process is in.
type Namespace struct {
	Kind       *string  `json:"Kind"` // as in /proc/PID/ns: "net", "user" …
	Own        *bool    `json:"Own"`  // it is not the server's
	Inode      *int64   `json:"Inode"`
	SharedWith []string `json:"SharedWith"` // other instances whose first process is in it
}

// IDMapping maps Count ids from Inside on to those from Host on.
type IDMapping struct {
	Inside *int64 `json:"Inside"`
	Count  *int64 `json:"Count"`
	Host   *int64 `json:"Host"`
}

// ControlGroup is an instance's limits and what it used. Limits of 0 are none. Times are milliseconds, sizes bytes.
type ControlGroup struct {
	Version     *int64   `json:"Version"` // 1 or 2
	Path        *string  `json:"Path"`
	CPUQuota    *float64 `json:"CPUQuota"`  // processors' worth of time
	CPUWeight   *int64   `json:"CPUWeight"` // share under contention: cpu.weight (100 is ordinary) in version 2, cpu.shares (1024) in version 1
	CPUTime     *int64   `json:"CPUTime"`
	Periods     *int64   `json:"Periods"`     // in which it ran with a quota
	Throttled   *int64   `json:"Throttled"`   // periods in which the quota stopped it
	ThrottledMs *int64   `json:"ThrottledMs"` // how long it was stopped
	MemoryLimit *int64   `json:"MemoryLimit"`
	Memory      *int64   `json:"Memory"`     // files that are cached for it counted
	MemoryPeak  *int64   `json:"MemoryPeak"` // 0 where the kernel does not tell
	OOMKills    *int64   `json:"OOMKills"`
	PIDLimit    *int64   `json:"PIDLimit"`
	PIDs        *int64   `json:"PIDs"`
	BytesRead   *int64   `json:"BytesRead"` // from disks
	BytesWrote  *int64   `json:"BytesWrote"`
	Reads       *int64   `json:"Reads"`
	Writes      *int64   `json:"Writes"`
}

// Footprint is what an instance's processes take of the server's memory, in bytes.
type Footprint struct {
	PID       *int64 `json:"PID"` // the first of them
	Processes *int64 `json:"Processes"`
	Resident  *int64 `json:"Resident"` // mapped pages
	Share     *int64 `json:"Share"`    // PSS: a page that n processes map counts as an nth
	Private   *int64 `json:"Private"`  // mapped by one process alone
	Swapped   *int64 `json:"Swapped"`
}

// RootMakeup is what an instance's root disk is made of: the image's layers, and what the instance wrote over them.
type RootMakeup struct {
	Digest   *string       `json:"Digest"` // the image's
	Layers   []LayerMakeup `json:"Layers"`
	Written  *int64        `json:"Written"`  // bytes on the server that are the instance's alone: copied on the first write, or new
	Disk     *string       `json:"Disk"`     // of a virtual machine: what its overlay is laid over, such as "ext4 made of the layers"
	DiskSize *int64        `json:"DiskSize"` // bytes that the base takes on the server, once for all instances of the image
}

// LayerMakeup is a layer of an image, the lowest first.
type LayerMakeup struct {
	Digest     *string  `json:"Digest"`     // of its unpacked content
	Size       *int64   `json:"Size"`       // bytes on the server, unpacked
	Images     []string `json:"Images"`     // ids of the images that stand on it
	SharedWith []string `json:"SharedWith"` // other instances of those images on the server
}
