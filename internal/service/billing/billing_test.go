package billing_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdkce "github.com/aws/aws-sdk-go-v2/service/costexplorer"
	cetypes "github.com/aws/aws-sdk-go-v2/service/costexplorer/types"
	sdkpricing "github.com/aws/aws-sdk-go-v2/service/pricing"
	pricingtypes "github.com/aws/aws-sdk-go-v2/service/pricing/types"
	"github.com/aws/smithy-go"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/service/billing"
	"github.com/nacre-cloud/nacre/internal/store"
)

// What was used was used last month, at the times of a day that doesn't matter.
var (
	now   = time.Now().UTC()
	month = time.Date(now.Year(), now.Month()-1, 1, 0, 0, 0, 0, time.UTC)
)

// on is a time of last month: a day, from 1, and an hour.
func on(day, hour int) time.Time {
	return month.AddDate(0, 0, day-1).Add(time.Duration(hour) * time.Hour)
}

func dates(from, to time.Time) *cetypes.DateInterval {
	return &cetypes.DateInterval{Start: aws.String(from.Format(time.DateOnly)), End: aws.String(to.Format(time.DateOnly))}
}

const tenant = cloud.AccountID("222222222222")

// world is a region with a ledger, behind an endpoint for AWS's clients.
type world struct {
	t     *testing.T
	store *store.Store
	url   string
	root  cloud.AccountID
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: store.OpenMemory()}
	t.Cleanup(func() { w.store.Close() })
	region, _, err := control.Bootstrap(t.Context(), w.store, control.FirstStart{Region: "us-east-1", PublicPool: netip.MustParsePrefix("198.18.0.0/24"), Rand: rand.Reader, Now: month})
	if err != nil {
		t.Fatal(err)
	}
	w.root = region.Root
	registry := awsapi.NewRegistry(gen.Services()...)
	billing.New(w.store).Register(registry)
	keys := func(_ context.Context, id cloud.AccessKeyID) (string, awsapi.Identity, error) {
		account := w.root
		if id == "AKIATENANT" {
			account = tenant
		}
		return "secret", awsapi.Identity{Account: account, AccessKey: id}, nil
	}
	server := httptest.NewServer(wiretest.Handler(t, &awsapi.Server{Registry: registry, Logger: slog.New(slog.DiscardHandler),
		Auth: &awsapi.Authenticator{Region: "us-east-1", Keys: keys, Now: time.Now}}, gen.Services()...))
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// used writes a row of the ledger; an end of zero lasts.
func (w *world) used(account cloud.AccountID, resource string, c cloud.Charge, tags cloud.Tags, from, to time.Time) {
	w.t.Helper()
	err := w.store.Update(w.t.Context(), func(tx *store.Tx) error {
		store.Put(tx, store.Usages, &cloud.Usage{Charge: c, Account: account, Resource: resource, Number: 1, Tags: tags, Start: from, End: to})
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) explorer(key string) *sdkce.Client {
	return sdkce.New(sdkce.Options{Region: "us-east-1", BaseEndpoint: &w.url, RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider(key, "secret", "")})
}

func (w *world) own(key string) nacre.Client {
	return nacre.Client{Client: &awsapi.Client{Endpoint: w.url, Region: "us-east-1", AccessKey: key, Secret: "secret"}}
}

func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return awsapi.CodeOf(err)
}

var (
	micro = cloud.Charge{Kind: cloud.UsageInstance, Type: "t3.micro", Isolation: cloud.IsolationVM}
	boxed = cloud.Charge{Kind: cloud.UsageInstance, Type: "t3.micro", Isolation: cloud.IsolationContainer}
	huge  = cloud.Charge{Kind: cloud.UsageInstance, Type: "c5.18xlarge", Isolation: cloud.IsolationVM}
	ip    = cloud.Charge{Kind: cloud.UsageAddress}
)

// team is a ledger of two accounts: 10 h of t3.micro, 4 h of the same as a container, 2 h of c5.18xlarge, 100 h of an address.
func team(t *testing.T) *world {
	w := newWorld(t)
	w.used(w.root, "i-1", micro, cloud.Tags{"team": "red"}, on(2, 0), on(2, 10))
	w.used(w.root, "i-2", boxed, cloud.Tags{"team": "blue"}, on(2, 22), on(3, 2))
	w.used(tenant, "i-3", huge, nil, on(3, 0), on(3, 2))
	w.used(tenant, "eipalloc-1", ip, cloud.Tags{"team": "red"}, on(1, 0), on(5, 4))
	return w
}

func (w *world) groups(key string, by ...cetypes.GroupDefinition) []string {
	w.t.Helper()
	out, err := w.explorer(key).GetCostAndUsage(w.t.Context(), &sdkce.GetCostAndUsageInput{TimePeriod: dates(month, month.AddDate(0, 1, 0)), Granularity: cetypes.GranularityMonthly,
		Metrics: []string{"UnblendedCost"}, GroupBy: by})
	if err != nil {
		w.t.Fatal(err)
	}
	var lines []string
	for _, r := range out.ResultsByTime {
		if len(by) == 0 {
			lines = append(lines, *r.Total["UnblendedCost"].Amount)
		}
		for _, g := range r.Groups {
			lines = append(lines, strings.Join(g.Keys, " ")+" "+*g.Metrics["UnblendedCost"].Amount)
		}
	}
	return lines
}

func by(kind cetypes.GroupDefinitionType, key string) cetypes.GroupDefinition {
	return cetypes.GroupDefinition{Type: kind, Key: &key}
}

func TestAMonthsCostsAreToldApart(t *testing.T) {
	w := team(t)
	const dimension, tag = cetypes.GroupDefinitionTypeDimension, cetypes.GroupDefinitionTypeTag
	for name, test := range map[string]struct {
		key  string
		by   []cetypes.GroupDefinition
		want []string
	}{
		"whole":               {"AKIAROOT", nil, []string{"6.744800"}},
		"whole, for a tenant": {"AKIATENANT", nil, []string{"6.620000"}},
		"by account":          {"AKIAROOT", []cetypes.GroupDefinition{by(dimension, "LINKED_ACCOUNT")}, []string{"222222222222 6.620000", string(w.root) + " 0.124800"}},
		"by service":          {"AKIAROOT", []cetypes.GroupDefinition{by(dimension, "SERVICE")}, []string{"Amazon Elastic Compute Cloud - Compute 6.244800", "Amazon Virtual Private Cloud 0.500000"}},
		"by usage type":       {"AKIAROOT", []cetypes.GroupDefinition{by(dimension, "USAGE_TYPE")}, []string{"BoxUsage:c5.18xlarge 6.120000", "BoxUsage:t3.micro 0.104000", "ContainerUsage:t3.micro 0.020800", "PublicIPv4:Address 0.500000"}},
		"by tag":              {"AKIAROOT", []cetypes.GroupDefinition{by(tag, "team")}, []string{"team$ 6.120000", "team$blue 0.020800", "team$red 0.604000"}},
		"by tag and type":     {"AKIATENANT", []cetypes.GroupDefinition{by(tag, "team"), by(dimension, "INSTANCE_TYPE")}, []string{"team$ c5.18xlarge 6.120000", "team$red NoInstanceType 0.500000"}},
	} {
		got := w.groups(test.key, test.by...)
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: they are %q, want %q", name, got, test.want)
		}
	}
}

