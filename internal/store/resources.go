package store

import (
	"fmt"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// The region and its tenants.
var (
	Regions             = newTable("regions", func(*cloud.Region) RegionKey { return theRegion })
	Accounts            = newTable("accounts", func(a *cloud.Account) cloud.AccountID { return a.ID })
	AccessKeys          = newTable("access-keys", func(k *cloud.AccessKey) cloud.AccessKeyID { return k.ID })
	ClientTokens        = newTable("client-tokens", clientTokenKey)
	Claims              = newTable("claims", func(c *Claim) ClaimKey { return c.Key })
	AccountSettings     = newTable("account-settings", func(s *cloud.AccountSettings) cloud.AccountID { return s.Account })
	ConsoleHostKeys     = newTable("console-host-keys", func(*cloud.ConsoleHostKey) RegionKey { return theRegion })
	BlockTokenKeys      = newTable("block-token-keys", func(*cloud.BlockTokenKey) RegionKey { return theRegion })
	AccessKeysByAccount = newIndexOf(AccessKeys, func(k *cloud.AccessKey) cloud.AccountID { return k.Account })
	ClaimsByOwner       = newIndexOf(Claims, func(c *Claim) string { return c.Owner })
)

// RegionKey is the key of the one region's record.
type RegionKey string

const theRegion RegionKey = "region"

// Region returns the region that this store is of; there is none before the first start has
// settled it.
func Region(r Reader) (*cloud.Region, bool) { return Get(r, Regions, theRegion) }

// ConsoleHostKey returns the key of the endpoint's consoles; there is none before it was made.
func ConsoleHostKey(r Reader) (*cloud.ConsoleHostKey, bool) {
	return Get(r, ConsoleHostKeys, theRegion)
}

// BlockTokenKey returns what the tokens of snapshots' blocks are signed with; there is none before the first was given out.
func BlockTokenKey(r Reader) (*cloud.BlockTokenKey, bool) {
	return Get(r, BlockTokenKeys, theRegion)
}

// ClientTokenKey is made by TokenKey.
type ClientTokenKey string

// TokenKey finds the memory of an account's idempotent call.
func TokenKey(account cloud.AccountID, action, token string) ClientTokenKey {
	return ClientTokenKey(JoinKey(string(account), action, token))
}

func clientTokenKey(t *cloud.ClientToken) ClientTokenKey {
	return TokenKey(t.Account, t.Action, t.Token)
}

// Servers and what runs on them.
var (
	Nodes       = newTable("nodes", func(n *cloud.Node) cloud.NodeID { return n.ID })
	Instances   = newTable("instances", func(i *cloud.Instance) cloud.InstanceID { return i.ID })
	Images      = newTable("images", func(i *cloud.Image) cloud.ImageID { return i.ID })
	ImportTasks = newTable("import-tasks", func(t *cloud.ImportTask) cloud.ImportTaskID { return t.ID })
	KeyPairs    = newTable("key-pairs", func(k *cloud.KeyPair) cloud.KeyPairID { return k.ID })
	PushedKeys  = newTable("pushed-keys", func(k *cloud.PushedKey) PushedKeyKey { return PushedTo(k.Instance, k.Key) })

	InstancesByAccount     = newIndexOf(Instances, func(i *cloud.Instance) cloud.AccountID { return i.Account })
	InstancesByNode        = newIndexOf(Instances, func(i *cloud.Instance) cloud.NodeID { return i.Node })
	InstancesByState       = newIndexOf(Instances, func(i *cloud.Instance) cloud.InstanceState { return i.State })
	InstancesByReservation = newIndexOf(Instances, func(i *cloud.Instance) cloud.ReservationID { return i.Reservation })
	InstancesByVPC         = newIndexOf(Instances, func(i *cloud.Instance) cloud.VPCID { return i.VPC })
	InstancesBySubnet      = newIndexOf(Instances, func(i *cloud.Instance) cloud.SubnetID { return i.Subnet })
	InstancesByImage       = newIndexOf(Instances, func(i *cloud.Instance) cloud.ImageID { return i.Image })
	PushedKeysByInstance   = newIndexOf(PushedKeys, func(k *cloud.PushedKey) cloud.InstanceID { return k.Instance })
	ImagesByAccount        = newIndexOf(Images, func(i *cloud.Image) cloud.AccountID { return i.Account })
	ImportTasksByAccount   = newIndexOf(ImportTasks, func(t *cloud.ImportTask) cloud.AccountID { return t.Account })
	ImportTasksByNode      = newIndexOf(ImportTasks, func(t *cloud.ImportTask) cloud.NodeID { return t.Node })
	ImportTasksByState     = newIndexOf(ImportTasks, func(t *cloud.ImportTask) cloud.ImportState { return t.State })
	KeyPairsByAccount      = newIndexOf(KeyPairs, func(k *cloud.KeyPair) cloud.AccountID { return k.Account })
)

// PushedKeyKey is made by PushedTo.
type PushedKeyKey string

// PushedTo finds a key that was pushed to an instance.
func PushedTo(id cloud.InstanceID, key string) PushedKeyKey {
	return PushedKeyKey(JoinKey(string(id), key))
}

// Volumes and their snapshots.
var (
	Volumes   = newTable("volumes", func(v *cloud.Volume) cloud.VolumeID { return v.ID })
	Snapshots = newTable("snapshots", func(s *cloud.Snapshot) cloud.SnapshotID { return s.ID })

	VolumesByAccount   = newIndexOf(Volumes, func(v *cloud.Volume) cloud.AccountID { return v.Account })
	VolumesByNode      = newIndexOf(Volumes, func(v *cloud.Volume) cloud.NodeID { return v.Node })
	VolumesByInstance  = newIndexOf(Volumes, func(v *cloud.Volume) cloud.InstanceID { return v.Instance })
	SnapshotsByAccount = newIndexOf(Snapshots, func(s *cloud.Snapshot) cloud.AccountID { return s.Account })
	SnapshotsByNode    = newIndexOf(Snapshots, func(s *cloud.Snapshot) cloud.NodeID { return s.Node })
	SnapshotsByVolume  = newIndexOf(Snapshots, func(s *cloud.Snapshot) cloud.VolumeID { return s.Volume })
)

// Repositories of the registry and what they hold.
var (
	Repositories     = newTable("repositories", func(r *cloud.Repository) RepositoryKey { return RepositoryOf(r.Account, r.Name) })
	RepositoryImages = newTable("repository-images", func(i *cloud.RepositoryImage) RepositoryImageKey {
		return RepositoryImageOf(i.Account, i.Repository, i.Digest)
	})
	RepositoryTags = newTable("repository-tags", func(t *cloud.RepositoryTag) RepositoryTagKey {
		return RepositoryTagOf(t.Account, t.Repository, t.Tag)
	})
	RepositoryLayers = newTable("repository-layers", func(l *cloud.RepositoryLayer) RepositoryLayerKey {
		return RepositoryLayerOf(l.Account, l.Repository, l.Digest)
	})

	RepositoriesByAccount        = newIndexOf(Repositories, func(r *cloud.Repository) cloud.AccountID { return r.Account })
	RepositoryImagesByRepository = newIndexOf(RepositoryImages, func(i *cloud.RepositoryImage) RepositoryKey { return RepositoryOf(i.Account, i.Repository) })
	// RepositoryImagesBySubject finds what is about an image.
	RepositoryImagesBySubject = newIndex(RepositoryImages, func(i *cloud.RepositoryImage) []RepositoryImageKey {
		if i.Subject == "" {
			return nil
		}
		return []RepositoryImageKey{RepositoryImageOf(i.Account, i.Repository, i.Subject)}
	})
	// RepositoryIndexesByChild finds the indexes that list an image.
	RepositoryIndexesByChild = newIndex(RepositoryImages, func(i *cloud.RepositoryImage) []RepositoryImageKey {
		var keys []RepositoryImageKey
		for _, d := range i.Children {
			keys = append(keys, RepositoryImageOf(i.Account, i.Repository, d))
		}
		return keys
	})
	// RepositoryImagesByLayer finds the images that have a layer.
	RepositoryImagesByLayer = newIndex(RepositoryImages, func(i *cloud.RepositoryImage) []RepositoryLayerKey {
		var keys []RepositoryLayerKey
		for _, d := range i.Layers {
			keys = append(keys, RepositoryLayerOf(i.Account, i.Repository, d))
		}
		return keys
	})
	RepositoryTagsByRepository = newIndexOf(RepositoryTags, func(t *cloud.RepositoryTag) RepositoryKey { return RepositoryOf(t.Account, t.Repository) })
	RepositoryTagsByImage      = newIndexOf(RepositoryTags, func(t *cloud.RepositoryTag) RepositoryImageKey {
		return RepositoryImageOf(t.Account, t.Repository, t.Digest)
	})
	RepositoryLayersByRepository = newIndexOf(RepositoryLayers, func(l *cloud.RepositoryLayer) RepositoryKey { return RepositoryOf(l.Account, l.Repository) })
	// RepositoryLayersByDigest finds the repositories of an account that keep a blob.
	RepositoryLayersByDigest = newIndexOf(RepositoryLayers, func(l *cloud.RepositoryLayer) AccountBlobKey { return AccountBlob(l.Account, l.Digest) })
)

// Keys of the registry's tables, made by the functions below.
type (
	RepositoryKey      string
	RepositoryImageKey string
	RepositoryTagKey   string
	RepositoryLayerKey string
	AccountBlobKey     string
)

// RepositoryOf finds a repository.
func RepositoryOf(account cloud.AccountID, name cloud.RepositoryName) RepositoryKey {
	return RepositoryKey(JoinKey(string(account), string(name)))
}

// RepositoryImageOf finds an image of a repository by its manifest's digest.
func RepositoryImageOf(account cloud.AccountID, name cloud.RepositoryName, digest string) RepositoryImageKey {
	return RepositoryImageKey(JoinKey(string(account), string(name), digest))
}

// RepositoryTagOf finds a tag of a repository.
func RepositoryTagOf(account cloud.AccountID, name cloud.RepositoryName, tag string) RepositoryTagKey {
	return RepositoryTagKey(JoinKey(string(account), string(name), tag))
}

// RepositoryLayerOf finds a blob of a repository.
func RepositoryLayerOf(account cloud.AccountID, name cloud.RepositoryName, digest string) RepositoryLayerKey {
	return RepositoryLayerKey(JoinKey(string(account), string(name), digest))
}

// AccountBlob finds a blob in any of an account's repositories.
func AccountBlob(account cloud.AccountID, digest string) AccountBlobKey {
	return AccountBlobKey(JoinKey(string(account), digest))
}

// The network.
var (
	VPCs             = newTable("vpcs", func(v *cloud.VPC) cloud.VPCID { return v.ID })
	Subnets          = newTable("subnets", func(s *cloud.Subnet) cloud.SubnetID { return s.ID })
	InternetGateways = newTable("internet-gateways", func(g *cloud.InternetGateway) cloud.InternetGatewayID { return g.ID })
	RouteTables      = newTable("route-tables", func(t *cloud.RouteTable) cloud.RouteTableID { return t.ID })
	NetworkACLs      = newTable("network-acls", func(a *cloud.NetworkACL) cloud.NetworkACLID { return a.ID })
	FlowLogs         = newTable("flow-logs", func(f *cloud.FlowLog) cloud.FlowLogID { return f.ID })
	SecurityGroups   = newTable("security-groups", func(g *cloud.SecurityGroup) cloud.SecurityGroupID { return g.ID })
	Interfaces       = newTable("interfaces", func(i *cloud.Interface) cloud.InterfaceID { return i.ID })
	Addresses        = newTable("addresses", func(a *cloud.Address) cloud.AllocationID { return a.ID })

	EgressOnlyGateways = newTable("egress-only-gateways", func(g *cloud.EgressOnlyGateway) cloud.EgressGatewayID { return g.ID })
	NATGateways        = newTable("nat-gateways", func(g *cloud.NATGateway) cloud.NATGatewayID { return g.ID })
	Peerings           = newTable("peerings", func(p *cloud.Peering) cloud.PeeringID { return p.ID })
	PrefixLists        = newTable("prefix-lists", func(l *cloud.PrefixList) cloud.PrefixListID { return l.ID })
	PrefixListVersions = newTable("prefix-list-versions", func(v *cloud.PrefixListVersion) PrefixListVersionKey {
		return ListVersionKey(v.List, v.Number)
	})
	SubnetReservations = newTable("subnet-reservations", func(x *cloud.SubnetReservation) cloud.SubnetReservationID { return x.ID })
	DHCPOptions        = newTable("dhcp-options", func(o *cloud.DHCPOptions) cloud.DHCPOptionsID { return o.ID })

	EgressOnlyGatewaysByAccount = newIndexOf(EgressOnlyGateways, func(g *cloud.EgressOnlyGateway) cloud.AccountID { return g.Account })
	EgressOnlyGatewaysByVPC     = newIndexOf(EgressOnlyGateways, func(g *cloud.EgressOnlyGateway) cloud.VPCID { return g.VPC })
	NATGatewaysByAccount        = newIndexOf(NATGateways, func(g *cloud.NATGateway) cloud.AccountID { return g.Account })
	NATGatewaysByVPC            = newIndexOf(NATGateways, func(g *cloud.NATGateway) cloud.VPCID { return g.VPC })
	NATGatewaysByNode           = newIndexOf(NATGateways, func(g *cloud.NATGateway) cloud.NodeID { return g.Node })
	PeeringsByVPC               = newIndex(Peerings, func(p *cloud.Peering) []cloud.VPCID { return []cloud.VPCID{p.Requester.VPC, p.Accepter.VPC} })
	PeeringsByAccount           = newIndex(Peerings, func(p *cloud.Peering) []cloud.AccountID {
		return []cloud.AccountID{p.Requester.Account, p.Accepter.Account}
	})
	PrefixListsByAccount        = newIndexOf(PrefixLists, func(l *cloud.PrefixList) cloud.AccountID { return l.Account })
	SubnetReservationsByAccount = newIndexOf(SubnetReservations, func(x *cloud.SubnetReservation) cloud.AccountID { return x.Account })
	SubnetReservationsBySubnet  = newIndexOf(SubnetReservations, func(x *cloud.SubnetReservation) cloud.SubnetID { return x.Subnet })
	// RouteTablesByPrefixList finds the tables with a route to the ranges of a list, once for each.
	RouteTablesByPrefixList = newIndex(RouteTables, func(t *cloud.RouteTable) []cloud.PrefixListID {
		var named []cloud.PrefixListID
		for _, r := range t.Routes {
			named = append(named, r.PrefixList)
		}
		return named
	})
	// SecurityGroupsByPrefixList finds the groups with a rule that names a list.
	SecurityGroupsByPrefixList = newIndex(SecurityGroups, func(g *cloud.SecurityGroup) []cloud.PrefixListID {
		var named []cloud.PrefixListID
		for _, rule := range g.Rules {
			named = append(named, rule.PrefixList)
		}
		return named
	})
	DHCPOptionsByAccount = newIndexOf(DHCPOptions, func(o *cloud.DHCPOptions) cloud.AccountID { return o.Account })
	VPCsByDHCPOptions    = newIndexOf(VPCs, func(v *cloud.VPC) cloud.DHCPOptionsID { return v.DHCPOptions })
	// RouteTablesByAssociation finds the table that an association ties.
	RouteTablesByAssociation = newIndex(RouteTables, func(t *cloud.RouteTable) []cloud.RouteAssociationID {
		var ids []cloud.RouteAssociationID
		for _, a := range t.Associations {
			ids = append(ids, a.ID)
		}
		return ids
	})
	// RouteTablesByTarget finds the tables with a route to something.
	RouteTablesByTarget = newIndex(RouteTables, func(t *cloud.RouteTable) []string {
		var targets []string
		for _, r := range t.Routes {
			targets = append(targets, r.Target)
		}
		return targets
	})

	VPCsByAccount    = newIndexOf(VPCs, func(v *cloud.VPC) cloud.AccountID { return v.Account })
	SubnetsByAccount = newIndexOf(Subnets, func(s *cloud.Subnet) cloud.AccountID { return s.Account })
	SubnetsByVPC     = newIndexOf(Subnets, func(s *cloud.Subnet) cloud.VPCID { return s.VPC })
	// SubnetsByACL finds the subnets that a network ACL is around.
	SubnetsByACL              = newIndexOf(Subnets, func(s *cloud.Subnet) cloud.NetworkACLID { return s.ACL })
	SubnetsByACLAssociation   = newIndexOf(Subnets, func(s *cloud.Subnet) cloud.ACLAssociationID { return s.ACLAssociation })
	NetworkACLsByAccount      = newIndexOf(NetworkACLs, func(a *cloud.NetworkACL) cloud.AccountID { return a.Account })
	NetworkACLsByVPC          = newIndexOf(NetworkACLs, func(a *cloud.NetworkACL) cloud.VPCID { return a.VPC })
	FlowLogsByAccount         = newIndexOf(FlowLogs, func(f *cloud.FlowLog) cloud.AccountID { return f.Account })
	FlowLogsByVPC             = newIndexOf(FlowLogs, func(f *cloud.FlowLog) cloud.VPCID { return f.VPC })
	InternetGatewaysByAccount = newIndexOf(InternetGateways, func(g *cloud.InternetGateway) cloud.AccountID { return g.Account })
	InternetGatewaysByVPC     = newIndexOf(InternetGateways, func(g *cloud.InternetGateway) cloud.VPCID { return g.VPC })
	RouteTablesByAccount      = newIndexOf(RouteTables, func(t *cloud.RouteTable) cloud.AccountID { return t.Account })
	RouteTablesByVPC          = newIndexOf(RouteTables, func(t *cloud.RouteTable) cloud.VPCID { return t.VPC })
	SecurityGroupsByAccount   = newIndexOf(SecurityGroups, func(g *cloud.SecurityGroup) cloud.AccountID { return g.Account })
	SecurityGroupsByVPC       = newIndexOf(SecurityGroups, func(g *cloud.SecurityGroup) cloud.VPCID { return g.VPC })
	// SecurityGroupsByReference finds the groups with a rule that names a group.
	SecurityGroupsByReference = newIndex(SecurityGroups, func(g *cloud.SecurityGroup) []cloud.SecurityGroupID {
		var named []cloud.SecurityGroupID
		for _, rule := range g.Rules {
			named = append(named, rule.Group)
		}
		return named
	})
	InterfacesByAccount  = newIndexOf(Interfaces, func(i *cloud.Interface) cloud.AccountID { return i.Account })
	InterfacesByVPC      = newIndexOf(Interfaces, func(i *cloud.Interface) cloud.VPCID { return i.VPC })
	InterfacesBySubnet   = newIndexOf(Interfaces, func(i *cloud.Interface) cloud.SubnetID { return i.Subnet })
	InterfacesByInstance = newIndexOf(Interfaces, func(i *cloud.Interface) cloud.InstanceID { return i.Instance })
	// InterfacesByAttachment finds the interface of an attachment: one, or none.
	InterfacesByAttachment = newIndexOf(Interfaces, func(i *cloud.Interface) cloud.AttachmentID { return i.Attachment })
	// InterfacesByGroup finds the interfaces that carry a security group.
	InterfacesByGroup  = newIndex(Interfaces, func(i *cloud.Interface) []cloud.SecurityGroupID { return i.Groups })
	AddressesByAccount = newIndexOf(Addresses, func(a *cloud.Address) cloud.AccountID { return a.Account })
	// AddressesByInterface finds the Elastic IPs that are associated with an interface.
	AddressesByInterface = newIndexOf(Addresses, func(a *cloud.Address) cloud.InterfaceID { return a.Interface })
	// AddressesByNaming finds the Elastic IPs that were given a name.
	AddressesByNaming = newIndexOf(Addresses, func(a *cloud.Address) Naming {
		if a.PTR == "" {
			return ""
		}
		return Named
	})
)

// PrefixListVersionKey is made by ListVersionKey.
type PrefixListVersionKey string

// ListVersionKey finds a version of a prefix list.
func ListVersionKey(list cloud.PrefixListID, number int64) PrefixListVersionKey {
	return PrefixListVersionKey(JoinKey(string(list), fmt.Sprintf("%012d", number)))
}

// EntriesOf are the entries that a prefix list has now.
func EntriesOf(r Reader, l *cloud.PrefixList) []cloud.PrefixListEntry {
	if v, ok := Get(r, PrefixListVersions, ListVersionKey(l.ID, l.Version)); ok {
		return v.Entries
	}
	return nil
}

// Naming is the value of AddressesByNaming.
type Naming string

// Named is its only one.
const Named Naming = "named"

// What instances are launched from and together.
var (
	LaunchTemplates        = newTable("launch-templates", func(t *cloud.LaunchTemplate) cloud.LaunchTemplateID { return t.ID })
	LaunchTemplateVersions = newTable("launch-template-versions", func(v *cloud.LaunchTemplateVersion) LaunchTemplateVersionKey {
		return VersionKey(v.Template, v.Number)
	})
	PlacementGroups = newTable("placement-groups", func(g *cloud.PlacementGroup) cloud.PlacementGroupID { return g.ID })
	Fleets          = newTable("fleets", func(f *cloud.Fleet) cloud.FleetID { return f.ID })

	LaunchTemplatesByAccount         = newIndexOf(LaunchTemplates, func(t *cloud.LaunchTemplate) cloud.AccountID { return t.Account })
	LaunchTemplateVersionsByTemplate = newIndexOf(LaunchTemplateVersions, func(v *cloud.LaunchTemplateVersion) cloud.LaunchTemplateID { return v.Template })
	PlacementGroupsByAccount         = newIndexOf(PlacementGroups, func(g *cloud.PlacementGroup) cloud.AccountID { return g.Account })
	InstancesByPlacementGroup        = newIndexOf(Instances, func(i *cloud.Instance) cloud.PlacementGroupID { return i.PlacementGroup })
	FleetsByAccount                  = newIndexOf(Fleets, func(f *cloud.Fleet) cloud.AccountID { return f.Account })
)

// LaunchTemplateVersionKey is made by VersionKey.
type LaunchTemplateVersionKey string

// VersionKey finds a version of a launch template. The keys of a template are in the order of its versions.
func VersionKey(template cloud.LaunchTemplateID, number int) LaunchTemplateVersionKey {
	return LaunchTemplateVersionKey(JoinKey(string(template), fmt.Sprintf("%06d", number)))
}
