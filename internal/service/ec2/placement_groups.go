package ec2

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerPlacement(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreatePlacementGroup, s.createPlacementGroup, awsapi.Honours("GroupName", "PartitionCount", "SpreadLevel", "Strategy", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeletePlacementGroup, s.deletePlacementGroup, awsapi.Honours("GroupName"))
	awsapi.Handle(r, ec2.ActionDescribePlacementGroups, s.describePlacementGroups, awsapi.Honours("GroupIds", "GroupNames", "Filters"))
	awsapi.Handle(r, ec2.ActionModifyInstancePlacement, s.modifyInstancePlacement, awsapi.Honours("InstanceId", "GroupName", "GroupId", "PartitionNumber", "Tenancy", "Affinity"))
	awsapi.Handle(r, ec2.ActionDescribeInstanceTopology, s.describeInstanceTopology, awsapi.Honours("InstanceIds", "GroupNames", "Filters", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionDescribeHosts, s.describeHosts, awsapi.Honours("HostIds", "Filter", "MaxResults", "NextToken"))
}

// claimPlacement is the kind of the claims of placement groups' names.
const claimPlacement = "placement-group"

const (
	maxPlacementGroupName = 255
	// defaultPartitions is EC2's.
	defaultPartitions = 2
)

func (s *Service) createPlacementGroup(ctx context.Context, call *awsapi.Call, req *ec2.CreatePlacementGroupRequest) (*ec2.CreatePlacementGroupResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "placement-group")
	if err != nil {
		return nil, err
	}
	g := &cloud.PlacementGroup{ID: newID[cloud.PlacementGroupID](s), Account: call.Account, Name: deref(req.GroupName), Strategy: cloud.PlacementStrategy(deref(req.Strategy)),
		Tags: tags["placement-group"], Created: call.Now}
	if g.Strategy == "" && req.PartitionCount != nil {
		g.Strategy = cloud.PlacePartition
	}
	switch {
	case g.Name == "":
		return nil, awsapi.MissingParameter("GroupName")
	case len(g.Name) > maxPlacementGroupName || strings.ContainsFunc(g.Name, func(c rune) bool { return c < ' ' || c > '~' }):
		return nil, awsapi.InvalidParameterValue("Value for parameter groupName is invalid. Character sets beyond ASCII are not supported, and %d characters are the most.", maxPlacementGroupName)
	case g.Strategy == "":
		return nil, awsapi.MissingParameter("Strategy")
	case req.PartitionCount != nil && g.Strategy != cloud.PlacePartition:
		return nil, awsapi.InvalidCombination("The partitionCount parameter can be specified only when the strategy is partition")
	case deref(req.SpreadLevel) != "" && g.Strategy != cloud.PlaceSpread:
		return nil, awsapi.InvalidCombination("The spreadLevel parameter can be specified only when the strategy is spread")
	case deref(req.SpreadLevel) == ec2.SpreadLevelHost:
		return nil, awsapi.Unsupported("The spread level host is only for Outposts, which this cloud doesn't have.")
	}
	if g.Strategy == cloud.PlacePartition {
		g.Partitions = defaultPartitions
		if n := req.PartitionCount; n != nil {
			if *n < 1 || *n > cloud.MaxPartitions {
				return nil, awsapi.InvalidParameterValue("Value ( %d ) for parameter partitionCount is invalid. Expecting a value from 1 to %d.", *n, cloud.MaxPartitions)
			}
			g.Partitions = int(*n)
		}
	}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		if len(store.ListBy(tx.View(), store.PlacementGroupsByAccount, call.Account)) >= cloud.MaxPlacementGroups {
			return awsapi.Errorf("PlacementGroupLimitExceeded", "An account has %d placement groups at most.", cloud.MaxPlacementGroups)
		}
		err := store.Insert(tx, store.Claims, &store.Claim{Key: store.NameClaim(claimPlacement, call.Account, g.Name), Owner: string(g.ID)})
		if errors.Is(err, store.ErrExists) {
			return awsapi.Errorf("InvalidPlacementGroup.Duplicate", "The Placement Group '%s' already exists.", g.Name)
		}
		store.Put(tx, store.PlacementGroups, g)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &ec2.CreatePlacementGroupResult{PlacementGroup: placementGroupShape(g, call.Region)}, nil
}

func placementGroupARN(g *cloud.PlacementGroup, region string) string {
	return "arn:aws:ec2:" + region + ":" + string(g.Account) + ":placement-group/" + g.Name
}

func placementGroupShape(g *cloud.PlacementGroup, region string) *ec2.PlacementGroup {
	out := &ec2.PlacementGroup{GroupId: text(g.ID), GroupName: &g.Name, State: new(ec2.PlacementGroupStateAvailable), Strategy: text(g.Strategy), Tags: tagList(g.Tags),
		GroupArn: new(placementGroupARN(g, region))}
	switch g.Strategy {
	case cloud.PlacePartition:
		out.PartitionCount = new(int64(g.Partitions))
	case cloud.PlaceSpread:
		out.SpreadLevel = new(ec2.SpreadLevelRack)
	}
	return out
}

