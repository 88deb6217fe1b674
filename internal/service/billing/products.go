package billing

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/pricing"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// product is an entry of the price list, as the Price List API describes it.
type product struct {
	service    string
	family     string
	attributes map[string]string
	price      cloud.Price
	unit       string
	words      string // of its price
}

// productsOf are all products at the prices of a list, by service and usage type.
func productsOf(l *cloud.PriceList, region string) []product {
	var list []product
	shared := func(service, family, words string, c cloud.Charge, share cloud.Share, attributes map[string]string) {
		attributes["servicecode"], attributes["servicename"] = service, services[c.Kind]
		attributes["regionCode"], attributes["location"], attributes["locationType"] = region, region, "AWS Region"
		attributes["usagetype"], attributes["operation"] = usageType(c, share), operations[c.Kind]
		list = append(list, product{service, family, attributes, share.Price, string(share.Unit), fmt.Sprintf("$%s per %s", share.Price, words)})
	}
	add := func(service, family, words string, c cloud.Charge, attributes map[string]string) {
		shared(service, family, words, c, l.Shares(c)[0], attributes)
	}
	for _, t := range cloud.InstanceTypes() {
		for _, isolation := range []cloud.Isolation{cloud.IsolationVM, cloud.IsolationContainer} {
			words := "On Demand Linux " + string(t.Name) + " Instance Hour"
			if isolation == cloud.IsolationContainer {
				words = "On Demand Linux " + string(t.Name) + " Container Hour"
			}
			add("AmazonEC2", "Compute Instance", words, cloud.Charge{Kind: cloud.UsageInstance, Type: string(t.Name), Isolation: isolation}, map[string]string{
				"instanceType": string(t.Name), "instanceFamily": familyWords[t.Name.Family()], "vcpu": fmt.Sprint(t.VCPUs), "memory": memoryWords(t.MemoryMiB),
				"operatingSystem": "Linux", "tenancy": "Shared", "capacitystatus": "Used", "preInstalledSw": "NA", "licenseModel": "No License required",
				"marketoption": "OnDemand", "currentGeneration": "Yes", "networkPerformance": t.Network, "isolation": string(isolation)})
		}
	}
	for _, name := range cloud.VolumeTypes {
		add("AmazonEC2", "Storage", "GB-month of "+name+" storage", cloud.Charge{Kind: cloud.UsageVolume, Type: name}, map[string]string{"volumeApiName": name})
	}
	for _, t := range cloud.IOPSTiers {
		shared("AmazonEC2", "System Operation", "IOPS-month provisioned ("+t.Name+")", cloud.Charge{Kind: cloud.UsageVolume, Type: t.Type},
			cloud.Share{Unit: cloud.UnitIOPS, Tier: t.Name, Price: l.IOPS[t.Name]}, map[string]string{"volumeApiName": t.Type, "group": "EBS IOPS", "provisioned": "Yes"})
	}
	for _, t := range cloud.ThroughputTiers {
		shared("AmazonEC2", "Provisioned Throughput", "MiBps-month provisioned ("+t.Name+")", cloud.Charge{Kind: cloud.UsageVolume, Type: t.Type},
			cloud.Share{Unit: cloud.UnitThroughput, Tier: t.Name, Price: l.Throughput[t.Name]}, map[string]string{"volumeApiName": t.Type, "group": "EBS Throughput", "provisioned": "Yes"})
	}
	add("AmazonEC2", "Storage Snapshot", "GB-month of snapshot data", cloud.Charge{Kind: cloud.UsageSnapshot}, map[string]string{})
	add("AmazonEC2", "NAT Gateway", "NAT Gateway Hour", cloud.Charge{Kind: cloud.UsageNAT}, map[string]string{"group": "NGW:NatGateway"})
	add("AmazonVPC", "VpcPublicIPv4Address", "Public IPv4 address hour", cloud.Charge{Kind: cloud.UsageAddress}, map[string]string{"group": "VPCPublicIPv4Address"})
	return list
}

var familyWords = map[string]string{"t3": "General purpose", "t4g": "General purpose", "m5": "General purpose", "c5": "Compute optimized", "r5": "Memory optimized"}

// memoryWords is how the price list writes memory, such as "0.5 GiB".
func memoryWords(mib int64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%03d", mib/1024, mib%1024*1000/1024), "0"), ".") + " GiB"
}

// sku names a product, the same at every price.
func (p *product) sku() string { return sku(p.attributes["usagetype"]) }

func sku(usageType string) string {
	return strings.ToUpper(strings.NewReplacer(".", "", ":", "", "-", "").Replace(usageType))
}

// The codes of AWS's price list for what is on demand and paid by the hour or month.
const onDemand, perUnit = "JRTCKXETXF", "6YS6EN2CT7"

// document is the product in the form of the price list.
func (p *product) document(l *cloud.PriceList, published time.Time) (string, error) {
	sku := p.sku()
	term := sku + "." + onDemand
	rate := term + "." + perUnit
	text, err := json.Marshal(map[string]any{
		"product":         map[string]any{"productFamily": p.family, "attributes": p.attributes, "sku": sku},
		"serviceCode":     p.service,
		"publicationDate": published.Format(time.RFC3339),
		"version":         l.Effective.Format("20060102150405"),
		"terms": map[string]any{"OnDemand": map[string]any{term: map[string]any{
			"sku": sku, "offerTermCode": onDemand, "effectiveDate": l.Effective.Format(time.RFC3339), "termAttributes": map[string]string{},
			"priceDimensions": map[string]any{rate: map[string]any{"rateCode": rate, "unit": p.unit, "beginRange": "0", "endRange": "Inf", "description": p.words,
				"appliesTo": []string{}, "pricePerUnit": map[string]string{"USD": p.price.String()}}},
		}}},
	})
	return string(text), err
}

