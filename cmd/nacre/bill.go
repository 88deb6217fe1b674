package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ce"
)

// groupings are what --by takes, in Cost Explorer's words. An instance's costs are those of every resource.
var groupings = map[string]string{"account": "LINKED_ACCOUNT", "service": "SERVICE", "type": "USAGE_TYPE", "instance": "RESOURCE_ID"}

type billOptions struct {
	month    string
	by       string
	forecast bool
}

func billCommand(g *globals) *cobra.Command {
	var o billOptions
	c := &cobra.Command{
		Use:   "bill",
		Short: "What this month's use costs",
		Long: `What a month's use costs, from the usage ledger at the prices that hold ("nacre prices show").

Times are UTC. The operator's account sees all accounts' costs, every other account its own. The same figures come from
"aws ce get-cost-and-usage" and from "aws ce get-cost-forecast".`,
		Example: `  nacre bill
  nacre bill --month 2026-10 --by account
  nacre bill --by tag:team
  nacre bill --forecast
  nacre bill export --format parquet --file november.parquet`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.connect()
			if err != nil {
				return err
			}
			b, err := makeBill(cmd.Context(), ce.Client{Client: api.raw}, o, time.Now().UTC())
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd, b)
			}
			return b.print(cmd)
		},
	}
	f := c.Flags()
	f.StringVar(&o.month, "month", "", "the `MONTH`, such as 2026-11 (default the current one)")
	f.StringVar(&o.by, "by", "type", "what the costs are told apart `BY`: account, service, type, instance, or tag:KEY")
	f.BoolVar(&o.forecast, "forecast", false, "say too what the whole month comes to if what runs now goes on")
	c.AddCommand(billExportCommand(g))
	return c
}

// bill is what is printed.
type bill struct {
	Month     string     `json:"month"`
	By        string     `json:"by"`
	Lines     []billLine `json:"lines"`
	Total     string     `json:"total"`
	Currency  string     `json:"currency"`
	Estimated bool       `json:"estimated"` // the month isn't over
	Forecast  string     `json:"forecast,omitempty"`
}

type billLine struct {
	Name     string `json:"name"`
	Quantity string `json:"quantity"`
	Unit     string `json:"unit"`
	Cost     string `json:"cost"`
}

