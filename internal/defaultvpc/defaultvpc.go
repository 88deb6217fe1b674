// Package defaultvpc lays out the VPC that an account begins with, at a cloud's first start and when the API is asked for it
// once more.
//
// It only writes to the store.
package defaultvpc

import (
	"io"
	"net/netip"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// SubnetBits is the length of a default subnet's prefix.
const SubnetBits = 20

// Layout makes what every account starts with, as AWS lays it out: 172.31.0.0/16, a /20 a
// zone, an internet gateway, a main route table that leads there, and the default group.
type Layout struct {
	Account cloud.AccountID
	Zones   []cloud.Zone
	// DHCPOptions are the account's default set.
	DHCPOptions cloud.DHCPOptionsID
	Rand        io.Reader
	Now         time.Time
}

// Make stores it, and returns the VPC.
func (d Layout) Make(tx *store.Tx) cloud.VPC {
	vpc := cloud.VPC{
		ID: cloud.NewID[cloud.VPCID](d.Rand), Account: d.Account, CIDR: netip.MustParsePrefix("172.31.0.0/16"), Default: true,
		DHCPOptions: d.DHCPOptions, EnableDNSSupport: true, EnableDNSHostnames: true, Created: d.Now,
	}
	gateway := cloud.InternetGateway{ID: cloud.NewID[cloud.InternetGatewayID](d.Rand), Account: d.Account, VPC: vpc.ID, Created: d.Now}
	routes := cloud.RouteTable{
		ID: cloud.NewID[cloud.RouteTableID](d.Rand), Account: d.Account, VPC: vpc.ID, Main: true, Created: d.Now,
		Routes: []cloud.Route{
			{Destination: vpc.CIDR, Target: cloud.LocalTarget},
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Target: string(gateway.ID)},
		},
		Associations: []cloud.RouteAssociation{{ID: cloud.NewID[cloud.RouteAssociationID](d.Rand), Main: true}},
	}
	group := cloud.SecurityGroup{
		ID: cloud.NewID[cloud.SecurityGroupID](d.Rand), Account: d.Account, VPC: vpc.ID, Name: "default",
		Description: "default VPC security group", Created: d.Now,
	}
	group.Rules = []cloud.SecurityGroupRule{
		{ID: cloud.NewID[cloud.SecurityGroupRuleID](d.Rand), Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, Group: group.ID},
		{ID: cloud.NewID[cloud.SecurityGroupRuleID](d.Rand), Egress: true, Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1,
			CIDR: netip.MustParsePrefix("0.0.0.0/0")},
	}
	acl := cloud.NetworkACL{ID: cloud.NewID[cloud.NetworkACLID](d.Rand), Account: d.Account, VPC: vpc.ID, Default: true, Created: d.Now}
	acl.AllowAll(cloud.AllIPv4)
	store.Put(tx, store.NetworkACLs, &acl)
	store.Put(tx, store.VPCs, &vpc)
	store.Put(tx, store.InternetGateways, &gateway)
	store.Put(tx, store.RouteTables, &routes)
	store.Put(tx, store.SecurityGroups, &group)
	for n, zone := range d.Zones {
		base := vpc.CIDR.Addr().As4()
		base[2] = byte(n * 16)
		subnet := cloud.Subnet{
			ID: cloud.NewID[cloud.SubnetID](d.Rand), Account: d.Account, VPC: vpc.ID, CIDR: netip.PrefixFrom(netip.AddrFrom4(base), SubnetBits),
			Zone: zone.Name, DefaultForAZ: true, MapPublicIPOnLaunch: true, Created: d.Now,
			ACL: acl.ID, ACLAssociation: cloud.NewID[cloud.ACLAssociationID](d.Rand),
		}
		store.Put(tx, store.Subnets, &subnet)
	}
	return vpc
}
