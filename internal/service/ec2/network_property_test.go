package ec2_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/internal/store"
)

// walk makes calls in the world and tells the model of them.
type walk struct {
	*world
	ctx  context.Context
	rnd  *rand.Rand
	m    networkModel
	gone map[string][]string // ids that were deleted, by prefix
	was  map[string]bool     // what was there before
	done map[string]int
}

// However networks are built, changed and torn down: each call is answered as EC2's rules have it, what is there is what
// they say, and when all is deleted, in whatever order that may be, the account is as it was.
func TestRandomCallsOnNetworksFollowEC2sRules(t *testing.T) {
	done := map[string]int{}
	makes, takes := (&walk{}).steps()
	var missing []string
	for n := 0; n < 2 || n < 12 && len(missing) > 0 && !t.Failed(); n++ { // a rare step may take some walks more to succeed
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { walkNetworks(t, seed, done) })
		missing = nil
		for _, s := range append(makes, takes...) {
			if done[s.name] == 0 {
				missing = append(missing, s.name)
			}
		}
	}
	if len(missing) > 0 && !t.Failed() {
		t.Errorf("never succeeded: %q", missing)
	}
}

func walkNetworks(t *testing.T, seed uint64, done map[string]int) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	w := newWorldFrom(t, "198.18.0.0/24", rand.NewChaCha8(key))
	k := &walk{world: w, ctx: t.Context(), rnd: rand.New(rand.NewPCG(seed, 1)), gone: map[string][]string{}, was: map[string]bool{}, done: done,
		m: networkModel{vpcs: map[string]*modelVPC{}, subnets: map[string]*modelSubnet{}, tables: map[string]*modelTable{}, igws: map[string]string{}, groups: map[string]string{}, nics: map[string]modelNIC{}, lists: map[string]*modelList{}}}
	for _, line := range k.lines() {
		k.was[strings.Fields(line)[1]] = true
	}
	empty := w.records()
	makes, takes := k.steps()
	for n := range 220 {
		step := makes
		if n%50 >= 35 { // now and then more goes than comes
			step = takes
		}
		k.step(step[k.rnd.IntN(len(step))])
	}
	for n := 0; len(k.lines()) > len(k.was); n++ {
		if n == 5000 {
			t.Fatalf("these never go: %q", k.lines())
		}
		k.step(takes[k.rnd.IntN(len(takes))])
	}
	if got := w.records(); got != empty {
		t.Errorf("%s at first, %s when all is deleted", empty, got)
	}
}

// records counts what the store holds of networks.
func (w *world) records() string {
	v := w.store.View()
	return fmt.Sprint(len(store.List(v, store.VPCs)), " VPCs, ", len(store.List(v, store.Subnets)), " subnets, ", len(store.List(v, store.RouteTables)), " tables, ",
		len(store.List(v, store.InternetGateways)), " gateways, ", len(store.List(v, store.SecurityGroups)), " groups, ", len(store.List(v, store.NetworkACLs)), " ACLs, ",
		len(store.List(v, store.Interfaces)), " interfaces, ", len(store.List(v, store.PrefixLists)), "/", len(store.List(v, store.PrefixListVersions)), " lists, ", len(store.List(v, store.Claims)), " claims")
}

// move is one kind of call. It returns the codes with which it must be refused, and what the answer was.
type move struct {
	name string
	call func() (want []string, err error)
}

func (k *walk) step(s move) {
	k.t.Helper()
	want, err := s.call()
	switch {
	case err == errIdle:
		return
	case err == nil && len(want) == 0:
		k.done[s.name]++
	case err == nil:
		k.t.Fatalf("%s succeeded and should be refused with %v", s.name, want)
	case !slices.Contains(want, codeOf(err)):
		k.t.Fatalf("%s was answered %v, want %v", s.name, err, want)
	}
	have := slices.DeleteFunc(k.lines(), func(l string) bool { return k.was[strings.Fields(l)[1]] })
	if model := k.m.lines(); !slices.Equal(have, model) {
		k.t.Fatalf("after %s (%v)\nthere is   %s\nand not    %s", s.name, err, strings.Join(have, "\n           "), strings.Join(model, "\n           "))
	}
}

func (k *walk) block(from ...string) netip.Prefix {
	return netip.MustParsePrefix(from[k.rnd.IntN(len(from))])
}

func (k *walk) went(ok bool, id string) {
	if ok {
		prefix := id[:strings.LastIndex(id, "-")]
		k.gone[prefix] = append(k.gone[prefix], id)
	}
}

func (k *walk) aVPC() string    { return pickFrom(k.rnd, k.m.vpcs, k.gone["vpc"]) }
func (k *walk) aSubnet() string { return pickFrom(k.rnd, k.m.subnets, k.gone["subnet"]) }
func (k *walk) aTable() string  { return pickFrom(k.rnd, k.m.tables, k.gone["rtb"]) }
func (k *walk) anIGW() string   { return pickFrom(k.rnd, k.m.igws, k.gone["igw"]) }
func (k *walk) aNIC() string    { return pickFrom(k.rnd, k.m.nics, k.gone["eni"]) }

func (k *walk) aTarget() string {
	if nic := k.aNIC(); nic != "" && k.rnd.IntN(3) == 0 {
		return nic
	}
	return k.anIGW()
}

