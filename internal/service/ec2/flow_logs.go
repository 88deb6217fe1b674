package ec2

import (
	"context"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerFlowLogs(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateFlowLogs, s.createFlowLogs, awsapi.Honours("ClientToken", "LogDestination", "LogDestinationType", "LogFormat", "MaxAggregationInterval",
		"ResourceIds", "ResourceType", "TagSpecifications", "TrafficType"))
	awsapi.Handle(r, ec2.ActionDeleteFlowLogs, s.deleteFlowLogs, awsapi.Honours("FlowLogIds"))
	awsapi.Handle(r, ec2.ActionDescribeFlowLogs, s.describeFlowLogs, awsapi.Honours("Filter", "FlowLogIds", "MaxResults", "NextToken"))
}

const (
	flowLogsToBucket = "s3"
	// maxFlowLogResources bounds one call.
	maxFlowLogResources = 1000
	// maxFlowLogs bounds the logs of one resource; it is EC2's limit.
	maxFlowLogs = 2
)

var flowLogPrefix = regexp.MustCompile(`^[A-Za-z0-9._\-]+(/[A-Za-z0-9._\-]+)*$`)

// flowDestination reads where a log goes: into files, which clients name as they would a bucket.
func flowDestination(kind, arn string) (prefix string, err error) {
	if kind == "" {
		kind = "cloud-watch-logs"
	}
	if kind != flowLogsToBucket {
		return "", awsapi.Unsupported("The log destination type '%s' is not supported by this cloud: use %s with the destination %s, which is files of the node.", kind, flowLogsToBucket, cloud.FlowLogBucket)
	}
	if arn == "" {
		return "", awsapi.MissingParameter("LogDestination")
	}
	rest, ok := strings.CutPrefix(arn, cloud.FlowLogBucket)
	if !ok || rest != "" && rest[0] != '/' {
		return "", awsapi.Errorf("LogDestinationNotFoundException", "LogDestination: %s does not exist. This cloud has %s, which is files of the node.", arn, cloud.FlowLogBucket)
	}
	prefix = strings.Trim(rest, "/")
	if prefix != "" && (!flowLogPrefix.MatchString(prefix) || path.Clean("/"+prefix) != "/"+prefix || len(prefix) > 255) {
		return "", awsapi.InvalidParameterValue("LogDestination: the folder '%s' is not valid.", prefix)
	}
	return prefix, nil
}

// flowResource finds what a log is for.
func flowResource(tx *store.Tx, account cloud.AccountID, kind, id string) (f cloud.FlowLog, err error) {
	switch kind {
	case "VPC":
		v, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, account, id)
		if err != nil {
			return f, err
		}
		f.VPC = v.ID
	case "Subnet":
		n, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, account, id)
		if err != nil {
			return f, err
		}
		f.VPC, f.Subnet = n.VPC, n.ID
	case "NetworkInterface":
		n, err := lookup(tx, store.Interfaces, ownerOfInterface, kindInterface, account, id)
		if err != nil {
			return f, err
		}
		f.VPC, f.Interface = n.VPC, n.ID
	case "":
		return f, awsapi.MissingParameter("ResourceType")
	default:
		return f, awsapi.Unsupported("The resource type '%s' is not supported by this cloud.", kind)
	}
	return f, nil
}

func (s *Service) createFlowLogs(ctx context.Context, call *awsapi.Call, req *ec2.CreateFlowLogsRequest) (*ec2.CreateFlowLogsResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "vpc-flow-log")
	if err != nil {
		return nil, err
	}
	prefix, err := flowDestination(deref(req.LogDestinationType), deref(req.LogDestination))
	if err != nil {
		return nil, err
	}
	interval := int64(600)
	if req.MaxAggregationInterval != nil {
		interval = *req.MaxAggregationInterval
	}
	format := deref(req.LogFormat)
	switch {
	case len(req.ResourceIds) == 0:
		return nil, awsapi.MissingParameter("ResourceIds")
	case len(req.ResourceIds) > maxFlowLogResources:
		return nil, awsapi.InvalidParameterValue("Flow logs for %d resources can be made in one call", maxFlowLogResources)
	case deref(req.TrafficType) == "":
		return nil, awsapi.MissingParameter("TrafficType")
	case interval != 60 && interval != 600:
		return nil, awsapi.InvalidParameterValue("Invalid value '%d' for MaxAggregationInterval: it is 60 or 600.", interval)
	case format != "" && format != cloud.FlowLogFormat:
		return nil, awsapi.Unsupported("The value of LogFormat is not supported by this cloud, which writes the default format: %s", cloud.FlowLogFormat)
	}
	hash := awsapi.RequestHash(req)
	fresh := make([]cloud.FlowLogID, len(req.ResourceIds))
	for n := range fresh {
		fresh[n] = newID[cloud.FlowLogID](s)
	}
	out := &ec2.CreateFlowLogsResult{ClientToken: req.ClientToken}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		out.FlowLogIds, out.Unsuccessful = []string{}, []ec2.UnsuccessfulItem{}
		token := deref(req.ClientToken)
		if token != "" {
			done, err := replay(tx, call, "CreateFlowLogs", token, hash)
			if err != nil {
				return err
			}
			if done != "" {
				out.FlowLogIds = strings.Split(done, ",")
				return nil
			}
		}
		for n, id := range req.ResourceIds {
			f, err := flowResource(tx, call.Account, deref(req.ResourceType), id)
			if err != nil {
				return err
			}
			f.ID, f.Account, f.Traffic, f.Interval, f.Tags, f.Created = fresh[n], call.Account, cloud.FlowTraffic(*req.TrafficType), int(interval), tags["vpc-flow-log"], call.Now
			f.Destination, f.Prefix = *req.LogDestination, prefix
			if refusal := flowLogRefusal(tx, &f); refusal != nil {
				out.Unsuccessful = append(out.Unsuccessful, ec2.UnsuccessfulItem{ResourceId: &id, Error: refusal})
				continue
			}
			out.FlowLogIds = append(out.FlowLogIds, string(f.ID))
			store.Put(tx, store.FlowLogs, &f)
		}
		if token != "" && len(out.FlowLogIds) > 0 {
			remember(tx, call, "CreateFlowLogs", token, hash, strings.Join(out.FlowLogIds, ","))
		}
		return nil
	})
	return out, err
}

