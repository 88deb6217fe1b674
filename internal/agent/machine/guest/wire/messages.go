package wire

import "github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"

const (
	// Port is the serial port's name.
	Port = "cloud.nacre.guest.0"
	// Version is this protocol's; a guest of another one is refused.
	Version = 1
	// WindowSize is how many bytes of one stream of a process may be under way, unread by whom they are for.
	WindowSize = 128 << 10
	// MaxProcesses bounds the processes of one connection.
	MaxProcesses = 128
	// SpareMAC is the hardware address of the card that a machine has while it is frozen. One of its copies' own takes its place.
	SpareMAC = "02:6e:61:63:72:65"
	// MinEntropy is the least number of random bytes in an Identity.
	MinEntropy = 32
)

// Hello begins a connection.
type Hello struct {
	Version int
	Nonce   string // random; the guest repeats it
}

// Welcome answers Hello.
type Welcome struct {
	Version      int
	Nonce        string
	Capabilities []string // the calls it knows
	BootID       string   // the kernel's, or the one it was given with its identity
	Init         bool     // it is the first process of its machine
	Ready        bool     // it has no identity yet and waits for one: the state in which a machine may be frozen
}

// Calls are what a guest can be asked for.
const (
	CallIdentify = "identify" // Identity, answered when the identity is in force
	CallShutdown = "shutdown" // Shutdown, answered before the machine goes down
	CallStats    = "stats"    // answered by Stats
	CallConnect  = "connect"  // Interface, of a machine that has its identity; answered when it is in force. It may be repeated
	CallPages    = "pages"    // Pages, answered by ProcessPages
)

// Request is a call; one field beside Call is set, or none.
type Request struct {
	Call     string
	Identity *Identity `json:",omitempty"`
	Shutdown *Shutdown `json:",omitempty"`
	Pages    *Pages    `json:",omitempty"`

	Interface *Interface `json:",omitempty"`
}

// Reply answers a Request.
type Reply struct {
	Error string        `json:",omitempty"`
	Stats *Stats        `json:",omitempty"`
	Pages *ProcessPages `json:",omitempty"`
	// HostKeys are the public keys that the machine's SSH server has now, in authorized_keys form, after CallIdentify.
	HostKeys []string `json:",omitempty"`
	// Notes are what of an identity could not be put in force.
	Notes []string `json:",omitempty"`
}

// Identity is who a machine is, and what it runs where it has no init of its own.
type Identity struct {
	guestinit.Config
	MachineID  string // 32 hexadecimal digits
	BootID     string // UUID of this boot, shown in the place of the kernel's; "" keeps the kernel's
	Interfaces []Interface
	HostKeys   []byte // private keys in PEM that the image's SSH server has from the instance's first boot on; nil leaves its own
	Entropy    []byte // MinEntropy fresh random bytes or more
	Time       int64  // nanoseconds since 1970; 0 leaves the clock
	SSH        *SSH   // nil where the image has a server of its own
}

// SSH asks the program to serve port 22 for the machine's users, with the launch key and those in their own files.
type SSH struct {
	HostKeys  []byte // private keys in PEM
	LoginUser string // the image's ordinary user; "" for none
}

// Interface is one of a machine's network interfaces, known by its hardware address.
type Interface struct {
	MAC       string   // that of the card, or the one that the spare card gets
	MTU       int      // 0 leaves it
	Addresses []string // with the prefix length, such as "172.31.0.5/20"; without any it is only renewed by the guest's own client
	Gateway   string   // of the default route; "" for none
	// Table is the routing table for what is sent with the interface's addresses; 0 is the main one, which leads everything else too.
	Table int `json:",omitempty"`
}

// Shutdown asks a machine to go down.
type Shutdown struct{ Reboot bool }

// Stats are a machine's figures.
type Stats struct {
	MemoryTotal, MemoryAvailable int64 // bytes
	Uptime                       int64 // milliseconds
	Load                         float64
	Processes                    int // that were started by Exec and run
}

// Pages asks where a process's memory is.
type Pages struct {
	Process string // its id, or its name when only one process has it
	// Count pages from From on; without From the first Count that are there, or with Count 0 the first of each mapping. At most MaxPages.
	From  *uint64
	Count int
}

const (
	// MaxPages bounds the pages of one answer.
	MaxPages = 512
	// MaxAnchors bounds the anchors of one answer.
	MaxAnchors = 8
)

// ProcessPages is where a process's memory is.
type ProcessPages struct {
	PID   int
	Name  string
	Pages []Page
	// Anchors are pages that are the process's alone, by which its tables are known.
	Anchors []Page
}

// Page is one of a process's.
type Page struct {
	Virtual uint64
	Entry   uint64 // of the guest's page map: see package pagemap
	Mapping string // such as "rw-p [stack]"; "" where nothing is mapped
}

// Exec is a process to start; see machine.ExecSpec.
type Exec struct {
	Args       []string
	Env        []string `json:",omitempty"`
	Dir        string   `json:",omitempty"`
	User       string   `json:",omitempty"`
	TTY        bool     `json:",omitempty"`
	Cols, Rows uint16   `json:",omitempty"`
	Term       string   `json:",omitempty"`
	Stdin      bool     `json:",omitempty"` // there is input to come
}

// Started answers Exec; with an error the stream is closed.
type Started struct {
	Error string `json:",omitempty"`
	PID   int    `json:",omitempty"`
}

// Window allows more bytes of one of the process's streams.
type Window struct {
	Of    Type // TypeStdin, TypeStdout or TypeStderr
	Bytes int
}

// Signal is sent to the process, or to its terminal's foreground.
type Signal struct{ Number int }

// Resize is a terminal's new size.
type Resize struct{ Cols, Rows uint16 }

// Exit is how a process ended.
type Exit struct{ Code int }