func (k *walk) anAssociation(main bool) string {
	all := map[string]bool{}
	for _, t := range k.m.tables {
		for a := range t.ties {
			all[a] = true
		}
		if main && t.main != "" {
			all[t.main] = true
		}
	}
	return pickFrom(k.rnd, all, k.gone["rtbassoc"])
}

func (k *walk) aDestination() netip.Prefix {
	return k.block("0.0.0.0/0", "8.0.0.0/8", "10.9.0.0/24", "10.9.0.128/25", "10.1.1.0/24", "10.2.0.0/16")
}

// aRoute draws a table and, more often than not, the destination of one of its routes.
func (k *walk) aRoute() (table string, destination netip.Prefix) {
	tables := map[string]bool{}
	for id, t := range k.m.tables {
		if len(t.routes) > 0 {
			tables[id] = true
		}
	}
	table = pickFrom(k.rnd, tables, nil)
	if table == "" || k.rnd.IntN(3) == 0 {
		return k.aTable(), k.aDestination()
	}
	list := slices.SortedFunc(maps.Keys(k.m.tables[table].routes), func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	return table, list[k.rnd.IntN(len(list))]
}

// aTargetFor draws what a route of a table may lead to more often than not.
func (k *walk) aTargetFor(table string) string {
	if t := k.m.tables[table]; t != nil && k.rnd.IntN(3) > 0 {
		own := map[string]bool{}
		for id, vpc := range k.m.igws {
			if vpc == t.vpc {
				own[id] = true
			}
		}
		for id := range k.m.nics {
			if k.m.vpcOfNIC(id) == t.vpc {
				own[id] = true
			}
		}
		if id := pickFrom(k.rnd, own, nil); id != "" {
			return id
		}
	}
	return k.aTarget()
}

// routeTo says how a call names a target.
func routeTo(target string) (gateway, nic *string) {
	if strings.HasPrefix(target, "eni-") {
		return nil, &target
	}
	return &target, nil
}

// idle stands for a call that there is nothing to make with.
func idle() ([]string, error) { return nil, errIdle }

var errIdle = errors.New("nothing to do it with")

// lines are all that the API describes, in the model's words.
func (k *walk) lines() []string {
	k.t.Helper()
	var out []string
	must := func(err error) {
		if err != nil {
			k.t.Fatal(err)
		}
	}
	vpcs, err := k.DescribeVpcs(k.ctx, &sdk.DescribeVpcsInput{})
	must(err)
	for _, v := range vpcs.Vpcs {
		var ranges []string
		for _, a := range v.CidrBlockAssociationSet {
			ranges = append(ranges, *a.CidrBlock)
		}
		out = append(out, fmt.Sprint("vpc ", *v.VpcId, " ", ranges))
	}
	subnets, err := k.DescribeSubnets(k.ctx, &sdk.DescribeSubnetsInput{})
	must(err)
	for _, s := range subnets.Subnets {
		out = append(out, fmt.Sprint("subnet ", *s.SubnetId, " ", *s.VpcId, " ", *s.CidrBlock, " ", *s.AvailableIpAddressCount))
	}
	igws, err := k.DescribeInternetGateways(k.ctx, &sdk.DescribeInternetGatewaysInput{})
	must(err)
	for _, g := range igws.InternetGateways {
		vpc := ""
		for _, a := range g.Attachments {
			vpc = *a.VpcId
		}
		out = append(out, fmt.Sprint("igw ", *g.InternetGatewayId, " ", vpc))
	}
	tables, err := k.DescribeRouteTables(k.ctx, &sdk.DescribeRouteTablesInput{})
	must(err)
	for _, t := range tables.RouteTables {
		var routes, ties []string
		for _, r := range t.Routes {
			routes = append(routes, fmt.Sprint(aws.ToString(r.DestinationCidrBlock), aws.ToString(r.DestinationPrefixListId), ">", aws.ToString(r.GatewayId), aws.ToString(r.NetworkInterfaceId), " ", r.State))
		}
		for _, a := range t.Associations {
			if *a.Main {
				ties = append(ties, *a.RouteTableAssociationId+">main")
			} else {
				ties = append(ties, *a.RouteTableAssociationId+">"+*a.SubnetId)
			}
		}
		slices.Sort(routes)
		slices.Sort(ties)
		out = append(out, fmt.Sprint("table ", *t.RouteTableId, " ", *t.VpcId, " ", routes, ties))
	}
	nics, err := k.DescribeNetworkInterfaces(k.ctx, &sdk.DescribeNetworkInterfacesInput{})
	must(err)
	for _, n := range nics.NetworkInterfaces {
		out = append(out, fmt.Sprint("nic ", *n.NetworkInterfaceId, " ", *n.SubnetId, " ", *n.Groups[0].GroupId))
	}
	lists, err := k.DescribeManagedPrefixLists(k.ctx, &sdk.DescribeManagedPrefixListsInput{})
	must(err)
	for _, l := range lists.PrefixLists {
		has := modelList{version: *l.Version}
		entries, err := k.GetManagedPrefixListEntries(k.ctx, &sdk.GetManagedPrefixListEntriesInput{PrefixListId: l.PrefixListId})
		must(err)
		for _, e := range entries.Entries {
			has.entries = append(has.entries, netip.MustParsePrefix(*e.Cidr))
		}
		out = append(out, has.line(*l.PrefixListId))
	}
	slices.Sort(out)
	return out
}
