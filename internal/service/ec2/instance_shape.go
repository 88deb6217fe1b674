package ec2

import (
	"net/netip"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// shared is what EC2 says of every instance of this kind. Answers of thousands of instances point to it; it is never
// written to.
var shared = struct {
	amazon, defaultText, disabled, ebs, empty, enabled, hvm, inUse, interfaceText, linux, optional, required, rootDevice, runInstances, xen string

	yes, no bool
	zero    int64

	noBlockDevices []ec2.InstanceBlockDeviceMapping
	noProductCodes []ec2.ProductCode
	noIPv6         []ec2.InstanceIpv6Address
	noGroups       []ec2.GroupIdentifier
	noInterfaces   []ec2.InstanceNetworkInterface
	noTags         []ec2.Tag
	capacity       ec2.CapacityReservationSpecificationResponse
	hibernation    ec2.HibernationOptions
	hibernating    ec2.HibernationOptions
	enclave        ec2.EnclaveOptions
	maintenance    ec2.InstanceMaintenanceOptions
	dnsName        ec2.PrivateDnsNameOptionsResponse
	monitored      ec2.Monitoring
	unmonitored    ec2.Monitoring
	states         map[cloud.InstanceState]*ec2.InstanceState
}{
	amazon: "amazon", defaultText: "default", disabled: "disabled", ebs: "ebs", enabled: "enabled", hvm: "hvm", inUse: "in-use",
	interfaceText: "interface", linux: "Linux/UNIX", optional: "optional", required: "required", rootDevice: rootDeviceName, runInstances: "RunInstances",
	xen: "xen", yes: true,
	noBlockDevices: []ec2.InstanceBlockDeviceMapping{}, noProductCodes: []ec2.ProductCode{}, noIPv6: []ec2.InstanceIpv6Address{},
	noGroups: []ec2.GroupIdentifier{}, noInterfaces: []ec2.InstanceNetworkInterface{}, noTags: []ec2.Tag{},
	capacity:    ec2.CapacityReservationSpecificationResponse{CapacityReservationPreference: new("open")},
	hibernation: ec2.HibernationOptions{Configured: new(false)},
	hibernating: ec2.HibernationOptions{Configured: new(true)},
	enclave:     ec2.EnclaveOptions{Enabled: new(false)},
	maintenance: ec2.InstanceMaintenanceOptions{AutoRecovery: new("default")},
	dnsName:     ec2.PrivateDnsNameOptionsResponse{HostnameType: new("ip-name"), EnableResourceNameDnsARecord: new(false), EnableResourceNameDnsAAAARecord: new(false)},
	monitored:   ec2.Monitoring{State: new("enabled")},
	unmonitored: ec2.Monitoring{State: new("disabled")},
	states: func() map[cloud.InstanceState]*ec2.InstanceState {
		shapes := map[cloud.InstanceState]*ec2.InstanceState{}
		for _, s := range []cloud.InstanceState{cloud.StatePending, cloud.StateRunning, cloud.StateShuttingDown, cloud.StateTerminated, cloud.StateStopping, cloud.StateStopped} {
			shapes[s] = &ec2.InstanceState{Name: new(string(s)), Code: new(s.Code())}
		}
		return shapes
	}(),
}

func stateShape(s cloud.InstanceState) *ec2.InstanceState { return shared.states[s] }

// ref points to a string of a record, which no view ever changes; nil for an empty one.
func ref(p *string) *string {
	if *p == "" {
		return nil
	}
	return p
}

// describer makes answers from one view; it looks each group up once.
type describer struct {
	r      store.Reader
	region string
	groups map[cloud.SecurityGroupID]ec2.GroupIdentifier
	named  map[cloud.VPCID]bool // whether public addresses have names there
}

// publicName is a public address's name, "" in a VPC whose EnableDnsHostnames is off.
func (d *describer) publicName(vpc cloud.VPCID, addr netip.Addr) string {
	named, known := d.named[vpc]
	if !known {
		v, ok := store.Get(d.r, store.VPCs, vpc)
		named = ok && v.EnableDNSHostnames
		d.named[vpc] = named
	}
	if !named {
		return ""
	}
	return cloud.PublicDNSName(addr, d.region)
}

func newDescriber(r store.Reader) *describer {
	d := &describer{r: r, groups: map[cloud.SecurityGroupID]ec2.GroupIdentifier{}, named: map[cloud.VPCID]bool{}}
	if region, ok := store.Region(r); ok {
		d.region = region.Name
	}
	return d
}

// reservation is the answer about instances that were launched together, in the order of their launch.
func (d *describer) reservation(list []*cloud.Instance) ec2.Reservation {
	out := ec2.Reservation{ReservationId: (*string)(&list[0].Reservation), OwnerId: (*string)(&list[0].Account), Groups: []ec2.GroupIdentifier{},
		Instances: make([]ec2.Instance, len(list))}
	for n, i := range list {
		d.instance(&out.Instances[n], i)
	}
	return out
}

func (d *describer) groupList(ids []cloud.SecurityGroupID) []ec2.GroupIdentifier {
	out := make([]ec2.GroupIdentifier, 0, len(ids))
	for _, id := range ids {
		g, ok := d.groups[id]
		if !ok {
			g.GroupId = text(id)
			if sg, found := store.Get(d.r, store.SecurityGroups, id); found {
				g.GroupName = &sg.Name
			}
			d.groups[id] = g
		}
		out = append(out, g)
	}
	return out
}

// instance fills out with what is known of an instance.
func (d *describer) instance(out *ec2.Instance, i *cloud.Instance) {
	*out = ec2.Instance{
		InstanceId: ref((*string)(&i.ID)), ImageId: ref((*string)(&i.Image)), State: stateShape(i.State), StateTransitionReason: &i.TransitionReason,
		KeyName: ref(&i.KeyName), AmiLaunchIndex: new(int64(i.LaunchIndex)), ProductCodes: shared.noProductCodes, InstanceType: ref((*string)(&i.Type)),
		LaunchTime: &i.LaunchTime, Placement: &ec2.Placement{AvailabilityZone: &i.Zone, GroupName: &shared.empty, Tenancy: &shared.defaultText},
		Monitoring: &shared.unmonitored, Architecture: &i.Architecture, RootDeviceType: &shared.ebs, RootDeviceName: &shared.rootDevice,
		BlockDeviceMappings: blockDevices(d.r, i), VirtualizationType: &shared.hvm, Hypervisor: &shared.xen, ClientToken: &i.ClientToken,
		Tags: shared.noTags, EbsOptimized: &i.EBSOptimized, EnaSupport: &shared.yes, PlatformDetails: &shared.linux, UsageOperation: &shared.runInstances,
		UsageOperationUpdateTime: &i.Created, PrivateDnsName: &shared.empty, PublicDnsName: &shared.empty, SecurityGroups: shared.noGroups,
		NetworkInterfaces: shared.noInterfaces, CapacityReservationSpecification: &shared.capacity, HibernationOptions: &shared.hibernation,
		EnclaveOptions: &shared.enclave, MaintenanceOptions: &shared.maintenance, MetadataOptions: metadataShape(i.Metadata, "applied"),
	}
	if i.HibernationConfigured {
		out.HibernationOptions = &shared.hibernating
	}
	if i.VM() {
		out.KernelId, out.RamdiskId = text(i.Hardware.Kernel), text(i.Hardware.Ramdisk)
		out.BootMode = optional(i.Hardware.Firmware.BootMode())
		out.CurrentInstanceBootMode = out.BootMode
	}
	if i.NoAutoRecovery {
		out.MaintenanceOptions = &ec2.InstanceMaintenanceOptions{AutoRecovery: &shared.disabled}
	}
	if i.PlacementGroup != "" {
		out.Placement.GroupName, out.Placement.GroupId = &i.GroupName, ref((*string)(&i.PlacementGroup))
		if i.Partition > 0 {
			out.Placement.PartitionNumber = new(int64(i.Partition))
		}
	}
	if i.Monitoring {
		out.Monitoring = &shared.monitored
	}
	if len(i.Tags) > 0 {
		out.Tags = tagList(i.Tags)
	}
	if size, ok := i.Size(); ok {
		out.CpuOptions = &ec2.CpuOptions{CoreCount: new(cores(size)), ThreadsPerCore: new(int64(threads(size)))}
	}
	if i.StateReason.Code != "" {
		out.StateReason = &ec2.StateReason{Code: &i.StateReason.Code, Message: &i.StateReason.Message}
	}
	if i.State == cloud.StateTerminated {
		return
	}
	out.SubnetId, out.VpcId, out.SourceDestCheck, out.PrivateDnsNameOptions = ref((*string)(&i.Subnet)), ref((*string)(&i.VPC)), &i.SourceDestCheck, &shared.dnsName
	out.NetworkInterfaces = make([]ec2.InstanceNetworkInterface, 0, len(i.Interfaces))
	for _, id := range i.Interfaces {
		n, ok := store.Get(d.r, store.Interfaces, id)
		if !ok {
			continue
		}
		nic := d.networkInterface(n)
		if n.DeviceIndex == 0 {
			out.SecurityGroups, out.PrivateIpAddress, out.PrivateDnsName = nic.Groups, nic.PrivateIpAddress, nic.PrivateDnsName
			if nic.Association != nil {
				out.PublicIpAddress, out.PublicDnsName = nic.Association.PublicIp, nic.Association.PublicDnsName
			}
			if len(nic.Ipv6Addresses) > 0 {
				out.Ipv6Address = nic.Ipv6Addresses[0].Ipv6Address
			}
		}
		out.NetworkInterfaces = append(out.NetworkInterfaces, nic)
	}
}

func metadataShape(m cloud.MetadataOptions, state string) *ec2.InstanceMetadataOptionsResponse {
	pick := func(b bool, yes, no *string) *string {
		if b {
			return yes
		}
		return no
	}
	return &ec2.InstanceMetadataOptionsResponse{State: optional(state), HttpTokens: pick(m.TokensRequired, &shared.required, &shared.optional),
		HttpPutResponseHopLimit: new(int64(m.HopLimit)), HttpEndpoint: pick(m.Disabled, &shared.disabled, &shared.enabled), HttpProtocolIpv6: pick(m.IPv6, &shared.enabled, &shared.disabled),
		InstanceMetadataTags: pick(m.InstanceTags, &shared.enabled, &shared.disabled)}
}

// ipOwner is who EC2 says lends an address: Amazon for automatic ones, the account for Elastic IPs.
func ipOwner(n *cloud.Interface, p cloud.PublicAddress) string {
	if p.Allocation != "" {
		return string(n.Account)
	}
	return shared.amazon
}

func (d *describer) networkInterface(n *cloud.Interface) ec2.InstanceNetworkInterface {
	out := ec2.InstanceNetworkInterface{
		NetworkInterfaceId: ref((*string)(&n.ID)), SubnetId: ref((*string)(&n.Subnet)), VpcId: ref((*string)(&n.VPC)), Description: &n.Description, OwnerId: ref((*string)(&n.Account)),
		Status: &shared.inUse, MacAddress: &n.MAC, PrivateIpAddress: new(n.PrivateIP.String()), PrivateDnsName: new(cloud.PrivateDNSName(n.PrivateIP, d.region)),
		SourceDestCheck: &n.SourceDestCheck, InterfaceType: &shared.interfaceText, Groups: d.groupList(n.Groups), Ipv6Addresses: shared.noIPv6,
		Attachment: &ec2.InstanceNetworkInterfaceAttachment{AttachmentId: ref((*string)(&n.Attachment)), DeviceIndex: new(int64(n.DeviceIndex)), Status: ref((*string)(&n.AttachState)),
			AttachTime: &n.AttachTime, DeleteOnTermination: &n.DeleteOnTermination, NetworkCardIndex: &shared.zero},
		PrivateIpAddresses: make([]ec2.InstancePrivateIpAddress, 1, 1+len(n.Secondary)),
	}
	out.PrivateIpAddresses[0] = ec2.InstancePrivateIpAddress{PrivateIpAddress: out.PrivateIpAddress, PrivateDnsName: out.PrivateDnsName, Primary: &shared.yes,
		Association: d.instanceAssociation(n, n.PrivateIP)}
	out.Association = out.PrivateIpAddresses[0].Association
	for _, addr := range n.Secondary {
		out.PrivateIpAddresses = append(out.PrivateIpAddresses, ec2.InstancePrivateIpAddress{PrivateIpAddress: new(addr.String()),
			PrivateDnsName: new(cloud.PrivateDNSName(addr, d.region)), Primary: &shared.no, Association: d.instanceAssociation(n, addr)})
	}
	for _, addr := range n.IPv6 {
		out.Ipv6Addresses = append(out.Ipv6Addresses[:len(out.Ipv6Addresses):len(out.Ipv6Addresses)], ec2.InstanceIpv6Address{Ipv6Address: new(addr.String()), IsPrimaryIpv6: &shared.no})
	}
	return out
}

func (d *describer) instanceAssociation(n *cloud.Interface, private netip.Addr) *ec2.InstanceNetworkInterfaceAssociation {
	p := n.Public(private)
	if !p.Public.IsValid() {
		return nil
	}
	return &ec2.InstanceNetworkInterfaceAssociation{PublicIp: new(p.Public.String()), PublicDnsName: new(d.publicName(n.VPC, p.Public)), IpOwnerId: new(ipOwner(n, p))}
}
