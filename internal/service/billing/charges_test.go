package billing_test

import (
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/focus"
	"github.com/nacre-cloud/nacre/internal/store"
)

// charges asks for last month's, a page of a few rows after the other.
func (w *world) charges(key string, most int64) []map[string]string {
	w.t.Helper()
	var rows []map[string]string
	req := &nacre.ListChargesRequest{Month: new(month.Format("2006-01")), MaxResults: &most}
	for {
		page, err := w.own(key).ListCharges(w.t.Context(), req)
		if err != nil {
			w.t.Fatal(err)
		}
		rows = append(rows, page.Rows...)
		if page.NextToken == nil {
			return rows
		}
		req.AsOf, req.NextToken = page.AsOf, page.NextToken
	}
}

// The rules of FOCUS 1.2, as its columns and attributes state them.
var (
	focusDecimal = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)
	focusTime    = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	focusAllowed = map[string][]string{
		"ChargeCategory":  {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
		"ChargeClass":     {"Correction"},
		"ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
		"PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
		"BillingCurrency": {"USD"},
	}
	focusCategories = map[string][]string{
		"Compute":    {"Containers", "End User Computing", "Quantum Compute", "Serverless Compute", "Virtual Machines", "Other (Compute)"},
		"Networking": {"Application Networking", "Content Delivery", "Network Connectivity", "Network Infrastructure", "Network Routing", "Network Security", "Other (Networking)"},
		"Storage":    {"Backup Storage", "Block Storage", "File Storage", "Object Storage", "Storage Platforms", "Other (Storage)"},
	}
	focusMandatory = []string{"BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass",
		"ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
		"ProviderName", "PublisherName", "ServiceCategory", "ServiceName"}
	// Those that may be null though they must be there.
	focusNullable = []string{"BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"}
)

// focusFaults says what a row breaks of the specification's rules for charges of the category Usage.
func focusFaults(r map[string]string) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	known := map[string]focus.Column{}
	for _, c := range focus.Columns {
		known[c.Name] = c
	}
	for name, v := range r {
		c, ok := known[name]
		if !ok {
			fault("there is no column %s", name)
		}
		if v == "" || strings.TrimSpace(v) != v {
			fault("%s is %q: what is not there is null, and texts have no blanks around them", name, v)
		}
		switch c.Kind {
		case focus.Decimal:
			if !focusDecimal.MatchString(v) {
				fault("%s is %q, which is no decimal", name, v)
			}
		case focus.Time:
			if !focusTime.MatchString(v) {
				fault("%s is %q, which is no time of UTC", name, v)
			}
		case focus.JSON:
			object := map[string]any{}
			if json.Unmarshal([]byte(v), &object) != nil {
				fault("%s is %q, which is no object", name, v)
			}
			for key, value := range object {
				switch value.(type) {
				case string, float64, bool, nil:
				default:
					fault("%s: the value of %s is nested", name, key)
				}
			}
		}
		if allowed, ok := focusAllowed[name]; ok && !slices.Contains(allowed, v) {
			fault("%s is %q and must be one of %v", name, v, allowed)
		}
	}
	for _, name := range focusMandatory {
		if _, there := r[name]; !there && !slices.Contains(focusNullable, name) {
			fault("%s is null", name)
		}
		if c := known[name]; c.Name == "" || c.Nullable != slices.Contains(focusNullable, name) {
			fault("%s is declared wrongly: %+v", name, c)
		}
	}
	// What a row of usage must have, and what comes in pairs.
	for _, name := range []string{"PricingQuantity", "PricingUnit", "ConsumedQuantity", "ConsumedUnit", "PricingCategory", "ListUnitPrice", "ContractedUnitPrice", "SkuId", "SkuPriceId", "SkuMeter",
		"ResourceId", "ResourceType", "RegionId", "RegionName", "SubAccountId", "SubAccountName"} {
		if r[name] == "" {
			fault("%s is null in a row of usage", name)
		}
	}
	if !slices.Contains(focusCategories[r["ServiceCategory"]], r["ServiceSubcategory"]) {
		fault("the subcategory %q is not of %q", r["ServiceSubcategory"], r["ServiceCategory"])
	}
	for start, end := range map[string]string{"BillingPeriodStart": "BillingPeriodEnd", "ChargePeriodStart": "ChargePeriodEnd"} {
		if r[start] >= r[end] {
			fault("%s is not before %s", start, end)
		}
	}
	if r["ChargePeriodStart"] < r["BillingPeriodStart"] || r["ChargePeriodEnd"] > r["BillingPeriodEnd"] {
		fault("the charge's period %s lies outside its bill's", r["ChargePeriodStart"])
	}
	for price, cost := range map[string]string{"ListUnitPrice": "ListCost", "ContractedUnitPrice": "ContractedCost"} {
		product := new(big.Rat).Mul(rat(r[price]), rat(r["PricingQuantity"]))
		if off := product.Sub(product, rat(r[cost])); off.Abs(off).Cmp(rat("0.000000000000000001")) > 0 {
			fault("%s times PricingQuantity is not %s", price, cost)
		}
	}
	return faults
}

func rat(text string) *big.Rat {
	if x, ok := new(big.Rat).SetString(text); ok {
		return x
	}
	return new(big.Rat)
}

