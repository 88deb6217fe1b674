package ec2

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerTags(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateTags, s.createTags, awsapi.Honours("Resources", "Tags"))
	awsapi.Handle(r, ec2.ActionDeleteTags, s.deleteTags, awsapi.Honours("Resources", "Tags"))
	awsapi.Handle(r, ec2.ActionDescribeTags, s.describeTags, awsapi.Honours("Filters", "MaxResults", "NextToken"))
}

// taggable is one kind of resource that carries tags.
type taggable struct {
	prefix string
	name   string // EC2's resource type
	kind   resourceKind
	// change finds a resource of the account and applies a change to its tags; ok is false when there is none.
	change func(tx *store.Tx, account cloud.AccountID, id string, apply func(cloud.Tags) (cloud.Tags, error)) (ok bool, err error)
	// each tells every tagged resource of an account.
	each func(r store.Reader, account cloud.AccountID, tell func(id string, tags cloud.Tags))
}

func tagTable[K interface {
	~string
	cloud.ID
}, T any](name string, kind resourceKind, table store.Table[K, T], byAccount store.Index[K, cloud.AccountID, T], owner func(*T) cloud.AccountID, id func(*T) K, tags func(*T) *cloud.Tags) taggable {
	return taggable{
		prefix: cloud.Prefix[K](), name: name, kind: kind,
		change: func(tx *store.Tx, account cloud.AccountID, key string, apply func(cloud.Tags) (cloud.Tags, error)) (bool, error) {
			obj, ok := store.Get(tx, table, K(key))
			if !ok || owner(obj) != account {
				return false, nil
			}
			changed, err := apply(*tags(obj))
			if err != nil {
				return true, err
			}
			*tags(obj) = changed
			store.Put(tx, table, obj)
			return true, nil
		},
		each: func(r store.Reader, account cloud.AccountID, tell func(string, cloud.Tags)) {
			for _, obj := range store.ListBy(r, byAccount, account) {
				tell(string(id(obj)), *tags(obj))
			}
		},
	}
}

// instancesTagged keeps tags readable for instances that see theirs in their metadata, and does what their tags ask for.
func instancesTagged(t taggable) taggable {
	t.change = func(tx *store.Tx, account cloud.AccountID, id string, apply func(cloud.Tags) (cloud.Tags, error)) (bool, error) {
		i, ok := store.Get(tx, store.Instances, cloud.InstanceID(id))
		if !ok || i.Account != account {
			return false, nil
		}
		tags, err := apply(i.Tags)
		if err != nil {
			return true, err
		}
		if i.Metadata.InstanceTags {
			if err := visibleTags(tags); err != nil {
				return true, err
			}
		}
		i.Tags = tags
		if err := mountHost(tx, account, i); err != nil {
			return true, err
		}
		if err := resizeAsTagged(tx, i); err != nil {
			return true, err
		}
		store.Put(tx, store.Instances, i)
		return true, nil
	}
	return t
}

// volumesTagged refuses tags that the node could not act on.
func volumesTagged(t taggable) taggable {
	change := t.change
	t.change = func(tx *store.Tx, account cloud.AccountID, id string, apply func(cloud.Tags) (cloud.Tags, error)) (bool, error) {
		return change(tx, account, id, func(tags cloud.Tags) (cloud.Tags, error) {
			tags, err := apply(tags)
			if err == nil {
				err = volumeTags(tags)
			}
			return tags, err
		})
	}
	return t
}