func placementUnknown(name string) error {
	return awsapi.Errorf("InvalidPlacementGroup.Unknown", "The Placement Group '%s' is unknown.", name)
}

// findPlacementGroup finds an account's placement group by its id or else its name.
func findPlacementGroup(r store.Reader, account cloud.AccountID, id, name string) (*cloud.PlacementGroup, error) {
	if id != "" {
		if name != "" {
			return nil, awsapi.InvalidCombination("The parameters GroupId and GroupName cannot be used together")
		}
		if !cloud.ValidID[cloud.PlacementGroupID](id) {
			return nil, awsapi.InvalidParameterValue("Invalid value '%s' for groupId. It is not the ID of a placement group.", id)
		}
		g, ok := store.Get(r, store.PlacementGroups, cloud.PlacementGroupID(id))
		if !ok || g.Account != account {
			return nil, placementUnknown(id)
		}
		return g, nil
	}
	claim, ok := store.Get(r, store.Claims, store.NameClaim(claimPlacement, account, name))
	if !ok {
		return nil, placementUnknown(name)
	}
	g, ok := store.Get(r, store.PlacementGroups, cloud.PlacementGroupID(claim.Owner))
	if !ok {
		return nil, placementUnknown(name)
	}
	return g, nil
}

func (s *Service) deletePlacementGroup(ctx context.Context, call *awsapi.Call, req *ec2.DeletePlacementGroupRequest) (*ec2.DeletePlacementGroupResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		g, err := findPlacementGroup(tx, call.Account, "", deref(req.GroupName))
		if err != nil {
			return err
		}
		for _, i := range store.ListBy(tx, store.InstancesByPlacementGroup, g.ID) {
			if i.State != cloud.StateTerminated {
				return awsapi.Errorf("InvalidPlacementGroup.InUse", "The placement group '%s' is in use and may not be deleted.", g.Name)
			}
		}
		store.Delete(tx, store.PlacementGroups, g.ID)
		store.Delete(tx, store.Claims, store.NameClaim(claimPlacement, g.Account, g.Name))
		return nil
	})
	return &ec2.DeletePlacementGroupResult{}, err
}

func (s *Service) describePlacementGroups(_ context.Context, call *awsapi.Call, req *ec2.DescribePlacementGroupsRequest) (*ec2.DescribePlacementGroupsResult, error) {
	type G = *cloud.PlacementGroup
	view := s.store.View()
	list := slices.Clone(store.ListBy(view, store.PlacementGroupsByAccount, call.Account))
	if len(req.GroupIds)+len(req.GroupNames) > 0 {
		found := map[cloud.PlacementGroupID]bool{}
		for n, key := range slices.Concat(req.GroupIds, req.GroupNames) {
			id, name := key, ""
			if n >= len(req.GroupIds) {
				id, name = "", key
			}
			g, err := findPlacementGroup(view, call.Account, id, name)
			if err != nil {
				return nil, err
			}
			found[g.ID] = true
		}
		list = slices.DeleteFunc(list, func(g G) bool { return !found[g.ID] })
	}
	set := awsapi.FilterSet[G]{Tags: func(g G) map[string]string { return g.Tags }, Values: map[string]func(G) []string{
		"group-arn": one(func(g G) string { return placementGroupARN(g, call.Region) }), "group-name": one(func(g G) string { return g.Name }),
		"spread-level": one(func(g G) string { return deref(placementGroupShape(g, call.Region).SpreadLevel) }), "state": func(G) []string { return []string{ec2.PlacementGroupStateAvailable} },
		"strategy": one(func(g G) string { return string(g.Strategy) }),
	}}
	pass, err := set.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribePlacementGroupsResult{PlacementGroups: []ec2.PlacementGroup{}}
	for _, g := range list {
		if pass(g) {
			out.PlacementGroups = append(out.PlacementGroups, *placementGroupShape(g, call.Region))
		}
	}
	return out, nil
}

// partitionText is how filters see an instance's partition.
func partitionText(i *cloud.Instance) string {
	if i.Partition == 0 {
		return ""
	}
	return strconv.Itoa(i.Partition)
}

// join puts an instance of a size into a placement group.
func join(i *cloud.Instance, size typeInfo, g *cloud.PlacementGroup, partition *int64) error {
	if err := clusters(g, size); err != nil {
		return err
	}
	i.PlacementGroup, i.GroupName, i.Partition = g.ID, g.Name, 0
	if partition == nil {
		return nil
	}
	if g.Strategy != cloud.PlacePartition {
		return awsapi.InvalidCombination("The partitionNumber parameter can be specified only for a placement group with the partition strategy")
	}
	if *partition < 1 || *partition > int64(g.Partitions) {
		return awsapi.InvalidParameterValue("Value ( %d ) for parameter partitionNumber is invalid. The placement group '%s' has the partitions 1 to %d.", *partition, g.Name, g.Partitions)
	}
	i.Partition = int(*partition)
	return nil
}

