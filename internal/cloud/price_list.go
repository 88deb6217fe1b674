package cloud

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// PriceList is what everything costs from a day on.
type PriceList struct {
	Effective time.Time // the beginning of a day, UTC
	Source    string    // where the prices come from, in the operator's words
	// Instances and Containers are the prices of an hour of each type as a virtual machine and as a container.
	Instances, Containers map[InstanceType]Price
	PublicIPv4            Price            // an hour of an address, in use or not
	NATGateway            Price            // an hour
	Volumes               map[string]Price // a GiB and month, by the type of volume
	IOPS                  map[string]Price // an operation a second and month, by tier
	Throughput            map[string]Price // a MiB a second and month, by the type of volume
	Snapshots             Price            // a GiB and month
}

// VolumeTypes are those that a price list must know.
var VolumeTypes = []string{"gp2", "gp3", "io1", "io2", "sc1", "st1", "standard"}

// Tier is a range of a volume's provisioned operations or throughput a second that has a price of its own.
type Tier struct {
	Name string // AWS's, such as "io2.tier2"
	Type string // of the volume
	Over int    // what lies below is not in it
	UpTo int    // 0 for no end
}

// IOPSTiers and ThroughputTiers are AWS's. Of gp3, what every volume has is in the price of its GiB.
var (
	IOPSTiers = []Tier{{Name: "gp3", Type: "gp3", Over: gp3IOPS}, {Name: "io1", Type: "io1"},
		{Name: "io2", Type: "io2", UpTo: 32_000}, {Name: "io2.tier2", Type: "io2", Over: 32_000, UpTo: 64_000}, {Name: "io2.tier3", Type: "io2", Over: 64_000}}
	ThroughputTiers = []Tier{{Name: "gp3", Type: "gp3", Over: gp3Throughput}}
)

// within is how much of an amount lies in the tier.
func (t Tier) within(n int) int64 {
	if t.UpTo > 0 {
		n = min(n, t.UpTo)
	}
	return int64(max(0, n-t.Over))
}

// containerShare is what a container costs by default, in percent of a virtual machine of its type: it shares its server's kernel.
const containerShare = 50

// DefaultPrices are AWS's public prices in us-east-1, on demand, Linux, and half of them for containers.
func DefaultPrices() *PriceList {
	l := &PriceList{Effective: time.Date(2006, 8, 24, 0, 0, 0, 0, time.UTC), Source: "AWS's public on-demand list for Linux in us-east-1; containers at half of it",
		Instances: map[InstanceType]Price{}, Containers: map[InstanceType]Price{},
		PublicIPv4: 5 * dollar / 1000, NATGateway: 45 * dollar / 1000, Snapshots: 50 * dollar / 1000,
		Volumes: map[string]Price{"gp2": 100 * dollar / 1000, "gp3": 80 * dollar / 1000, "io1": 125 * dollar / 1000, "io2": 125 * dollar / 1000,
			"st1": 45 * dollar / 1000, "sc1": 15 * dollar / 1000, "standard": 50 * dollar / 1000},
		IOPS:       map[string]Price{"gp3": 5 * dollar / 1000, "io1": 65 * dollar / 1000, "io2": 65 * dollar / 1000, "io2.tier2": 46 * dollar / 1000, "io2.tier3": 32 * dollar / 1000},
		Throughput: map[string]Price{"gp3": 40 * dollar / 1000}}
	for _, t := range InstanceTypes() {
		l.Instances[t.Name] = Price(t.ListPrice()) * (dollar / 1_000_000)
		l.Containers[t.Name] = l.Instances[t.Name] * containerShare / 100
	}
	return l
}

// Check says what the list lacks: it must have a price for everything that this cloud serves, and for nothing else.
func (l *PriceList) Check() error {
	if l.Effective.IsZero() || !l.Effective.Equal(l.Effective.Truncate(24*time.Hour)) {
		return errors.New("a price list begins with a day, such as 2026-01-01")
	}
	for _, t := range InstanceTypes() {
		for what, prices := range map[string]map[InstanceType]Price{"virtual machines": l.Instances, "containers": l.Containers} {
			if _, ok := prices[t.Name]; !ok {
				return fmt.Errorf("the list has no price of %s of the type %s", what, t.Name)
			}
		}
	}
	for _, prices := range []map[InstanceType]Price{l.Instances, l.Containers} {
		for name := range prices {
			if _, ok := LookupInstanceType(name); !ok {
				return fmt.Errorf("the list has a price of the type %s, which this cloud doesn't serve", name)
			}
		}
	}
	for _, name := range VolumeTypes {
		if _, ok := l.Volumes[name]; !ok {
			return fmt.Errorf("the list has no price of volumes of the type %s", name)
		}
	}
	for name := range l.Volumes {
		if !slices.Contains(VolumeTypes, name) {
			return fmt.Errorf("the list has a price of volumes of the type %s, which there is not", name)
		}
	}
	if err := checkTiers("operations a second", IOPSTiers, l.IOPS); err != nil {
		return err
	}
	return checkTiers("throughput", ThroughputTiers, l.Throughput)
}