var taggables = []taggable{
	instancesTagged(tagTable("instance", kindInstance, store.Instances, store.InstancesByAccount, ownerOfInstance, func(x *cloud.Instance) cloud.InstanceID { return x.ID }, func(x *cloud.Instance) *cloud.Tags { return &x.Tags })),
	imagesTagged(tagTable("image", kindImage, store.Images, store.ImagesByAccount, func(x *cloud.Image) cloud.AccountID { return x.Account }, func(x *cloud.Image) cloud.ImageID { return x.ID }, func(x *cloud.Image) *cloud.Tags { return &x.Tags })),
	tagTable("network-interface", kindInterface, store.Interfaces, store.InterfacesByAccount, ownerOfInterface, func(x *cloud.Interface) cloud.InterfaceID { return x.ID }, func(x *cloud.Interface) *cloud.Tags { return &x.Tags }),
	volumesTagged(tagTable("volume", kindVolume, store.Volumes, store.VolumesByAccount, ownerOfVolume, func(x *cloud.Volume) cloud.VolumeID { return x.ID }, func(x *cloud.Volume) *cloud.Tags { return &x.Tags })),
	tagTable("snapshot", kindSnapshot, store.Snapshots, store.SnapshotsByAccount, ownerOfSnapshot, func(x *cloud.Snapshot) cloud.SnapshotID { return x.ID }, func(x *cloud.Snapshot) *cloud.Tags { return &x.Tags }),
	tagTable("vpc", kindVPC, store.VPCs, store.VPCsByAccount, ownerOfVPC, func(x *cloud.VPC) cloud.VPCID { return x.ID }, func(x *cloud.VPC) *cloud.Tags { return &x.Tags }),
	tagTable("subnet", kindSubnet, store.Subnets, store.SubnetsByAccount, ownerOfSubnet, func(x *cloud.Subnet) cloud.SubnetID { return x.ID }, func(x *cloud.Subnet) *cloud.Tags { return &x.Tags }),
	tagTable("internet-gateway", kindGateway, store.InternetGateways, store.InternetGatewaysByAccount, ownerOfGateway, func(x *cloud.InternetGateway) cloud.InternetGatewayID { return x.ID }, func(x *cloud.InternetGateway) *cloud.Tags { return &x.Tags }),
	tagTable("egress-only-internet-gateway", kindEgressGateway, store.EgressOnlyGateways, store.EgressOnlyGatewaysByAccount, ownerOfEgressGateway, func(x *cloud.EgressOnlyGateway) cloud.EgressGatewayID { return x.ID }, func(x *cloud.EgressOnlyGateway) *cloud.Tags { return &x.Tags }),
	tagTable("route-table", kindRouteTable, store.RouteTables, store.RouteTablesByAccount, ownerOfRoutes, func(x *cloud.RouteTable) cloud.RouteTableID { return x.ID }, func(x *cloud.RouteTable) *cloud.Tags { return &x.Tags }),
	tagTable("natgateway", kindNAT, store.NATGateways, store.NATGatewaysByAccount, ownerOfNAT, func(x *cloud.NATGateway) cloud.NATGatewayID { return x.ID }, func(x *cloud.NATGateway) *cloud.Tags { return &x.Tags }),
	tagTable("network-acl", kindACL, store.NetworkACLs, store.NetworkACLsByAccount, ownerOfACL, func(x *cloud.NetworkACL) cloud.NetworkACLID { return x.ID }, func(x *cloud.NetworkACL) *cloud.Tags { return &x.Tags }),
	tagTable("dhcp-options", kindDHCP, store.DHCPOptions, store.DHCPOptionsByAccount, ownerOfDHCP, func(x *cloud.DHCPOptions) cloud.DHCPOptionsID { return x.ID }, func(x *cloud.DHCPOptions) *cloud.Tags { return &x.Tags }),
	tagTable("subnet-cidr-reservation", kindReservation, store.SubnetReservations, store.SubnetReservationsByAccount, ownerOfReservation, func(x *cloud.SubnetReservation) cloud.SubnetReservationID { return x.ID }, func(x *cloud.SubnetReservation) *cloud.Tags { return &x.Tags }),
	tagTable("prefix-list", kindPrefixList, store.PrefixLists, store.PrefixListsByAccount, ownerOfPrefixList, func(x *cloud.PrefixList) cloud.PrefixListID { return x.ID }, func(x *cloud.PrefixList) *cloud.Tags { return &x.Tags }),
	tagTable("vpc-flow-log", kindFlowLog, store.FlowLogs, store.FlowLogsByAccount, ownerOfFlowLog, func(x *cloud.FlowLog) cloud.FlowLogID { return x.ID }, func(x *cloud.FlowLog) *cloud.Tags { return &x.Tags }),
	tagTable("security-group", kindGroup, store.SecurityGroups, store.SecurityGroupsByAccount, ownerOfGroup, func(x *cloud.SecurityGroup) cloud.SecurityGroupID { return x.ID }, func(x *cloud.SecurityGroup) *cloud.Tags { return &x.Tags }),
	tagTable("key-pair", kindKeyPair, store.KeyPairs, store.KeyPairsByAccount, func(x *cloud.KeyPair) cloud.AccountID { return x.Account }, func(x *cloud.KeyPair) cloud.KeyPairID { return x.ID }, func(x *cloud.KeyPair) *cloud.Tags { return &x.Tags }),
	tagTable("elastic-ip", kindAllocation, store.Addresses, store.AddressesByAccount, ownerOfAddress, func(x *cloud.Address) cloud.AllocationID { return x.ID }, func(x *cloud.Address) *cloud.Tags { return &x.Tags }),
	tagTable("launch-template", resourceKind{"InvalidLaunchTemplateId", "launch template"}, store.LaunchTemplates, store.LaunchTemplatesByAccount, func(x *cloud.LaunchTemplate) cloud.AccountID { return x.Account }, func(x *cloud.LaunchTemplate) cloud.LaunchTemplateID { return x.ID }, func(x *cloud.LaunchTemplate) *cloud.Tags { return &x.Tags }),
	tagTable("placement-group", kindPlacement, store.PlacementGroups, store.PlacementGroupsByAccount, ownerOfPlacement, func(x *cloud.PlacementGroup) cloud.PlacementGroupID { return x.ID }, func(x *cloud.PlacementGroup) *cloud.Tags { return &x.Tags }),
	tagTable("fleet", kindFleet, store.Fleets, store.FleetsByAccount, ownerOfFleet, func(x *cloud.Fleet) cloud.FleetID { return x.ID }, func(x *cloud.Fleet) *cloud.Tags { return &x.Tags }),
	tagTable("import-image-task", kindImport, store.ImportTasks, store.ImportTasksByAccount, ownerOfImport, func(x *cloud.ImportTask) cloud.ImportTaskID { return x.ID }, func(x *cloud.ImportTask) *cloud.Tags { return &x.TaskTags }),
	peeringTaggable,
	{prefix: "sgr-", name: "security-group-rule", kind: resourceKind{"InvalidSecurityGroupRuleId", "security group rule"}, change: changeRuleTags, each: eachRule},
}

