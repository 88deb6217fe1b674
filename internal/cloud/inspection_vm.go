package cloud

// InsideVM is what a virtual machine is and does.
type InsideVM struct {
	Architecture string      `json:",omitempty"`
	Accelerator  string      `json:",omitempty"`         // "kvm" or "tcg"
	Reason       string      `json:",omitempty"`         // why this one
	Started      string      `json:",omitempty"`         // "booted" or "forked"
	Firmware     string      `json:",omitempty"`         // what it starts with: "none" for a kernel of its image's, "bios" or "uefi"
	KernelID     ImageID     `json:"KernelId,omitempty"` // what it is started with; "" with firmware. The node does not know them
	RamdiskID    ImageID     `json:"RamdiskId,omitempty"`
	Model        string      `json:",omitempty"` // the processor that the guest sees, by the hypervisor's name: "host" or "max"
	Guest        string      `json:",omitempty"` // nacre's program inside: "in touch", "booting" or "none"
	State        string      `json:",omitempty"` // the hypervisor's word: "running", "paused" …
	Devices      string      `json:",omitempty"` // "paravirtual" or "emulated"
	Bus          []PCIDevice `json:",omitempty"` // what the guest finds on it
	Processors   []Processor `json:",omitempty"`
	Translator   *Translator `json:",omitempty"` // with tcg
	Exits        []Counter   `json:",omitempty"` // with kvm: how often the processors came back to the host, and why
	Memory       GuestMemory
}

// PCIDevice is a device that a guest finds on its bus.
type PCIDevice struct {
	Slot  string `json:",omitempty"` // such as "0:05.0"
	Class string `json:",omitempty"` // such as "SCSI controller"
	ID    string `json:",omitempty"` // vendor and device, such as "1af4:1001"
	// Paravirtual is one that knows of the hypervisor (virtio); others are emulated.
	Paravirtual bool
}

// Processor is a virtual CPU, as it was when it was looked at.
type Processor struct {
	Number    int64
	Privilege string     `json:",omitempty"`             // "ring 0", "ring 3" (x86_64), "EL0", "EL1" (arm64)
	Mode      string     `json:",omitempty"`             // "kernel" or "user"
	Halted    *bool      `json:",omitempty"`             // it waits for an interrupt; nil where the hypervisor does not tell
	At        HexAddress `json:",omitempty"`             // the instruction that is next, guest virtual
	Tables    HexAddress `json:",omitempty"`             // where its page tables begin, guest physical (CR3); "" where it is not shown
	Thread    int64      `host:"only" json:",omitempty"` // on the server
	CPUTime   int64      `host:"only" json:",omitempty"` // of the thread, in milliseconds
}

// Translator is what QEMU's translator has done since the machine started on this server.
type Translator struct {
	Blocks      int64 // translated and in its cache
	CodeBytes   int64 // host code in its cache
	CacheBytes  int64 // the cache's size
	Flushes     int64 // of the whole cache
	Invalidated int64 // blocks whose guest code was written over
}

// Counter is a figure with its name.
type Counter struct {
	Name  string `json:",omitempty"`
	Value int64
}

// GuestMemory is where a guest's memory is on the server, in bytes.
type GuestMemory struct {
	Size     int64
	Balloon  int64 // what the guest has of it; 0 where nobody tells
	Resident int64 `host:"only" json:",omitempty"` // has pages
	Shared   int64 `host:"only" json:",omitempty"` // of these, the template's: not written since the fork
	Copied   int64 `host:"only" json:",omitempty"` // of these, its own
	// SharedWith are the instances that were forked from the same template.
	SharedWith []InstanceID `host:"only" json:",omitempty"`
}

// Translation is how addresses of a guest lead to the server's memory.
type Translation struct {
	PID       int64  // of the process in the guest, 0 for none
	Process   string `json:",omitempty"` // its name
	Processor int64
	Tables    HexAddress  `json:",omitempty"` // where the page tables begin, guest physical
	Found     string      `json:",omitempty"` // how they were found, or why not
	Pages     []PageChain `json:",omitempty"`
}

// PageChain is one page's way: guest virtual, guest physical, host virtual, host physical.
type PageChain struct {
	Virtual  HexAddress   `json:",omitempty"`
	Mapping  string       `json:",omitempty"` // of the process: what it is, such as "rw-p [stack]"
	Levels   []TableEntry `json:",omitempty"` // of the guest's tables, the topmost first
	Size     int64        // of the page in the guest's tables, in bytes
	Physical HexAddress   `json:",omitempty"` // "" when the guest has no page there
	Flags    []string     `json:",omitempty"` // the guest's, of the whole way
	Problem  string       `json:",omitempty"` // why the chain ends

	HostVirtual  HexAddress `host:"only" json:",omitempty"` // in the hypervisor's process
	HostPhysical HexAddress `host:"only" json:",omitempty"`
	HostFlags    []string   `host:"only" json:",omitempty"`
	// Backing tells what the page is: "template" (not written since the fork), "copied", "anonymous", "absent", "swapped".
	Backing    string       `host:"only" json:",omitempty"`
	Mapped     int64        `host:"only" json:",omitempty"` // how many mappings of the page there are on the server, 0 when that isn't known
	SharedWith []InstanceID `host:"only" json:",omitempty"` // instances that have the very same page of the server's
}

// TableEntry is what one level of page tables says.
type TableEntry struct {
	Level string     `json:",omitempty"` // "PML5", "PML4", "PDPT", "PD", "PT"
	Table HexAddress `json:",omitempty"` // where the table is, guest physical
	Index int64      // 0 to 511
	Entry HexAddress `json:",omitempty"` // its value
	Flags []string   `json:",omitempty"`
}
