package ec2

import (
	"strings"

	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// resourceKind is how the errors about one kind of resource read.
type resourceKind struct {
	code string // before ".NotFound" and ".Malformed"
	name string // in "The … ID 'x' does not exist"
}

var (
	kindInstance    = resourceKind{"InvalidInstanceID", "instance"}
	kindImage       = resourceKind{"InvalidAMIID", "image"}
	kindVPC         = resourceKind{"InvalidVpcID", "vpc"}
	kindSubnet      = resourceKind{"InvalidSubnetID", "subnet"}
	kindGroup       = resourceKind{"InvalidGroup", "security group"}
	kindGateway     = resourceKind{"InvalidInternetGatewayID", "internetGateway"}
	kindRouteTable  = resourceKind{"InvalidRouteTableID", "routeTable"}
	kindACL         = resourceKind{"InvalidNetworkAclID", "networkAcl"}
	kindDHCP        = resourceKind{"InvalidDhcpOptionID", "dhcpOption"}
	kindPrefixList  = resourceKind{"InvalidPrefixListID", "prefix list"}
	kindReservation = resourceKind{"InvalidSubnetCidrReservationID", "subnet CIDR reservation"}
	kindFlowLog     = resourceKind{"InvalidFlowLogId", "flowLog"}
	kindInterface   = resourceKind{"InvalidNetworkInterfaceID", "networkInterface"}
	kindAllocation  = resourceKind{"InvalidAllocationID", "allocation"}
	kindKeyPair     = resourceKind{"InvalidKeyPair", "key pair"}
	kindPlacement   = resourceKind{"InvalidPlacementGroup", "placement group"}
	kindFleet       = resourceKind{"InvalidFleetId", "fleet"}
	kindNAT         = resourceKind{"NatGateway", "natGateway"}
	kindVolume      = resourceKind{"InvalidVolume", "volume"}
	kindSnapshot    = resourceKind{"InvalidSnapshot", "snapshot"}
	kindImport      = resourceKind{"InvalidConversionTaskId", "import task"}
)

func (k resourceKind) notFound(ids ...string) error {
	if k == kindPlacement {
		return placementUnknown(ids[0])
	}
	if k == kindNAT {
		return awsapi.Errorf("NatGatewayNotFound", "The Nat Gateway %s was not found", strings.Join(ids, ", "))
	}
	code := k.code + ".NotFound"
	if k == kindImport { // EC2 has no code of that form for tasks
		code = k.code
	}
	return awsapi.NotFound(code, k.name, ids...)
}

// malformedCodes are EC2's codes for malformed ids of the kinds that it spells in another way than their absence.
var malformedCodes = map[string]string{
	"InvalidDhcpOptionID":           "InvalidDhcpOptionsId.Malformed",
	"InvalidDhcpOptionsID":          "InvalidDhcpOptionsId.Malformed",
	"InvalidFlowLogId":              "InvalidFlowLogId.NotFound", // EC2 documents no other
	"InvalidInternetGatewayID":      "InvalidInternetGatewayId.Malformed",
	"InvalidNetworkAclID":           "InvalidNetworkAclId.Malformed",
	"InvalidNetworkInterfaceID":     "InvalidNetworkInterfaceId.Malformed",
	"InvalidPrefixListID":           "InvalidPrefixListId.Malformed",
	"InvalidRouteTableID":           "InvalidRouteTableId.Malformed",
	"NatGateway":                    "NatGatewayMalformed",
	"InvalidSnapshot":               "InvalidSnapshotID.Malformed",
	"InvalidVolume":                 "InvalidVolumeID.Malformed",
	"InvalidVpcPeeringConnectionID": "InvalidVpcPeeringConnectionId.Malformed",
}

// malformed is EC2's answer to an id of another form.
func (k resourceKind) malformed(id string) error {
	if k == kindGroup {
		return awsapi.Errorf("InvalidGroupId.Malformed", "Invalid id: \"%s\" (expecting \"sg-...\")", id)
	}
	code := malformedCodes[k.code]
	if code == "" {
		code = k.code + ".Malformed"
	}
	return awsapi.Malformed(code, id)
}

// lookup finds one of an account's resources by its id. What belongs to another account is not there.
func lookup[K interface {
	~string
	cloud.ID
}, T any](r store.Reader, table store.Table[K, T], owner func(*T) cloud.AccountID, kind resourceKind, account cloud.AccountID, id string) (*T, error) {
	if !cloud.ValidID[K](id) {
		return nil, kind.malformed(id)
	}
	obj, ok := store.Get(r, table, K(id))
	if !ok || owner(obj) != account {
		return nil, kind.notFound(id)
	}
	return obj, nil
}

// lookupAll finds several, and names all that don't exist in one error. Repeated ids come once.
func lookupAll[K interface {
	~string
	cloud.ID
}, T any](r store.Reader, table store.Table[K, T], owner func(*T) cloud.AccountID, kind resourceKind, account cloud.AccountID, ids []string) ([]*T, error) {
	var found []*T
	var missing []string
	seen := map[string]bool{}
	for _, id := range ids {
		if !cloud.ValidID[K](id) {
			return nil, kind.malformed(id)
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		if obj, ok := store.Get(r, table, K(id)); ok && owner(obj) == account {
			found = append(found, obj)
		} else {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, kind.notFound(missing...)
	}
	return found, nil
}

func ownerOfInstance(i *cloud.Instance) cloud.AccountID        { return i.Account }
func ownerOfSubnet(s *cloud.Subnet) cloud.AccountID            { return s.Account }
func ownerOfVPC(v *cloud.VPC) cloud.AccountID                  { return v.Account }
func ownerOfGroup(g *cloud.SecurityGroup) cloud.AccountID      { return g.Account }
func ownerOfACL(a *cloud.NetworkACL) cloud.AccountID           { return a.Account }
func ownerOfDHCP(o *cloud.DHCPOptions) cloud.AccountID         { return o.Account }
func ownerOfFlowLog(f *cloud.FlowLog) cloud.AccountID          { return f.Account }
func ownerOfPlacement(g *cloud.PlacementGroup) cloud.AccountID { return g.Account }
func ownerOfFleet(f *cloud.Fleet) cloud.AccountID              { return f.Account }
func ownerOfInterface(n *cloud.Interface) cloud.AccountID      { return n.Account }
func ownerOfAddress(a *cloud.Address) cloud.AccountID          { return a.Account }
func ownerOfImport(t *cloud.ImportTask) cloud.AccountID        { return t.Account }
func ownerOfRoutes(t *cloud.RouteTable) cloud.AccountID        { return t.Account }
func ownerOfGateway(g *cloud.InternetGateway) cloud.AccountID  { return g.Account }

// defaultVPC is an account's default VPC.
func defaultVPC(r store.Reader, account cloud.AccountID) (*cloud.VPC, error) {
	for _, v := range store.ListBy(r, store.VPCsByAccount, account) {
		if v.Default {
			return v, nil
		}
	}
	return nil, awsapi.Errorf("VPCIdNotSpecified", "No default VPC for this user")
}

// visibleImage finds an image that an account may launch: its own, a public one, or one shared with it.
func visibleImage(r store.Reader, account cloud.AccountID, id string) (*cloud.Image, error) {
	if !cloud.ValidID[cloud.ImageID](id) {
		return nil, awsapi.Malformed("InvalidAMIID.Malformed", id)
	}
	img, ok := store.Get(r, store.Images, cloud.ImageID(id))
	if !ok || !mayLaunch(img, account) {
		return nil, awsapi.Errorf("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", id)
	}
	return img, nil
}

func mayLaunch(img *cloud.Image, account cloud.AccountID) bool {
	return img.Account == account || img.Public || slices.Contains(img.Launch, account)
}

// keyPairNamed finds a key pair by its name.
func keyPairNamed(r store.Reader, account cloud.AccountID, name string) (*cloud.KeyPair, bool) {
	for _, k := range store.ListBy(r, store.KeyPairsByAccount, account) {
		if k.Name == name {
			return k, true
		}
	}
	return nil, false
}

// groupsFor finds the security groups that an interface in a VPC is to carry, by ids and by names; the VPC's
// default group when there are neither.
func groupsFor(r store.Reader, account cloud.AccountID, vpc cloud.VPCID, ids, names []string) ([]cloud.SecurityGroupID, error) {
	var list []cloud.SecurityGroupID
	add := func(g *cloud.SecurityGroup) {
		if !slices.Contains(list, g.ID) {
			list = append(list, g.ID)
		}
	}
	found, err := lookupAll(r, store.SecurityGroups, ownerOfGroup, kindGroup, account, ids)
	if err != nil {
		return nil, err
	}
	for _, g := range found {
		if g.VPC != vpc {
			return nil, awsapi.InvalidParameterValue("Security group %s and the subnet belong to different networks.", g.ID)
		}
		add(g)
	}
	if len(ids) == 0 && len(names) == 0 {
		names = []string{"default"}
	}
	var in []*cloud.SecurityGroup
	if len(names) > 0 {
		in = store.ListBy(r, store.SecurityGroupsByVPC, vpc)
	}
	for _, name := range names {
		at := slices.IndexFunc(in, func(g *cloud.SecurityGroup) bool { return g.Name == name })
		if at < 0 {
			return nil, awsapi.Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist in VPC '%s'", name, vpc)
		}
		add(in[at])
	}
	if len(list) > maxGroupsPerInterface {
		return nil, awsapi.Errorf("SecurityGroupsPerInstanceLimitExceeded", "An interface carries %d security groups at most.", maxGroupsPerInterface)
	}
	return list, nil
}

// maxGroupsPerInterface is EC2's default limit.
const maxGroupsPerInterface = 5
