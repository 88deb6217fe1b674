package coverage

import (
	"regexp"

	"github.com/nacre-cloud/nacre/internal/service/ec2"
)

// group is a chapter of the page. An action belongs to the first group whose pattern its name matches.
type group struct {
	title string
	match *regexp.Regexp
	// refused is why the actions of the group are not going to be built; empty when they may be. A built action
	// is shown as built wherever it stands.
	refused string
}

func open(title, pattern string) group {
	return group{title: title, match: regexp.MustCompile(pattern)}
}

// ec2Groups are the chapters of EC2: those that are refused and the special ones first, because their names hold the words
// of the general ones.
var ec2Groups = append(refused(), []group{
	open("IP address manager", `Ipam`),
	open("Transit gateways", `TransitGateway`),
	open("Client VPN", `ClientVpn`),
	open("Site-to-site VPN", `Vpn|CustomerGateway|Vgw`),
	open("Traffic mirroring", `TrafficMirror`),
	open("Reachability and access analysis", `NetworkInsights|ReachabilityAnalyzer`),
	open("Endpoints", `VpcEndpoint|DescribePrefixLists`),
	open("Prefix lists", `ManagedPrefixList`),
	open("Peering", `VpcPeering`),
	open("Flow logs", `FlowLog`),
	open("Network ACLs", `NetworkAcl`),
	open("Security groups", `SecurityGroup`),
	open("Routes and route tables", `Route`),
	open("NAT gateways", `NatGateway`),
	open("Internet gateways", `InternetGateway`),
	open("DHCP options", `DhcpOptions`),
	open("Network interfaces", `NetworkInterface|PrivateIpAddresses|Ipv6Addresses|TrunkInterface`),
	open("Elastic IP addresses", `Address`),
	open("Subnets", `Subnet`),
	open("VPCs", `Vpcs?$|VpcAttribute|VpcCidr|VpcTenancy|Ipv6Pool`),
	open("Key pairs", `KeyPair`),
	open("Placement groups", `PlacementGroup`),
	open("Dedicated hosts", `Hosts$`),
	open("Capacity reservations", `CapacityReservation`),
	open("Fleets", `Fleet|SpotFleet`),
	open("Spot instances", `Spot`),
	open("Launch templates", `LaunchTemplate`),
	open("Instance types", `InstanceType`),
	open("Instance Connect", `InstanceConnectEndpoint`),
	open("Event windows and notifications", `InstanceEvent`),
	open("Instance profiles", `IamInstanceProfile`),
	open("Images", `Image|CancelImportTask`),
	open("Snapshots", `Snapshot`),
	open("Volumes", `Volume|Ebs`),
	open("Console and diagnostics", `Console|DiagnosticInterrupt|PasswordData`),
	open("Instances", `Instance`),
	open("Credits", `CreditSpecification`),
	open("Tags", `Tags$`),
	open("Regions, zones and account", `Region|AvailabilityZone|AccountAttributes|PrivateDnsName`),
}...)

func refused() (groups []group) {
	for _, r := range ec2.Refusals {
		groups = append(groups, group{title: r.Title, match: r.Actions, refused: r.Why})
	}
	return groups
}

// chapters are what the page calls the services, and what their actions are grouped by.
var chapters = map[string]struct {
	title  string
	groups []group
}{
	"ec2":                  {"EC2", ec2Groups},
	"ec2-instance-connect": {"EC2 Instance Connect", []group{open("Keys for a minute", `.`)}},
	"ebs":                  {"EBS direct", []group{open("Snapshots, block by block", `.`)}},
	"ce":                   {"Cost Explorer", []group{open("Costs and usage", `.`)}},
	"pricing":              {"Price List", []group{open("Products and prices", `.`)}},
	"ecr": {"ECR", []group{
		open("Lifecycle policies", `Lifecycle`),
		open("Scanning", `Scan`),
		open("Replication, caches and templates", `Replication|PullThrough|CreationTemplate`),
		open("Policies", `Policy`),
		open("Layers", `Layer`),
		open("Tags", `TagResource|UntagResource|ListTagsForResource`),
		open("Images", `Image$|Images$|TagMutability`),
		open("Repositories and registries", `Repositor|Registry|AuthorizationToken`),
	}},
	"sts":   {"STS", []group{open("Callers and sessions", `.`)}},
	"nacre": {"nacre's own", []group{open("What AWS has no words for", `.`)}},
}
