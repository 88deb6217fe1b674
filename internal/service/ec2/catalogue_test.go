package ec2_test

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

func TestThereIsOneRegionWithItsZones(t *testing.T) {
	w := newWorld(t)
	regions, err := w.DescribeRegions(t.Context(), &sdk.DescribeRegionsInput{RegionNames: []string{"us-east-1"}})
	if err != nil || len(regions.Regions) != 1 || *regions.Regions[0].OptInStatus != "opt-in-not-required" {
		t.Errorf("%+v, %v", regions, err)
	}
	_, err = w.DescribeRegions(t.Context(), &sdk.DescribeRegionsInput{RegionNames: []string{"eu-west-1"}})
	refused(t, err, "InvalidParameterValue", "eu-west-1")
	zones, err := w.DescribeAvailabilityZones(t.Context(), &sdk.DescribeAvailabilityZonesInput{Filters: filterList("zone-type", "availability-zone", "state", "available")})
	if err != nil || len(zones.AvailabilityZones) != 1 || *zones.AvailabilityZones[0].ZoneName != "us-east-1a" || *zones.AvailabilityZones[0].ZoneId != "use1-az1" {
		t.Errorf("%+v, %v", zones, err)
	}
	_, err = w.DescribeAvailabilityZones(t.Context(), &sdk.DescribeAvailabilityZonesInput{ZoneNames: []string{"us-east-1z"}})
	refused(t, err, "InvalidParameterValue", "us-east-1z")
}

func TestTheAccountsAttributesTellItsDefaultVPC(t *testing.T) {
	w := newWorld(t)
	of := func(c *sdk.Client) map[string]string {
		t.Helper()
		out, err := c.DescribeAccountAttributes(t.Context(), &sdk.DescribeAccountAttributesInput{})
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		for _, a := range out.AccountAttributes {
			m[*a.AttributeName] = *a.AttributeValues[0].AttributeValue
		}
		return m
	}
	if m := of(w.Client); m["default-vpc"] != string(w.subnet().VPC) || m["supported-platforms"] != "VPC" {
		t.Errorf("they are %v", m)
	}
	if m := of(w.stranger); m["default-vpc"] != "none" {
		t.Errorf("a stranger's are %v", m)
	}
	out, err := w.DescribeAccountAttributes(t.Context(), &sdk.DescribeAccountAttributesInput{AttributeNames: []types.AccountAttributeName{"default-vpc"}})
	if err != nil || len(out.AccountAttributes) != 1 {
		t.Errorf("one by its name: %+v, %v", out, err)
	}
}

func TestTheCatalogueOfTypes(t *testing.T) {
	w := newWorld(t)
	out, err := w.DescribeInstanceTypes(t.Context(), &sdk.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"t3.micro", "c5.18xlarge"}})
	if err != nil || len(out.InstanceTypes) != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	big, small := out.InstanceTypes[0], out.InstanceTypes[1]
	if big.InstanceType != "c5.18xlarge" || *big.VCpuInfo.DefaultVCpus != 72 || *big.MemoryInfo.SizeInMiB != 147456 || *big.BurstablePerformanceSupported {
		t.Errorf("c5.18xlarge is %+v", big)
	}
	if *small.VCpuInfo.DefaultVCpus != 2 || *small.MemoryInfo.SizeInMiB != 1024 || !*small.BurstablePerformanceSupported || !*small.FreeTierEligible ||
		small.ProcessorInfo.SupportedArchitectures[0] != "x86_64" {
		t.Errorf("t3.micro is %+v", small)
	}
	_, err = w.DescribeInstanceTypes(t.Context(), &sdk.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"p5.48xlarge"}})
	refused(t, err, "InvalidInstanceType", "p5.48xlarge")

	var found []string
	pages := sdk.NewDescribeInstanceTypesPaginator(w.Client, &sdk.DescribeInstanceTypesInput{MaxResults: aws.Int32(5),
		Filters: filterList("processor-info.supported-architecture", "arm64", "memory-info.size-in-mib", "2048,4096")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range page.InstanceTypes {
			found = append(found, string(i.InstanceType))
		}
	}
	if !slices.Equal(found, []string{"t4g.medium", "t4g.small"}) {
		t.Errorf("found %v", found)
	}
}

func TestEveryTypeIsOfferedInEveryZone(t *testing.T) {
	w := newWorld(t)
	for kind, place := range map[types.LocationType]string{"region": "us-east-1", "availability-zone": "us-east-1a", "availability-zone-id": "use1-az1"} {
		out, err := w.DescribeInstanceTypeOfferings(t.Context(), &sdk.DescribeInstanceTypeOfferingsInput{LocationType: kind})
		if err != nil || len(out.InstanceTypeOfferings) != len(cloud.InstanceTypes()) || *out.InstanceTypeOfferings[0].Location != place {
			t.Errorf("%s: %+v, %v", kind, out, err)
		}
	}
	out, err := w.DescribeInstanceTypeOfferings(t.Context(), &sdk.DescribeInstanceTypeOfferingsInput{Filters: filterList("instance-type", "t3.m*")})
	if err != nil || len(out.InstanceTypeOfferings) != 2 {
		t.Errorf("%+v, %v", out, err)
	}
}