func TestDaysAndHoursAddUpToTheMonth(t *testing.T) {
	w := team(t)
	for granularity, period := range map[cetypes.Granularity]*cetypes.DateInterval{
		cetypes.GranularityDaily:  dates(month, month.AddDate(0, 1, 0)),
		cetypes.GranularityHourly: {Start: aws.String(on(1, 0).Format("2006-01-02T15:04:05Z")), End: aws.String(on(6, 0).Format("2006-01-02T15:04:05Z"))},
	} {
		out, err := w.explorer("AKIAROOT").GetCostAndUsage(t.Context(), &sdkce.GetCostAndUsageInput{TimePeriod: period, Granularity: granularity, Metrics: []string{"AmortizedCost", "UsageQuantity"}})
		if err != nil {
			t.Fatal(err)
		}
		var sum, hours float64
		for _, r := range out.ResultsByTime {
			var x, h float64
			if _, err := fmt.Sscan(*r.Total["AmortizedCost"].Amount, &x); err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Sscan(*r.Total["UsageQuantity"].Amount, &h); err != nil {
				t.Fatal(err)
			}
			sum, hours = sum+x, hours+h
			if r.Estimated {
				t.Errorf("%s is over and estimated", *r.TimePeriod.Start)
			}
		}
		if fmt.Sprintf("%.6f %.6f", sum, hours) != "6.744800 116.000000" {
			t.Errorf("%s: %d parts come to %f dollars and %f hours", granularity, len(out.ResultsByTime), sum, hours)
		}
	}
}

