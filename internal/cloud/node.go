package cloud

import (
	"slices"
	"time"
)

// Node is a server that runs instances, as it reported itself.
type Node struct {
	ID            NodeID
	Zone          string
	Hostname      string
	Architecture  string // "x86_64" or "arm64"
	CPUs          int
	MemoryMiB     int64
	Kernel        string
	VolumeGiB     int                  // the largest volume that it could fill; 0 where it keeps none
	IPv6          bool                 // its network carries IPv6
	Engines       map[Isolation]string // isolation to engine and version, such as "runc 1.1.5"
	Guests        []string             // architectures of the virtual machines that it runs, its own where it names none
	HostPaths     []HostPath           `json:",omitempty"` // directories that its operator allows to be shown to containers
	CPUFactor     float64              // virtual CPUs sold per real one
	MemoryFactor  float64              // memory sold per real memory
	Registered    time.Time
	LastConnected time.Time
}

// Virtualizes tells whether the node runs virtual machines of an architecture.
func (n *Node) Virtualizes(architecture string) bool {
	if len(n.Guests) == 0 {
		return architecture == n.Architecture
	}
	return slices.Contains(n.Guests, architecture)
}
