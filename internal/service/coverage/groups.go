package coverage

import "regexp"

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

func refused(title, pattern, why string) group {
	return group{title: title, match: regexp.MustCompile(pattern), refused: why}
}

// ec2Groups are the chapters of EC2: the special ones first, because their names hold the words of the general ones.
var ec2Groups = []group{
	refused("Verified Access", `VerifiedAccess`, "it is a sign-in proxy that AWS hosts at its edge"),
	refused("Outposts and local gateways", `LocalGateway|Coip`, "it needs an Outpost, which is AWS's own hardware"),
	refused("Wavelength carrier gateways", `CarrierGateway`, "it needs a telephone carrier's network"),
	refused("FPGA images", `Fpga`, "there are no servers with FPGAs behind this API"),
	refused("Elastic graphics", `ElasticGpus`, "AWS has retired it"),
	refused("EC2-Classic", `Classic|MovingAddresses|MoveAddressToVpc`, "AWS has retired EC2-Classic"),
	refused("Mac hosts", `MacHosts`, "it needs Apple's hardware"),
	refused("Nitro Enclaves", `Enclave`, "it needs the Nitro hypervisor"),
	refused("Reserved and scheduled instances", `ReservedInstances|ScheduledInstance|HostReservation|CapacityBlock`,
		"it is a contract with AWS about prices, or its marketplace"),
	refused("Bundling and Windows", `Bundle|FastLaunch`, "it is for Windows and for instance-store AMIs"),
	refused("Retired import and export", `ImportInstance$|ImportVolume|ConversionTask|ConfirmProductInstance|CreateInstanceExportTask|ExportTasks$|CancelExportTask`,
		"ImportImage and ExportImage replace it"),
	refused("AWS's own address ranges", `Byoip|Byoasn|PublicIpv4Pool|ExternalResourceVerification`, "it has AWS announce ranges by BGP; the operator gives this cloud its ranges"),
	refused("AWS's own network", `AwsNetworkPerformance|VpnTunnelReplacement|ReplaceVpnTunnel`, "it is about AWS's own network"),
	refused("Longer ids", `IdFormat|IdentityIdFormat`, "all ids have been long since 2018; there is nothing to opt into"),
	refused("Permissions on network interfaces", `NetworkInterfacePermission`, "an account's interfaces are attached to its own instances only"),
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
}

// stsGroups are the chapters of STS.
var stsGroups = []group{
	open("Callers and sessions", `.`),
}
