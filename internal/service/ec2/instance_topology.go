package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	maxTopologyAsked = 100
	// defaultTopologyPage is how many instances come without MaxResults.
	defaultTopologyPage = 20
)

// networkNode is the id of one layer of the network, such as "nn-0123456789abcdef0": the same for all that share it.
func networkNode(layers ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(layers, "\x00")))
	return "nn-" + hex.EncodeToString(sum[:])[:17]
}

// describeInstanceTopology shows what instances share, from the top: the region's network, the zone, and the server. EC2
// does so for its largest types; here it holds for all.
func (s *Service) describeInstanceTopology(_ context.Context, call *awsapi.Call, req *ec2.DescribeInstanceTopologyRequest) (*ec2.DescribeInstanceTopologyResult, error) {
	if err := pageBounds(req.MaxResults, 1, 100, req.InstanceIds, "instanceIds"); err != nil {
		return nil, err
	}
	if len(req.InstanceIds) > maxTopologyAsked || len(req.GroupNames) > maxTopologyAsked {
		return nil, awsapi.InvalidParameterValue("%d instances or placement groups can be named in one call", maxTopologyAsked)
	}
	view := s.store.View()
	region, ok := store.Region(view)
	if !ok {
		return nil, awsapi.Errorf("InternalError", "The region is not set up.")
	}
	list, err := selected(view, call.Account, req.InstanceIds)
	if err != nil {
		return nil, err
	}
	for _, name := range req.GroupNames {
		if _, err := findPlacementGroup(view, call.Account, "", name); err != nil {
			return nil, err
		}
	}
	zoneID := func(i *cloud.Instance) string {
		for _, z := range region.Zones {
			if z.Name == i.Zone {
				return z.ID
			}
		}
		return ""
	}
	pass, err := awsapi.FilterSet[*cloud.Instance]{Values: map[string]func(*cloud.Instance) []string{
		"availability-zone": one(func(i *cloud.Instance) string { return i.Zone }), "instance-type": one(func(i *cloud.Instance) string { return string(i.Type) }), "zone-id": one(zoneID),
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(slices.Clone(list), func(i *cloud.Instance) bool {
		return i.State != cloud.StateRunning || len(req.GroupNames) > 0 && !slices.Contains(req.GroupNames, i.GroupName) || !pass(i)
	})
	size := req.MaxResults
	if size == nil && len(req.InstanceIds) == 0 {
		size = new(int64(defaultTopologyPage))
	}
	page, err := awsapi.Paginate(list, func(i *cloud.Instance) string { return string(i.ID) }, size, req.NextToken, []any{req.Filters, req.GroupNames})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceTopologyResult{NextToken: page.Next, Instances: []ec2.InstanceTopology{}}
	for _, i := range page.Items {
		out.Instances = append(out.Instances, ec2.InstanceTopology{InstanceId: text(i.ID), InstanceType: text(i.Type), GroupName: optional(i.GroupName), AvailabilityZone: &i.Zone,
			ZoneId: optional(zoneID(i)), NetworkNodes: []string{networkNode(region.CloudID), networkNode(region.CloudID, i.Zone), networkNode(region.CloudID, i.Zone, string(i.Node))}})
	}
	return out, nil
}