func changeRuleTags(tx *store.Tx, account cloud.AccountID, id string, apply func(cloud.Tags) (cloud.Tags, error)) (bool, error) {
	for _, g := range store.ListBy(tx, store.SecurityGroupsByAccount, account) {
		for n := range g.Rules {
			if string(g.Rules[n].ID) != id {
				continue
			}
			tags, err := apply(g.Rules[n].Tags)
			if err != nil {
				return true, err
			}
			g.Rules[n].Tags = tags
			store.Put(tx, store.SecurityGroups, g)
			return true, nil
		}
	}
	return false, nil
}

func eachRule(r store.Reader, account cloud.AccountID, tell func(string, cloud.Tags)) {
	for _, g := range store.ListBy(r, store.SecurityGroupsByAccount, account) {
		for _, rule := range g.Rules {
			tell(string(rule.ID), rule.Tags)
		}
	}
}

const maxTagResources = 1000

// changeTags applies one change to the tags of several resources, or to none.
func (s *Service) changeTags(ctx context.Context, call *awsapi.Call, ids []string, apply func(cloud.Tags) (cloud.Tags, error)) error {
	switch {
	case len(ids) == 0:
		return awsapi.MissingParameter("ResourceId")
	case len(ids) > maxTagResources:
		return awsapi.InvalidParameterValue("%d resources can be tagged in one call", maxTagResources)
	}
	return s.update(ctx, call, func(tx *store.Tx) error {
		for _, id := range ids {
			at := slices.IndexFunc(taggables, func(t taggable) bool {
				return strings.HasPrefix(id, t.prefix) || t.kind == kindImage && cloud.ValidID[cloud.ImageID](id)
			})
			if at < 0 {
				return awsapi.Errorf("InvalidID", "The ID '%s' is not valid", id)
			}
			found, err := taggables[at].change(tx, call.Account, id, apply)
			if err != nil {
				return err
			}
			if !found {
				return taggables[at].kind.notFound(id)
			}
		}
		return nil
	})
}

