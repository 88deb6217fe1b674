// Package machine is the seam between the agent and whatever runs machines.
//
// A Driver turns a Spec into a running machine and tells what became of it. Everything a
// machine runs on (root file system, network namespace) is made by others before Start and
// removed by others after Remove: a driver owns the processes, their limits, their console
// and its own directory below Spec.Dir, nothing else.
//
// # Order of calls
//
// Recover comes first, once, after every start of the agent; Events may be read from then on.
// Start, Stop, Remove, Exec, Console and Update follow in any order, also for several machines
// at once; calls for one machine are never concurrent, except Exec,
// Console, Attach and Status, which may come at any time.
//
// # What may be repeated
//
// Every call. Start of a running machine with the same Boot returns its status; Stop of a
// stopped one and Remove of an unknown one succeed. The agent repeats a call whose answer
// it lost.
//
// # What survives
//
// A machine outlives the agent: killing the agent's process at any instruction stops no
// machine and loses no exit. Recover adopts what runs, reports what exited meanwhile with
// its exit code, and finishes or undoes a Start, Stop or Remove that was cut off in the middle:
// a machine that never got to run is reported as absent and leaves nothing behind.
package machine

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Spec is a machine to run. It is complete: a driver needs nothing else, also after a restart.
type Spec struct {
	ID       cloud.InstanceID
	Boot     int    // the instance's boot number; a higher one than the running machine's means boot anew
	Dir      string // the machine's own directory, absolute, kept from launch to removal
	Hostname string // such as "ip-172-31-0-5"
	FQDN     string // such as "ip-172-31-0-5.ec2.internal"
	Address  string // the primary private address, for /etc/hosts
	// Resolvers are the DNS servers for /etc/resolv.conf; without any, the image's file stays.
	Resolvers []string
	Domain    string // its search domain, several with spaces between them; may be empty

	RootFS string // container: the mounted, writable root, owned by IDBase's range
	UserNS string // container: the path of the user namespace to join, which maps IDBase's range
	NetNS  string // container: the path of the network namespace to join, which UserNS owns
	IDBase uint32 // first host id of the machine's 65,536 user and group ids

	// From the image's configuration.
	System     bool // an operating system: a long-running init instead of Args
	Args       []string
	Env        []string // "KEY=value"
	WorkingDir string
	User       string // image's user: "", "name", "uid", "name:group", …
	StopSignal string // such as "SIGQUIT"; "" means SIGTERM

	Devices []Device // container: block devices that it has from its start
	Mounts  []Bind   // container: directories of the host that it may write
	Binds   []Bind   // files of the agent's and directories of the host that the machine may read

	Greeting  string // said on the console at each boot: the host keys by which SSH clients know the machine
	UserData  []byte // run on the first boot only when it is a script or cloud-config
	PublicKey string // launch key in authorized_keys form, for the image's ordinary user; "" for none

	Resources Resources

	VM *VM `json:",omitempty"` // of a virtual machine; nil for a container
}

// VM is what a virtual machine is made of. Its files and descriptors are opened by the agent and handed to the hypervisor.
type VM struct {
	Architecture string // "x86_64" or "arm64"
	Firmware     cloud.Firmware
	Kernel       string // host paths of read-only files, with cloud.FirmwareNone
	Initrd       string // may be empty
	Cmdline      string // of the kernel, without the console, which is the driver's to say
	Devices      cloud.Devices
	Accelerator  string        // "kvm" or "tcg", as proved or demanded
	Root         *volume.Graph `json:",omitempty"` // the volume that is its root, as it was when the machine was started
	Disks        []Disk        // the first is the root where that is no volume
	NICs         []NIC
	Volumes      []Volume
	GuestAgent   bool   // the image carries nacre's guest program
	SSHKeys      []byte // host keys, private, in PEM; nil leaves the machine without
	SSHServer    bool   // the keys are for the image's own SSH server; else the guest program is one
	LoginUser    string // the image's ordinary user, whom the launch key lets in beside root
	WhyBooted    string // why the machine is not forked, "" where it could not be
	Product      string // shown by the firmware's tables, such as "t3.micro"

	// Set by the driver.
	Left      []Left `json:",omitempty"`
	Forked    bool   // it was started where a template was frozen, not booted
	Memory    int64  // bytes that it was started with
	MaxMemory int64  // the most that it can have while it runs
	CPUs      int    // that it was started with
	MaxCPUs   int    // the most that it can have while it runs
	Mapped    bool   // its memory is a file's that others map too: no page of it can be given back
}

// Disk is a block device of a virtual machine.
type Disk struct {
	Path   string // on the host
	Format string // "qcow2" or "raw"
	// Base and BaseFormat are what a qcow2 was laid over; whatever its header says is not looked at. "" for none.
	Base, BaseFormat string
	ReadOnly         bool
	Serial           string // at most 20 characters
}

// Volume is a volume of a virtual machine, beside its root.
type Volume struct {
	Graph volume.Graph // as it was when it was attached
	Slot  int          // the driver's
}

// Left is a device that was taken from a running machine and that its guest has not let go of: nothing is behind it, and it keeps its slot.
type Left struct {
	Device string // the hypervisor's name for it
	Slot   int
}

// NIC is a network card of a virtual machine.
type NIC struct {
	Interface cloud.InterfaceID
	MAC       string
	MTU       int
	// Addresses are those that a guest without DHCP is given, with prefix lengths; Gateway its default route, "" for none. With a Table,
	// only what is sent with these addresses takes it.
	Addresses []string
	Gateway   string
	Table     int
	Slot      int                      // of the bus, set by the driver; 0 for any
	Tap       func() (*os.File, error) `json:"-"` // opens the card's end of the link
}

