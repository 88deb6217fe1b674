package billing

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ce"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) dimensionValues(_ context.Context, call *awsapi.Call, req *ce.GetDimensionValuesRequest) (*ce.GetDimensionValuesResponse, error) {
	if c := deref(req.Context); c != "" && c != ce.ContextCOSTANDUSAGE {
		return nil, invalid("The context %s is not supported by this cloud.", c)
	}
	of, err := asker{call.Region, false}.dimension(*req.Dimension)
	if err != nil {
		return nil, err
	}
	found, err := s.seen(call, req.TimePeriod, req.Filter, req.SearchString, func(it *cloud.Item) []string { return []string{of(it)} })
	if err != nil {
		return nil, err
	}
	page, err := paginate(found, req.MaxResults, req.NextPageToken, []any{*req.Dimension, req.TimePeriod, req.Filter, req.SearchString})
	if err != nil {
		return nil, err
	}
	values := []ce.DimensionValuesWithAttributes{}
	for _, v := range page.Items {
		values = append(values, ce.DimensionValuesWithAttributes{Value: new(v), Attributes: map[string]string{}})
	}
	return &ce.GetDimensionValuesResponse{DimensionValues: values, ReturnSize: new(int64(len(values))), TotalSize: new(int64(len(found))), NextPageToken: page.Next}, nil
}

// tags lists the keys of tags, or one key's values.
func (s *Service) tags(_ context.Context, call *awsapi.Call, req *ce.GetTagsRequest) (*ce.GetTagsResponse, error) {
	found, err := s.seen(call, req.TimePeriod, req.Filter, req.SearchString, func(it *cloud.Item) []string {
		if req.TagKey == nil {
			return slices.Collect(maps.Keys(it.Tags))
		}
		return []string{it.Tags[*req.TagKey]}
	})
	if err != nil {
		return nil, err
	}
	page, err := paginate(found, req.MaxResults, req.NextPageToken, []any{req.TagKey, req.TimePeriod, req.Filter, req.SearchString})
	if err != nil {
		return nil, err
	}
	return &ce.GetTagsResponse{Tags: append([]string{}, page.Items...), ReturnSize: new(int64(len(page.Items))), TotalSize: new(int64(len(found))), NextPageToken: page.Next}, nil
}

// seen lists what the items of a period have, sorted, of what contains the search string.
func (s *Service) seen(call *awsapi.Call, interval *ce.DateInterval, filter *ce.Expression, search *string, of func(*cloud.Item) []string) ([]string, error) {
	p, err := past(interval, ce.GranularityDAILY, call.Now)
	if err != nil {
		return nil, err
	}
	passes, err := asker{call.Region, false}.filter(filter)
	if err != nil {
		return nil, err
	}
	view, values := s.store.View(), map[string]bool{}
	items := cloud.Rate(ledger(view, call.Account), store.PriceBook(view), p.from, p.to, call.Now)
	for i := range items {
		if !passes(&items[i]) {
			continue
		}
		for _, v := range of(&items[i]) {
			if strings.Contains(strings.ToLower(v), strings.ToLower(deref(search))) {
				values[v] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(values)), nil
}

// pageSize is what a page holds that no size was asked for.
const pageSize = 1000

func paginate(list []string, most *int64, token *string, question any) (awsapi.Page[string], error) {
	if most == nil {
		most = new(int64(pageSize))
	}
	return awsapi.Paginate(list, func(v string) string { return v }, most, token, question)
}