func (s *Service) createTags(ctx context.Context, call *awsapi.Call, req *ec2.CreateTagsRequest) (*ec2.CreateTagsResult, error) {
	fresh, err := tagsOf(req.Tags)
	if err != nil {
		return nil, err
	}
	if len(fresh) == 0 {
		return nil, awsapi.MissingParameter("Tag")
	}
	err = s.changeTags(ctx, call, req.Resources, func(tags cloud.Tags) (cloud.Tags, error) {
		if tags == nil {
			tags = cloud.Tags{}
		}
		for k, v := range fresh {
			tags[k] = v
		}
		if len(userTags(tags)) > cloud.MaxTagsPerResource {
			return nil, tooManyTags()
		}
		return tags, nil
	})
	return &ec2.CreateTagsResult{}, err
}

// deleteTags removes tags by key; a value given too must match, and no tags at all means all of them.
func (s *Service) deleteTags(ctx context.Context, call *awsapi.Call, req *ec2.DeleteTagsRequest) (*ec2.DeleteTagsResult, error) {
	for _, t := range req.Tags {
		if deref(t.Key) == "" {
			return nil, awsapi.InvalidParameterValue("Tag key cannot be empty")
		}
		if systemTag(*t.Key) {
			return nil, awsapi.InvalidParameterValue("Tag keys starting with 'aws:' are reserved for internal use")
		}
	}
	err := s.changeTags(ctx, call, req.Resources, func(tags cloud.Tags) (cloud.Tags, error) {
		if len(req.Tags) == 0 {
			maps.DeleteFunc(tags, func(key, _ string) bool { return !systemTag(key) })
			return tags, nil
		}
		for _, t := range req.Tags {
			if v, ok := tags[*t.Key]; ok && (t.Value == nil || *t.Value == v) {
				delete(tags, *t.Key)
			}
		}
		return tags, nil
	})
	return &ec2.DeleteTagsResult{}, err
}

func (s *Service) describeTags(_ context.Context, call *awsapi.Call, req *ec2.DescribeTagsRequest) (*ec2.DescribeTagsResult, error) {
	if err := pageBounds(req.MaxResults, 5, 1000, nil, ""); err != nil {
		return nil, err
	}
	type tag struct{ id, kind, key, value string }
	set := awsapi.FilterSet[tag]{Tags: func(t tag) map[string]string { return map[string]string{t.key: t.value} }, Values: map[string]func(tag) []string{
		"key": func(t tag) []string { return []string{t.key} }, "value": func(t tag) []string { return []string{t.value} },
		"resource-id": func(t tag) []string { return []string{t.id} }, "resource-type": func(t tag) []string { return []string{t.kind} },
	}}
	pass, err := set.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	var list []tag
	view := s.store.View()
	for _, kind := range taggables {
		kind.each(view, call.Account, func(id string, tags cloud.Tags) {
			for k, v := range tags {
				if t := (tag{id, kind.name, k, v}); pass(t) {
					list = append(list, t)
				}
			}
		})
	}
	key := func(t tag) string { return t.id + "\x00" + t.key }
	slices.SortFunc(list, func(a, b tag) int { return strings.Compare(key(a), key(b)) })
	page, err := awsapi.Paginate(list, key, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeTagsResult{NextToken: page.Next, Tags: []ec2.TagDescription{}}
	for _, t := range page.Items {
		out.Tags = append(out.Tags, ec2.TagDescription{Key: &t.key, Value: &t.value, ResourceId: &t.id, ResourceType: &t.kind})
	}
	return out, nil
}
