package ec2

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// templateHonours are the members of a template's data that are kept. A launch honours fewer of them today, and refuses
// the others by name; what no launch will ever honour isn't kept.
func templateHonours(prefix string) []string {
	list := []string{"BlockDeviceMappings", "CapacityReservationSpecification", "CpuOptions.CoreCount", "CpuOptions.ThreadsPerCore", "CreditSpecification", "DisableApiStop",
		"DisableApiTermination", "EbsOptimized", "EnclaveOptions", "HibernationOptions", "IamInstanceProfile", "ImageId", "InstanceInitiatedShutdownBehavior", "InstanceMarketOptions", "InstanceRequirements",
		"InstanceType", "KernelId", "KeyName", "MaintenanceOptions", "MetadataOptions", "Monitoring", "NetworkInterfaces", "Placement.AvailabilityZone", "Placement.GroupId",
		"Placement.GroupName", "Placement.PartitionNumber", "Placement.Tenancy", "PrivateDnsNameOptions", "RamDiskId", "SecurityGroupIds", "SecurityGroups", "TagSpecifications", "UserData"}
	for n := range list {
		list[n] = prefix + list[n]
	}
	return list
}

// document is launch parameters as a template keeps them: what was given, by the names of EC2's members.
type document = map[string]any

// documentOf takes a generated structure's members that are set.
func documentOf(shape any) (document, error) {
	b, err := json.Marshal(shape)
	if err != nil {
		return nil, fmt.Errorf("keep launch parameters: %w", err)
	}
	return parseDocument(string(b))
}

func parseDocument(text string) (document, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber() // a count must not become a float on its way
	var doc document
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read launch parameters: %w", err)
	}
	compact(doc)
	return doc, nil
}

// compact takes out the members that aren't set.
func compact(v any) {
	switch v := v.(type) {
	case document:
		maps.DeleteFunc(v, func(_ string, member any) bool { return member == nil })
		for _, member := range v {
			compact(member)
		}
	case []any:
		for _, item := range v {
			compact(item)
		}
	}
}

// decodeDocument reads launch parameters into a generated structure with members of the same names.
func decodeDocument[T any](text string) (*T, error) {
	out := new(T)
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return nil, fmt.Errorf("read launch parameters: %w", err)
	}
	return out, nil
}

// overlaid is base with what over says in its place: member by member in structures, lists as wholes.
func overlaid(base, over document) document {
	out := maps.Clone(base)
	for name, v := range over {
		below, ok1 := out[name].(document)
		above, ok2 := v.(document)
		if ok1 && ok2 {
			v = overlaid(below, above)
		}
		out[name] = v
	}
	return out
}

// templateDocument checks what is wrong with launch parameters whatever they are used for, as EC2 does when it keeps them.
func templateDocument(data *ec2.RequestLaunchTemplateData) (document, error) {
	if _, err := userDataOf(deref(data.UserData)); err != nil {
		return nil, err
	}
	if strings.HasPrefix(deref(data.ImageId), "resolve:") {
		return nil, awsapi.Unsupported("The image %s names a parameter of Systems Manager, which this cloud doesn't have.", *data.ImageId)
	}
	if data.InstanceRequirements != nil {
		if deref(data.InstanceType) != "" {
			return nil, awsapi.InvalidCombination("The parameters InstanceRequirements and InstanceType cannot be used together")
		}
		if err := checkRequirements(data.InstanceRequirements); err != nil {
			return nil, err
		}
	}
	kinds := map[string]bool{}
	for _, spec := range data.TagSpecifications {
		kind := deref(spec.ResourceType)
		if kind != "instance" && kind != "volume" && kind != "network-interface" && kind != "spot-instances-request" {
			return nil, awsapi.InvalidParameterValue("'%s' is not a valid taggable resource type for this operation.", kind)
		}
		if kinds[kind] {
			return nil, awsapi.InvalidParameterValue("The same resource type may not be specified more than once in tag specifications")
		}
		kinds[kind] = true
		if _, err := tagsOf(spec.Tags); err != nil {
			return nil, err
		}
	}
	return documentOf(data)
}

