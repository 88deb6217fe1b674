package ec2

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// requirementHonours are the requirements of an instance type that are decided on. Those about accelerators and local
// storage are: no size of this cloud has any.
func requirementHonours(prefix string) []string {
	list := []string{"AcceleratorCount", "AcceleratorManufacturers", "AcceleratorNames", "AcceleratorTotalMemoryMiB", "AcceleratorTypes", "AllowedInstanceTypes", "BareMetal",
		"BurstablePerformance", "ExcludedInstanceTypes", "InstanceGenerations", "LocalStorage", "LocalStorageTypes", "MemoryGiBPerVCpu", "MemoryMiB",
		"NetworkInterfaceCount", "OnDemandMaxPricePercentageOverLowestPrice", "RequireHibernateSupport", "TotalLocalStorageGB", "VCpuCount"}
	for n := range list {
		list[n] = prefix + list[n]
	}
	return list
}

// checkRequirements finds what is wrong with requirements whatever the sizes are.
func checkRequirements(r *ec2.InstanceRequirementsRequest) error {
	switch {
	case r.MemoryMiB == nil || r.MemoryMiB.Min == nil:
		return awsapi.MissingParameter("InstanceRequirements.MemoryMiB.Min")
	case r.VCpuCount == nil || r.VCpuCount.Min == nil:
		return awsapi.MissingParameter("InstanceRequirements.VCpuCount.Min")
	case len(r.AllowedInstanceTypes) > 0 && len(r.ExcludedInstanceTypes) > 0:
		return awsapi.InvalidCombination("The parameters AllowedInstanceTypes and ExcludedInstanceTypes cannot be used together")
	case r.MemoryMiB.Max != nil && *r.MemoryMiB.Max < *r.MemoryMiB.Min:
		return awsapi.InvalidParameterValue("The MemoryMiB requirement has a maximum (%d) below its minimum (%d).", *r.MemoryMiB.Max, *r.MemoryMiB.Min)
	case r.VCpuCount.Max != nil && *r.VCpuCount.Max < *r.VCpuCount.Min:
		return awsapi.InvalidParameterValue("The VCpuCount requirement has a maximum (%d) below its minimum (%d).", *r.VCpuCount.Max, *r.VCpuCount.Min)
	}
	return nil
}

// within tells whether a value keeps to bounds that may be absent.
func within[N int64 | float64](v N, low, high *N) bool {
	return (low == nil || v >= *low) && (high == nil || v <= *high)
}

// asked tells whether sizes that have a property pass a requirement of included, excluded or required.
func asked(has bool, requirement *string, otherwise string) bool {
	r := deref(requirement)
	if r == "" {
		r = otherwise
	}
	return r == "included" || has == (r == "required")
}

func matchesAny(patterns []string, name cloud.InstanceType) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return awsapi.MatchWildcard(p, string(name)) })
}

// meets tells whether a size meets requirements, price protection aside.
func meets(t typeInfo, r *ec2.InstanceRequirementsRequest) bool {
	const none = 0 // accelerators, and GB of local storage, of every size
	perCPU := float64(t.MemoryMiB) / 1024 / float64(t.VCPUs)
	switch {
	case !within(int64(t.VCPUs), r.VCpuCount.Min, r.VCpuCount.Max), !within(t.MemoryMiB, r.MemoryMiB.Min, r.MemoryMiB.Max):
	case r.MemoryGiBPerVCpu != nil && !within(perCPU, r.MemoryGiBPerVCpu.Min, r.MemoryGiBPerVCpu.Max):
	case r.NetworkInterfaceCount != nil && !within(int64(t.MaxInterfaces), r.NetworkInterfaceCount.Min, r.NetworkInterfaceCount.Max):
	case r.AcceleratorCount != nil && !within(int64(none), r.AcceleratorCount.Min, nil):
	case r.AcceleratorTotalMemoryMiB != nil && !within(int64(none), r.AcceleratorTotalMemoryMiB.Min, nil):
	case len(r.AcceleratorManufacturers)+len(r.AcceleratorNames)+len(r.AcceleratorTypes) > 0:
	case r.TotalLocalStorageGB != nil && !within(float64(none), r.TotalLocalStorageGB.Min, nil):
	case !asked(false, r.LocalStorage, "included"), !asked(false, r.BareMetal, "excluded"), !asked(t.Burstable(), r.BurstablePerformance, "excluded"):
	case len(r.AllowedInstanceTypes) > 0 && !matchesAny(r.AllowedInstanceTypes, t.Name), matchesAny(r.ExcludedInstanceTypes, t.Name):
	case len(r.InstanceGenerations) > 0 && !slices.Contains(r.InstanceGenerations, generation(t)):
	default:
		return true
	}
	return false
}

func generation(t typeInfo) string {
	if t.CurrentGen {
		return "current"
	}
	return "previous"
}

// defaultPriceProtection is how far above the cheapest matching size EC2 goes unless it is told otherwise, in percent.
const defaultPriceProtection = 20

// typesMeeting lists the sizes that meet requirements, cheapest first.
func typesMeeting(r *ec2.InstanceRequirementsRequest, architectures []string) []typeInfo {
	list := slices.DeleteFunc(byName(), func(t typeInfo) bool { return !slices.Contains(architectures, t.Architecture) || !meets(t, r) })
	slices.SortStableFunc(list, func(a, b typeInfo) int { return cmp.Compare(a.ListPrice(), b.ListPrice()) })
	if len(list) == 0 {
		return list
	}
	lowest := list[0].ListPrice()
	for _, t := range list {
		if f := t.Name.Family(); f[0] == 'c' || f[0] == 'm' || f[0] == 'r' {
			lowest = t.ListPrice()
			break
		}
	}
	percent := int64(defaultPriceProtection)
	if p := r.OnDemandMaxPricePercentageOverLowestPrice; p != nil {
		percent = min(*p, math.MaxInt32)
	}
	return slices.DeleteFunc(list, func(t typeInfo) bool { return t.ListPrice() > lowest+lowest*percent/100 })
}

func (s *Service) getInstanceTypesFromInstanceRequirements(_ context.Context, _ *awsapi.Call, req *ec2.GetInstanceTypesFromInstanceRequirementsRequest) (*ec2.GetInstanceTypesFromInstanceRequirementsResult, error) {
	if err := pageBounds(req.MaxResults, 1, 1000, nil, ""); err != nil {
		return nil, err
	}
	if err := checkRequirements(req.InstanceRequirements); err != nil {
		return nil, err
	}
	var list []typeInfo
	if slices.Contains(req.VirtualizationTypes, "hvm") {
		list = typesMeeting(req.InstanceRequirements, req.ArchitectureTypes)
	}
	slices.SortFunc(list, func(a, b typeInfo) int { return cmp.Compare(a.Name, b.Name) })
	page, err := awsapi.Paginate(list, func(t typeInfo) string { return string(t.Name) }, req.MaxResults, req.NextToken,
		[]any{req.InstanceRequirements, req.ArchitectureTypes, req.VirtualizationTypes})
	if err != nil {
		return nil, err
	}
	out := &ec2.GetInstanceTypesFromInstanceRequirementsResult{NextToken: page.Next, InstanceTypes: []ec2.InstanceTypeInfoFromInstanceRequirements{}}
	for _, t := range page.Items {
		out.InstanceTypes = append(out.InstanceTypes, ec2.InstanceTypeInfoFromInstanceRequirements{InstanceType: text(t.Name)})
	}
	return out, nil
}