// catalogue is what the price list has today, of one service, or of all for "".
func (s *Service) catalogue(call *awsapi.Call, service string) (*cloud.PriceList, []product, error) {
	l := store.PriceBook(s.store.View()).At(call.Now)
	list := productsOf(l, call.Region)
	if service == "" {
		return l, list, nil
	}
	list = slices.DeleteFunc(list, func(p product) bool { return p.service != service })
	if len(list) == 0 {
		return nil, nil, awsapi.Errorf("InvalidParameterException", "The service code '%s' is invalid.", service)
	}
	return l, list, nil
}

func (s *Service) products(_ context.Context, call *awsapi.Call, req *pricing.GetProductsRequest) (*pricing.GetProductsResponse, error) {
	if err := checkFormat(req.FormatVersion); err != nil {
		return nil, err
	}
	l, list, err := s.catalogue(call, *req.ServiceCode)
	if err != nil {
		return nil, err
	}
	for _, f := range req.Filters {
		list = slices.DeleteFunc(list, func(p product) bool { return !p.has(*f.Field, *f.Value) })
	}
	slices.SortFunc(list, func(a, b product) int { return strings.Compare(a.sku(), b.sku()) })
	page, err := awsapi.Paginate(list, func(p product) string { return p.sku() }, hundred(req.MaxResults), req.NextToken, []any{req.ServiceCode, req.Filters})
	if err != nil {
		return nil, err
	}
	out := &pricing.GetProductsResponse{FormatVersion: new("aws_v1"), PriceList: []string{}, NextToken: page.Next}
	for i := range page.Items {
		text, err := page.Items[i].document(l, call.Now)
		if err != nil {
			return nil, err
		}
		out.PriceList = append(out.PriceList, text)
	}
	return out, nil
}

// has tells whether a filter matches: fields are attributes, whatever their case, and those beside them.
func (p *product) has(field, value string) bool {
	switch strings.ToLower(field) {
	case "servicecode":
		return p.service == value
	case "productfamily":
		return p.family == value
	case "sku":
		return p.sku() == value
	}
	for name, v := range p.attributes {
		if strings.EqualFold(name, field) {
			return strings.EqualFold(v, value)
		}
	}
	return false
}

func (s *Service) describeServices(_ context.Context, call *awsapi.Call, req *pricing.DescribeServicesRequest) (*pricing.DescribeServicesResponse, error) {
	if err := checkFormat(req.FormatVersion); err != nil {
		return nil, err
	}
	_, list, err := s.catalogue(call, deref(req.ServiceCode))
	if err != nil {
		return nil, err
	}
	names := map[string]map[string]bool{}
	for _, p := range list {
		if names[p.service] == nil {
			names[p.service] = map[string]bool{"productFamily": true}
		}
		for name := range p.attributes {
			names[p.service][name] = true
		}
	}
	page, err := awsapi.Paginate(slices.Sorted(maps.Keys(names)), func(code string) string { return code }, hundred(req.MaxResults), req.NextToken, []any{req.ServiceCode})
	if err != nil {
		return nil, err
	}
	out := &pricing.DescribeServicesResponse{FormatVersion: new("aws_v1"), Services: []pricing.ServiceShape{}, NextToken: page.Next}
	for _, code := range page.Items {
		out.Services = append(out.Services, pricing.ServiceShape{ServiceCode: &code, AttributeNames: slices.Sorted(maps.Keys(names[code]))})
	}
	return out, nil
}

func (s *Service) attributeValues(_ context.Context, call *awsapi.Call, req *pricing.GetAttributeValuesRequest) (*pricing.GetAttributeValuesResponse, error) {
	_, list, err := s.catalogue(call, *req.ServiceCode)
	if err != nil {
		return nil, err
	}
	values := map[string]bool{}
	for _, p := range list {
		v, ok := p.attributes[*req.AttributeName]
		if *req.AttributeName == "productFamily" {
			v, ok = p.family, true
		}
		if ok {
			values[v] = true
		}
	}
	if len(values) == 0 {
		return nil, awsapi.Errorf("InvalidParameterException", "The service %s has no attribute '%s'.", *req.ServiceCode, *req.AttributeName)
	}
	page, err := awsapi.Paginate(slices.Sorted(maps.Keys(values)), func(v string) string { return v }, hundred(req.MaxResults), req.NextToken, []any{req.ServiceCode, req.AttributeName})
	if err != nil {
		return nil, err
	}
	out := &pricing.GetAttributeValuesResponse{AttributeValues: []pricing.AttributeValue{}, NextToken: page.Next}
	for _, v := range page.Items {
		out.AttributeValues = append(out.AttributeValues, pricing.AttributeValue{Value: &v})
	}
	return out, nil
}

func checkFormat(version *string) error {
	if v := cmp.Or(deref(version), "aws_v1"); v != "aws_v1" {
		return awsapi.Errorf("InvalidParameterException", "The format version '%s' is invalid; there is aws_v1.", v)
	}
	return nil
}

// hundred is the price list's largest page, and what it is when no size is asked for.
func hundred(most *int64) *int64 {
	if most == nil {
		return new(int64(100))
	}
	return most
}
