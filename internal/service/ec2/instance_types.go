package ec2

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerInstanceTypes(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeInstanceTypes, s.describeInstanceTypes, awsapi.Honours("Filters", "InstanceTypes", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionGetInstanceTypesFromInstanceRequirements, s.getInstanceTypesFromInstanceRequirements,
		awsapi.Honours(append(requirementHonours("InstanceRequirements."), "ArchitectureTypes", "VirtualizationTypes", "MaxResults", "NextToken")...))
	awsapi.Handle(r, ec2.ActionDescribeInstanceTypeOfferings, s.describeInstanceTypeOfferings, awsapi.Honours("Filters", "LocationType", "MaxResults", "NextToken"))
}

type typeInfo = cloud.InstanceTypeInfo

// byName sorts the catalogue as pages need it.
func byName() []typeInfo {
	list := cloud.InstanceTypes()
	slices.SortFunc(list, func(a, b typeInfo) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func cores(t typeInfo) int64 { return int64(max(1, t.VCPUs/threads(t))) }
func threads(t typeInfo) int { // of a core, as EC2 says it of the family
	if t.Architecture == "arm64" || t.VCPUs%2 != 0 { // an odd number is an instance's own wish
		return 1
	}
	return 2
}

// bootModes are the firmwares that virtual machines of a size can start with.
func bootModes(t typeInfo) []string {
	if t.Architecture == ec2.ArchitectureTypeArm64 {
		return []string{ec2.BootModeTypeUefi}
	}
	return []string{ec2.BootModeTypeLegacyBios, ec2.BootModeTypeUefi}
}

// strategies are the placement groups that take a size.
func strategies(t typeInfo) []string {
	list := []string{}
	for _, g := range []cloud.PlacementGroup{{Strategy: cloud.PlaceCluster}, {Strategy: cloud.PlacePartition}, {Strategy: cloud.PlaceSpread}} {
		if clusters(&g, t) == nil {
			list = append(list, string(g.Strategy))
		}
	}
	return list
}

// instanceTypeFilters are the documented filters of DescribeInstanceTypes. Those about hardware that no size of this
// cloud has find nothing.
var instanceTypeFilters = func() awsapi.FilterSet[typeInfo] {
	one := func(f func(typeInfo) string) func(typeInfo) []string {
		return func(t typeInfo) []string { return []string{f(t)} }
	}
	fixed := func(list ...string) func(typeInfo) []string { return func(typeInfo) []string { return list } }
	number := func(f func(typeInfo) int64) func(typeInfo) []string {
		return one(func(t typeInfo) string { return strconv.FormatInt(f(t), 10) })
	}
	none := fixed()
	return awsapi.FilterSet[typeInfo]{Values: map[string]func(typeInfo) []string{
		"auto-recovery-supported": fixed("true"), "bare-metal": fixed("false"),
		"burstable-performance-supported": one(func(t typeInfo) string { return boolText(t.Burstable()) }),
		"current-generation":              one(func(t typeInfo) string { return boolText(t.CurrentGen) }), "dedicated-hosts-supported": fixed("false"),
		"ebs-info.ebs-optimized-info.baseline-bandwidth-in-mbps": none, "ebs-info.ebs-optimized-info.baseline-iops": none,
		"ebs-info.ebs-optimized-info.baseline-throughput-in-mbps": none, "ebs-info.ebs-optimized-info.maximum-bandwidth-in-mbps": none,
		"ebs-info.ebs-optimized-info.maximum-iops": none, "ebs-info.ebs-optimized-info.maximum-throughput-in-mbps": none,
		"ebs-info.ebs-optimized-support": fixed("default"), "ebs-info.encryption-support": fixed("unsupported"), "ebs-info.nvme-support": fixed("unsupported"),
		"free-tier-eligible": one(func(t typeInfo) string { return boolText(t.FreeTier) }), "hibernation-supported": fixed("true"),
		"hypervisor": fixed("nitro"), "instance-storage-info.disk.count": none, "instance-storage-info.disk.size-in-gb": none,
		"instance-storage-info.disk.type": none, "instance-storage-info.encryption-support": none, "instance-storage-info.nvme-support": none,
		"instance-storage-info.total-size-in-gb": none, "instance-storage-supported": fixed("false"),
		"instance-type":           one(func(t typeInfo) string { return string(t.Name) }),
		"memory-info.size-in-mib": number(func(t typeInfo) int64 { return t.MemoryMiB }), "network-info.bandwidth-weightings": none,
		"network-info.efa-info.maximum-efa-interfaces": none, "network-info.efa-supported": fixed("false"), "network-info.ena-support": fixed("required"),
		"network-info.encryption-in-transit-supported": fixed("false"), "network-info.flexible-ena-queues-support": none,
		"network-info.ipv4-addresses-per-interface": number(func(t typeInfo) int64 { return int64(t.IPv4PerENI) }),
		"network-info.ipv6-addresses-per-interface": fixed("0"), "network-info.ipv6-supported": fixed("false"), "network-info.maximum-network-cards": fixed("1"),
		"network-info.maximum-network-interfaces": number(func(t typeInfo) int64 { return int64(t.MaxInterfaces) }),
		"network-info.network-performance":        one(func(t typeInfo) string { return t.Network }), "nitro-enclaves-support": fixed("unsupported"),
		"nitro-tpm-support": fixed("unsupported"), "nitro-tpm-info.supported-versions": none, "processor-info.manufacturer": none,
		"processor-info.supported-architecture":       one(func(t typeInfo) string { return t.Architecture }),
		"processor-info.sustained-clock-speed-in-ghz": one(func(t typeInfo) string { return strconv.FormatFloat(t.ClockGHz, 'f', -1, 64) }),
		"processor-info.supported-features":           none, "reboot-migration-support": none, "supported-boot-mode": bootModes,
		"supported-root-device-type": fixed("ebs"), "supported-usage-class": fixed("on-demand"), "supported-virtualization-type": fixed("hvm"),
		"vcpu-info.default-cores":            number(cores),
		"vcpu-info.default-threads-per-core": number(func(t typeInfo) int64 { return int64(threads(t)) }),
		"vcpu-info.default-vcpus":            number(func(t typeInfo) int64 { return int64(t.VCPUs) }),
		"vcpu-info.valid-cores":              number(cores),
		"vcpu-info.valid-threads-per-core":   number(func(t typeInfo) int64 { return int64(threads(t)) }),
	}}
}()

func (s *Service) describeInstanceTypes(_ context.Context, _ *awsapi.Call, req *ec2.DescribeInstanceTypesRequest) (*ec2.DescribeInstanceTypesResult, error) {
	if err := pageBounds(req.MaxResults, 5, 100, req.InstanceTypes, "instanceTypes"); err != nil {
		return nil, err
	}
	var unknown []string
	for _, name := range req.InstanceTypes {
		if _, ok := cloud.LookupInstanceType(cloud.InstanceType(name)); !ok {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return nil, awsapi.Errorf("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", strings.Join(unknown, ", "))
	}
	pass, err := instanceTypeFilters.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(byName(), func(t typeInfo) bool {
		return len(req.InstanceTypes) > 0 && !slices.Contains(req.InstanceTypes, string(t.Name)) || !pass(t)
	})
	page, err := awsapi.Paginate(list, func(t typeInfo) string { return string(t.Name) }, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceTypesResult{NextToken: page.Next, InstanceTypes: []ec2.InstanceTypeInfo{}}
	for _, t := range page.Items {
		out.InstanceTypes = append(out.InstanceTypes, ec2.InstanceTypeInfo{
			InstanceType: text(t.Name), CurrentGeneration: &t.CurrentGen, FreeTierEligible: &t.FreeTier, BareMetal: new(false), Hypervisor: new("nitro"),
			SupportedUsageClasses: []string{"on-demand"}, SupportedRootDeviceTypes: []string{"ebs"}, SupportedVirtualizationTypes: []string{"hvm"},
			ProcessorInfo: &ec2.ProcessorInfo{SupportedArchitectures: []string{t.Architecture}, SustainedClockSpeedInGhz: &t.ClockGHz},
			VCpuInfo: &ec2.VCpuInfo{DefaultVCpus: new(int64(t.VCPUs)), DefaultCores: new(cores(t)), DefaultThreadsPerCore: new(int64(threads(t))),
				ValidCores: []int64{cores(t)}, ValidThreadsPerCore: []int64{int64(threads(t))}},
			MemoryInfo: &ec2.MemoryInfo{SizeInMiB: &t.MemoryMiB}, InstanceStorageSupported: new(false),
			EbsInfo: &ec2.EbsInfo{EbsOptimizedSupport: new("default"), EncryptionSupport: new("supported"), NvmeSupport: new("unsupported")},
			NetworkInfo: &ec2.NetworkInfo{NetworkPerformance: &t.Network, MaximumNetworkInterfaces: new(int64(t.MaxInterfaces)), MaximumNetworkCards: new(int64(1)),
				DefaultNetworkCardIndex: new(int64(0)), Ipv4AddressesPerInterface: new(int64(t.IPv4PerENI)), Ipv6AddressesPerInterface: new(int64(0)),
				Ipv6Supported: new(false), EnaSupport: new("required"), EfaSupported: new(false), EncryptionInTransitSupported: new(false),
				NetworkCards: []ec2.NetworkCardInfo{{NetworkCardIndex: new(int64(0)), NetworkPerformance: &t.Network, MaximumNetworkInterfaces: new(int64(t.MaxInterfaces))}}},
			PlacementGroupInfo: &ec2.PlacementGroupInfo{SupportedStrategies: strategies(t)}, HibernationSupported: new(true),
			BurstablePerformanceSupported: new(t.Burstable()), DedicatedHostsSupported: new(false), AutoRecoverySupported: new(true),
			SupportedBootModes: bootModes(t), NitroEnclavesSupport: new("unsupported"), NitroTpmSupport: new("unsupported"),
		})
	}
	return out, nil
}

func (s *Service) describeInstanceTypeOfferings(_ context.Context, call *awsapi.Call, req *ec2.DescribeInstanceTypeOfferingsRequest) (*ec2.DescribeInstanceTypeOfferingsResult, error) {
	if err := pageBounds(req.MaxResults, 5, 1000, nil, ""); err != nil {
		return nil, err
	}
	kind := cmp.Or(deref(req.LocationType), "region")
	region, ok := store.Region(s.store.View())
	if !ok {
		return nil, awsapi.Errorf("InternalError", "The region is not set up.")
	}
	var places []string
	switch kind {
	case "region":
		places = []string{call.Region}
	case "availability-zone":
		for _, z := range region.Zones {
			places = append(places, z.Name)
		}
	case "availability-zone-id":
		for _, z := range region.Zones {
			places = append(places, z.ID)
		}
	default:
		return nil, awsapi.Unsupported("The location type '%s' is not supported by this cloud.", kind)
	}
	type offering struct{ name, place string }
	pass, err := awsapi.FilterSet[offering]{Values: map[string]func(offering) []string{
		"instance-type": func(o offering) []string { return []string{o.name} },
		"location":      func(o offering) []string { return []string{o.place} },
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	var list []offering
	for _, t := range byName() {
		for _, place := range places {
			if o := (offering{string(t.Name), place}); pass(o) {
				list = append(list, o)
			}
		}
	}
	page, err := awsapi.Paginate(list, func(o offering) string { return o.name + "/" + o.place }, req.MaxResults, req.NextToken, []any{req.Filters, kind})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceTypeOfferingsResult{NextToken: page.Next, InstanceTypeOfferings: []ec2.InstanceTypeOffering{}}
	for _, o := range page.Items {
		out.InstanceTypeOfferings = append(out.InstanceTypeOfferings, ec2.InstanceTypeOffering{InstanceType: &o.name, Location: &o.place, LocationType: &kind})
	}
	return out, nil
}
