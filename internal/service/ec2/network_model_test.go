package ec2_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
)

// networkModel is what EC2's documentation says of VPCs, subnets, gateways, route tables, groups and interfaces, as small
// as it can be said: which calls are refused and why, and what is there afterwards. It shares nothing with the service.
type networkModel struct {
	vpcs    map[string]*modelVPC
	subnets map[string]*modelSubnet
	tables  map[string]*modelTable
	igws    map[string]string   // to the VPC, "" when detached
	groups  map[string]string   // to the VPC, default ones too
	nics    map[string]modelNIC // free ones
	lists   map[string]*modelList
}

type modelVPC struct {
	primary netip.Prefix
	more    []modelRange
}

type modelRange struct {
	id     string
	prefix netip.Prefix
}

type modelSubnet struct {
	vpc    string
	prefix netip.Prefix
}

type modelTable struct {
	vpc    string
	main   string                  // the association that makes it the main one, "" for none
	routes map[netip.Prefix]string // but the local ones
	lists  map[string]string       // prefix list to target
	ties   map[string]string       // association to subnet
}

type modelNIC struct{ subnet, group string }

func (v *modelVPC) ranges() []netip.Prefix {
	list := []netip.Prefix{v.primary}
	for _, r := range v.more {
		list = append(list, r.prefix)
	}
	return list
}

func inside(inner netip.Prefix, outer []netip.Prefix) bool {
	return slices.ContainsFunc(outer, func(o netip.Prefix) bool { return o.Bits() <= inner.Bits() && o.Contains(inner.Addr()) })
}

// vpcOfNIC is where an interface is.
func (m *networkModel) vpcOfNIC(id string) string { return m.subnets[m.nics[id].subnet].vpc }

// free is how many addresses a subnet has left: all but EC2's five and those of its interfaces.
func (m *networkModel) free(subnet string) int {
	left := 1<<(32-m.subnets[subnet].prefix.Bits()) - 5
	for _, n := range m.nics {
		if n.subnet == subnet {
			left--
		}
	}
	return left
}

// tied finds the table that a subnet was given, and by which association.
func (m *networkModel) tied(subnet string) (table, association string) {
	for id, t := range m.tables {
		for a, s := range t.ties {
			if s == subnet {
				return id, a
			}
		}
	}
	return "", ""
}

// The refusals of each call: the codes of all that is wrong with it, any of which may be answered.

func (m *networkModel) deleteVPC(id string) (codes []string) {
	if _, ok := m.vpcs[id]; !ok {
		return []string{"InvalidVpcID.NotFound"}
	}
	used := false
	for _, s := range m.subnets {
		used = used || s.vpc == id
	}
	for _, vpc := range m.igws {
		used = used || vpc == id
	}
	for _, t := range m.tables {
		used = used || t.vpc == id && t.main == ""
	}
	n := 0
	for _, vpc := range m.groups {
		if vpc == id {
			n++
		}
	}
	if used || n > 1 {
		return []string{"DependencyViolation"}
	}
	return nil
}

func (m *networkModel) createSubnet(vpc string, p netip.Prefix) (codes []string) {
	v, ok := m.vpcs[vpc]
	if !ok {
		return []string{"InvalidVpcID.NotFound"}
	}
	if !inside(p, v.ranges()) {
		codes = append(codes, "InvalidSubnet.Range")
	}
	for _, s := range m.subnets {
		if s.vpc == vpc && s.prefix.Overlaps(p) {
			codes = append(codes, "InvalidSubnet.Conflict")
		}
	}
	return codes
}

func (m *networkModel) deleteSubnet(id string) []string {
	if _, ok := m.subnets[id]; !ok {
		return []string{"InvalidSubnetID.NotFound"}
	}
	for _, n := range m.nics {
		if n.subnet == id {
			return []string{"DependencyViolation"}
		}
	}
	return nil
}

