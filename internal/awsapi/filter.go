package awsapi

import (
	"sort"
	"strings"
)

// Limits of filters, as EC2 has them.
const (
	maxFilters      = 50
	maxFilterValues = 200
)

// Filter is one filter of a request: any of Values is enough.
type Filter struct {
	Name   string
	Values []string
}

// FilterSet tells, for each filter's name, the values that an object has for it. An object passes a filter when
// any of its values matches any of the filter's.
type FilterSet[T any] struct {
	Values map[string]func(T) []string
	// Tags returns an object's tags for tag:KEY, tag-key and tag-value; nil when the kind has none.
	Tags func(T) map[string]string
}

// Compile checks filters against the set and returns the test that an object has to pass.
func (s FilterSet[T]) Compile(filters []Filter) (func(T) bool, error) {
	if len(filters) > maxFilters {
		return nil, Errorf("FilterLimitExceeded", "The request has %d filters; the limit is %d.", len(filters), maxFilters)
	}
	var tests []func(T) bool
	values := 0
	for _, f := range filters {
		if f.Name == "" {
			return nil, InvalidParameterValue("The filter 'null' is invalid")
		}
		values += len(f.Values)
		if values > maxFilterValues {
			return nil, Errorf("FilterLimitExceeded", "The maximum number of filter values specified on a single call is %d", maxFilterValues)
		}
		if len(f.Values) == 0 {
			return nil, InvalidParameterValue("The filter '%s' has no values", shorten(f.Name))
		}
		get, err := s.getter(f.Name)
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(obj T) bool {
			for _, have := range get(obj) {
				for _, want := range f.Values {
					if MatchWildcard(want, have) {
						return true
					}
				}
			}
			return false
		})
	}
	return func(obj T) bool {
		for _, test := range tests {
			if !test(obj) {
				return false
			}
		}
		return true
	}, nil
}

func (s FilterSet[T]) getter(name string) (func(T) []string, error) {
	if get := s.Values[name]; get != nil {
		return get, nil
	}
	if s.Tags != nil {
		if key, ok := strings.CutPrefix(name, "tag:"); ok && key != "" {
			return func(obj T) []string {
				if v, ok := s.Tags(obj)[key]; ok {
					return []string{v}
				}
				return nil
			}, nil
		}
		switch name {
		case "tag-key":
			return func(obj T) []string {
				var keys []string
				for k := range s.Tags(obj) {
					keys = append(keys, k)
				}
				return keys
			}, nil
		case "tag-value":
			return func(obj T) []string {
				var vals []string
				for _, v := range s.Tags(obj) {
					vals = append(vals, v)
				}
				return vals
			}, nil
		}
	}
	return nil, InvalidParameterValue("The filter '%s' is invalid", shorten(name))
}

// Names lists the filters of the set, sorted, without those of tags.
func (s FilterSet[T]) Names() []string {
	var names []string
	for n := range s.Values {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// MatchWildcard tells whether text matches a pattern in which * stands for any characters, ? for one,
// and \ takes the next one literally. It takes time in proportion to the product of the lengths at most.
func MatchWildcard(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	star, mark := -1, 0
	i, j := 0, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && p[i] == '?':
			i, j = i+1, j+1
		case i+1 < len(p) && p[i] == '\\' && p[i+1] == t[j]:
			i, j = i+2, j+1
		case i < len(p) && (p[i] != '\\' || i+1 == len(p)) && p[i] == t[j]:
			i, j = i+1, j+1
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