func TestCostsAreFiltered(t *testing.T) {
	w := team(t)
	dim := func(key cetypes.Dimension, options []cetypes.MatchOption, values ...string) cetypes.Expression {
		return cetypes.Expression{Dimensions: &cetypes.DimensionValues{Key: key, Values: values, MatchOptions: options}}
	}
	red := cetypes.Expression{Tags: &cetypes.TagValues{Key: aws.String("team"), Values: []string{"red"}}}
	for name, test := range map[string]struct {
		filter cetypes.Expression
		want   string
	}{
		"a type":            {dim("INSTANCE_TYPE", nil, "t3.micro"), "0.124800"},
		"a family":          {dim("INSTANCE_TYPE_FAMILY", nil, "c5", "r5"), "6.120000"},
		"a beginning":       {dim("USAGE_TYPE", []cetypes.MatchOption{"STARTS_WITH"}, "BoxUsage"), "6.224000"},
		"whatever its case": {dim("SERVICE", []cetypes.MatchOption{"CASE_INSENSITIVE", "CONTAINS"}, "PRIVATE CLOUD"), "0.500000"},
		"a tag":             {red, "0.604000"},
		"no tag":            {cetypes.Expression{Tags: &cetypes.TagValues{Key: aws.String("team"), MatchOptions: []cetypes.MatchOption{"ABSENT"}}}, "6.120000"},
		"both":              {cetypes.Expression{And: []cetypes.Expression{red, dim("INSTANCE_TYPE", nil, "t3.micro")}}, "0.104000"},
		"either":            {cetypes.Expression{Or: []cetypes.Expression{red, dim("INSTANCE_TYPE", nil, "t3.micro")}}, "0.624800"},
		"not":               {cetypes.Expression{Not: &red}, "6.140800"},
		"an account":        {dim("LINKED_ACCOUNT", nil, string(tenant)), "6.620000"},
		"nothing":           {dim("REGION", nil, "eu-west-1"), "0.000000"},
	} {
		out, err := w.explorer("AKIAROOT").GetCostAndUsage(t.Context(), &sdkce.GetCostAndUsageInput{TimePeriod: dates(month, month.AddDate(0, 1, 0)), Granularity: cetypes.GranularityMonthly,
			Metrics: []string{"UnblendedCost"}, Filter: &test.filter})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := *out.ResultsByTime[0].Total["UnblendedCost"].Amount; got != test.want {
			t.Errorf("%s costs %s, want %s", name, got, test.want)
		}
	}
}