// flowLogRefusal says why one resource gets no log, nil when it does.
func flowLogRefusal(tx *store.Tx, f *cloud.FlowLog) *ec2.UnsuccessfulItemError {
	same := 0
	for _, other := range store.ListBy(tx, store.FlowLogsByVPC, f.VPC) {
		if other.Resource() != f.Resource() {
			continue
		}
		same++
		if other.Destination == f.Destination && other.Traffic == f.Traffic {
			return &ec2.UnsuccessfulItemError{Code: new("FlowLogAlreadyExists"), Message: new("Error. There is an existing Flow Log with the same configuration and log destination.")}
		}
	}
	if same >= maxFlowLogs {
		return &ec2.UnsuccessfulItemError{Code: new("FlowLogsLimitExceeded"), Message: new("The resource has the most flow logs that it may have.")}
	}
	return nil
}

func (s *Service) deleteFlowLogs(ctx context.Context, call *awsapi.Call, req *ec2.DeleteFlowLogsRequest) (*ec2.DeleteFlowLogsResult, error) {
	if len(req.FlowLogIds) == 0 {
		return nil, awsapi.MissingParameter("FlowLogId")
	}
	out := &ec2.DeleteFlowLogsResult{}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		out.Unsuccessful = []ec2.UnsuccessfulItem{}
		for _, id := range req.FlowLogIds {
			if !cloud.ValidID[cloud.FlowLogID](id) {
				return kindFlowLog.malformed(id)
			}
			f, ok := store.Get(tx, store.FlowLogs, cloud.FlowLogID(id))
			if !ok || f.Account != call.Account {
				out.Unsuccessful = append(out.Unsuccessful, ec2.UnsuccessfulItem{ResourceId: &id,
					Error: &ec2.UnsuccessfulItemError{Code: new("InvalidFlowLogId.NotFound"), Message: new("The flow log '" + id + "' does not exist")}})
				continue
			}
			store.Delete(tx, store.FlowLogs, f.ID)
		}
		return nil
	})
	return out, err
}

func (s *Service) describeFlowLogs(_ context.Context, call *awsapi.Call, req *ec2.DescribeFlowLogsRequest) (*ec2.DescribeFlowLogsResult, error) {
	type F = *cloud.FlowLog
	fixed := func(list ...string) func(F) []string { return func(F) []string { return slices.Clone(list) } }
	l := listing[cloud.FlowLogID, cloud.FlowLog]{store.FlowLogs, store.FlowLogsByAccount, ownerOfFlowLog, kindFlowLog, func(f F) cloud.FlowLogID { return f.ID }, awsapi.FilterSet[F]{
		Tags: func(f F) map[string]string { return f.Tags }, Values: map[string]func(F) []string{
			"deliver-log-status": fixed("SUCCESS"), "log-destination-type": fixed(flowLogsToBucket), "log-group-name": fixed(),
			"flow-log-id": one(func(f F) string { return string(f.ID) }), "resource-id": one(F.Resource),
			"traffic-type": one(func(f F) string { return string(f.Traffic) }),
		}}}
	page, err := l.page(s.store.View(), call.Account, req.FlowLogIds, req.Filter, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeFlowLogsResult{NextToken: page.Next, FlowLogs: []ec2.FlowLog{}}
	for _, f := range page.Items {
		out.FlowLogs = append(out.FlowLogs, ec2.FlowLog{FlowLogId: text(f.ID), ResourceId: new(f.Resource()), TrafficType: text(f.Traffic), CreationTime: &f.Created,
			FlowLogStatus: new("ACTIVE"), DeliverLogsStatus: new("SUCCESS"), LogDestinationType: new(flowLogsToBucket), LogDestination: &f.Destination,
			LogFormat: new(cloud.FlowLogFormat), MaxAggregationInterval: new(int64(f.Interval)), Tags: tagList(f.Tags)})
	}
	return out, nil
}
