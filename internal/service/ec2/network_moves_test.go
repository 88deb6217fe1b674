package ec2_test

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
)

// steps are the calls that a walk is made of: those that build and change, and those that take away.
func (k *walk) steps() (makes, takes []move) {
	return []move{
			{"create a VPC", k.createVPC}, {"create a subnet", k.createSubnet}, {"create a subnet", k.createSubnet}, {"associate a range", k.associateRange},
			{"create a gateway", k.createGateway}, {"attach a gateway", k.attachGateway}, {"attach a gateway", k.attachGateway}, {"create a table", k.createTable},
			{"create a route", k.createRoute}, {"create a route", k.createRoute}, {"replace a route", k.replaceRoute}, {"associate a table", k.associateTable},
			{"associate a table", k.associateTable}, {"replace an association", k.replaceAssociation}, {"create a group", k.createGroup},
			{"create an interface", k.createNIC}, {"create an interface", k.createNIC},
			{"create a list", k.createList}, {"change a list", k.changeList}, {"route a list", k.createListRoute}, {"route a list", k.createListRoute},
		}, []move{
			{"delete a VPC", k.deleteVPC}, {"delete a subnet", k.deleteSubnet}, {"disassociate a range", k.disassociateRange}, {"delete a gateway", k.deleteGateway},
			{"detach a gateway", k.detachGateway}, {"delete a table", k.deleteTable}, {"delete a route", k.deleteRoute}, {"disassociate a table", k.disassociateTable},
			{"delete a group", k.deleteGroup}, {"delete an interface", k.deleteNIC},
			{"delete a list", k.deleteList}, {"delete a list's route", k.deleteListRoute},
		}
}

func (k *walk) createVPC() ([]string, error) {
	if len(k.m.vpcs) > 3 {
		return idle()
	}
	p := k.block("10.1.0.0/16", "10.2.0.0/16", "10.2.0.0/20")
	out, err := k.CreateVpc(k.ctx, &sdk.CreateVpcInput{CidrBlock: aws.String(p.String())})
	if err != nil {
		return nil, err
	}
	id := *out.Vpc.VpcId
	k.m.vpcs[id] = &modelVPC{primary: p}
	tables, err := k.DescribeRouteTables(k.ctx, &sdk.DescribeRouteTablesInput{Filters: filterList("vpc-id", id)})
	if err != nil {
		return nil, err
	}
	main := tables.RouteTables[0]
	k.m.tables[*main.RouteTableId] = &modelTable{vpc: id, main: *main.Associations[0].RouteTableAssociationId, routes: map[netip.Prefix]string{}, lists: map[string]string{}, ties: map[string]string{}}
	groups, err := k.DescribeSecurityGroups(k.ctx, &sdk.DescribeSecurityGroupsInput{Filters: filterList("vpc-id", id)})
	if err != nil {
		return nil, err
	}
	k.m.groups[*groups.SecurityGroups[0].GroupId] = id
	return nil, nil
}

func (k *walk) deleteVPC() ([]string, error) {
	id := k.aVPC()
	if id == "" {
		return idle()
	}
	want := k.m.deleteVPC(id)
	_, err := k.DeleteVpc(k.ctx, &sdk.DeleteVpcInput{VpcId: &id})
	if err == nil {
		delete(k.m.vpcs, id)
		maps.DeleteFunc(k.m.tables, func(_ string, t *modelTable) bool { return t.vpc == id })
		maps.DeleteFunc(k.m.groups, func(_, vpc string) bool { return vpc == id })
	}
	k.went(err == nil, id)
	return want, err
}

func (k *walk) createSubnet() ([]string, error) {
	vpc, p := k.aVPC(), k.block("10.1.0.0/24", "10.1.0.0/25", "10.1.1.0/28", "10.2.0.0/24", "10.2.15.0/28", "10.2.16.0/24", "10.9.0.0/25", "10.9.0.128/25")
	if vpc == "" {
		return idle()
	}
	want := k.m.createSubnet(vpc, p)
	out, err := k.CreateSubnet(k.ctx, &sdk.CreateSubnetInput{VpcId: &vpc, CidrBlock: aws.String(p.String())})
	if err == nil {
		k.m.subnets[*out.Subnet.SubnetId] = &modelSubnet{vpc, p}
	}
	return want, err
}

