package ec2

import "regexp"

// Refusal is a part of EC2 that is not going to be built.
type Refusal struct {
	Title   string
	Actions *regexp.Regexp // finds its actions by their names; one that is built all the same is built
	Why     string         // a clause without an end
}

// Refusals are the parts of EC2 that this cloud can't have: they need hardware, networks or contracts that are AWS's own.
var Refusals = []Refusal{
	{"Verified Access", regexp.MustCompile(`VerifiedAccess`),
		"it is a sign-in proxy that AWS hosts at its edge"},
	{"Outposts and local gateways", regexp.MustCompile(`LocalGateway|Coip`),
		"it needs an Outpost, which is AWS's own hardware"},
	{"Wavelength carrier gateways", regexp.MustCompile(`CarrierGateway`),
		"it needs a telephone carrier's network"},
	{"FPGA images", regexp.MustCompile(`Fpga`),
		"there are no servers with FPGAs behind this API"},
	{"Elastic graphics", regexp.MustCompile(`ElasticGpus`),
		"AWS has retired it"},
	{"EC2-Classic", regexp.MustCompile(`Classic|MovingAddresses|MoveAddressToVpc`),
		"AWS has retired EC2-Classic"},
	{"Scheduled events", regexp.MustCompile(`ModifyInstanceEventStartTime`),
		"no events are scheduled for instances: the upkeep of servers is their operator's"},
	{"Mac hosts", regexp.MustCompile(`MacHosts`),
		"it needs Apple's hardware"},
	{"Nitro Enclaves", regexp.MustCompile(`Enclave`),
		"it needs the Nitro hypervisor"},
	{"Reserved and scheduled instances", regexp.MustCompile(`ReservedInstances|ScheduledInstance|HostReservation|CapacityBlock`),
		"it is a contract with AWS about prices, or its marketplace"},
	{"Bundling and Windows", regexp.MustCompile(`Bundle|FastLaunch`),
		"it is for Windows and for instance-store AMIs"},
	{"Retired import and export", regexp.MustCompile(`ImportInstance$|ImportVolume|ConversionTask|ConfirmProductInstance|CreateInstanceExportTask|ExportTasks$|CancelExportTask`),
		"ImportImage and ExportImage replace it"},
	{"AWS's own address ranges", regexp.MustCompile(`Byoip|Byoasn|PublicIpv4Pool|ExternalResourceVerification`),
		"it has AWS announce ranges by BGP; the operator gives this cloud its ranges"},
	{"AWS's own network", regexp.MustCompile(`AwsNetworkPerformance|VpnTunnelReplacement|ReplaceVpnTunnel`),
		"it is about AWS's own network"},
	{"Longer ids", regexp.MustCompile(`IdFormat|IdentityIdFormat`),
		"all ids have been long since 2018; there is nothing to opt into"},
	{"Permissions on network interfaces", regexp.MustCompile(`NetworkInterfacePermission`),
		"an account's interfaces are attached to its own instances only"},
}

// refusal says why an action is refused by design, "" when it is merely not built.
func refusal(action string) string {
	for _, r := range Refusals {
		if r.Actions.MatchString(action) {
			return r.Why
		}
	}
	return ""
}
