package cloud

import (
	"fmt"
	"time"
)

// UsageKind is what sort of thing is paid for.
type UsageKind string

const (
	UsageInstance UsageKind = "instance"    // the time that it runs
	UsageAddress  UsageKind = "address"     // a public IPv4 address, lent or an Elastic IP, used or not
	UsageNAT      UsageKind = "nat-gateway" // the time that it is available
	UsageVolume   UsageKind = "volume"      // GiB of its type, operations and throughput a second, provisioned
	UsageSnapshot UsageKind = "snapshot"    // GiB stored
)

// Charge is what something costs by the time it lasts, as long as it stays as it is. The zero Charge costs nothing.
type Charge struct {
	Kind      UsageKind
	Type      string    `json:",omitempty"` // of instances and volumes, such as "t3.micro" and "gp3"
	Isolation Isolation `json:",omitempty"` // of instances
	CPUs      int       `json:",omitempty"` // of instances, in the place of the type's; 0 for those
	MemoryMiB int64     `json:",omitempty"`
	GiB       int64     `json:",omitempty"` // of volumes and snapshots
	// IOPS and Throughput, in MiB a second, are those of volumes whose owner chooses them; what comes with the type is in them.
	IOPS       int `json:",omitempty"`
	Throughput int `json:",omitempty"`
}

// Metered is what a resource costs as it is now.
type Metered struct {
	Charge
	Account  AccountID
	Resource string
	Tags     Tags
	// Since is when it began to cost, as the resource knows it; zero for the time of the change that makes it cost.
	Since time.Time
	// Until is when it last ceased to cost, as the resource knows it; zero for the time of the change that ends it.
	Until time.Time
}

// Usage is a row of the ledger: one resource, as one thing that costs, from a start to an end. Rows are written by the transactions
// that start and end them, and by nothing else.
type Usage struct {
	Charge
	Account  AccountID
	Resource string
	Number   int  // counts the resource's rows, from 1
	Tags     Tags // as they are now, or were at the end
	Start    time.Time
	End      time.Time // zero while it lasts; never before Start
}

// MinimumSeconds is what every stretch of an instance costs at the least.
const MinimumSeconds = 60

// SecondsBy is how many seconds of the row are to be paid by a time: whole ones, begun ones counted, and for instances a
// minimum that is due when the row starts. What is due in a period is the difference between its ends, so that the parts of
// a row always add up to the row.
func (u *Usage) SecondsBy(at time.Time) int64 {
	if !u.End.IsZero() && at.After(u.End) {
		at = u.End
	}
	if !at.After(u.Start) {
		return 0
	}
	seconds := int64((at.Sub(u.Start) + time.Second - 1) / time.Second)
	if u.Kind == UsageInstance {
		seconds = max(seconds, MinimumSeconds)
	}
	return seconds
}

// SecondsIn is what is to be paid of the row for a period, its end excluded.
func (u *Usage) SecondsIn(from, to time.Time) int64 {
	if !u.Ran() {
		return 0
	}
	return max(0, u.SecondsBy(to)-u.SecondsBy(from))
}

// Ran tells whether the row lasted at all: one that was ended before it began, by clocks that differ, costs nothing.
func (u *Usage) Ran() bool { return u.End.IsZero() || u.End.After(u.Start) }

// Key names the row.
func (u *Usage) Key() string { return fmt.Sprintf("%s/%08d", u.Resource, u.Number) }

// Metered is what the instance costs: the time that it runs, and that which saving its memory takes, as EC2 has it. The time between the end of
// its machine and the notice of that is not paid.
func (i *Instance) Metered() Metered {
	m := Metered{Account: i.Account, Resource: string(i.ID), Tags: i.Tags, Since: i.RunningSince, Until: i.StateChanged}
	if i.State == StateRunning || i.State == StateStopping && i.Hibernate && i.MachineEnded.IsZero() {
		m.Charge = Charge{Kind: UsageInstance, Type: string(i.Type), Isolation: i.Isolation, CPUs: i.CPUs, MemoryMiB: i.MemoryMiB}
	}
	if !i.MachineEnded.IsZero() && (i.MachineEnded.Before(m.Until) || m.Until.IsZero()) {
		m.Until = i.MachineEnded
	}
	return m
}

// Metered is what an Elastic IP costs, from its allocation to its release.
func (a *Address) Metered() Metered {
	return Metered{Charge: Charge{Kind: UsageAddress}, Account: a.Account, Resource: string(a.ID), Tags: a.Tags, Since: a.Created}
}

// Metered is what the lent public address of an interface costs. Elastic IPs are metered by themselves.
func (n *Interface) Metered() Metered {
	m := Metered{Account: n.Account, Resource: string(n.ID), Tags: n.Tags}
	for _, p := range n.Publics {
		if p.Allocation == "" {
			m.Charge = Charge{Kind: UsageAddress}
		}
	}
	return m
}

// Metered is what a volume costs from when it was made until it is to be deleted, attached or not. A container's root costs nothing by itself: it is
// a layer, which its container's price has in it.
func (v *Volume) Metered() Metered {
	m := Metered{Account: v.Account, Resource: string(v.ID), Tags: v.Tags}
	if !v.Layer && (v.State == VolumeAvailable || v.State == VolumeInUse) {
		m.Charge = Charge{Kind: UsageVolume, Type: string(v.Type), GiB: int64(v.SizeGiB), IOPS: v.IOPS, Throughput: v.Throughput}
	}
	return m
}

// Metered is what a NAT gateway costs, as long as it is available.
func (g *NATGateway) Metered() Metered {
	m := Metered{Account: g.Account, Resource: string(g.ID), Tags: g.Tags}
	if g.State == NATAvailable {
		m.Charge = Charge{Kind: UsageNAT}
	}
	return m
}