// clusters refuses sizes that EC2 doesn't take into a cluster.
func clusters(g *cloud.PlacementGroup, size typeInfo) error {
	if g.Strategy == cloud.PlaceCluster && size.Burstable() {
		return awsapi.InvalidCombination("Cluster placement groups are not supported by the '%s' instance type. Specify a supported instance type or change the placement group strategy, and try again.", size.Name)
	}
	return nil
}

// resolveGroup finds the placement group that a launch names.
func (l *launch) resolveGroup(tx *store.Tx) error {
	p := deref(l.req.Placement)
	l.group = nil
	if deref(p.GroupId) == "" && deref(p.GroupName) == "" {
		if p.PartitionNumber != nil {
			return awsapi.InvalidCombination("The partitionNumber parameter needs a placement group")
		}
		return nil
	}
	g, err := findPlacementGroup(tx, l.call.Account, deref(p.GroupId), deref(p.GroupName))
	if err != nil {
		return err
	}
	i := &l.template
	if err := join(i, l.size, g, p.PartitionNumber); err != nil {
		return err
	}
	l.group = &placement.Group{ID: g.ID, Name: g.Name, Strategy: g.Strategy, Partitions: g.Partitions, Partition: i.Partition}
	return nil
}

func (s *Service) modifyInstancePlacement(ctx context.Context, call *awsapi.Call, req *ec2.ModifyInstancePlacementRequest) (*ec2.ModifyInstancePlacementResult, error) {
	if t := deref(req.Tenancy); t != "" && t != ec2.TenancyDefault {
		return nil, awsapi.Unsupported("The tenancy '%s' is not supported by this cloud.", t)
	}
	if a := deref(req.Affinity); a != "" && a != ec2.AffinityDefault {
		return nil, awsapi.Unsupported("The affinity '%s' is not supported by this cloud.", a)
	}
	if req.Tenancy == nil && req.Affinity == nil && req.GroupName == nil && req.GroupId == nil && req.PartitionNumber == nil {
		return nil, awsapi.InvalidCombination("No attributes specified.")
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
		if err != nil {
			return err
		}
		if i.State != cloud.StateStopped {
			return awsapi.Errorf("IncorrectInstanceState", "The instance '%s' must be in the 'stopped' state to modify its placement.", i.ID)
		}
		switch {
		case req.GroupName != nil && *req.GroupName == "" && deref(req.GroupId) == "":
			if req.PartitionNumber != nil {
				return awsapi.InvalidCombination("The partitionNumber parameter needs a placement group")
			}
			i.PlacementGroup, i.GroupName, i.Partition = "", "", 0
		case req.GroupName != nil || req.GroupId != nil || req.PartitionNumber != nil:
			id, name := deref(req.GroupId), deref(req.GroupName)
			if id == "" && name == "" {
				if id = string(i.PlacementGroup); id == "" {
					return awsapi.InvalidCombination("The partitionNumber parameter needs a placement group")
				}
			}
			g, err := findPlacementGroup(tx, call.Account, id, name)
			if err != nil {
				return err
			}
			size, ok := cloud.LookupInstanceType(i.Type)
			if !ok {
				return awsapi.Unsupported("The instance type %s of %s is not served by this cloud.", i.Type, i.ID)
			}
			if err := join(i, size, g, req.PartitionNumber); err != nil {
				return err
			}
		}
		store.Put(tx, store.Instances, i)
		return nil
	})
	return &ec2.ModifyInstancePlacementResult{Return: new(true)}, err
}

// describeHosts finds none: this cloud has no dedicated hosts.
func (s *Service) describeHosts(_ context.Context, _ *awsapi.Call, req *ec2.DescribeHostsRequest) (*ec2.DescribeHostsResult, error) {
	if err := pageBounds(req.MaxResults, 5, 500, req.HostIds, "hostIdSet"); err != nil {
		return nil, err
	}
	for _, id := range req.HostIds {
		return nil, awsapi.Errorf("InvalidHostID.NotFound", "The specified host IDs are not valid or do not exist: %s", id)
	}
	none := func(struct{}) []string { return nil }
	set := awsapi.FilterSet[struct{}]{Tags: func(struct{}) map[string]string { return nil }, Values: map[string]func(struct{}) []string{
		"auto-placement": none, "availability-zone": none, "client-token": none, "host-reservation-id": none, "instance-type": none, "state": none}}
	if _, err := set.Compile(filters(req.Filter)); err != nil {
		return nil, err
	}
	return &ec2.DescribeHostsResult{Hosts: []ec2.Host{}}, nil
}
