package billing

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ce"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// costMetrics are Cost Explorer's names for what something costs: all the same here, where nothing is prepaid, shared or discounted.
var costMetrics = []string{"UnblendedCost", "BlendedCost", "AmortizedCost", "NetUnblendedCost", "NetAmortizedCost"}

const usageQuantity = "UsageQuantity"

// question is a call about what was used, in whichever shape it came.
type question struct {
	period      *ce.DateInterval
	granularity string
	filter      *ce.Expression
	groupBy     []ce.GroupDefinition
	metrics     []string
	resources   bool
}

func (s *Service) costAndUsage(_ context.Context, call *awsapi.Call, req *ce.GetCostAndUsageRequest) (*ce.GetCostAndUsageResponse, error) {
	results, err := s.results(call, question{req.TimePeriod, *req.Granularity, req.Filter, req.GroupBy, req.Metrics, false})
	return &ce.GetCostAndUsageResponse{ResultsByTime: results, GroupDefinitions: req.GroupBy, DimensionValueAttributes: []ce.DimensionValuesWithAttributes{}}, err
}

func (s *Service) costAndUsageWithResources(_ context.Context, call *awsapi.Call, req *ce.GetCostAndUsageWithResourcesRequest) (*ce.GetCostAndUsageWithResourcesResponse, error) {
	metrics := req.Metrics
	if len(metrics) == 0 {
		metrics = costMetrics[:1]
	}
	results, err := s.results(call, question{req.TimePeriod, *req.Granularity, req.Filter, req.GroupBy, metrics, true})
	return &ce.GetCostAndUsageWithResourcesResponse{ResultsByTime: results, GroupDefinitions: req.GroupBy, DimensionValueAttributes: []ce.DimensionValuesWithAttributes{}}, err
}

// results answers a question, a part of its period after the other.
func (s *Service) results(call *awsapi.Call, q question) ([]ce.ResultByTime, error) {
	p, err := past(q.period, q.granularity, call.Now)
	if err != nil {
		return nil, err
	}
	a := asker{call.Region, q.resources}
	passes, err := a.filter(q.filter)
	if err != nil {
		return nil, err
	}
	keys, err := a.grouping(q.groupBy)
	if err != nil {
		return nil, err
	}
	metrics, err := metricsOf(q.metrics)
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	rows, book := ledger(view, call.Account), store.PriceBook(view)
	results := []ce.ResultByTime{}
	for _, part := range p.cut(q.granularity) {
		r := ce.ResultByTime{TimePeriod: part.shape(q.granularity), Estimated: new(part.to.After(call.Now)), Groups: []ce.Group{}, Total: map[string]ce.MetricValue{}}
		groups := map[string]*sum{}
		total := &sum{}
		items := cloud.Rate(rows, book, part.from, part.to, call.Now)
		for i := range items {
			it := &items[i]
			if !passes(it) {
				continue
			}
			to := total
			if len(keys) > 0 {
				names := make([]string, len(keys))
				for n, key := range keys {
					names[n] = key(it)
				}
				name := strings.Join(names, "\x00")
				if groups[name] == nil {
					groups[name] = &sum{keys: names}
				}
				to = groups[name]
			}
			to.add(it)
		}
		if len(keys) == 0 {
			r.Total = total.metrics(metrics)
		}
		for _, g := range groups {
			r.Groups = append(r.Groups, ce.Group{Keys: g.keys, Metrics: g.metrics(metrics)})
		}
		slices.SortFunc(r.Groups, func(a, b ce.Group) int { return slices.Compare(a.Keys, b.Keys) })
		results = append(results, r)
	}
	return results, nil
}

// grouping finds what items are grouped by: two things at most.
func (a asker) grouping(by []ce.GroupDefinition) ([]func(*cloud.Item) string, error) {
	if len(by) > 2 {
		return nil, invalid("Costs are grouped by two things at most.")
	}
	var keys []func(*cloud.Item) string
	for _, g := range by {
		key := deref(g.Key)
		switch cmp.Or(deref(g.Type), ce.GroupDefinitionTypeDIMENSION) {
		case ce.GroupDefinitionTypeDIMENSION:
			of, err := a.dimension(key)
			if err != nil {
				return nil, err
			}
			keys = append(keys, of)
		case ce.GroupDefinitionTypeTAG:
			if key == "" {
				return nil, invalid("A grouping by tags needs the tag's Key.")
			}
			keys = append(keys, func(it *cloud.Item) string { return key + "$" + it.Tags[key] })
		default:
			return nil, invalid("Cost categories are not supported by this cloud.")
		}
	}
	return keys, nil
}

func metricsOf(names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, invalid("At least one metric is needed, such as UnblendedCost.")
	}
	for _, name := range names {
		if name != usageQuantity && !slices.Contains(costMetrics, name) {
			return nil, invalid("The metric %s is not supported by this cloud.", name)
		}
	}
	return names, nil
}

// sum is what items come to.
type sum struct {
	keys     []string
	cost     cloud.Cost
	quantity float64
	unit     string
}

func (s *sum) add(it *cloud.Item) {
	unit := string(it.Unit)
	switch s.unit {
	case "", unit:
		s.unit = unit
	default:
		s.unit = "N/A" // hours and months are added up, as AWS does, and mean nothing
	}
	s.cost, s.quantity = s.cost.Add(it.Cost), s.quantity+it.Quantity()
}

func (s *sum) metrics(names []string) map[string]ce.MetricValue {
	out := map[string]ce.MetricValue{}
	for _, name := range names {
		if name == usageQuantity {
			out[name] = ce.MetricValue{Amount: new(strconv.FormatFloat(s.quantity, 'f', 6, 64)), Unit: new(cmp.Or(s.unit, "N/A"))}
			continue
		}
		out[name] = money(s.cost)
	}
	return out
}

func money(c cloud.Cost) ce.MetricValue {
	return ce.MetricValue{Amount: new(c.Micro().String()), Unit: new("USD")}
}
