package billing

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/focus"
	"github.com/nacre-cloud/nacre/internal/store"
)

// charge is what a resource cost in a day at one price, with one set of tags.
type charge struct {
	*cloud.Item           // one of those that it is of
	day         time.Time // its beginning
	tags        string    // in JSON, "" for none
	cost        *big.Int  // dollars in 10^-FineDigits
	unitSeconds *big.Int
}

// key sorts the charges of a month.
func (c *charge) key() string {
	return strings.Join([]string{c.day.Format(time.DateOnly), c.Resource, priceID(c.Charge, c.Share), c.tags}, " ")
}

func (s *Service) charges(_ context.Context, call *awsapi.Call, req *nacre.ListChargesRequest) (*nacre.ListChargesResult, error) {
	month, err := time.Parse("2006-01", *req.Month)
	if err != nil {
		return nil, invalid("'%s' is no month such as 2026-11.", *req.Month)
	}
	asOf := call.Now.UTC()
	if req.AsOf != nil {
		if asOf, err = time.Parse(time.RFC3339Nano, *req.AsOf); err != nil || asOf.After(call.Now) {
			return nil, invalid("AsOf '%s' is no time up to now, such as 2026-11-01T00:00:00Z.", *req.AsOf)
		}
	}
	view := s.store.View()
	list := chargesOf(ledger(view, call.Account), store.PriceBook(view), month, asOf)
	most := req.MaxResults
	if most == nil {
		most = new(int64(pageSize))
	}
	asked := asOf.Format(time.RFC3339Nano)
	question := []any{*req.Month, asked}
	if req.AsOf == nil && req.NextToken != nil {
		return nil, invalid("A page after the first is asked for with the AsOf of the first one's answer.")
	}
	page, err := awsapi.Paginate(list, func(c *charge) string { return c.key() }, most, req.NextToken, question)
	if err != nil {
		return nil, err
	}
	out := &nacre.ListChargesResult{FocusVersion: new(focus.Version), AsOf: &asked, Rows: []map[string]string{}, NextToken: page.Next}
	in := circumstances{region: call.Region, month: month, names: map[cloud.AccountID]string{}}
	for _, a := range store.List(view, store.Accounts) {
		in.names[a.ID] = a.Name
	}
	if region, ok := store.Region(view); ok {
		in.payer = region.Root
		if len(region.Zones) == 1 {
			in.zone = region.Zones[0].Name
		}
	}
	for _, c := range page.Items {
		row, err := in.row(c)
		if err != nil {
			return nil, err
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

// chargesOf are a month's charges in the order of their keys. Costs are cut off after FineDigits decimals, and what is cut off one is carried to the next, so that
// every day's and the whole month's sum are those of the bill to the micro-dollar.
func chargesOf(rows []*cloud.Usage, book cloud.PriceBook, month, asOf time.Time) []*charge {
	var list []*charge
	var sum cloud.Cost
	for day := month; day.Before(month.AddDate(0, 1, 0)) && day.Before(asOf); day = day.AddDate(0, 0, 1) {
		items := cloud.Rate(rows, book, day, day.AddDate(0, 0, 1), asOf)
		parts := map[string][]*cloud.Item{}
		var today []*charge
		for i := range items {
			c := &charge{Item: &items[i], day: day, tags: tagsText(items[i].Tags)}
			key := c.key()
			if parts[key] == nil {
				today = append(today, c)
			}
			parts[key] = append(parts[key], c.Item)
		}
		slices.SortFunc(today, func(a, b *charge) int { return strings.Compare(a.key(), b.key()) })
		for _, c := range today {
			before := sum
			c.unitSeconds = new(big.Int)
			for _, it := range parts[c.key()] {
				sum = sum.Add(it.Cost)
				part := big.NewInt(it.Seconds)
				c.unitSeconds.Add(c.unitSeconds, part.Mul(part, big.NewInt(it.Units)))
			}
			c.cost = new(big.Int).Sub(sum.Fine(), before.Fine())
		}
		list = append(list, today...)
	}
	return list
}

func tagsText(tags cloud.Tags) string {
	if len(tags) == 0 {
		return ""
	}
	text, err := json.Marshal(tags)
	if err != nil {
		panic("billing: tags have no JSON form: " + err.Error())
	}
	return string(text)
}

// circumstances are what all charges of an answer have in common.
type circumstances struct {
	region string
	zone   string // "" where there are several: gone resources don't say which they were in
	month  time.Time
	payer  cloud.AccountID
	names  map[cloud.AccountID]string
}

// The service that a charge is of in FOCUS, where each has one category; Cost Explorer's "EC2 - Other" has several.
type focusService struct{ name, category, subcategory, resource string }

var focusServices = map[cloud.UsageKind]focusService{
	cloud.UsageInstance: {compute, "Compute", "Virtual Machines", "Virtual Machine"},
	cloud.UsageAddress:  {"Amazon Virtual Private Cloud", "Networking", "Network Infrastructure", "Public IPv4 Address"},
	cloud.UsageNAT:      {"Amazon Virtual Private Cloud", "Networking", "Network Connectivity", "NAT Gateway"},
	cloud.UsageVolume:   {"Amazon Elastic Block Store", "Storage", "Block Storage", "Volume"},
	cloud.UsageSnapshot: {"Amazon Elastic Block Store", "Storage", "Backup Storage", "Snapshot"},
}

// focusUnits are units in FOCUS's form; a month has 30 days.
var focusUnits = map[cloud.Unit]string{cloud.UnitHours: "Hours", cloud.UnitGiB: "GiB-Months", cloud.UnitIOPS: "IOPS-Months", cloud.UnitThroughput: "MiBps-Months"}

// row is a charge in the columns of FOCUS. There are no invoices, discounts or corrections: those columns are null, and all costs are the same.
func (in circumstances) row(c *charge) (focus.Row, error) {
	service := focusServices[c.Kind]
	if c.Isolation == cloud.IsolationContainer {
		service.subcategory, service.resource = "Containers", "Container"
	}
	details, err := json.Marshal(priceDetails(c.Charge, c.Share))
	if err != nil {
		return nil, err
	}
	cost, quantity := cloud.FineString(c.cost), cloud.FineString(cloud.FineQuantity(c.Unit, c.unitSeconds))
	form := func(t time.Time) string { return t.Format(time.RFC3339) }
	usage := usageType(c.Charge, c.Share)
	row := focus.Row{
		"AvailabilityZone": in.zone,
		"BilledCost":       cost, "EffectiveCost": cost, "ListCost": cost, "ContractedCost": cost,
		"BillingAccountId": string(in.payer), "BillingAccountName": in.names[in.payer],
		"SubAccountId": string(c.Account), "SubAccountName": cmp.Or(in.names[c.Account], string(c.Account)),
		"BillingCurrency":    "USD",
		"BillingPeriodStart": form(in.month), "BillingPeriodEnd": form(in.month.AddDate(0, 1, 0)),
		"ChargePeriodStart": form(c.day), "ChargePeriodEnd": form(c.day.AddDate(0, 0, 1)),
		"ChargeCategory": "Usage", "ChargeFrequency": "Usage-Based", "PricingCategory": "Standard",
		"ChargeDescription": fmt.Sprintf("%s at $%s per %s", usage, c.Price, strings.TrimSuffix(focusUnits[c.Unit], "s")),
		"ConsumedQuantity":  quantity, "ConsumedUnit": focusUnits[c.Unit],
		"PricingQuantity": quantity, "PricingUnit": focusUnits[c.Unit],
		"ListUnitPrice": c.Price.String(), "ContractedUnitPrice": c.Price.String(),
		"InvoiceIssuerName": provider, "ProviderName": provider, "PublisherName": provider,
		"RegionId": in.region, "RegionName": in.region,
		"ResourceId": c.Resource, "ResourceName": c.Tags["Name"], "ResourceType": service.resource,
		"ServiceCategory": service.category, "ServiceName": service.name, "ServiceSubcategory": service.subcategory,
		"SkuId": sku(usage), "SkuMeter": usage, "SkuPriceId": priceID(c.Charge, c.Share), "SkuPriceDetails": string(details),
		"Tags": c.tags,
	}
	if c.Kind == cloud.UsageAddress {
		delete(row, "AvailabilityZone") // the region's
	}
	for name, value := range row {
		if value == "" { // nothing is said by an empty text in FOCUS
			delete(row, name)
		}
	}
	return row, nil
}

const provider = "nacre"

// priceID names a price, as the Price List API does. An instance with CPUs or memory of its own has a price of its own.
func priceID(c cloud.Charge, share cloud.Share) string {
	id := sku(usageType(c, share)) + "." + onDemand + "." + perUnit
	if c.Kind == cloud.UsageInstance && (c.CPUs > 0 || c.MemoryMiB > 0) {
		id += fmt.Sprintf(".%dC%dM", c.CPUs, c.MemoryMiB)
	}
	return id
}

// priceDetails are what is the same of everything with a price; names with F_ are FOCUS's.
func priceDetails(c cloud.Charge, share cloud.Share) map[string]any {
	d := map[string]any{}
	switch c.Kind {
	case cloud.UsageInstance:
		d["F_InstanceType"], d["F_OperatingSystem"], d["Isolation"] = c.Type, "Linux", string(c.Isolation)
		cpus, memory := c.CPUs, c.MemoryMiB
		if t, ok := cloud.LookupInstanceType(cloud.InstanceType(c.Type)); ok {
			cpus, memory = cmp.Or(cpus, t.VCPUs), cmp.Or(memory, t.MemoryMiB)
			d["F_Series"] = t.Name.Family()
		}
		d["F_CoreCount"], d["F_MemorySize"] = cpus, json.Number(strings.TrimSuffix(memoryWords(memory), " GiB"))
	case cloud.UsageVolume:
		d["F_StorageClass"] = c.Type
		d["Tier"] = share.Tier
		if share.Tier == "" {
			delete(d, "Tier")
		}
	}
	return d
}