// micros rounds an exact sum as bills are rounded: to millionths, halves up.
func micros(x *big.Rat) string {
	n := new(big.Rat).Add(new(big.Rat).Mul(x, big.NewRat(1_000_000, 1)), big.NewRat(1, 2))
	whole := new(big.Int).Div(n.Num(), n.Denom())
	return cloud.Micro(whole.Int64()).String()
}

func TestChargesKeepTheRulesOfFOCUSAndAddUpToTheBillOfEveryDayAndTheMonth(t *testing.T) {
	w := newWorld(t)
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	kinds := []cloud.Charge{micro, boxed, huge, ip, {Kind: cloud.UsageNAT}, {Kind: cloud.UsageSnapshot, GiB: 7}, {Kind: cloud.UsageVolume, Type: "gp3", GiB: 33, IOPS: 4321, Throughput: 177},
		{Kind: cloud.UsageVolume, Type: "io2", GiB: 100, IOPS: 65_001}, {Kind: cloud.UsageInstance, Type: "t3.micro", Isolation: cloud.IsolationVM, CPUs: 3, MemoryMiB: 1111}}
	for n := range 120 {
		from := month.Add(time.Duration(random.Int63n(int64(30 * 24 * time.Hour)))).Add(-24 * time.Hour)
		var tags cloud.Tags
		if n%3 == 0 {
			tags = cloud.Tags{"team": "réd \"1\",\n", "Name": "n" + strconv.Itoa(n)}
		}
		account := w.root
		if n%4 == 0 {
			account = tenant
		}
		w.used(account, fmt.Sprintf("r-%d", n), kinds[n%len(kinds)], tags, from, from.Add(time.Duration(random.Int63n(int64(5*24*time.Hour)))))
	}
	// An instance that is stopped and started many times in a day is one row of it.
	err := w.store.Update(t.Context(), func(tx *store.Tx) error {
		for n := range 5 {
			at := on(9, n)
			store.Put(tx, store.Usages, &cloud.Usage{Charge: micro, Account: w.root, Resource: "i-often", Number: n + 1, Start: at, End: at.Add(time.Duration(n+1) * 7 * time.Second)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := w.charges("AKIAROOT", 17)
	often := 0
	days, total := map[string]*big.Rat{}, new(big.Rat)
	seen := map[string]bool{}
	for _, r := range rows {
		if faults := focusFaults(r); len(faults) > 0 {
			t.Fatalf("%v\n%v", faults, r)
		}
		key := r["ChargePeriodStart"] + r["ResourceId"] + r["SkuPriceId"] + r["Tags"]
		if seen[key] {
			t.Errorf("%s is told twice", key)
		}
		seen[key] = true
		day := r["ChargePeriodStart"][:10]
		if days[day] == nil {
			days[day] = new(big.Rat)
		}
		days[day].Add(days[day], rat(r["BilledCost"]))
		total.Add(total, rat(r["BilledCost"]))
		if r["ResourceId"] == "i-often" {
			often++
		}
	}
	if often != 1 {
		t.Errorf("an instance that ran five times in a day has %d rows of it", often)
	}
	ledger := store.List(w.store.View(), store.Usages)
	book := cloud.NewPriceBook(nil)
	bill := func(from, to time.Time) string {
		return cloud.Total(cloud.Rate(ledger, book, from, to, now)).Micro().String()
	}
	if got, want := micros(total), bill(month, month.AddDate(0, 1, 0)); got != want {
		t.Errorf("the month's rows add up to %s, and the bill is %s", got, want)
	}
	for day, sum := range days {
		from, _ := time.Parse(time.DateOnly, day)
		if got, want := micros(sum), bill(from, from.AddDate(0, 0, 1)); got != want {
			t.Errorf("the rows of %s add up to %s, and its bill is %s", day, got, want)
		}
	}
	if whole := w.charges("AKIAROOT", 10_000); len(whole) != len(rows) {
		t.Errorf("in pages there are %d charges, in one answer %d", len(rows), len(whole))
	}
	for _, r := range w.charges("AKIATENANT", 1000) {
		if r["SubAccountId"] != string(tenant) {
			t.Fatalf("a tenant is told %v", r)
		}
	}
}

func TestQuestionsAboutChargesThatMeanNothingAreRefused(t *testing.T) {
	w := team(t)
	first, err := w.own("AKIAROOT").ListCharges(t.Context(), &nacre.ListChargesRequest{Month: new(month.Format("2006-01")), MaxResults: new(int64(1))})
	if err != nil || first.NextToken == nil {
		t.Fatal(first, err)
	}
	for name, req := range map[string]*nacre.ListChargesRequest{
		"no month":            {Month: new("2026-13")},
		"a time to come":      {Month: new("2026-01"), AsOf: new(now.AddDate(1, 0, 0).Format(time.RFC3339))},
		"no time":             {Month: new("2026-01"), AsOf: new("yesterday")},
		"no page":             {Month: new("2026-01"), NextToken: new("x"), AsOf: new("2026-01-01T00:00:00Z")},
		"a page of two times": {Month: new(month.Format("2006-01")), NextToken: first.NextToken},
	} {
		if out, err := w.own("AKIAROOT").ListCharges(t.Context(), req); err == nil {
			t.Errorf("%s is answered: %v", name, out)
		}
	}
}