func makeBill(ctx context.Context, c ce.Client, o billOptions, now time.Time) (*bill, error) {
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	if o.month != "" {
		var err error
		if month, err = time.Parse("2006-01", o.month); err != nil {
			return nil, fmt.Errorf("--month %q: give a month such as 2026-11", o.month)
		}
	}
	group := ce.GroupDefinition{Type: new(ce.GroupDefinitionTypeDIMENSION)}
	if key, ok := strings.CutPrefix(o.by, "tag:"); ok && key != "" {
		group = ce.GroupDefinition{Type: new(ce.GroupDefinitionTypeTAG), Key: &key}
	} else if name, ok := groupings[o.by]; ok {
		group.Key = &name
	} else {
		return nil, fmt.Errorf("--by %q: use account, service, type, instance, or tag:KEY", o.by)
	}
	period := &ce.DateInterval{Start: new(month.Format(time.DateOnly)), End: new(month.AddDate(0, 1, 0).Format(time.DateOnly))}
	metrics, monthly := []string{"UnblendedCost", "UsageQuantity"}, new(ce.GranularityMONTHLY)
	whole, err := c.GetCostAndUsage(ctx, &ce.GetCostAndUsageRequest{TimePeriod: period, Granularity: monthly, Metrics: metrics[:1]})
	if err != nil {
		return nil, err
	}
	parts, err := grouped(ctx, c, period, group, metrics)
	if err != nil {
		return nil, err
	}
	b := &bill{Month: month.Format("2006-01"), By: o.by, Lines: []billLine{}, Currency: "USD"}
	for _, r := range whole.ResultsByTime {
		b.Total, b.Estimated = *r.Total["UnblendedCost"].Amount, *r.Estimated
	}
	for _, r := range parts {
		for _, x := range r.Groups {
			b.Lines = append(b.Lines, billLine{Name: lineName(x.Keys[0]), Quantity: *x.Metrics["UsageQuantity"].Amount, Unit: *x.Metrics["UsageQuantity"].Unit, Cost: *x.Metrics["UnblendedCost"].Amount})
		}
	}
	slices.SortFunc(b.Lines, func(x, y billLine) int { // the dearest first
		return cmp.Or(len(y.Cost)-len(x.Cost), strings.Compare(y.Cost, x.Cost), strings.Compare(x.Name, y.Name))
	})
	if o.forecast {
		if b.Forecast, err = forecast(ctx, c, month, now); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// grouped asks for a period's costs, told apart.
func grouped(ctx context.Context, c ce.Client, period *ce.DateInterval, group ce.GroupDefinition, metrics []string) ([]ce.ResultByTime, error) {
	by, monthly := []ce.GroupDefinition{group}, new(ce.GranularityMONTHLY)
	if *group.Key == groupings["instance"] && *group.Type == ce.GroupDefinitionTypeDIMENSION {
		all := &ce.Expression{Dimensions: &ce.DimensionValues{Key: new("RECORD_TYPE"), Values: []string{"Usage"}}}
		out, err := c.GetCostAndUsageWithResources(ctx, &ce.GetCostAndUsageWithResourcesRequest{TimePeriod: period, Granularity: monthly, Metrics: metrics, GroupBy: by, Filter: all})
		if err != nil {
			return nil, err
		}
		return out.ResultsByTime, nil
	}
	out, err := c.GetCostAndUsage(ctx, &ce.GetCostAndUsageRequest{TimePeriod: period, Granularity: monthly, Metrics: metrics, GroupBy: by})
	if err != nil {
		return nil, err
	}
	return out.ResultsByTime, nil
}

// forecast is what the month comes to: what was up to today, and what today and the rest of it cost if what runs goes on.
func forecast(ctx context.Context, c ce.Client, month, now time.Time) (string, error) {
	today, end := now.Truncate(24*time.Hour), month.AddDate(0, 1, 0)
	if !today.Before(end) {
		return "", fmt.Errorf("--forecast: %s is over", month.Format("2006-01"))
	}
	from := month
	var sums []string
	if today.After(month) {
		from = today
		was, err := c.GetCostAndUsage(ctx, &ce.GetCostAndUsageRequest{TimePeriod: &ce.DateInterval{Start: new(month.Format(time.DateOnly)), End: new(today.Format(time.DateOnly))},
			Granularity: new(ce.GranularityMONTHLY), Metrics: []string{"UnblendedCost"}})
		if err != nil {
			return "", err
		}
		for _, r := range was.ResultsByTime {
			sums = append(sums, *r.Total["UnblendedCost"].Amount)
		}
	}
	will, err := c.GetCostForecast(ctx, &ce.GetCostForecastRequest{TimePeriod: &ce.DateInterval{Start: new(from.Format(time.DateOnly)), End: new(end.Format(time.DateOnly))},
		Granularity: new(ce.GranularityMONTHLY), Metric: new(ce.MetricUNBLENDEDCOST)})
	if err != nil {
		return "", err
	}
	return addDollars(append(sums, *will.Total.Amount)...)
}

// lineName is a group's key as a person reads it.
func lineName(key string) string {
	if name, value, ok := strings.Cut(key, "$"); ok {
		if value == "" {
			return name + " (none)"
		}
		return name + "=" + value
	}
	return key
}

func (b *bill) print(cmd *cobra.Command) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tQUANTITY\tUNIT\tUSD\n", strings.ToUpper(b.By))
	for _, l := range b.Lines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Name, l.Quantity, l.Unit, l.Cost)
	}
	note := ""
	if b.Estimated {
		note = " so far"
	}
	fmt.Fprintf(w, "%s%s\t\t\t%s\n", b.Month, note, b.Total)
	if b.Forecast != "" {
		fmt.Fprintf(w, "%s, if what runs goes on\t\t\t%s\n", b.Month, b.Forecast)
	}
	return w.Flush()
}