// settleTemplate makes the text that is kept of launch parameters, and the warning of what launches will refuse.
func settleTemplate(doc document) (string, *ec2.ValidationWarning, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return "", nil, fmt.Errorf("keep launch parameters: %w", err)
	}
	if doc["InstanceRequirements"] != nil && doc["InstanceType"] != nil {
		return "", nil, awsapi.InvalidCombination("The parameters InstanceRequirements and InstanceType cannot be used together")
	}
	order, err := orderOf(doc)
	if err != nil {
		return "", nil, err
	}
	var problems []ec2.ValidationError
	for _, name := range awsapi.Unhonoured(order, launchHonours) {
		problems = append(problems, ec2.ValidationError{Code: new("UnsupportedOperation"),
			Message: new("The parameter " + name + " is kept, but not supported by this cloud: launches with it are refused.")})
	}
	for _, spec := range order.TagSpecifications {
		if kind := deref(spec.ResourceType); !slices.Contains(launchTagged, kind) {
			problems = append(problems, ec2.ValidationError{Code: new("InvalidParameterValue"), Message: new("Tags of the kind " + kind + " are kept, but launches of this cloud make nothing of that kind and are refused.")})
		}
	}
	if t := deref(order.InstanceType); t != "" {
		if _, ok := cloud.LookupInstanceType(cloud.InstanceType(t)); !ok {
			problems = append(problems, ec2.ValidationError{Code: new("Unsupported"), Message: new("The instance type " + t + " is not served by this cloud.")})
		}
	}
	if len(problems) == 0 {
		return string(b), nil, nil
	}
	return string(b), &ec2.ValidationWarning{Errors: problems}, nil
}

// orderOf reads a template's parameters as those of a launch. Requirements of an instance type are left out: who launches
// has to choose by them first.
func orderOf(doc document) (*ec2.RunInstancesRequest, error) {
	doc = maps.Clone(doc)
	delete(doc, "InstanceRequirements")
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("read launch parameters: %w", err)
	}
	return decodeDocument[ec2.RunInstancesRequest](string(b))
}

// fromTemplate fills a launch's parameters up with those of its template, if it names one. What the call says wins;
// tags of both are put together. The instances' tags that tell of the template are returned too.
func fromTemplate(r store.Reader, account cloud.AccountID, req *ec2.RunInstancesRequest) (*ec2.RunInstancesRequest, cloud.Tags, error) {
	if req.LaunchTemplate == nil {
		return req, nil, nil
	}
	v, err := templateVersion(r, account, *req.LaunchTemplate)
	if err != nil {
		return nil, nil, err
	}
	base, err := parseDocument(v.Data)
	if err != nil {
		return nil, nil, err
	}
	if base["InstanceRequirements"] != nil && deref(req.InstanceType) == "" {
		return nil, nil, awsapi.InvalidCombination("The launch template %s has instance requirements, by which only fleets choose an instance type; give an InstanceType", v.Template)
	}
	merged, err := mergedOrder(base, req)
	if err != nil {
		return nil, nil, err
	}
	if refused := awsapi.Unhonoured(merged, launchHonours); len(refused) > 0 {
		return nil, nil, awsapi.Unsupported("The parameter %s, which version %d of the launch template %s gives, is not supported by this cloud.", refused[0], v.Number, v.Template)
	}
	return merged, cloud.Tags{cloud.TagLaunchTemplateID: string(v.Template), cloud.TagLaunchTemplateVersion: fmt.Sprint(v.Number)}, nil
}

func templateVersion(r store.Reader, account cloud.AccountID, spec ec2.LaunchTemplateSpecification) (*cloud.LaunchTemplateVersion, error) {
	t, err := findTemplate(r, account, spec.LaunchTemplateId, spec.LaunchTemplateName)
	if err != nil {
		return nil, err
	}
	return findVersion(r, t, deref(spec.Version))
}

// mergedOrder is a template's parameters with those of a call over them.
func mergedOrder(base document, req *ec2.RunInstancesRequest) (*ec2.RunInstancesRequest, error) {
	over, err := documentOf(req)
	if err != nil {
		return nil, err
	}
	base = maps.Clone(base)
	if id, ok := base["RamDiskId"]; ok { // which launches spell in another way
		delete(base, "RamDiskId")
		base["RamdiskId"] = id
	}
	order, err := orderOf(overlaid(base, over))
	if err != nil {
		return nil, err
	}
	below, err := orderOf(document{"TagSpecifications": base["TagSpecifications"]})
	if err != nil {
		return nil, err
	}
	order.TagSpecifications = joinedTags(below.TagSpecifications, req.TagSpecifications)
	return order, nil
}

// joinedTags puts two tag specifications together; what over says of a key wins.
func joinedTags(base, over []ec2.TagSpecification) []ec2.TagSpecification {
	list := slices.Clone(base)
	for _, spec := range over {
		at := slices.IndexFunc(list, func(b ec2.TagSpecification) bool { return deref(b.ResourceType) == deref(spec.ResourceType) })
		if at < 0 {
			list = append(list, spec)
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(list[at].Tags), func(b ec2.Tag) bool {
			return slices.ContainsFunc(spec.Tags, func(t ec2.Tag) bool { return deref(t.Key) == deref(b.Key) })
		})
		list[at].Tags = append(kept, spec.Tags...)
	}
	return list
}

