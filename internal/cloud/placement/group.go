package placement

import (
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Members is what a node carries of one placement group. Its instances are all of one partition.
type Members struct {
	Instances, Partition int
}

// Group is a placement group as the placement of one of its instances sees it.
type Group struct {
	ID         cloud.PlacementGroupID
	Name       string
	Strategy   cloud.PlacementStrategy
	Partitions int
	Partition  int // the one that the instance is to be in, 0 for any
}

// standing is where a group's instances are.
type standing struct {
	zones      map[string]int // how many in each
	partitions map[int]int
}

func (g *Group) standing(candidates []Candidate) standing {
	s := standing{map[string]int{}, map[int]int{}}
	for _, c := range candidates {
		if m := c.Groups[g.ID]; m.Instances > 0 {
			s.zones[c.Node.Zone] += m.Instances
			s.partitions[m.Partition] += m.Instances
		}
	}
	return s
}

// tries lists the partitions in which to place an instance, in the order in which to try them: the emptiest first.
func (g *Group) tries(candidates []Candidate) []int {
	if g.Strategy != cloud.PlacePartition {
		return []int{0}
	}
	if g.Partition > 0 {
		return []int{g.Partition}
	}
	list := make([]int, max(g.Partitions, 1))
	for n := range list {
		list[n] = n + 1
	}
	filled := g.standing(candidates).partitions
	slices.SortStableFunc(list, func(a, b int) int { return filled[a] - filled[b] })
	return list
}

// unfit names what keeps an instance of the group off a node that has room for it, "" when nothing does. A server is what
// EC2 calls a rack: instances that must not fail together are never on one.
func (g *Group) unfit(c Candidate, s standing, partition int) string {
	here := c.Groups[g.ID]
	switch g.Strategy {
	case cloud.PlaceSpread:
		switch {
		case here.Instances > 0:
			return fmt.Sprintf("it has an instance of the spread placement group %s", g.Name)
		case s.zones[c.Node.Zone] >= cloud.MaxSpread:
			return fmt.Sprintf("zone %s has %d instances of the spread placement group %s", c.Node.Zone, cloud.MaxSpread, g.Name)
		}
	case cloud.PlacePartition:
		if here.Instances > 0 && here.Partition != partition {
			return fmt.Sprintf("it has instances of partition %d of the placement group %s", here.Partition, g.Name)
		}
	case cloud.PlaceCluster:
		if len(s.zones) > 0 && s.zones[c.Node.Zone] == 0 {
			return fmt.Sprintf("the cluster placement group %s is in another zone", g.Name)
		}
	}
	return ""
}