func (k *walk) deleteSubnet() ([]string, error) {
	id := k.aSubnet()
	if id == "" {
		return idle()
	}
	want := k.m.deleteSubnet(id)
	_, err := k.DeleteSubnet(k.ctx, &sdk.DeleteSubnetInput{SubnetId: &id})
	if err == nil {
		if table, association := k.m.tied(id); table != "" {
			delete(k.m.tables[table].ties, association)
		}
		delete(k.m.subnets, id)
	}
	k.went(err == nil, id)
	return want, err
}

func (k *walk) associateRange() ([]string, error) {
	vpc, p := k.aVPC(), k.block("10.9.0.0/24", "10.9.0.0/23", "10.9.1.0/24", "10.2.32.0/20", "10.1.1.0/24", "192.168.0.0/24", "10.8.0.0/16")
	if vpc == "" {
		return idle()
	}
	want := k.m.associateRange(vpc, p)
	out, err := k.AssociateVpcCidrBlock(k.ctx, &sdk.AssociateVpcCidrBlockInput{VpcId: &vpc, CidrBlock: aws.String(p.String())})
	if err == nil {
		v := k.m.vpcs[vpc]
		v.more = append(v.more, modelRange{*out.CidrBlockAssociation.AssociationId, p})
	}
	return want, err
}

func (k *walk) disassociateRange() ([]string, error) {
	all := map[string]bool{}
	for _, v := range k.m.vpcs {
		for _, r := range v.more {
			all[r.id] = true
		}
	}
	id := pickFrom(k.rnd, all, k.gone["vpc-cidr-assoc"])
	if id == "" {
		return idle()
	}
	vpc, want := k.m.disassociateRange(id)
	_, err := k.DisassociateVpcCidrBlock(k.ctx, &sdk.DisassociateVpcCidrBlockInput{AssociationId: &id})
	if err == nil {
		v := k.m.vpcs[vpc]
		v.more = slices.DeleteFunc(v.more, func(r modelRange) bool { return r.id == id })
	}
	k.went(err == nil, id)
	return want, err
}

func (k *walk) createGateway() ([]string, error) {
	out, err := k.CreateInternetGateway(k.ctx, &sdk.CreateInternetGatewayInput{})
	if err == nil {
		k.m.igws[*out.InternetGateway.InternetGatewayId] = ""
	}
	return nil, err
}

func (k *walk) deleteGateway() ([]string, error) {
	id := k.anIGW()
	if id == "" {
		return idle()
	}
	var want []string
	if vpc, ok := k.m.igws[id]; !ok {
		want = []string{"InvalidInternetGatewayID.NotFound"}
	} else if vpc != "" {
		want = []string{"DependencyViolation"}
	}
	_, err := k.DeleteInternetGateway(k.ctx, &sdk.DeleteInternetGatewayInput{InternetGatewayId: &id})
	if err == nil {
		delete(k.m.igws, id)
	}
	k.went(err == nil, id)
	return want, err
}

func (k *walk) attachGateway() ([]string, error) {
	igw, vpc := k.anIGW(), k.aVPC()
	if igw == "" || vpc == "" {
		return idle()
	}
	want := k.m.attach(igw, vpc)
	_, err := k.AttachInternetGateway(k.ctx, &sdk.AttachInternetGatewayInput{InternetGatewayId: &igw, VpcId: &vpc})
	if err == nil {
		k.m.igws[igw] = vpc
	}
	return want, err
}

func (k *walk) detachGateway() ([]string, error) {
	igw, vpc := k.anIGW(), k.aVPC()
	if at := k.m.igws[igw]; at != "" && k.rnd.IntN(4) > 0 {
		vpc = at
	}
	if igw == "" || vpc == "" {
		return idle()
	}
	var want []string
	if at, ok := k.m.igws[igw]; !ok {
		want = append(want, "InvalidInternetGatewayID.NotFound")
	} else if at != vpc {
		want = append(want, "Gateway.NotAttached")
	}
	if _, ok := k.m.vpcs[vpc]; !ok {
		want = append(want, "InvalidVpcID.NotFound")
	}
	_, err := k.DetachInternetGateway(k.ctx, &sdk.DetachInternetGatewayInput{InternetGatewayId: &igw, VpcId: &vpc})
	if err == nil {
		k.m.igws[igw] = ""
	}
	return want, err
}

