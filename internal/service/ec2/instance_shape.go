package ec2

import (
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// What EC2 says of every instance of this kind. They are shared between answers and never written to.
var (
	rootDeviceName = "/dev/xvda"
	noBlockDevices = []ec2.InstanceBlockDeviceMapping{}
	noProductCodes = []ec2.ProductCode{}
)

// reservation is the answer about instances that were launched together.
func (s *Service) reservation(r store.Reader, list []*cloud.Instance) ec2.Reservation {
	out := ec2.Reservation{ReservationId: text(list[0].Reservation), OwnerId: text(list[0].Account), Groups: []ec2.GroupIdentifier{},
		Instances: make([]ec2.Instance, 0, len(list))}
	d := describer{r: r, groups: map[cloud.SecurityGroupID]ec2.GroupIdentifier{}}
	if region, ok := store.Region(r); ok {
		d.region = region.Name
	}
	for _, i := range list {
		out.Instances = append(out.Instances, d.instance(i))
	}
	return out
}

// describer makes answers from one view; it looks each group up once.
type describer struct {
	r      store.Reader
	region string
	groups map[cloud.SecurityGroupID]ec2.GroupIdentifier
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

func stateShape(s cloud.InstanceState) *ec2.InstanceState {
	return &ec2.InstanceState{Name: new(string(s)), Code: new(s.Code())}
}

func (d *describer) instance(i *cloud.Instance) ec2.Instance {
	out := ec2.Instance{
		InstanceId: text(i.ID), ImageId: text(i.Image), State: stateShape(i.State), StateTransitionReason: new(i.TransitionReason),
		KeyName: optional(i.KeyName), AmiLaunchIndex: new(int64(i.LaunchIndex)), ProductCodes: noProductCodes, InstanceType: text(i.Type),
		LaunchTime: &i.LaunchTime, Placement: &ec2.Placement{AvailabilityZone: &i.Zone, GroupName: new(""), Tenancy: new("default")},
		Monitoring:   &ec2.Monitoring{State: new(map[bool]string{true: "enabled", false: "disabled"}[i.Monitoring])},
		Architecture: &i.Architecture, RootDeviceType: new("ebs"), RootDeviceName: &rootDeviceName, BlockDeviceMappings: noBlockDevices,
		VirtualizationType: new("hvm"), Hypervisor: new("xen"), ClientToken: new(i.ClientToken), Tags: tagList(i.Tags), EbsOptimized: &i.EBSOptimized,
		EnaSupport: new(true), PlatformDetails: new("Linux/UNIX"), UsageOperation: new("RunInstances"), UsageOperationUpdateTime: &i.Created,
		PrivateDnsName: new(""), PublicDnsName: new(""), SecurityGroups: []ec2.GroupIdentifier{}, NetworkInterfaces: []ec2.InstanceNetworkInterface{},
		CapacityReservationSpecification: &ec2.CapacityReservationSpecificationResponse{CapacityReservationPreference: new("open")},
		HibernationOptions:               &ec2.HibernationOptions{Configured: new(false)},
		EnclaveOptions:                   &ec2.EnclaveOptions{Enabled: new(false)},
		MaintenanceOptions:               &ec2.InstanceMaintenanceOptions{AutoRecovery: new("default")},
		MetadataOptions:                  metadataShape(i.Metadata, "applied"),
	}
	if size, ok := cloud.LookupInstanceType(i.Type); ok {
		out.CpuOptions = &ec2.CpuOptions{CoreCount: new(cores(size)), ThreadsPerCore: new(int64(threads(size)))}
	}
	if i.StateReason.Code != "" {
		out.StateReason = &ec2.StateReason{Code: &i.StateReason.Code, Message: &i.StateReason.Message}
	}
	if i.State == cloud.StateTerminated {
		return out
	}
	out.SubnetId, out.VpcId, out.SourceDestCheck = text(i.Subnet), text(i.VPC), &i.SourceDestCheck
	out.PrivateDnsNameOptions = &ec2.PrivateDnsNameOptionsResponse{HostnameType: new("ip-name"), EnableResourceNameDnsARecord: new(false), EnableResourceNameDnsAAAARecord: new(false)}
	for _, id := range i.Interfaces {
		n, ok := store.Get(d.r, store.Interfaces, id)
		if !ok {
			continue
		}
		nic := d.networkInterface(n)
		if n.DeviceIndex == 0 {
			out.SecurityGroups, out.PrivateIpAddress, out.PrivateDnsName = nic.Groups, nic.PrivateIpAddress, nic.PrivateDnsName
			if n.PublicIP.IsValid() {
				out.PublicIpAddress, out.PublicDnsName = nic.Association.PublicIp, nic.Association.PublicDnsName
			}
		}
		out.NetworkInterfaces = append(out.NetworkInterfaces, nic)
	}
	return out
}

func metadataShape(m cloud.MetadataOptions, state string) *ec2.InstanceMetadataOptionsResponse {
	pick := func(b bool, yes, no string) *string {
		if b {
			return &yes
		}
		return &no
	}
	return &ec2.InstanceMetadataOptionsResponse{State: optional(state), HttpTokens: pick(m.TokensRequired, "required", "optional"),
		HttpPutResponseHopLimit: new(int64(m.HopLimit)), HttpEndpoint: pick(m.Disabled, "disabled", "enabled"), HttpProtocolIpv6: new("disabled"),
		InstanceMetadataTags: pick(m.InstanceTags, "enabled", "disabled")}
}

// ipOwner is who EC2 says lends an address: Amazon for automatic ones, the account for Elastic IPs.
func ipOwner(n *cloud.Interface) string {
	if n.Allocation != "" {
		return string(n.Account)
	}
	return "amazon"
}

func (d *describer) networkInterface(n *cloud.Interface) ec2.InstanceNetworkInterface {
	ip, name := new(n.PrivateIP.String()), new(cloud.PrivateDNSName(n.PrivateIP, d.region))
	out := ec2.InstanceNetworkInterface{
		NetworkInterfaceId: text(n.ID), SubnetId: text(n.Subnet), VpcId: text(n.VPC), Description: new(n.Description), OwnerId: text(n.Account),
		Status: new("in-use"), MacAddress: &n.MAC, PrivateIpAddress: ip, PrivateDnsName: name, SourceDestCheck: &n.SourceDestCheck,
		InterfaceType: new("interface"), Groups: d.groupList(n.Groups), Ipv6Addresses: []ec2.InstanceIpv6Address{},
		Attachment: &ec2.InstanceNetworkInterfaceAttachment{AttachmentId: text(n.Attachment), DeviceIndex: new(int64(n.DeviceIndex)), Status: new("attached"),
			AttachTime: &n.AttachTime, DeleteOnTermination: &n.DeleteOnTermination, NetworkCardIndex: new(int64(0))},
	}
	if n.PublicIP.IsValid() {
		out.Association = &ec2.InstanceNetworkInterfaceAssociation{PublicIp: new(n.PublicIP.String()),
			PublicDnsName: new(cloud.PublicDNSName(n.PublicIP, d.region)), IpOwnerId: new(ipOwner(n))}
	}
	out.PrivateIpAddresses = []ec2.InstancePrivateIpAddress{{PrivateIpAddress: ip, PrivateDnsName: name, Primary: new(true), Association: out.Association}}
	return out
}
