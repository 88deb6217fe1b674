package ec2

import (
	"context"
	"slices"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// launchHonours are the parameters that a launch acts on, from the call or from its launch template.
var launchHonours = []string{"LaunchTemplate", "ImageId", "KernelId", "RamdiskId", "InstanceType", "MinCount", "MaxCount", "KeyName", "UserData",
	"SecurityGroupIds", "SecurityGroups", "SubnetId", "PrivateIpAddress", "ClientToken", "DisableApiTermination", "DisableApiStop",
	"InstanceInitiatedShutdownBehavior", "EbsOptimized", "Monitoring", "TagSpecifications", "Placement.AvailabilityZone", "Placement.Tenancy", "Placement.GroupName", "Placement.GroupId", "Placement.PartitionNumber", "CreditSpecification", "MaintenanceOptions",
	"HibernationOptions", "EnclaveOptions", "CapacityReservationSpecification.CapacityReservationPreference",
	"MetadataOptions", "NetworkInterfaces.DeviceIndex", "NetworkInterfaces.SubnetId", "NetworkInterfaces.Groups", "NetworkInterfaces.Description",
	"NetworkInterfaces.PrivateIpAddress", "NetworkInterfaces.AssociatePublicIpAddress", "NetworkInterfaces.DeleteOnTermination",
	"NetworkInterfaces.NetworkInterfaceId", "NetworkInterfaces.PrivateIpAddresses", "NetworkInterfaces.SecondaryPrivateIpAddressCount",
	"NetworkInterfaces.Ipv6AddressCount", "NetworkInterfaces.Ipv6Addresses.Ipv6Address", "NetworkInterfaces.InterfaceType", "NetworkInterfaces.NetworkCardIndex",
	"Ipv6AddressCount", "Ipv6Addresses.Ipv6Address",
	"BlockDeviceMappings.DeviceName", "BlockDeviceMappings.NoDevice", "BlockDeviceMappings.Ebs.DeleteOnTermination", "BlockDeviceMappings.Ebs.Encrypted",
	"BlockDeviceMappings.Ebs.Iops", "BlockDeviceMappings.Ebs.KmsKeyId", "BlockDeviceMappings.Ebs.SnapshotId", "BlockDeviceMappings.Ebs.Throughput", "BlockDeviceMappings.Ebs.VolumeSize",
	"BlockDeviceMappings.Ebs.VolumeType"}

func (s *Service) registerInstances(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionRunInstances, s.runInstances, awsapi.Honours(launchHonours...))
	awsapi.Handle(r, ec2.ActionDescribeInstances, s.describeInstances, awsapi.Honours("Filters", "InstanceIds", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionDescribeInstanceStatus, s.describeInstanceStatus, awsapi.Honours("Filters", "InstanceIds", "MaxResults", "NextToken", "IncludeAllInstances"))
	awsapi.Handle(r, ec2.ActionStartInstances, s.startInstances, awsapi.Honours("InstanceIds"))
	awsapi.Handle(r, ec2.ActionStopInstances, s.stopInstances, awsapi.Honours("InstanceIds", "Force", "Hibernate"))
	awsapi.Handle(r, ec2.ActionRebootInstances, s.rebootInstances, awsapi.Honours("InstanceIds"))
	awsapi.Handle(r, ec2.ActionTerminateInstances, s.terminateInstances, awsapi.Honours("InstanceIds"))
	awsapi.Handle(r, ec2.ActionGetConsoleOutput, s.getConsoleOutput, awsapi.Honours("InstanceId", "Latest"))
}

// EC2's bounds of MaxResults for instances.
const (
	minInstanceResults = 5
	maxInstanceResults = 1000
)

// pageBounds checks MaxResults, which can't go with ids.
func pageBounds(maxResults *int64, low, high int64, ids []string, idName string) error {
	if maxResults == nil {
		return nil
	}
	if len(ids) > 0 {
		return awsapi.InvalidCombination("The parameter %s cannot be used with the parameter maxResults", idName)
	}
	if *maxResults < low || *maxResults > high {
		return awsapi.InvalidParameterValue("Value ( %d ) for parameter maxResults is invalid. Expecting a value from %d to %d.", *maxResults, low, high)
	}
	return nil
}

// selected finds the instances that a call is about: those with the ids, or all of the account's.
func selected(view *store.View, account cloud.AccountID, ids []string) ([]*cloud.Instance, error) {
	if len(ids) > 0 {
		return lookupAll(view, store.Instances, ownerOfInstance, kindInstance, account, ids)
	}
	return store.ListBy(view, store.InstancesByAccount, account), nil
}

func (s *Service) describeInstances(_ context.Context, call *awsapi.Call, req *ec2.DescribeInstancesRequest) (*ec2.DescribeInstancesResult, error) {
	if err := pageBounds(req.MaxResults, minInstanceResults, maxInstanceResults, req.InstanceIds, "instancesSet"); err != nil {
		return nil, err
	}
	view := s.store.View()
	list, err := selected(view, call.Account, req.InstanceIds)
	if err != nil {
		return nil, err
	}
	if len(req.Filters) > 0 {
		pass, err := instanceFilters(view).Compile(filters(req.Filters))
		if err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(slices.Clone(list), func(i *cloud.Instance) bool { return !pass(i) })
	}
	page, err := awsapi.Paginate(list, func(i *cloud.Instance) string { return string(i.ID) }, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstancesResult{NextToken: page.Next, Reservations: make([]ec2.Reservation, 0, len(page.Items))}
	var order []cloud.ReservationID
	grouped := map[cloud.ReservationID][]*cloud.Instance{}
	for _, i := range page.Items {
		if grouped[i.Reservation] == nil {
			order = append(order, i.Reservation)
		}
		grouped[i.Reservation] = append(grouped[i.Reservation], i)
	}
	d := newDescriber(view)
	for _, id := range order {
		group := grouped[id]
		slices.SortFunc(group, func(a, b *cloud.Instance) int { return a.LaunchIndex - b.LaunchIndex })
		out.Reservations = append(out.Reservations, d.reservation(group))
	}
	return out, nil
}

// instanceFilters are the documented filters of DescribeInstances. Those about what no instance of this cloud has yet
// find nothing.
func instanceFilters(view *store.View) awsapi.FilterSet[*cloud.Instance] {
	region := ""
	if r, ok := store.Region(view); ok {
		region = r.Name
	}
	type get = func(*cloud.Instance) []string
	one := func(f func(*cloud.Instance) string) get {
		return func(i *cloud.Instance) []string {
			if v := f(i); v != "" {
				return []string{v}
			}
			return nil
		}
	}
	fixed := func(v string) get { return func(*cloud.Instance) []string { return []string{v} } }
	none := func(*cloud.Instance) []string { return nil }
	volumes := func(f func(*cloud.Volume) string) get {
		return func(i *cloud.Instance) (values []string) {
			for _, v := range store.ListBy(view, store.VolumesByInstance, i.ID) {
				values = append(values, f(v))
			}
			return values
		}
	}
	nics := instanceInterfaceValues(view, region)
	groupIDs, groupNames, privateIP, privateName := nics["group-id"], nics["group-name"], nics["private-ip-address"], nics["private-dns-name"]
	publicIP, publicName := nics["association.public-ip"], nics["association.public-dns-name"]
	bootMode := one(func(i *cloud.Instance) string { return i.Hardware.Firmware.BootMode() })
	values := map[string]func(*cloud.Instance) []string{
		"affinity": none, "architecture": one(func(i *cloud.Instance) string { return i.Architecture }),
		"availability-zone":                          one(func(i *cloud.Instance) string { return i.Zone }),
		"block-device-mapping.attach-time":           volumes(func(v *cloud.Volume) string { return timeText(v.AttachTime) }),
		"block-device-mapping.delete-on-termination": volumes(func(v *cloud.Volume) string { return boolText(v.DeleteOnTermination) }),
		"block-device-mapping.device-name":           volumes(func(v *cloud.Volume) string { return v.Device }),
		"block-device-mapping.status":                volumes(func(v *cloud.Volume) string { return string(v.Attach) }),
		"block-device-mapping.volume-id":             volumes(func(v *cloud.Volume) string { return string(v.ID) }), "boot-mode": bootMode, "capacity-reservation-id": none,
		"capacity-reservation-specification.capacity-reservation-preference":                                     fixed("open"),
		"capacity-reservation-specification.capacity-reservation-target.capacity-reservation-id":                 none,
		"capacity-reservation-specification.capacity-reservation-target.capacity-reservation-resource-group-arn": none,
		"client-token":               one(func(i *cloud.Instance) string { return i.ClientToken }),
		"current-instance-boot-mode": bootMode, "dns-name": publicName, "ebs-optimized": one(func(i *cloud.Instance) string { return boolText(i.EBSOptimized) }),
		"ena-support": fixed("true"), "enclave-options.enabled": fixed("false"), "group-id": groupIDs, "group-name": groupNames,
		"hibernation-options.configured": one(func(i *cloud.Instance) string { return boolText(i.HibernationConfigured) }), "host-id": none, "hypervisor": fixed("xen"), "iam-instance-profile.arn": none,
		"iam-instance-profile.id": none, "iam-instance-profile.name": none, "image-id": one(func(i *cloud.Instance) string { return string(i.Image) }),
		"instance-id": one(func(i *cloud.Instance) string { return string(i.ID) }), "instance-lifecycle": none,
		"instance-state-code": one(func(i *cloud.Instance) string { return strconv.FormatInt(i.State.Code(), 10) }),
		"instance-state-name": one(func(i *cloud.Instance) string { return string(i.State) }),
		"instance-type":       one(func(i *cloud.Instance) string { return string(i.Type) }),
		"instance.group-id":   groupIDs, "instance.group-name": groupNames, "ip-address": publicIP, "ipv6-address": nics["ipv6-addresses.ipv6-address"], "kernel-id": one(func(i *cloud.Instance) string { return string(i.Hardware.Kernel) }),
		"key-name":     one(func(i *cloud.Instance) string { return i.KeyName }),
		"launch-index": one(func(i *cloud.Instance) string { return strconv.Itoa(i.LaunchIndex) }),
		"launch-time":  one(func(i *cloud.Instance) string { return timeText(i.LaunchTime) }), "maintenance-options.auto-recovery": func(i *cloud.Instance) []string {
			if i.NoAutoRecovery {
				return []string{"disabled"}
			}
			return []string{"default"}
		},
		"metadata-options.http-endpoint":               one(func(i *cloud.Instance) string { return *metadataShape(i.Metadata, "").HttpEndpoint }),
		"metadata-options.http-protocol-ipv4":          fixed("enabled"),
		"metadata-options.http-protocol-ipv6":          one(func(i *cloud.Instance) string { return *metadataShape(i.Metadata, "").HttpProtocolIpv6 }),
		"metadata-options.http-put-response-hop-limit": one(func(i *cloud.Instance) string { return strconv.Itoa(i.Metadata.HopLimit) }),
		"metadata-options.http-tokens":                 one(func(i *cloud.Instance) string { return *metadataShape(i.Metadata, "").HttpTokens }),
		"metadata-options.instance-metadata-tags":      one(func(i *cloud.Instance) string { return *metadataShape(i.Metadata, "").InstanceMetadataTags }),
		"metadata-options.state":                       fixed("applied"),
		"monitoring-state": one(func(i *cloud.Instance) string {
			return map[bool]string{true: "enabled", false: "disabled"}[i.Monitoring]
		}),
		"outpost-arn":          none,
		"owner-id":             one(func(i *cloud.Instance) string { return string(i.Account) }),
		"placement-group-name": one(func(i *cloud.Instance) string { return i.GroupName }), "placement-partition-number": one(partitionText), "platform": none, "platform-details": fixed("Linux/UNIX"),
		"private-dns-name": privateName, "private-dns-name-options.enable-resource-name-dns-a-record": fixed("false"),
		"private-dns-name-options.enable-resource-name-dns-aaaa-record": fixed("false"), "private-dns-name-options.hostname-type": fixed("ip-name"),
		"private-ip-address": privateIP, "product-code": none, "product-code.type": none, "ramdisk-id": one(func(i *cloud.Instance) string { return string(i.Hardware.Ramdisk) }),
		"reason": one(func(i *cloud.Instance) string { return i.TransitionReason }), "requester-id": none,
		"reservation-id":   one(func(i *cloud.Instance) string { return string(i.Reservation) }),
		"root-device-name": fixed(rootDeviceName), "root-device-type": fixed("ebs"),
		"source-dest-check":        one(func(i *cloud.Instance) string { return boolText(i.SourceDestCheck) }),
		"spot-instance-request-id": none, "state-reason-code": one(func(i *cloud.Instance) string { return i.StateReason.Code }),
		"state-reason-message": one(func(i *cloud.Instance) string { return i.StateReason.Message }),
		"subnet-id":            one(func(i *cloud.Instance) string { return string(i.Subnet) }), "tenancy": fixed("default"), "tpm-support": none,
		"usage-operation":             fixed("RunInstances"),
		"usage-operation-update-time": one(func(i *cloud.Instance) string { return timeText(i.Created) }), "virtualization-type": fixed("hvm"),
		"vpc-id": one(func(i *cloud.Instance) string { return string(i.VPC) }),
	}
	for name, get := range nics {
		values["network-interface."+name] = get
	}
	return awsapi.FilterSet[*cloud.Instance]{Values: values, Tags: func(i *cloud.Instance) map[string]string { return i.Tags }}
}

func (s *Service) describeInstanceStatus(_ context.Context, call *awsapi.Call, req *ec2.DescribeInstanceStatusRequest) (*ec2.DescribeInstanceStatusResult, error) {
	if err := pageBounds(req.MaxResults, minInstanceResults, maxInstanceResults, req.InstanceIds, "instancesSet"); err != nil {
		return nil, err
	}
	view := s.store.View()
	list, err := selected(view, call.Account, req.InstanceIds)
	if err != nil {
		return nil, err
	}
	type get = func(*cloud.Instance) []string
	none := func(*cloud.Instance) []string { return nil }
	health := func(i *cloud.Instance) []string { return []string{statusOf(i)} }
	reach := func(i *cloud.Instance) []string { return []string{reachability(i)} }
	pass, err := awsapi.FilterSet[*cloud.Instance]{Values: map[string]get{
		"availability-zone": func(i *cloud.Instance) []string { return []string{i.Zone} },
		"event.code":        none, "event.description": none, "event.instance-event-id": none, "event.not-after": none, "event.not-before": none,
		"event.not-before-deadline":    none,
		"instance-state-code":          func(i *cloud.Instance) []string { return []string{strconv.FormatInt(i.State.Code(), 10)} },
		"instance-state-name":          func(i *cloud.Instance) []string { return []string{string(i.State)} },
		"instance-status.reachability": reach, "instance-status.status": health, "system-status.reachability": reach, "system-status.status": health,
		"attached-ebs-status.status": none, "operator.managed": none, "operator.principal": none,
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	all := deref(req.IncludeAllInstances)
	list = slices.DeleteFunc(slices.Clone(list), func(i *cloud.Instance) bool {
		return !all && i.State != cloud.StateRunning || !pass(i)
	})
	page, err := awsapi.Paginate(list, func(i *cloud.Instance) string { return string(i.ID) }, req.MaxResults, req.NextToken, []any{req.Filters, all})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceStatusResult{NextToken: page.Next, InstanceStatuses: []ec2.InstanceStatus{}}
	for _, i := range page.Items {
		summary := func() *ec2.InstanceStatusSummary {
			sum := &ec2.InstanceStatusSummary{Status: new(statusOf(i))}
			if i.State == cloud.StateRunning {
				detail := ec2.InstanceStatusDetails{Name: new("reachability"), Status: new(reachability(i))}
				if !i.Stalled.IsZero() {
					detail.ImpairedSince = &i.Stalled
				}
				sum.Details = []ec2.InstanceStatusDetails{detail}
			}
			return sum
		}
		out.InstanceStatuses = append(out.InstanceStatuses, ec2.InstanceStatus{InstanceId: text(i.ID), AvailabilityZone: &i.Zone,
			InstanceState: stateShape(i.State), InstanceStatus: summary(), SystemStatus: summary()})
	}
	return out, nil
}

// statusOf is the outcome of EC2's two status checks. A running instance's node has confirmed that its first process
// runs and its network stands, which is what they check, and tells when it stands still.
func statusOf(i *cloud.Instance) string {
	switch {
	case i.State != cloud.StateRunning:
		return "not-applicable"
	case !i.Stalled.IsZero():
		return "impaired"
	}
	return "ok"
}

func reachability(i *cloud.Instance) string {
	switch {
	case i.State != cloud.StateRunning:
		return "not-applicable"
	case !i.Stalled.IsZero():
		return "failed"
	}
	return "passed"
}