func TestQuestionsThatCannotBeAnsweredAreRefused(t *testing.T) {
	w := team(t)
	good := func() *sdkce.GetCostAndUsageInput {
		return &sdkce.GetCostAndUsageInput{TimePeriod: dates(month, month.AddDate(0, 1, 0)), Granularity: cetypes.GranularityMonthly, Metrics: []string{"UnblendedCost"}}
	}
	for name, change := range map[string]func(*sdkce.GetCostAndUsageInput){
		"backwards":      func(in *sdkce.GetCostAndUsageInput) { in.TimePeriod = dates(month.AddDate(0, 1, 0), month) },
		"no day":         func(in *sdkce.GetCostAndUsageInput) { in.TimePeriod.Start = aws.String("yesterday") },
		"long ago":       func(in *sdkce.GetCostAndUsageInput) { in.TimePeriod = dates(month.AddDate(-3, 0, 0), month) },
		"far ahead":      func(in *sdkce.GetCostAndUsageInput) { in.TimePeriod = dates(month, month.AddDate(9, 0, 0)) },
		"too many hours": func(in *sdkce.GetCostAndUsageInput) { in.Granularity = cetypes.GranularityHourly },
		"a metric":       func(in *sdkce.GetCostAndUsageInput) { in.Metrics = []string{"NormalizedUsageAmount"} },
		"a dimension": func(in *sdkce.GetCostAndUsageInput) {
			in.GroupBy = []cetypes.GroupDefinition{by("DIMENSION", "TENANCY")}
		},
		"resources": func(in *sdkce.GetCostAndUsageInput) {
			in.GroupBy = []cetypes.GroupDefinition{by("DIMENSION", "RESOURCE_ID")}
		},
		"a category": func(in *sdkce.GetCostAndUsageInput) { in.GroupBy = []cetypes.GroupDefinition{by("COST_CATEGORY", "x")} },
		"three groupings": func(in *sdkce.GetCostAndUsageInput) {
			in.GroupBy = []cetypes.GroupDefinition{by("TAG", "a"), by("TAG", "b"), by("TAG", "c")}
		},
		"two tests at once": func(in *sdkce.GetCostAndUsageInput) {
			in.Filter = &cetypes.Expression{Dimensions: &cetypes.DimensionValues{Key: "SERVICE", Values: []string{"x"}}, Tags: &cetypes.TagValues{Key: aws.String("k"), Values: []string{"v"}}}
		},
		"an empty test": func(in *sdkce.GetCostAndUsageInput) { in.Filter = &cetypes.Expression{} },
		"values too many": func(in *sdkce.GetCostAndUsageInput) {
			in.Filter = &cetypes.Expression{Tags: &cetypes.TagValues{Key: aws.String("k"), Values: make([]string, 1001)}}
		},
		"no values": func(in *sdkce.GetCostAndUsageInput) {
			in.Filter = &cetypes.Expression{Dimensions: &cetypes.DimensionValues{Key: "SERVICE"}}
		},
	} {
		in := good()
		change(in)
		if _, err := w.explorer("AKIAROOT").GetCostAndUsage(t.Context(), in); codeOf(err) != "ValidationException" {
			t.Errorf("%s: %v", name, err)
		}
	}
	paged := good()
	paged.NextPageToken = aws.String("x")
	if _, err := w.explorer("AKIAROOT").GetCostAndUsage(t.Context(), paged); codeOf(err) != "UnsupportedOperationException" {
		t.Errorf("a page: %v", err)
	}
}