func (k *walk) createTable() ([]string, error) {
	vpc := k.aVPC()
	if vpc == "" {
		return idle()
	}
	var want []string
	if _, ok := k.m.vpcs[vpc]; !ok {
		want = []string{"InvalidVpcID.NotFound"}
	}
	out, err := k.CreateRouteTable(k.ctx, &sdk.CreateRouteTableInput{VpcId: &vpc})
	if err == nil {
		k.m.tables[*out.RouteTable.RouteTableId] = &modelTable{vpc: vpc, routes: map[netip.Prefix]string{}, lists: map[string]string{}, ties: map[string]string{}}
	}
	return want, err
}

func (k *walk) deleteTable() ([]string, error) {
	id := k.aTable()
	if id == "" {
		return idle()
	}
	want := k.m.deleteTable(id)
	_, err := k.DeleteRouteTable(k.ctx, &sdk.DeleteRouteTableInput{RouteTableId: &id})
	if err == nil {
		delete(k.m.tables, id)
	}
	k.went(err == nil, id)
	return want, err
}

func (k *walk) createRoute() ([]string, error) {
	table, d := k.aTable(), k.aDestination()
	target := k.aTargetFor(table)
	if table == "" || target == "" {
		return idle()
	}
	want := k.m.createRoute(table, d, target)
	gateway, nic := routeTo(target)
	_, err := k.CreateRoute(k.ctx, &sdk.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String(d.String()), GatewayId: gateway, NetworkInterfaceId: nic})
	if err == nil && len(want) == 0 {
		k.m.tables[table].routes[d] = target
	}
	return want, err
}

func (k *walk) replaceRoute() ([]string, error) {
	table, d := k.aRoute()
	target := k.aTargetFor(table)
	if table == "" || target == "" {
		return idle()
	}
	want := k.m.replaceRoute(table, d, target)
	gateway, nic := routeTo(target)
	_, err := k.ReplaceRoute(k.ctx, &sdk.ReplaceRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String(d.String()), GatewayId: gateway, NetworkInterfaceId: nic})
	if err == nil && len(want) == 0 {
		k.m.tables[table].routes[d] = target
	}
	return want, err
}

func (k *walk) deleteRoute() ([]string, error) {
	table, d := k.aRoute()
	if table == "" {
		return idle()
	}
	want := k.m.deleteRoute(table, d)
	_, err := k.DeleteRoute(k.ctx, &sdk.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: aws.String(d.String())})
	if err == nil && len(want) == 0 {
		delete(k.m.tables[table].routes, d)
	}
	return want, err
}

func (k *walk) associateTable() ([]string, error) {
	table, subnet := k.aTable(), k.aSubnet()
	if table == "" || subnet == "" {
		return idle()
	}
	want := k.m.associate(table, subnet)
	out, err := k.AssociateRouteTable(k.ctx, &sdk.AssociateRouteTableInput{RouteTableId: &table, SubnetId: &subnet})
	if err == nil && len(want) == 0 {
		k.m.tables[table].ties[*out.AssociationId] = subnet
	}
	return want, err
}

func (k *walk) disassociateTable() ([]string, error) {
	id := k.anAssociation(k.rnd.IntN(4) == 0)
	if id == "" {
		return idle()
	}
	var want []string
	_, t := k.m.tableOf(id)
	if t == nil {
		want = []string{"InvalidAssociationID.NotFound"}
	} else if t.main == id {
		want = []string{"InvalidParameterValue"}
	}
	_, err := k.DisassociateRouteTable(k.ctx, &sdk.DisassociateRouteTableInput{AssociationId: &id})
	if err == nil && len(want) == 0 {
		delete(t.ties, id)
	}
	k.went(err == nil, id)
	return want, err
}