func (m *networkModel) associateRange(vpc string, p netip.Prefix) (codes []string) {
	v, ok := m.vpcs[vpc]
	if !ok {
		return []string{"InvalidVpcID.NotFound"}
	}
	if slices.ContainsFunc(v.ranges(), p.Overlaps) || !strings.HasPrefix(p.String(), "10.") { // the model's VPCs are of that family
		codes = append(codes, "InvalidVpc.Range")
	}
	if len(v.more) == 4 {
		codes = append(codes, "CidrLimitExceeded")
	}
	for _, t := range m.tables {
		for d := range t.routes {
			if t.vpc == vpc && inside(d, []netip.Prefix{p}) {
				codes = append(codes, "InvalidParameterValue")
			}
		}
		for list := range t.lists {
			if t.vpc == vpc && slices.ContainsFunc(m.lists[list].entries, func(e netip.Prefix) bool { return inside(e, []netip.Prefix{p}) }) {
				codes = append(codes, "InvalidParameterValue")
			}
		}
	}
	return codes
}

func (m *networkModel) disassociateRange(id string) (vpc string, codes []string) {
	for vpc, v := range m.vpcs {
		for _, r := range v.more {
			if r.id != id {
				continue
			}
			for _, s := range m.subnets {
				if s.vpc == vpc && s.prefix.Overlaps(r.prefix) {
					return vpc, []string{"DependencyViolation"}
				}
			}
			return vpc, nil
		}
	}
	return "", []string{"InvalidVpcCidrBlockAssociationID.NotFound"}
}

func (m *networkModel) attach(igw, vpc string) (codes []string) {
	at, ok := m.igws[igw]
	if !ok {
		codes = append(codes, "InvalidInternetGatewayID.NotFound")
	}
	if at != "" {
		codes = append(codes, "Resource.AlreadyAssociated")
	}
	if _, ok := m.vpcs[vpc]; !ok {
		return append(codes, "InvalidVpcID.NotFound")
	}
	if slices.Contains(slices.Collect(maps.Values(m.igws)), vpc) {
		codes = append(codes, "InvalidParameterValue")
	}
	return codes
}

// target checks what a route of a table is to lead to.
func (m *networkModel) target(table, target string) []string {
	var vpc string
	var ok bool
	code := "InvalidInternetGatewayID.NotFound"
	if strings.HasPrefix(target, "eni-") {
		code = "InvalidNetworkInterfaceID.NotFound"
		if _, ok = m.nics[target]; ok {
			vpc = m.vpcOfNIC(target)
		}
	} else {
		vpc, ok = m.igws[target]
	}
	switch {
	case !ok:
		return []string{code}
	case m.tables[table] != nil && vpc != m.tables[table].vpc:
		return []string{"InvalidParameterValue"}
	}
	return nil
}

func (m *networkModel) createRoute(table string, d netip.Prefix, target string) []string {
	t, ok := m.tables[table]
	if !ok {
		return []string{"InvalidRouteTableID.NotFound"}
	}
	codes := m.target(table, target)
	switch at, ok := t.routes[d]; {
	case ok && at == target:
	case ok:
		codes = append(codes, "RouteAlreadyExists")
	case slices.Contains(m.vpcs[t.vpc].ranges(), d):
		codes = append(codes, "RouteAlreadyExists")
	case inside(d, m.vpcs[t.vpc].ranges()):
		codes = append(codes, "InvalidParameterValue")
	}
	return codes
}

func (m *networkModel) replaceRoute(table string, d netip.Prefix, target string) []string {
	t, ok := m.tables[table]
	if !ok {
		return []string{"InvalidRouteTableID.NotFound"}
	}
	codes := m.target(table, target)
	if _, ok := t.routes[d]; !ok {
		codes = append(codes, "InvalidParameterValue")
	}
	return codes
}

func (m *networkModel) deleteRoute(table string, d netip.Prefix) []string {
	t, ok := m.tables[table]
	if !ok {
		return []string{"InvalidRouteTableID.NotFound"}
	}
	if slices.Contains(m.vpcs[t.vpc].ranges(), d) {
		return []string{"InvalidParameterValue"}
	}
	if _, ok := t.routes[d]; !ok {
		return []string{"InvalidRoute.NotFound"}
	}
	return nil
}

