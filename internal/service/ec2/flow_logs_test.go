package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func flowLog(kind types.FlowLogsResourceType, resource string, changes ...func(*sdk.CreateFlowLogsInput)) *sdk.CreateFlowLogsInput {
	in := &sdk.CreateFlowLogsInput{ResourceType: kind, ResourceIds: []string{resource}, TrafficType: types.TrafficTypeAll, LogDestinationType: types.LogDestinationTypeS3,
		LogDestination: aws.String("arn:aws:s3:::nacre-flow-logs/web")}
	for _, c := range changes {
		c(in)
	}
	return in
}

func TestAFlowLogIsReadBackAsItWasMade(t *testing.T) {
	w := newWorld(t)
	subnet := string(w.subnet().ID)
	made, err := w.CreateFlowLogs(t.Context(), flowLog(types.FlowLogsResourceTypeSubnet, subnet, func(in *sdk.CreateFlowLogsInput) {
		in.MaxAggregationInterval = aws.Int32(60)
		in.TagSpecifications = []types.TagSpecification{tagSpec("vpc-flow-log", "a", "b")}
	}))
	if err != nil || len(made.FlowLogIds) != 1 {
		t.Fatal(made, err)
	}
	out, err := w.DescribeFlowLogs(t.Context(), &sdk.DescribeFlowLogsInput{Filter: filterList("resource-id", subnet, "tag:a", "b")})
	if err != nil || len(out.FlowLogs) != 1 {
		t.Fatal(out, err)
	}
	if f := out.FlowLogs[0]; *f.FlowLogId != made.FlowLogIds[0] || *f.MaxAggregationInterval != 60 || *f.LogDestination != "arn:aws:s3:::nacre-flow-logs/web" ||
		f.TrafficType != types.TrafficTypeAll || *f.FlowLogStatus != "ACTIVE" {
		t.Errorf("described as %+v", f)
	}
	again, err := w.CreateFlowLogs(t.Context(), flowLog(types.FlowLogsResourceTypeSubnet, subnet))
	if err != nil || len(again.Unsuccessful) != 1 || *again.Unsuccessful[0].Error.Code != "FlowLogAlreadyExists" {
		t.Errorf("the same once more: %+v, %v", again, err)
	}
	for range 2 {
		gone, err := w.DeleteFlowLogs(t.Context(), &sdk.DeleteFlowLogsInput{FlowLogIds: made.FlowLogIds})
		if err != nil {
			t.Fatal(err)
		}
		out, err := w.DescribeFlowLogs(t.Context(), &sdk.DescribeFlowLogsInput{})
		if err != nil || len(out.FlowLogs) != 0 {
			t.Errorf("left: %+v, %v", out.FlowLogs, err)
		}
		if len(gone.Unsuccessful) > 0 && *gone.Unsuccessful[0].Error.Code != "InvalidFlowLogId.NotFound" {
			t.Errorf("deleting it: %+v", gone.Unsuccessful)
		}
	}
}

func TestFlowLogsGoOnlyWhereThereIsAPlaceForThem(t *testing.T) {
	w := newWorld(t)
	subnet := string(w.subnet().ID)
	to := func(arn string) func(*sdk.CreateFlowLogsInput) {
		return func(in *sdk.CreateFlowLogsInput) { in.LogDestination = &arn }
	}
	w.unchanged(func() {
		for _, c := range []struct {
			code   string
			change func(*sdk.CreateFlowLogsInput)
		}{
			{"UnsupportedOperation", func(in *sdk.CreateFlowLogsInput) { in.LogDestinationType = "" }},
			{"UnsupportedOperation", func(in *sdk.CreateFlowLogsInput) { in.LogDestinationType = types.LogDestinationTypeKinesisDataFirehose }},
			{"LogDestinationNotFoundException", to("arn:aws:s3:::somebody-elses")}, {"LogDestinationNotFoundException", to("arn:aws:s3:::nacre-flow-logs-2")},
			{"InvalidParameterValue", to("arn:aws:s3:::nacre-flow-logs/../etc")}, {"InvalidParameterValue", to("arn:aws:s3:::nacre-flow-logs/a/./b")},
			{"UnsupportedOperation", func(in *sdk.CreateFlowLogsInput) { in.LogFormat = aws.String("${srcaddr}") }},
			{"InvalidParameterValue", func(in *sdk.CreateFlowLogsInput) { in.MaxAggregationInterval = aws.Int32(61) }},
			{"InvalidSubnetID.NotFound", func(in *sdk.CreateFlowLogsInput) { in.ResourceIds = []string{"subnet-00000000000000000"} }},
			{"UnsupportedOperation", func(in *sdk.CreateFlowLogsInput) { in.DeliverLogsPermissionArn = aws.String("arn:aws:iam::1:role/x") }},
		} {
			_, err := w.CreateFlowLogs(t.Context(), flowLog(types.FlowLogsResourceTypeSubnet, subnet, c.change))
			refused(t, err, c.code)
		}
	})
}
