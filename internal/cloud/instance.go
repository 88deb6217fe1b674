package cloud

import (
	"net/netip"
	"time"
)

// Isolation says what stands between an instance and its neighbours.
type Isolation string

const (
	// IsolationContainer shares the node's kernel; namespaces and control groups divide it.
	IsolationContainer Isolation = "container"
	// IsolationVM has a kernel of its own.
	IsolationVM Isolation = "vm"
)

// Instance is a rented server: what was asked for, and what is known of it.
//
// Desired and Boot are intent, written by API calls; State and what follows it are the
// truth as the control plane knows it. All changes of State go through Transition.
type Instance struct {
	ID          InstanceID
	Account     AccountID
	Reservation ReservationID
	LaunchIndex int // the place in its RunInstances call, from 0
	ClientToken string
	Created     time.Time // when RunInstances was acknowledged
	LaunchTime  time.Time // the last start: RunInstances or StartInstances

	Image        ImageID
	ImageDigest  string // digest of the OCI image or the disk, "sha256:…"
	Isolation    Isolation
	Hardware     Hardware // what a virtual machine is started with
	Architecture string   // "x86_64" or "arm64"
	Type         InstanceType
	// CPUs and MemoryMiB are in the place of the type's, 0 for the type's: the tags TagCPUs and TagMemory.
	CPUs      int
	MemoryMiB int64
	// Sized counts the changes of a running instance's size: a node that reports a number has done all up to it, or says what
	// the newest failed for. Before is the size that it had been confirmed with, nil when no change is on its way.
	Sized     int
	Before    *Sizing
	KeyName   string
	PublicKey string // the key pair's public half at launch, authorized_keys form; "" for none
	UserData  []byte
	// HostMounts are the directories of its server that a container is shown from its next start on, allowed when its tag TagHostMounts was written.
	HostMounts []HostMount `json:",omitempty"`
	Command    []string    // replaces the image's command when not empty (tag "nacre:command")
	Zone       string
	VPC        VPCID
	Subnet     SubnetID
	// PlacementGroup is "" for none; GroupName is its name.
	PlacementGroup PlacementGroupID
	GroupName      string
	// Partition is the one of its placement group, from 1; 0 until the scheduler has chosen, and where there are none.
	Partition  int
	Interfaces []InterfaceID // by device index; what is being attached or detached counts
	// RootVolume says that its root is a volume: false for instances of before they were, whose root is their machine's own.
	RootVolume bool
	// Wiring counts what was attached and detached since the launch: a node that reports a number has done all up to it.
	Wiring int

	SourceDestCheck       bool
	DisableAPITermination bool
	DisableAPIStop        bool
	ShutdownBehavior      ShutdownBehavior
	EBSOptimized          bool
	Monitoring            bool
	Metadata              MetadataOptions
	Credits               string // CreditsStandard or CreditsUnlimited; "" for the family's default, and for sizes without credits
	NoAutoRecovery        bool   // AutoRecovery=disabled: it stays with its server, whatever becomes of that
	Tags                  Tags

	// Captures are what is to be kept of its disks and is not yet, in the order of the calls.
	Captures []Capture `json:",omitempty"`

	// Stalled is since when it stands still though it is to run, zero when it does not; TagStalled says why.
	Stalled time.Time

	Desired DesiredState
	// ForceStop skips the guest's own shutdown when Desired is stopped.
	ForceStop bool
	// HibernationConfigured says that stops may save the memory; it is a launch's to say.
	HibernationConfigured bool
	// Hibernate makes a stop save memory and devices. A node that can't shuts the instance down and says so.
	Hibernate bool
	// Hibernated says that the node holds the memory of the stopped instance. When Boot rises while it is set, the node lets the
	// machine go on where it was, as that boot; it is cleared once that has come to something, whether the machine runs or not.
	Hibernated bool
	// Boot counts starts and reboots: a node whose machine has a lower number boots it again.
	Boot int

	State            InstanceState
	StateReason      StateReason // code and message, zero when there is none
	TransitionReason string      // EC2's older text, such as "User initiated (2026-01-02 03:04:05 GMT)"
	StateChanged     time.Time
	Node             NodeID // "" until placed
	RunningSince     time.Time
	// MachineEnded is when the machine of the newest boot stopped, as its node knows it; zero while it runs, and where nobody
	// knows. It is never later than the notice of it.
	MachineEnded time.Time
	Terminated   time.Time // zero until terminated
	HostID       string    // facts of the node: the engine that runs it, such as "runc 1.1.5"
}

// VM tells whether the instance has a kernel of its own.
func (i *Instance) VM() bool { return i.Isolation == IsolationVM }

// Asleep tells whether the memory of the instance is saved or being saved: its hardware must stay as it is.
func (i *Instance) Asleep() bool {
	return i.Hibernated || i.Hibernate && i.State == StateStopping
}

// ShutdownBehavior is what a shutdown from inside leads to.
type ShutdownBehavior string

const (
	ShutdownStop      ShutdownBehavior = "stop"
	ShutdownTerminate ShutdownBehavior = "terminate"
)

// MetadataOptions govern the instance metadata service.
type MetadataOptions struct {
	TokensRequired bool // HttpTokens=required: IMDSv2 only
	HopLimit       int  // 1 to 64: the TTL of answers that carry a token
	Disabled       bool // HttpEndpoint=disabled
	InstanceTags   bool // InstanceMetadataTags=enabled
	IPv6           bool // HttpProtocolIpv6=enabled: answers at [fd00:ec2::254] too
}

// DefaultMetadataOptions are EC2's for a launch that says nothing.
func DefaultMetadataOptions() MetadataOptions { return MetadataOptions{HopLimit: 1} }

// PrivateDNSName is the name that the VPC's resolver answers for addr in region, as EC2
// forms it: "ip-172-31-0-5.ec2.internal" in us-east-1, "….REGION.compute.internal" elsewhere.
func PrivateDNSName(addr netip.Addr, region string) string {
	return HostName(addr) + "." + PrivateDomain(region)
}

// PrivateDomain is the DNS domain of instances in region.
func PrivateDomain(region string) string {
	if region == "us-east-1" {
		return "ec2.internal"
	}
	return region + ".compute.internal"
}

// PublicDNSName is EC2's name for a public address.
func PublicDNSName(addr netip.Addr, region string) string {
	return "ec2" + HostName(addr)[len("ip"):] + "." + PublicDomain(region)
}

// PublicDomain is the DNS domain of public addresses in region.
func PublicDomain(region string) string {
	if region == "us-east-1" {
		return "compute-1.amazonaws.com"
	}
	return region + ".compute.amazonaws.com"
}

// HostName is an instance's host name, such as "ip-172-31-0-5".
func HostName(addr netip.Addr) string {
	b := []byte("ip-" + addr.String())
	for i, c := range b {
		if c == '.' || c == ':' {
			b[i] = '-'
		}
	}
	return string(b)
}