// Device is a block device inside a container.
type Device struct {
	Node         string // its device node on the host
	Target       string // the node inside, such as "/dev/xvdf"
	Major, Minor uint32
}

// Bind shows a file or directory of the host inside the machine.
type Bind struct {
	Source string // on the host, absolute
	Target string // inside, absolute; made when it isn't there
}

// Resources are a machine's limits. Zero means unlimited, save for Memory and PIDs, which
// are always set.
type Resources struct {
	VCPUs  int   // whole CPUs: the quota is VCPUs x the period
	Weight int   // share under contention, relative to other machines; 100 a vCPU
	Memory int64 // bytes, swap included
	PIDs   int64
}

// State is what a machine is doing.
type State string

const (
	Running State = "running"
	Exited  State = "exited" // ended by itself or by Stop; its root file system is kept
)

// Status is what a driver knows of a machine.
type Status struct {
	ID      cloud.InstanceID
	Boot    int
	State   State
	PID     int       // the machine's first process on the host, 0 when exited
	Started time.Time // zero when unknown
	Engine  string    // such as "runc 1.1.5"
	Launch  string    // how a virtual machine came to run, in its owner's words: LaunchForked, or LaunchBooted with the reason
	Exit    Exit      // set when exited
}

// How virtual machines come to run; "" for others.
const (
	LaunchForked  = "forked"
	LaunchResumed = "resumed"
	LaunchBooted  = "booted"
)

// Exit is how a machine ended.
type Exit struct {
	Code      int  // exit code, 128+n after signal n
	OOMKilled bool // the kernel killed it at its memory limit
	Requested bool // Stop asked for it
	// Reboot says that the machine asked to be started again (reboot from inside).
	Reboot bool
	At     time.Time
}

// ErrNotFound is returned for machines that a driver doesn't know.
var ErrNotFound = errors.New("no such machine")

// Driver runs machines of one isolation.
type Driver interface {
	// Recover finds every machine below the agent's machine directories, running or exited
	// and not removed, and resumes watching it. See the package's comment.
	Recover(ctx context.Context) ([]Status, error)

	// Start brings the machine up and returns when its first process runs. On an error nothing
	// of the machine is left running.
	Start(ctx context.Context, spec Spec) (Status, error)

	// Stop asks the machine to shut down, waits for grace at most, then kills it, and
	// returns when it has ended. A grace of zero kills at once.
	Stop(ctx context.Context, id cloud.InstanceID, grace time.Duration) error

	// Remove kills what still runs and forgets the machine. Spec.Dir's contents that the driver
	// made are gone afterwards.
	Remove(ctx context.Context, id cloud.InstanceID) error

	// Status tells about one machine, ErrNotFound when there is none.
	Status(ctx context.Context, id cloud.InstanceID) (Status, error)

	// Update changes the limits of a running machine in place.
	Update(ctx context.Context, id cloud.InstanceID, r Resources) error

	// Exec starts a process inside a running machine.
	Exec(ctx context.Context, id cloud.InstanceID, spec ExecSpec) (Process, error)

	// Console returns the last limit bytes of what the machine wrote to its console since it
	// was launched, and when the last byte was written.
	Console(ctx context.Context, id cloud.InstanceID, limit int) ([]byte, time.Time, error)

	// Attach joins the console of a running machine: what it writes from now on is read, what is written is typed to it. Many may be
	// attached at once and type at once. The machine waits for none of those who read: who is late misses bytes, and is told how
	// many. What is typed to a machine that takes no input is lost. A Terminal ends with the machine's boot, by io.EOF.
	Attach(ctx context.Context, id cloud.InstanceID) (Terminal, error)

	// Events tells of machines that ended without Stop having returned yet. The channel is closed
	// by Close. Events that nobody reads are kept; none is dropped.
	Events() <-chan Status

	// Close ends the driver's goroutines. Machines go on.
	Close() error
}

// ExecSpec is a process to start inside a machine.
type ExecSpec struct {
	Args []string
	Env  []string
	Dir  string // "" means the user's home
	User string // "name" or "uid[:gid]", "" means root
	// TTY gives the process a terminal of Cols x Rows; Stdin, Stdout then carry it and Stderr is unused.
	TTY        bool
	Cols, Rows uint16
	Term       string
	Stdin      io.Reader // nil means /dev/null
	Stdout     io.Writer
	Stderr     io.Writer
}

// Terminal is one who is attached to a console. Read and Write may be called at once; Close ends both.
type Terminal interface{ io.ReadWriteCloser }

// Exec starts a process inside one machine.
type Exec func(ctx context.Context, spec ExecSpec) (Process, error)

// Condition is how a running virtual machine is.
type Condition struct {
	// Stalled is why it does not go on, though nobody stopped it; "" when it does.
	Stalled string
	// First is the memory that it may lend from, in bytes, 0 for one that can't lend; Held is what its guest has of that. Available is what its guest
	// could use without giving anything up, negative when it did not tell lately.
	First, Held, Available int64
}

// Template is a frozen machine that others are started from. It is its driver's.
type Template interface {
	Memory() int64 // of the host's, in bytes
	Close()        // machines that were started from it go on
}

// Process is a process started by Exec.
type Process interface {
	// Wait returns the exit code (128+n after signal n) when the process has ended and its output was delivered.
	Wait() (int, error)
	Signal(sig os.Signal) error
	Resize(cols, rows uint16) error
}