func (m *networkModel) associate(table, subnet string) (codes []string) {
	t, s := m.tables[table], m.subnets[subnet]
	if t == nil {
		codes = append(codes, "InvalidRouteTableID.NotFound")
	}
	if s == nil {
		codes = append(codes, "InvalidSubnetID.NotFound")
	}
	if t != nil && s != nil && t.vpc != s.vpc {
		codes = append(codes, "InvalidParameterValue")
	}
	if at, _ := m.tied(subnet); at != "" && at != table {
		codes = append(codes, "Resource.AlreadyAssociated")
	}
	return codes
}

// tableOf finds the table of an association, main ones too.
func (m *networkModel) tableOf(association string) (string, *modelTable) {
	for id, t := range m.tables {
		if _, ok := t.ties[association]; ok || t.main == association {
			return id, t
		}
	}
	return "", nil
}

func (m *networkModel) replaceAssociation(association, table string) (codes []string) {
	_, from := m.tableOf(association)
	if from == nil {
		codes = append(codes, "InvalidAssociationID.NotFound")
	}
	to := m.tables[table]
	if to == nil {
		codes = append(codes, "InvalidRouteTableID.NotFound")
	}
	if from != nil && to != nil && from.vpc != to.vpc {
		codes = append(codes, "InvalidParameterValue")
	}
	return codes
}

func (m *networkModel) deleteTable(id string) []string {
	t, ok := m.tables[id]
	switch {
	case !ok:
		return []string{"InvalidRouteTableID.NotFound"}
	case t.main != "" || len(t.ties) > 0:
		return []string{"DependencyViolation"}
	}
	return nil
}

func (m *networkModel) deleteGroup(id string) []string {
	if _, ok := m.groups[id]; !ok {
		return []string{"InvalidGroup.NotFound"}
	}
	for _, n := range m.nics {
		if n.group == id {
			return []string{"DependencyViolation"}
		}
	}
	return nil
}

// lines are all that the model says is there, a line each.
func (m *networkModel) lines() []string {
	var out []string
	for id, v := range m.vpcs {
		out = append(out, fmt.Sprint("vpc ", id, " ", v.ranges()))
	}
	for id, s := range m.subnets {
		out = append(out, fmt.Sprint("subnet ", id, " ", s.vpc, " ", s.prefix, " ", m.free(id)))
	}
	for id, vpc := range m.igws {
		out = append(out, fmt.Sprint("igw ", id, " ", vpc))
	}
	for id, t := range m.tables {
		var routes, ties []string
		route := func(d any, target string) {
			state := "active"
			if at, ok := m.igws[target]; !ok || at != t.vpc {
				state = "blackhole" // interfaces, too: none of them is attached
			}
			routes = append(routes, fmt.Sprint(d, ">", target, " ", state))
		}
		for d, target := range t.routes {
			route(d, target)
		}
		for list, target := range t.lists {
			route(list, target)
		}
		for _, p := range m.vpcs[t.vpc].ranges() {
			routes = append(routes, fmt.Sprint(p, ">local active"))
		}
		for a, s := range t.ties {
			ties = append(ties, a+">"+s)
		}
		if t.main != "" {
			ties = append(ties, t.main+">main")
		}
		slices.Sort(routes)
		slices.Sort(ties)
		out = append(out, fmt.Sprint("table ", id, " ", t.vpc, " ", routes, ties))
	}
	for id, l := range m.lists {
		out = append(out, l.line(id))
	}
	for id, n := range m.nics {
		out = append(out, fmt.Sprint("nic ", id, " ", n.subnet, " ", n.group))
	}
	slices.Sort(out)
	return out
}

// pickFrom draws one of a map's keys, in an order that depends on the seed alone.
func pickFrom[V any](rnd *rand.Rand, from map[string]V, gone []string) string {
	keys := slices.Sorted(maps.Keys(from))
	if len(gone) > 0 && rnd.IntN(12) == 0 || len(keys) == 0 {
		if len(gone) == 0 {
			return ""
		}
		return gone[rnd.IntN(len(gone))]
	}
	return keys[rnd.IntN(len(keys))]
}
