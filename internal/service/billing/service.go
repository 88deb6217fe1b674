// Package billing answers what things cost: Cost Explorer, the Price List API, and the prices that nacre's own service sets.
//
// Every figure is worked out when it is asked for, from the usage ledger and the price book, by cloud.Rate; nothing is summed up beforehand, so nothing can
// be out of step. The region's root account, the operator's, sees all accounts; every other sees itself. It never writes the ledger.
package billing

import (
	"errors"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ce"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/pricing"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Service answers from one store.
type Service struct{ store *store.Store }

// New returns the service of a store.
func New(s *store.Store) *Service { return &Service{s} }

// Register adds the actions.
func (s *Service) Register(r *awsapi.Registry) {
	awsapi.Handle(r, nacre.ActionGetPrices, s.getPrices, awsapi.Honours("Day"))
	awsapi.Handle(r, nacre.ActionPutPrices, s.putPrices, awsapi.Honours("PriceList"))
	awsapi.Handle(r, nacre.ActionListCharges, s.charges, awsapi.Honours("Month", "AsOf", "MaxResults", "NextToken"))
	awsapi.Handle(r, ce.ActionGetCostAndUsage, s.costAndUsage, awsapi.Honours("TimePeriod", "Granularity", "Filter", "GroupBy", "Metrics"))
	awsapi.Handle(r, ce.ActionGetCostAndUsageWithResources, s.costAndUsageWithResources, awsapi.Honours("TimePeriod", "Granularity", "Filter", "GroupBy", "Metrics"))
	awsapi.Handle(r, ce.ActionGetCostForecast, s.forecast, awsapi.Honours("TimePeriod", "Granularity", "Filter", "Metric"))
	awsapi.Handle(r, ce.ActionGetDimensionValues, s.dimensionValues, awsapi.Honours("TimePeriod", "Dimension", "Filter", "SearchString", "MaxResults", "NextPageToken", "Context"))
	awsapi.Handle(r, ce.ActionGetTags, s.tags, awsapi.Honours("TimePeriod", "TagKey", "Filter", "SearchString", "MaxResults", "NextPageToken"))
	awsapi.Handle(r, pricing.ActionDescribeServices, s.describeServices, awsapi.Honours("ServiceCode", "FormatVersion", "MaxResults", "NextToken"))
	awsapi.Handle(r, pricing.ActionGetAttributeValues, s.attributeValues, awsapi.Honours("ServiceCode", "AttributeName", "MaxResults", "NextToken"))
	awsapi.Handle(r, pricing.ActionGetProducts, s.products, awsapi.Honours("ServiceCode", "Filters", "FormatVersion", "MaxResults", "NextToken"))
}

// operator tells whether an account is the region's root.
func operator(r store.Reader, account cloud.AccountID) bool {
	region, ok := store.Region(r)
	return ok && region.Root == account
}

// ledger are the rows that a caller may see.
func ledger(v *store.View, account cloud.AccountID) []*cloud.Usage {
	if operator(v, account) {
		return store.List(v, store.Usages)
	}
	return store.ListBy(v, store.UsagesByAccount, account)
}

func invalid(format string, args ...any) error {
	return awsapi.Errorf("ValidationException", format, args...)
}

// day reads a day such as 2026-01-01.
func day(text string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return t, invalid("'%s' is no day such as 2026-01-01.", text)
	}
	return t, nil
}

// contended says a transaction's failure as an answer.
func contended(err error) error {
	if errors.Is(err, store.ErrContended) || errors.Is(err, store.ErrFull) {
		return awsapi.Errorf("Unavailable", "The prices can't be written now; try again.")
	}
	return err
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