func checkTiers(what string, tiers []Tier, prices map[string]Price) error {
	for _, t := range tiers {
		if _, ok := prices[t.Name]; !ok {
			return fmt.Errorf("the list has no price of volumes' %s %s", what, t.Name)
		}
	}
	for name := range prices {
		if !slices.ContainsFunc(tiers, func(t Tier) bool { return t.Name == name }) {
			return fmt.Errorf("the list has a price of volumes' %s %s, which there is not", what, name)
		}
	}
	return nil
}

// Unit is what a price is for, as AWS's price list writes it.
type Unit string

const (
	UnitHours      Unit = "Hrs"
	UnitGiB        Unit = "GB-Mo"    // months of 30 days
	UnitIOPS       Unit = "IOPS-Mo"  // an operation a second, for a month
	UnitThroughput Unit = "MiBps-Mo" // a MiB a second, for a month
)

// Share is one of the prices that add up to what a charge costs.
type Share struct {
	Unit  Unit
	Tier  string // of UnitIOPS and UnitThroughput
	Units int64  // how many are paid, 1 for hours
	Price Price
}

// Shares are what a charge costs: its price, and for a volume those of operations and throughput beyond what comes with it.
func (l *PriceList) Shares(c Charge) []Share {
	if c.Kind != UsageVolume && c.Kind != UsageSnapshot {
		return []Share{{UnitHours, "", 1, l.Price(c)}}
	}
	shares := []Share{{UnitGiB, "", c.GiB, l.Price(c)}}
	for _, t := range IOPSTiers {
		if n := t.within(c.IOPS); t.Type == c.Type && n > 0 {
			shares = append(shares, Share{UnitIOPS, t.Name, n, l.IOPS[t.Name]})
		}
	}
	for _, t := range ThroughputTiers {
		if n := t.within(c.Throughput); t.Type == c.Type && n > 0 {
			shares = append(shares, Share{UnitThroughput, t.Name, n, l.Throughput[t.Name]})
		}
	}
	return shares
}

// Price finds what a charge costs, for an hour or for a GiB and month. Instances with CPUs or memory of their own cost their type's price times the
// larger of the two shares that they have of it.
func (l *PriceList) Price(c Charge) Price {
	switch c.Kind {
	case UsageInstance:
		prices := l.Instances
		if c.Isolation == IsolationContainer {
			prices = l.Containers
		}
		price := prices[InstanceType(c.Type)]
		size, ok := LookupInstanceType(InstanceType(c.Type))
		if !ok {
			return price
		}
		cpus, memory := int64(size.VCPUs), size.MemoryMiB
		if c.CPUs > 0 {
			cpus = int64(c.CPUs)
		}
		if c.MemoryMiB > 0 {
			memory = c.MemoryMiB
		}
		if cpus == int64(size.VCPUs) && memory == size.MemoryMiB {
			return price
		}
		return max(price.scaled(cpus, int64(size.VCPUs)), price.scaled(memory, size.MemoryMiB))
	case UsageAddress:
		return l.PublicIPv4
	case UsageNAT:
		return l.NATGateway
	case UsageVolume:
		return l.Volumes[c.Type]
	case UsageSnapshot:
		return l.Snapshots
	}
	return 0
}

// PriceBook is all price lists, the oldest first.
type PriceBook []*PriceList

// NewPriceBook adds the operator's lists to the default prices, which hold before the first of them.
func NewPriceBook(lists []*PriceList) PriceBook {
	book := append(PriceBook{DefaultPrices()}, lists...)
	slices.SortStableFunc(book, func(a, b *PriceList) int { return a.Effective.Compare(b.Effective) })
	return book
}

// At is the list that holds at a time.
func (b PriceBook) At(t time.Time) *PriceList {
	held := b[0]
	for _, l := range b[1:] {
		if !l.Effective.After(t) {
			held = l
		}
	}
	return held
}