// getLaunchTemplateData tells how to launch one more of an instance.
func (s *Service) getLaunchTemplateData(_ context.Context, call *awsapi.Call, req *ec2.GetLaunchTemplateDataRequest) (*ec2.GetLaunchTemplateDataResult, error) {
	view := s.store.View()
	i, err := lookup(view, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
	if err != nil {
		return nil, err
	}
	if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
		return nil, wrongState(i, "used for launch template data")
	}
	m := metadataShape(i.Metadata, "")
	out := &ec2.ResponseLaunchTemplateData{
		ImageId: text(i.Image), InstanceType: text(i.Type), KeyName: optional(i.KeyName), EbsOptimized: &i.EBSOptimized, DisableApiTermination: &i.DisableAPITermination,
		DisableApiStop: &i.DisableAPIStop, InstanceInitiatedShutdownBehavior: text(i.ShutdownBehavior), Monitoring: &ec2.LaunchTemplatesMonitoring{Enabled: &i.Monitoring},
		Placement: &ec2.LaunchTemplatePlacement{AvailabilityZone: &i.Zone, GroupName: &i.GroupName, Tenancy: new("default")},
		MetadataOptions: &ec2.LaunchTemplateInstanceMetadataOptions{HttpTokens: m.HttpTokens, HttpEndpoint: m.HttpEndpoint, HttpPutResponseHopLimit: m.HttpPutResponseHopLimit,
			HttpProtocolIpv6: m.HttpProtocolIpv6, InstanceMetadataTags: m.InstanceMetadataTags},
		NetworkInterfaces: []ec2.LaunchTemplateInstanceNetworkInterfaceSpecification{},
	}
	if c := creditsOf(i); c != "" {
		out.CreditSpecification = &ec2.CreditSpecification{CpuCredits: &c}
	}
	out.KernelId, out.RamDiskId = text(i.Hardware.Kernel), text(i.Hardware.Ramdisk)
	if i.HibernationConfigured {
		out.HibernationOptions = &ec2.LaunchTemplateHibernationOptions{Configured: new(true)}
	}
	if i.NoAutoRecovery {
		out.MaintenanceOptions = &ec2.LaunchTemplateInstanceMaintenanceOptions{AutoRecovery: new(ec2.LaunchTemplateAutoRecoveryStateDisabled)}
	}
	if len(i.UserData) > 0 {
		out.UserData = new(base64.StdEncoding.EncodeToString(i.UserData))
	}
	if tags := userTags(i.Tags); len(tags) > 0 {
		out.TagSpecifications = []ec2.LaunchTemplateTagSpecification{{ResourceType: new("instance"), Tags: tagList(tags)}}
	}
	for _, v := range volumesByDevice(view, i) {
		out.BlockDeviceMappings = append(out.BlockDeviceMappings, ec2.LaunchTemplateBlockDeviceMapping{DeviceName: text(v.Device), Ebs: &ec2.LaunchTemplateEbsBlockDevice{
			DeleteOnTermination: new(v.DeleteOnTermination), Encrypted: &v.Encrypted, KmsKeyId: keyOf(view, v.Account, v.Encrypted), Iops: optional(int64(v.IOPS)), SnapshotId: text(v.Snapshot), Throughput: optional(int64(v.Throughput)),
			VolumeSize: new(int64(v.SizeGiB)), VolumeType: text(v.Type)}})
	}
	for _, id := range i.Interfaces {
		n, ok := store.Get(view, store.Interfaces, id)
		if !ok {
			continue
		}
		nic := ec2.LaunchTemplateInstanceNetworkInterfaceSpecification{DeviceIndex: new(int64(n.DeviceIndex)), SubnetId: text(n.Subnet), Groups: strs(n.Groups),
			Description: optional(n.Description), DeleteOnTermination: &n.DeleteOnTermination, InterfaceType: text(n.InterfaceType), NetworkCardIndex: new(int64(0))}
		if n.DeviceIndex == 0 && len(i.Interfaces) == 1 {
			nic.AssociatePublicIpAddress = &n.AutoPublicIP
		}
		out.NetworkInterfaces = append(out.NetworkInterfaces, nic)
	}
	return &ec2.GetLaunchTemplateDataResult{LaunchTemplateData: out}, nil
}
