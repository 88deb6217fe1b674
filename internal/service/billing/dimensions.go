package billing

import (
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ce"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// dimensions are what items of a bill are told apart by, under Cost Explorer's names.
var dimensions = map[string]func(region string, it *cloud.Item) string{
	"LINKED_ACCOUNT": func(_ string, it *cloud.Item) string { return string(it.Account) },
	"SERVICE":        func(_ string, it *cloud.Item) string { return services[it.Kind] },
	"USAGE_TYPE":     func(_ string, it *cloud.Item) string { return usageType(it.Charge, it.Share) },
	"OPERATION":      func(_ string, it *cloud.Item) string { return operations[it.Kind] },
	"REGION":         func(region string, _ *cloud.Item) string { return region },
	"RECORD_TYPE":    func(string, *cloud.Item) string { return "Usage" },
	"INSTANCE_TYPE": func(_ string, it *cloud.Item) string {
		if it.Kind == cloud.UsageInstance {
			return it.Type
		}
		return "NoInstanceType"
	},
	"INSTANCE_TYPE_FAMILY": func(_ string, it *cloud.Item) string {
		if it.Kind == cloud.UsageInstance {
			return cloud.InstanceType(it.Type).Family()
		}
		return "NoInstanceTypeFamily"
	},
	"PURCHASE_TYPE": func(_ string, it *cloud.Item) string {
		if it.Kind == cloud.UsageInstance {
			return "On Demand Instances"
		}
		return "NoPurchaseType"
	},
}

// resourceDimension is one that only the calls with resources know.
const resourceDimension = "RESOURCE_ID"

const compute = "Amazon Elastic Compute Cloud - Compute"

var services = map[cloud.UsageKind]string{cloud.UsageInstance: compute, cloud.UsageAddress: "Amazon Virtual Private Cloud", cloud.UsageNAT: "EC2 - Other",
	cloud.UsageVolume: "EC2 - Other", cloud.UsageSnapshot: "EC2 - Other"}

var operations = map[cloud.UsageKind]string{cloud.UsageInstance: "RunInstances", cloud.UsageAddress: "AllocateAddress", cloud.UsageNAT: "NatGateway",
	cloud.UsageVolume: "CreateVolume", cloud.UsageSnapshot: "CreateSnapshot"}

// usageType is AWS's name of what is paid for, as it is in us-east-1: without the region. ContainerUsage is nacre's own.
func usageType(c cloud.Charge, share cloud.Share) string {
	switch c.Kind {
	case cloud.UsageInstance:
		if c.Isolation == cloud.IsolationContainer {
			return "ContainerUsage:" + c.Type
		}
		return "BoxUsage:" + c.Type
	case cloud.UsageAddress:
		return "PublicIPv4:Address"
	case cloud.UsageNAT:
		return "NatGateway-Hours"
	case cloud.UsageVolume:
		switch share.Unit {
		case cloud.UnitIOPS:
			return "EBS:VolumeP-IOPS." + share.Tier
		case cloud.UnitThroughput:
			return "EBS:VolumeP-Throughput." + share.Tier
		}
		return "EBS:VolumeUsage." + c.Type
	}
	return "EBS:SnapshotUsage"
}

// asker knows what a call may ask of items.
type asker struct {
	region    string
	resources bool
}

func (a asker) dimension(name string) (func(*cloud.Item) string, error) {
	if name == resourceDimension && a.resources {
		return func(it *cloud.Item) string { return it.Resource }, nil
	}
	of, ok := dimensions[name]
	if !ok {
		return nil, invalid("The dimension %s is not supported by this cloud.", name)
	}
	return func(it *cloud.Item) string { return of(a.region, it) }, nil
}

// maxValues bounds the values of a filter's expression, all together.
const maxValues = 1000

// filter makes a test of an expression; nil lets everything through.
func (a asker) filter(e *ce.Expression) (func(*cloud.Item) bool, error) {
	values := 0
	return a.expression(e, &values)
}

func (a asker) expression(e *ce.Expression, values *int) (func(*cloud.Item) bool, error) {
	if e == nil {
		return func(*cloud.Item) bool { return true }, nil
	}
	given := 0
	for _, there := range []bool{e.And != nil, e.Or != nil, e.Not != nil, e.Dimensions != nil, e.Tags != nil, e.CostCategories != nil} {
		if there {
			given++
		}
	}
	if given != 1 {
		return nil, invalid("An expression has exactly one of And, Or, Not, Dimensions, Tags and CostCategories; one has %d.", given)
	}
	switch {
	case e.Not != nil:
		of, err := a.expression(e.Not, values)
		return func(it *cloud.Item) bool { return !of(it) }, err
	case e.Dimensions != nil:
		of, err := a.dimension(deref(e.Dimensions.Key))
		if err != nil {
			return nil, err
		}
		match, err := matcher(e.Dimensions.Values, e.Dimensions.MatchOptions, values)
		return func(it *cloud.Item) bool { return match(of(it), true) }, err
	case e.Tags != nil:
		key := deref(e.Tags.Key)
		match, err := matcher(e.Tags.Values, e.Tags.MatchOptions, values)
		return func(it *cloud.Item) bool { v, ok := it.Tags[key]; return match(v, ok) }, err
	case e.CostCategories != nil:
		return nil, invalid("Cost categories are not supported by this cloud.")
	}
	list, all := e.And, e.And != nil
	if !all {
		list = e.Or
	}
	if len(list) < 2 {
		return nil, invalid("And and Or take two expressions at least.")
	}
	tests := make([]func(*cloud.Item) bool, len(list))
	for i := range list {
		var err error
		if tests[i], err = a.expression(&list[i], values); err != nil {
			return nil, err
		}
	}
	return func(it *cloud.Item) bool {
		for _, test := range tests {
			if test(it) != all {
				return !all
			}
		}
		return all
	}, nil
}

// matcher tests a value, which may be absent, against those of an expression.
func matcher(wanted, options []string, values *int) (func(value string, present bool) bool, error) {
	if *values += len(wanted); *values > maxValues {
		return nil, invalid("A filter has %d values at most.", maxValues)
	}
	same, fold, absent := func(v, w string) bool { return v == w }, false, false
	for _, o := range options {
		switch o {
		case "EQUALS", "CASE_SENSITIVE":
		case "CASE_INSENSITIVE":
			fold = true
		case "STARTS_WITH":
			same = strings.HasPrefix
		case "ENDS_WITH":
			same = strings.HasSuffix
		case "CONTAINS":
			same = strings.Contains
		case "ABSENT":
			absent = true
		default:
			return nil, invalid("The match option %s is not supported by this cloud.", o)
		}
	}
	switch {
	case absent && len(wanted) > 0:
		return nil, invalid("The match option ABSENT takes no values.")
	case !absent && len(wanted) == 0:
		return nil, invalid("An expression of Dimensions or Tags needs Values.")
	}
	return func(v string, present bool) bool {
		if !present || absent {
			return absent && !present
		}
		return slices.ContainsFunc(wanted, func(w string) bool {
			if fold {
				return same(strings.ToLower(v), strings.ToLower(w))
			}
			return same(v, w)
		})
	}, nil
}
