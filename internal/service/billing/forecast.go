package billing

import (
	"context"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ce"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// forecast tells what a coming period costs if what runs now goes on running, at the prices that are set for then. It is no guess at what will be started.
func (s *Service) forecast(_ context.Context, call *awsapi.Call, req *ce.GetCostForecastRequest) (*ce.GetCostForecastResponse, error) {
	if *req.Granularity == ce.GranularityHOURLY {
		return nil, invalid("Forecasts are told by days or months.")
	}
	if m := *req.Metric; !strings.HasSuffix(m, "_COST") {
		return nil, invalid("The metric %s is not supported by this cloud.", m)
	}
	today := call.Now.Truncate(24 * time.Hour)
	p, err := periodOf(req.TimePeriod, *req.Granularity, today, today.AddDate(0, longestFor, 0))
	if err != nil {
		return nil, err
	}
	passes, err := asker{call.Region, false}.filter(req.Filter)
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	rows, book := ledger(view, call.Account), store.PriceBook(view)
	out := &ce.GetCostForecastResponse{ForecastResultsByTime: []ce.ForecastResult{}}
	var total cloud.Cost
	for _, part := range p.cut(*req.Granularity) {
		var cost cloud.Cost
		items := cloud.Rate(rows, book, part.from, part.to, part.to)
		for i := range items {
			if passes(&items[i]) {
				cost = cost.Add(items[i].Cost)
			}
		}
		total = total.Add(cost)
		out.ForecastResultsByTime = append(out.ForecastResultsByTime, ce.ForecastResult{TimePeriod: part.shape(*req.Granularity), MeanValue: money(cost).Amount})
	}
	sum := money(total)
	out.Total = &sum
	return out, nil
}
