package agentrpc

import (
	"net/netip"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// ToAgent is one message from the control plane to a node. Exactly one field is set.
//
// After Welcome the control plane sends everything the node should hold, then Synced; from
// then on only what changes. An object replaces the node's earlier one of the same id.
type ToAgent struct {
	Welcome       *Welcome         `json:"welcome,omitempty"`
	VPC           *VPC             `json:"vpc,omitempty"`
	ForgetVPC     cloud.VPCID      `json:"forgetVPC,omitempty"`
	Machine       *Machine         `json:"machine,omitempty"`
	ForgetMachine cloud.InstanceID `json:"forgetMachine,omitempty"`
	Images        *Images          `json:"images,omitempty"`
	Import        *Import          `json:"import,omitempty"`
	Query         *Query           `json:"query,omitempty"`
	Volume        *Volume          `json:"volume,omitempty"`
	ForgetVolume  cloud.VolumeID   `json:"forgetVolume,omitempty"`
	Snapshot      *Snapshot        `json:"snapshot,omitempty"`
	// Synced ends the first part: what the node holds beyond what was sent is left over.
	Synced bool `json:"synced,omitempty"`
}

// Welcome accepts a node.
type Welcome struct {
	Region cloud.Region
}

// VPC is a virtual private network of which this node runs at least one interface.
type VPC struct {
	VPC     cloud.VPC
	Gateway bool // an internet gateway is attached
	Subnets []Subnet
	Groups  []Group
	// PrefixLists are the ranges of the lists that rules of Groups name, as they are now.
	PrefixLists map[cloud.PrefixListID][]netip.Prefix
	ACLs        []cloud.NetworkACL // all of the VPC; each subnet names its own
	// DHCP are the options for the VPC's machines, nil for none.
	DHCP     *cloud.DHCPOptions
	NATs     []NATGateway // those of the VPC that work on the node
	Peerings []Peering    // those that are active
	// FlowLogs are all of the VPC, its subnets and interfaces.
	FlowLogs []cloud.FlowLog
	// Public tells the resolver which private address stands behind a public one in this VPC.
	Public map[netip.Addr]netip.Addr
	// Names tells the resolver the names that were given to public addresses of the region, with the root's dot.
	Names map[netip.Addr]string
}

// Subnet is a subnet with the routes that hold for it: those of its own route table or of the main one, without the
// local ones, with the ranges of prefix lists in their place.
type Subnet struct {
	Subnet cloud.Subnet
	Routes []Route
}

// RouteKind is what a route leads to.
type RouteKind string

// Kinds of routes.
const (
	RouteInternet   RouteKind = "internet"
	RouteEgressOnly RouteKind = "egress-only"
	RouteInterface  RouteKind = "interface" // Interface: a machine's, or a NAT gateway's
	RoutePeering    RouteKind = "peering"
	RouteBlackhole  RouteKind = "blackhole" // its target is gone or detached
)

// Route sends a destination to a target.
type Route struct {
	Destination netip.Prefix
	Kind        RouteKind
	Interface   cloud.InterfaceID
	Peering     cloud.PeeringID
}

// Peering is a peering with the other VPC and its ranges. Both VPCs are told to every node that has one of them.
type Peering struct {
	ID         cloud.PeeringID
	Peer       cloud.VPCID
	PeerRanges []netip.Prefix
}

// NATGateway is a NAT gateway with its own interface. It carries intent only: its State and Deleted are always as when it was made.
type NATGateway struct {
	Gateway   cloud.NATGateway
	Interface cloud.Interface
}

// Group is a security group with the private addresses that carry it in its VPC.
type Group struct {
	Group   cloud.SecurityGroup
	Members []netip.Addr
}

// Machine is what a node needs to realise one instance. It carries intent only: the
// instance's State and what follows it are always as at launch.
type Machine struct {
	Instance   cloud.Instance
	ImageName  string
	Interfaces []cloud.Interface // by device index
	// Root is the volume that a virtual machine has its root on; nil for a container, and for machines of before roots were volumes.
	Root    *Volume      `json:",omitempty"`
	Volumes []Attachment `json:",omitempty"` // beside the root, by device
	// Forced are volumes that are taken from the machine without waiting for its guest.
	Forced []cloud.VolumeID `json:",omitempty"`
}

// Attachment is a volume that a machine should have.
type Attachment struct {
	Volume cloud.VolumeID
	Device string // such as "/dev/sdf"
	Mount  string // where a container has it mounted, absolute; "" for nowhere
}

// Volume is a volume that a node keeps.
type Volume struct {
	ID       cloud.VolumeID
	Make     bool             // it may still have to be made; without it, one that isn't there is lost, and no empty one takes its place
	Size     int64            // bytes
	Snapshot cloud.SnapshotID // its first content
	Limits   cloud.VolumeLimits
	Wished   int // counts the wishes for size and limits
	Delete   bool
	// Encrypted says that it is to be made encrypted.
	Encrypted bool `json:",omitempty"`
}

// Snapshot is a snapshot that a node is to make, of a volume or of another snapshot, or to be rid of.
type Snapshot struct {
	ID     cloud.SnapshotID
	Volume cloud.VolumeID
	Source cloud.SnapshotID // of a copy; "" otherwise
	Delete bool
	// Encrypted says that a copy is to be encrypted.
	Encrypted bool `json:",omitempty"`
	// Complete says that it is made of the blocks that were written to it.
	Complete bool `json:",omitempty"`
}

// Images are the digests that the node's store has to keep; others may go.
type Images struct {
	Keep []string
}

// Import asks a node to bring an image into its store, or, with Cancel, to give that up.
type Import struct {
	Task   cloud.ImportTask
	Cancel bool
}

// Query asks something that is not desired state. The node answers with the same Number.
type Query struct {
	Number  uint64
	Console *ConsoleQuery `json:",omitempty"`
	Tunnel  *TunnelQuery  `json:",omitempty"`
	// Break sends a break down a virtual machine's serial line.
	Break   cloud.InstanceID `json:",omitempty"`
	Inspect *InspectQuery    `json:",omitempty"`
	Build   *BuildQuery      `json:",omitempty"`
	Blocks  *BlocksQuery     `json:",omitempty"`
	Images  *ImagesQuery     `json:",omitempty"`
}

// ImagesQuery asks what an image is made of; without one, where the bytes of all are.
type ImagesQuery struct {
	Digest string `json:",omitempty"`
}

// ConsoleQuery asks for the end of a machine's console, Limit bytes at most.
type ConsoleQuery struct {
	Instance cloud.InstanceID
	Limit    int
}

// InspectQuery asks to look inside a machine that runs.
type InspectQuery struct {
	Instance cloud.InstanceID
	Look     cloud.Look
}

// BuildQuery asks how far a build is, and for what one of its steps wrote from Offset on, Limit bytes at most.
type BuildQuery struct {
	Task   cloud.ImportTaskID
	Step   int
	Offset int64
	Limit  int
}

// FromAgent is one message from a node to the control plane. Exactly one field is set.
type FromAgent struct {
	Hello    *Hello          `json:"hello,omitempty"`
	Node     *cloud.Node     `json:"node,omitempty"` // the hello's facts have changed
	Machine  *MachineStatus  `json:"machine,omitempty"`
	VPC      *VPCStatus      `json:"vpc,omitempty"`
	Import   *ImportStatus   `json:"import,omitempty"`
	Answer   *Answer         `json:"answer,omitempty"`
	Volume   *VolumeStatus   `json:"volume,omitempty"`
	Snapshot *SnapshotStatus `json:"snapshot,omitempty"`
	Capture  *CaptureStatus  `json:"capture,omitempty"`
}

// Hello opens a stream: who the node is and all it knows of machines, so that nothing
// that happened while the stream was down is missed.
type Hello struct {
	Node     cloud.Node
	Machines []MachineStatus
}

// Phase is how far a node is with a machine.
type Phase string

const (
	PhaseRunning Phase = "running" // its first process runs and its network stands
	PhaseExited  Phase = "exited"  // ended from inside; its root file system is kept
	PhaseStopped Phase = "stopped" // ended because Desired asked for it
	PhaseGone    Phase = "gone"    // nothing of it is left on the node
	PhaseFailed  Phase = "failed"  // could not be started; nothing of it runs
)

// MachineStatus is a fact about a machine. It may be repeated.
type MachineStatus struct {
	Instance  cloud.InstanceID
	Boot      int
	Wiring    int // for PhaseRunning: the number of the wish whose interfaces it has, and no others
	Phase     Phase
	At        time.Time
	Engine    string
	ExitCode  int
	OOMKilled bool
	Reboot    bool // exited to be started again
	// Volumes are, for PhaseRunning, those that the machine has; VolumeErrors what kept others of the wish of number Wiring from coming or going.
	Volumes      []cloud.VolumeID          `json:",omitempty"`
	VolumeErrors map[cloud.VolumeID]string `json:",omitempty"`
	// Sized is, for PhaseRunning, the number of the wish whose size it has, or failed to get for SizeError's reason.
	Sized     int    `json:",omitempty"`
	SizeError string `json:",omitempty"`
	// Stalled is, for PhaseRunning, why the machine stands still though nobody stopped it; "" when it does not.
	Stalled string `json:",omitempty"`
	// Hibernated is for PhaseStopped: the machine's memory and devices are saved on the node.
	Hibernated bool   `json:",omitempty"`
	Launch     string `json:",omitempty"` // for PhaseRunning: how a virtual machine came to run, see machine.Status
	Error      string // for PhaseFailed; for PhaseStopped, why the memory was not saved though Hibernate asked for it
}

// VPCStatus says that a node has a VPC as it was last told, with these NAT gateways and no others. It may be repeated.
type VPCStatus struct {
	VPC  cloud.VPCID
	NATs []cloud.NATGatewayID
}

// VolumePhase is how far a node is with a volume.
type VolumePhase string

const (
	VolumeReady  VolumePhase = "ready"  // it is there, as large and as limited as asked for
	VolumeFailed VolumePhase = "failed" // it can't be made, or not be changed
	VolumeGone   VolumePhase = "gone"   // nothing of it is left on the node
)

// VolumeStatus is a fact about a volume. It may be repeated.
type VolumeStatus struct {
	Volume cloud.VolumeID
	Wished int // the number of the wish that was done, or failed
	Phase  VolumePhase
	Error  string
}

// SnapshotStatus says that a node has a snapshot, or could not make it for Error, or, with Gone, that nothing of it is left.
type SnapshotStatus struct {
	Snapshot cloud.SnapshotID
	Gone     bool
	Error    string
}

// CaptureStatus says what came of one of an instance's captures: all of it is there, or for Error nothing is to be relied on. It may be repeated.
type CaptureStatus struct {
	Instance cloud.InstanceID
	Capture  string
	Error    string    `json:",omitempty"`
	Image    *Imported `json:",omitempty"` // that was made, or that the root is laid over; nil for snapshots alone
}

// ImportStatus is how far an import is.
type ImportStatus struct {
	Task     cloud.ImportTaskID
	Progress int // 0 to 100
	Message  string
	Done     bool
	Error    string // set when it failed; Done is then set too
	// Images are what a finished import brought, those before others that refer to them first.
	Images []Imported `json:",omitempty"`
}

// Imported is an image that an import brought.
type Imported struct {
	// Suffix is added to the task's name: "" for the image that was asked for, "-vm" for the virtual machine of the
	// same layers, "-kernel" and "-ramdisk" for what it is started with.
	Suffix       string
	Digest       string
	Name         string // what the archive calls the image
	Type         cloud.ImageType
	Isolation    cloud.Isolation
	Architecture string
	System       bool
	LoginUser    string // the image's ordinary user, "" for none
	SizeMiB      int64
	// Hardware names kernel and RAM disk by digest; the control plane knows their ids.
	Hardware cloud.Hardware
}

// Answer is the answer to a Query. A query that asks for something to be done has been done unless there is an Error.
type Answer struct {
	Number  uint64
	Error   string
	Console *ConsoleAnswer `json:",omitempty"`
	Inspect *InspectAnswer `json:",omitempty"`
	Blocks  *BlocksAnswer  `json:",omitempty"`
	Build   *BuildAnswer   `json:",omitempty"`
	Images  *ImagesAnswer  `json:",omitempty"`
}

// BuildAnswer has no steps where the node does not know the build any more. Next is the offset to go on from.
type BuildAnswer struct {
	Steps  []cloud.BuildStep
	Output []byte
	Next   int64
}

// ImagesAnswer is one of the two.
type ImagesAnswer struct {
	Makeup *cloud.ImageMakeup `json:",omitempty"`
	Use    *cloud.ImageUse    `json:",omitempty"`
}

// ConsoleAnswer is the end of a console and when it was last written to.
type ConsoleAnswer struct {
	Output  []byte
	Written time.Time
}

// InspectAnswer is what was found, or why what the look asks for can't be: in words for whoever asked.
type InspectAnswer struct {
	Inspection *cloud.Inspection `json:",omitempty"`
	Refused    string            `json:",omitempty"`
}