func (k *walk) replaceAssociation() ([]string, error) {
	id, table := k.anAssociation(true), k.aTable()
	if id == "" || table == "" {
		return idle()
	}
	want := k.m.replaceAssociation(id, table)
	out, err := k.ReplaceRouteTableAssociation(k.ctx, &sdk.ReplaceRouteTableAssociationInput{AssociationId: &id, RouteTableId: &table})
	if err != nil || len(want) > 0 {
		return want, err
	}
	at, from := k.m.tableOf(id)
	if at == table {
		return nil, nil
	}
	if to := k.m.tables[table]; from.main == id {
		from.main, to.main = "", *out.NewAssociationId
	} else {
		to.ties[*out.NewAssociationId] = from.ties[id]
		delete(from.ties, id)
	}
	k.went(true, id)
	return nil, nil
}

func (k *walk) createGroup() ([]string, error) {
	vpc := k.aVPC()
	if vpc == "" {
		return idle()
	}
	var want []string
	if _, ok := k.m.vpcs[vpc]; !ok {
		want = []string{"InvalidVpcID.NotFound"}
	}
	name := "group-" + string(rune('a'+k.rnd.IntN(26))) + string(rune('a'+k.rnd.IntN(26))) + string(rune('a'+k.rnd.IntN(26)))
	out, err := k.CreateSecurityGroup(k.ctx, &sdk.CreateSecurityGroupInput{GroupName: &name, Description: &name, VpcId: &vpc})
	if codeOf(err) == "InvalidGroup.Duplicate" {
		return idle()
	}
	if err == nil {
		k.m.groups[*out.GroupId] = vpc
	}
	return want, err
}

func (k *walk) deleteGroup() ([]string, error) {
	id := pickFrom(k.rnd, k.m.groups, k.gone["sg"])
	if id == "" {
		return idle()
	}
	want := k.m.deleteGroup(id)
	if out, err := k.DescribeSecurityGroups(k.ctx, &sdk.DescribeSecurityGroupsInput{Filters: filterList("group-id", id, "group-name", "default")}); err != nil || len(out.SecurityGroups) > 0 {
		want = append(want, "CannotDelete")
	}
	_, err := k.DeleteSecurityGroup(k.ctx, &sdk.DeleteSecurityGroupInput{GroupId: &id})
	if err == nil {
		delete(k.m.groups, id)
	}
	k.went(err == nil, id)
	return want, err
}

func (k *walk) createNIC() ([]string, error) {
	subnet, group := k.aSubnet(), pickFrom(k.rnd, k.m.groups, k.gone["sg"])
	if subnet == "" || group == "" {
		return idle()
	}
	var want []string
	s, vpc := k.m.subnets[subnet], k.m.groups[group]
	if s != nil && k.rnd.IntN(3) > 0 {
		for _, id := range slices.Sorted(maps.Keys(k.m.groups)) {
			if k.m.groups[id] == s.vpc {
				group, vpc = id, s.vpc
			}
		}
	}
	if s == nil {
		want = append(want, "InvalidSubnetID.NotFound")
	}
	if vpc == "" {
		want = append(want, "InvalidGroup.NotFound")
	}
	if s != nil && k.m.free(subnet) == 0 {
		want = append(want, "InsufficientFreeAddressesInSubnet")
	}
	if s != nil && vpc != "" && vpc != s.vpc {
		want = append(want, "InvalidParameterValue")
	}
	out, err := k.CreateNetworkInterface(k.ctx, &sdk.CreateNetworkInterfaceInput{SubnetId: &subnet, Groups: []string{group}})
	if err == nil {
		k.m.nics[*out.NetworkInterface.NetworkInterfaceId] = modelNIC{subnet, group}
	}
	return want, err
}

func (k *walk) deleteNIC() ([]string, error) {
	id := k.aNIC()
	if id == "" {
		return idle()
	}
	var want []string
	if _, ok := k.m.nics[id]; !ok {
		want = []string{"InvalidNetworkInterfaceID.NotFound"}
	}
	_, err := k.DeleteNetworkInterface(k.ctx, &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id})
	if err == nil {
		delete(k.m.nics, id)
	}
	k.went(err == nil, id)
	return want, err
}
