package cloud

import "time"

// PlacementStrategy says how the instances of a placement group lie to one another.
type PlacementStrategy string

const (
	// PlaceCluster keeps instances close together: in one zone, and on one server where it has room.
	PlaceCluster PlacementStrategy = "cluster"
	// PlaceSpread keeps every instance on a server of its own.
	PlaceSpread PlacementStrategy = "spread"
	// PlacePartition keeps instances of different partitions on different servers.
	PlacePartition PlacementStrategy = "partition"
)

// PlacementGroup is a set of instances that are placed with regard to one another.
type PlacementGroup struct {
	ID         PlacementGroupID
	Account    AccountID
	Name       string // up to 255 characters, unique in the account
	Strategy   PlacementStrategy
	Partitions int // 1 to MaxPartitions where the strategy is PlacePartition, else 0
	Tags       Tags
	Created    time.Time
}

// EC2's limits of placement groups.
const (
	MaxPlacementGroups = 500 // an account
	MaxPartitions      = 7
	// MaxSpread bounds the running instances of a spread group in one zone.
	MaxSpread = 7
)
