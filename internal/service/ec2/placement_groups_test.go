package ec2_test

import (
	"crypto/rand"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (w *world) placementGroup(name string, strategy types.PlacementStrategy) *types.PlacementGroup {
	w.t.Helper()
	out, err := w.CreatePlacementGroup(w.t.Context(), &sdk.CreatePlacementGroupInput{GroupName: &name, Strategy: strategy})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.PlacementGroup
}

func within(group string) func(*order) {
	return func(in *order) { in.Placement = &types.Placement{GroupName: &group} }
}

func (w *world) addNode() {
	w.t.Helper()
	w.update(func(tx *store.Tx) {
		n, _ := store.Get(tx, store.Nodes, w.node)
		n.ID = cloud.NewID[cloud.NodeID](rand.Reader)
		store.Put(tx, store.Nodes, n)
	})
}

func TestAPlacementGroupIsReadBackAndGoesWhenItIsEmpty(t *testing.T) {
	w := newWorld(t)
	g := w.placementGroup("parts", types.PlacementStrategyPartition)
	if *g.PartitionCount != 2 || g.State != "available" || *g.GroupArn != "arn:aws:ec2:us-east-1:"+string(w.key.Account)+":placement-group/parts" || g.SpreadLevel != "" {
		t.Errorf("made %+v", g)
	}
	w.placementGroup("apart", types.PlacementStrategySpread)
	out, err := w.DescribePlacementGroups(t.Context(), &sdk.DescribePlacementGroupsInput{Filters: filterList("spread-level", "rack", "strategy", "spread")})
	if err != nil || len(out.PlacementGroups) != 1 || *out.PlacementGroups[0].GroupName != "apart" {
		t.Error(out, err)
	}
	id := w.running(within("parts"))
	if p := w.instance(id).Placement; *p.GroupName != "parts" || *p.GroupId != *g.GroupId {
		t.Errorf("placed as %+v", p)
	}
	if found := w.found("placement-group-name", "parts"); len(found) != 1 {
		t.Errorf("found %v", found)
	}
	remove := func() error {
		_, err := w.DeletePlacementGroup(t.Context(), &sdk.DeletePlacementGroupInput{GroupName: aws.String("parts")})
		return err
	}
	refused(t, remove(), "InvalidPlacementGroup.InUse", "parts")
	if _, err := w.TerminateInstances(t.Context(), &sdk.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if err := remove(); err != nil {
		t.Error(err)
	}
	refused(t, remove(), "InvalidPlacementGroup.Unknown", "parts")
}

func TestASpreadGroupHasOneInstanceAServer(t *testing.T) {
	w := newWorld(t)
	w.placementGroup("apart", types.PlacementStrategySpread)
	w.unchanged(func() {
		_, err := w.run(within("apart"), count(2, 2))
		refused(t, err, "InsufficientInstanceCapacity", "spread placement group apart")
	})
	if list := w.launch(within("apart"), count(1, 2)); len(list) != 1 {
		t.Errorf("%d launched", len(list))
	}
	_, err := w.run(within("apart"))
	refused(t, err, "InsufficientInstanceCapacity")
	w.addNode()
	if list := w.launch(within("apart"), count(1, 2)); len(list) != 1 {
		t.Errorf("%d launched on the second server", len(list))
	}
}

func TestAStoppedInstanceMovesBetweenPlacementGroups(t *testing.T) {
	w := newWorld(t)
	w.placementGroup("apart", types.PlacementStrategySpread)
	w.placementGroup("parts", types.PlacementStrategyPartition)
	w.placementGroup("close", types.PlacementStrategyCluster)
	w.running(within("apart"))
	id := w.running()
	move := func(in sdk.ModifyInstancePlacementInput) error {
		in.InstanceId = &id
		_, err := w.ModifyInstancePlacement(t.Context(), &in)
		return err
	}
	refused(t, move(sdk.ModifyInstancePlacementInput{GroupName: aws.String("apart")}), "IncorrectInstanceState")
	if _, err := w.StopInstances(t.Context(), &sdk.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	refused(t, move(sdk.ModifyInstancePlacementInput{GroupName: aws.String("close")}), "InvalidParameterCombination", "t3.micro")
	refused(t, move(sdk.ModifyInstancePlacementInput{GroupName: aws.String("nobody")}), "InvalidPlacementGroup.Unknown")
	refused(t, move(sdk.ModifyInstancePlacementInput{GroupName: aws.String("parts"), PartitionNumber: aws.Int32(3)}), "InvalidParameterValue", "1 to 2")
	refused(t, move(sdk.ModifyInstancePlacementInput{Tenancy: types.HostTenancyHost}), "UnsupportedOperation")
	refused(t, move(sdk.ModifyInstancePlacementInput{}), "InvalidParameterCombination")
	if err := move(sdk.ModifyInstancePlacementInput{GroupName: aws.String("apart")}); err != nil {
		t.Fatal(err)
	}
	_, err := w.StartInstances(t.Context(), &sdk.StartInstancesInput{InstanceIds: []string{id}})
	refused(t, err, "InsufficientInstanceCapacity", "spread placement group apart")
	if err := move(sdk.ModifyInstancePlacementInput{GroupName: aws.String("parts"), PartitionNumber: aws.Int32(2)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StartInstances(t.Context(), &sdk.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	if p := w.instance(id).Placement; *p.GroupName != "parts" || *p.PartitionNumber != 2 {
		t.Errorf("placed as %+v", p)
	}
	w.settle()
	if got := w.found("placement-partition-number", "2"); len(got) != 1 {
		t.Errorf("found %v", got)
	}
}

func TestPlacementGroupsThatCannotBeAreRefused(t *testing.T) {
	w := newWorld(t)
	w.placementGroup("taken", types.PlacementStrategyCluster)
	w.unchanged(func() {
		for _, c := range []struct {
			code string
			in   sdk.CreatePlacementGroupInput
		}{
			{"InvalidPlacementGroup.Duplicate", sdk.CreatePlacementGroupInput{GroupName: aws.String("taken"), Strategy: "spread"}},
			{"MissingParameter", sdk.CreatePlacementGroupInput{GroupName: aws.String("x")}},
			{"MissingParameter", sdk.CreatePlacementGroupInput{Strategy: "spread"}},
			{"InvalidParameterCombination", sdk.CreatePlacementGroupInput{GroupName: aws.String("x"), Strategy: "spread", PartitionCount: aws.Int32(2)}},
			{"InvalidParameterValue", sdk.CreatePlacementGroupInput{GroupName: aws.String("x"), PartitionCount: aws.Int32(8)}},
			{"UnsupportedOperation", sdk.CreatePlacementGroupInput{GroupName: aws.String("x"), Strategy: "spread", SpreadLevel: "host"}},
			{"DryRunOperation", sdk.CreatePlacementGroupInput{GroupName: aws.String("x"), Strategy: "spread", DryRun: aws.Bool(true)}},
		} {
			_, err := w.CreatePlacementGroup(t.Context(), &c.in)
			refused(t, err, c.code)
		}
		_, err := w.run(within("nobody"))
		refused(t, err, "InvalidPlacementGroup.Unknown")
		_, err = w.run(within("taken"))
		refused(t, err, "InvalidParameterCombination", "t3.micro")
		_, err = w.stranger.DescribePlacementGroups(t.Context(), &sdk.DescribePlacementGroupsInput{GroupNames: []string{"taken"}})
		refused(t, err, "InvalidPlacementGroup.Unknown")
	})
	hosts, err := w.DescribeHosts(t.Context(), &sdk.DescribeHostsInput{})
	if err != nil || len(hosts.Hosts) != 0 {
		t.Error(hosts, err)
	}
}

func TestTheTopologyTellsWhoSharesAServer(t *testing.T) {
	w := newWorld(t)
	near, far := w.launch(count(2, 2)), ""
	w.settle()
	w.addNode()
	w.update(func(tx *store.Tx) {
		for _, n := range store.List(tx, store.Nodes) {
			if i, _ := store.Get(tx, store.Instances, cloud.InstanceID(*near[0].InstanceId)); n.ID != i.Node {
				w.node = n.ID // where settle puts what follows
			}
		}
	})
	far = w.running()
	out, err := w.DescribeInstanceTopology(t.Context(), &sdk.DescribeInstanceTopologyInput{Filters: filterList("availability-zone", "us-east-1a", "instance-type", "t3.*")})
	if err != nil || len(out.Instances) != 3 {
		t.Fatal(out, err)
	}
	nodes := map[string][]string{}
	for _, i := range out.Instances {
		nodes[*i.InstanceId] = i.NetworkNodes
	}
	a, b, c := nodes[*near[0].InstanceId], nodes[*near[1].InstanceId], nodes[far]
	if len(a) != 3 || a[2] != b[2] || a[2] == c[2] || a[1] != c[1] || a[0] != c[0] || a[0] == a[1] {
		t.Errorf("the layers are %v, %v and %v", a, b, c)
	}
}