func TestResourcesValuesAndTagsAreListed(t *testing.T) {
	w := team(t)
	c, period := w.explorer("AKIAROOT"), dates(month, month.AddDate(0, 1, 0))
	all := &cetypes.Expression{Dimensions: &cetypes.DimensionValues{Key: "RECORD_TYPE", Values: []string{"Usage"}}}
	out, err := c.GetCostAndUsageWithResources(t.Context(), &sdkce.GetCostAndUsageWithResourcesInput{TimePeriod: period, Granularity: cetypes.GranularityMonthly, Filter: all,
		GroupBy: []cetypes.GroupDefinition{by("DIMENSION", "RESOURCE_ID")}})
	if err != nil || len(out.ResultsByTime[0].Groups) != 4 || out.ResultsByTime[0].Groups[1].Keys[0] != "i-1" || *out.ResultsByTime[0].Groups[1].Metrics["UnblendedCost"].Amount != "0.104000" {
		t.Errorf("resources: %+v, %v", out, err)
	}
	var types []string
	in := &sdkce.GetDimensionValuesInput{TimePeriod: period, Dimension: "USAGE_TYPE", SearchString: aws.String("usage"), MaxResults: aws.Int32(2)}
	for {
		page, err := c.GetDimensionValues(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.DimensionValues {
			types = append(types, *v.Value)
		}
		if in.NextPageToken = page.NextPageToken; in.NextPageToken == nil {
			break
		}
	}
	if !slices.Equal(types, []string{"BoxUsage:c5.18xlarge", "BoxUsage:t3.micro", "ContainerUsage:t3.micro"}) {
		t.Errorf("usage types: %q", types)
	}
	keys, err := c.GetTags(t.Context(), &sdkce.GetTagsInput{TimePeriod: period})
	if err != nil || !slices.Equal(keys.Tags, []string{"team"}) {
		t.Errorf("keys of tags: %+v, %v", keys, err)
	}
	values, err := c.GetTags(t.Context(), &sdkce.GetTagsInput{TimePeriod: period, TagKey: aws.String("team")})
	if err != nil || !slices.Equal(values.Tags, []string{"", "blue", "red"}) {
		t.Errorf("values of a tag: %+v, %v", values, err)
	}
}

func TestAForecastIsWhatRunsNowAtThePricesOfThen(t *testing.T) {
	w := team(t)
	w.used(w.root, "i-9", micro, nil, now.Add(-time.Hour), time.Time{})
	today := now.Truncate(24 * time.Hour)
	forecast := func(from, to time.Time) (string, error) {
		out, err := w.explorer("AKIAROOT").GetCostForecast(t.Context(), &sdkce.GetCostForecastInput{TimePeriod: dates(from, to), Granularity: cetypes.GranularityDaily, Metric: cetypes.MetricUnblendedCost})
		if err != nil {
			return "", err
		}
		return fmt.Sprint(len(out.ForecastResultsByTime), " ", *out.Total.Amount), nil
	}
	if got, err := forecast(today.AddDate(0, 0, 2), today.AddDate(0, 0, 4)); err != nil || got != "2 0.499200" {
		t.Errorf("two days are %s, %v", got, err)
	}
	list, err := w.own("AKIAROOT").GetPrices(t.Context(), &nacre.GetPricesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	list.PriceList.Effective, list.PriceList.InstanceHours["t3.micro"] = aws.String(today.AddDate(0, 0, 3).Format(time.DateOnly)), "0.1"
	if _, err := w.own("AKIAROOT").PutPrices(t.Context(), &nacre.PutPricesRequest{PriceList: list.PriceList}); err != nil {
		t.Fatal(err)
	}
	if got, err := forecast(today.AddDate(0, 0, 2), today.AddDate(0, 0, 4)); err != nil || got != "2 2.649600" {
		t.Errorf("a day at each price is %s, %v", got, err)
	}
	if _, err := forecast(today.AddDate(0, 0, -2), today); codeOf(err) != "ValidationException" {
		t.Errorf("the past: %v", err)
	}
}

func TestPricesAreTheOperatorsToSetAndOnlyAhead(t *testing.T) {
	w := newWorld(t)
	res, err := w.own("AKIATENANT").GetPrices(t.Context(), &nacre.GetPricesRequest{})
	if err != nil || res.PriceList.InstanceHours["t3.micro"] != "0.0104" || res.PriceList.InstanceHours["c5.18xlarge"] != "3.06" || res.PriceList.ContainerHours["t3.large"] != "0.0416" || res.PriceList.VolumeGBMonths["gp2"] != "0.1" {
		t.Fatalf("the default prices are %+v, %v", res, err)
	}
	put := func(key string, change func(*nacre.PriceList)) error {
		res, err := w.own("AKIAROOT").GetPrices(t.Context(), &nacre.GetPricesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		res.PriceList.Effective = new(now.Format(time.DateOnly))
		change(res.PriceList)
		_, err = w.own(key).PutPrices(t.Context(), &nacre.PutPricesRequest{PriceList: res.PriceList})
		return err
	}
	for name, test := range map[string]struct {
		key    string
		change func(*nacre.PriceList)
		code   string
		says   string
	}{
		"a tenant":          {"AKIATENANT", func(*nacre.PriceList) {}, "AccessDeniedException", "operator"},
		"last month":        {"AKIAROOT", func(l *nacre.PriceList) { l.Effective = new(on(28, 0).Format(time.DateOnly)) }, "ConflictException", "bills of the months before"},
		"no day":            {"AKIAROOT", func(l *nacre.PriceList) { l.Effective = new("2026-13-01") }, "ValidationException", "2026-13-01"},
		"no price":          {"AKIAROOT", func(l *nacre.PriceList) { l.InstanceHours["t3.micro"] = "cheap" }, "ValidationException", "InstanceHours.t3.micro"},
		"a negative price":  {"AKIAROOT", func(l *nacre.PriceList) { l.PublicIPv4Hour = new("-1") }, "ValidationException", "PublicIPv4Hour"},
		"a type missing":    {"AKIAROOT", func(l *nacre.PriceList) { delete(l.ContainerHours, "m5.large") }, "ValidationException", "m5.large"},
		"a type too many":   {"AKIAROOT", func(l *nacre.PriceList) { l.InstanceHours["x9.huge"] = "1" }, "ValidationException", "x9.huge"},
		"a tier missing":    {"AKIAROOT", func(l *nacre.PriceList) { delete(l.VolumeIOPSMonths, "io2.tier2") }, "ValidationException", "io2.tier2"},
		"a tier too many":   {"AKIAROOT", func(l *nacre.PriceList) { l.VolumeMiBpsMonths["io1"] = "1" }, "ValidationException", "io1"},
		"a volume too many": {"AKIAROOT", func(l *nacre.PriceList) { l.VolumeGBMonths["gp9"] = "1" }, "ValidationException", "gp9"},
	} {
		if err := put(test.key, test.change); codeOf(err) != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %s with %q", name, err, test.code, test.says)
		}
	}
	if err := put("AKIAROOT", func(l *nacre.PriceList) { l.InstanceHours["t3.micro"], l.Source = "0.02", new("ours") }); err != nil {
		t.Fatal(err)
	}
	res, err = w.own("AKIATENANT").GetPrices(t.Context(), &nacre.GetPricesRequest{})
	if err != nil || res.PriceList.InstanceHours["t3.micro"] != "0.02" || *res.PriceList.Source != "ours" || len(res.Effective) != 2 {
		t.Errorf("the prices are %+v, %v", res, err)
	}
	res, err = w.own("AKIATENANT").GetPrices(t.Context(), &nacre.GetPricesRequest{Day: new(on(1, 0).Format(time.DateOnly))})
	if err != nil || res.PriceList.InstanceHours["t3.micro"] != "0.0104" {
		t.Errorf("those of last month are %+v, %v", res, err)
	}
}

func TestThePriceListAPIKnowsEveryProduct(t *testing.T) {
	w := newWorld(t)
	c := sdkpricing.New(sdkpricing.Options{Region: "us-east-1", BaseEndpoint: &w.url, RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider("AKIATENANT", "secret", "")})
	filter := func(field, value string) pricingtypes.Filter {
		return pricingtypes.Filter{Type: pricingtypes.FilterTypeTermMatch, Field: &field, Value: &value}
	}
	out, err := c.GetProducts(t.Context(), &sdkpricing.GetProductsInput{ServiceCode: aws.String("AmazonEC2"), Filters: []pricingtypes.Filter{filter("instanceType", "t3.micro"), filter("isolation", "vm")}})
	if err != nil || len(out.PriceList) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	var doc struct {
		Product struct{ Attributes map[string]string }
		Terms   struct {
			OnDemand map[string]struct {
				PriceDimensions map[string]struct {
					Unit         string
					PricePerUnit map[string]string
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(out.PriceList[0]), &doc); err != nil {
		t.Fatal(err)
	}
	for _, term := range doc.Terms.OnDemand {
		for _, d := range term.PriceDimensions {
			if d.Unit != "Hrs" || d.PricePerUnit["USD"] != "0.0104" || doc.Product.Attributes["memory"] != "1 GiB" || doc.Product.Attributes["vcpu"] != "2" {
				t.Errorf("it is %s", out.PriceList[0])
			}
		}
	}
	products, in := 0, &sdkpricing.GetProductsInput{ServiceCode: aws.String("AmazonEC2"), MaxResults: aws.Int32(25)}
	for {
		page, err := c.GetProducts(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		products += len(page.PriceList)
		if in.NextToken = page.NextToken; in.NextToken == nil {
			break
		}
	}
	if want := 2*len(cloud.InstanceTypes()) + len(cloud.VolumeTypes) + len(cloud.IOPSTiers) + len(cloud.ThroughputTiers) + 2; products != want {
		t.Errorf("there are %d products, not %d", products, want)
	}
	services, err := c.DescribeServices(t.Context(), &sdkpricing.DescribeServicesInput{})
	if err != nil || len(services.Services) != 2 || *services.Services[0].ServiceCode != "AmazonEC2" {
		t.Errorf("services: %+v, %v", services, err)
	}
	values, err := c.GetAttributeValues(t.Context(), &sdkpricing.GetAttributeValuesInput{ServiceCode: aws.String("AmazonEC2"), AttributeName: aws.String("volumeApiName")})
	if err != nil || len(values.AttributeValues) != len(cloud.VolumeTypes) {
		t.Errorf("values: %+v, %v", values, err)
	}
	for name, err := range map[string]error{
		"a service": func() error {
			_, err := c.GetProducts(t.Context(), &sdkpricing.GetProductsInput{ServiceCode: aws.String("AmazonRDS")})
			return err
		}(),
		"an attribute": func() error {
			_, err := c.GetAttributeValues(t.Context(), &sdkpricing.GetAttributeValuesInput{ServiceCode: aws.String("AmazonEC2"), AttributeName: aws.String("colour")})
			return err
		}(),
	} {
		if codeOf(err) != "InvalidParameterException" {
			t.Errorf("%s that is not there: %v", name, err)
		}
	}
}
