package ec2_test

import (
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestTheTypeAndTheUserDataChangeOnlyWhileStopped(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	modify := func(in sdk.ModifyInstanceAttributeInput) error {
		in.InstanceId = &id
		_, err := w.ModifyInstanceAttribute(t.Context(), &in)
		return err
	}
	size := func(s string) sdk.ModifyInstanceAttributeInput {
		return sdk.ModifyInstanceAttributeInput{InstanceType: &types.AttributeValue{Value: &s}}
	}
	data := sdk.ModifyInstanceAttributeInput{UserData: &types.SecureBlobAttributeValue{Value: []byte("#!/bin/sh\n")}}
	refused(t, modify(size("t3.small")), "IncorrectInstanceState", "stopped")
	refused(t, modify(data), "IncorrectInstanceState")
	if _, err := w.stop(id); err != nil {
		t.Fatal(err)
	}
	w.settle()
	refused(t, modify(size("t4g.small")), "InvalidParameterValue", "arm64")
	refused(t, modify(size("t3.huge")), "InvalidParameterValue")
	refused(t, modify(sdk.ModifyInstanceAttributeInput{UserData: &types.SecureBlobAttributeValue{Value: make([]byte, 16385)}}), "InvalidParameterValue", "16384")
	for _, err := range []error{modify(size("t3.small")), modify(data)} {
		if err != nil {
			t.Error(err)
		}
	}
	if r := w.record(id); r.Type != "t3.small" || string(r.UserData) != "#!/bin/sh\n" {
		t.Errorf("it is %s with %q", r.Type, r.UserData)
	}
}

func TestOneAttributeIsChangedACall(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	yes := &types.AttributeBooleanValue{Value: aws.Bool(true)}
	w.unchanged(func() {
		_, err := w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &id})
		refused(t, err, "InvalidParameterCombination")
		_, err = w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &id, DisableApiStop: yes, SourceDestCheck: yes})
		refused(t, err, "InvalidParameterCombination")
		_, err = w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &id, EnaSupport: yes})
		refused(t, err, "IncorrectInstanceState", "enaSupport")
		_, err = w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &id, Attribute: "rootDeviceName", Value: aws.String("/dev/sda")})
		refused(t, err, "UnsupportedOperation", "rootDeviceName")
		_, err = w.stranger.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &id, DisableApiStop: yes})
		refused(t, err, "InvalidInstanceID.NotFound")
	})
}

func TestEveryAttributeReadsAsItWasSet(t *testing.T) {
	w := newWorld(t)
	web := w.group("web")
	id := w.running(func(in *order) {
		in.InstanceInitiatedShutdownBehavior, in.EbsOptimized = "terminate", aws.Bool(true)
	})
	protect(t, w, id, &sdk.ModifyInstanceAttributeInput{Groups: []string{web}})
	protect(t, w, id, &sdk.ModifyInstanceAttributeInput{SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)}})
	protect(t, w, id, &sdk.ModifyInstanceAttributeInput{InstanceInitiatedShutdownBehavior: &types.AttributeValue{Value: aws.String("stop")}})
	read := func(name types.InstanceAttributeName) *sdk.DescribeInstanceAttributeOutput {
		t.Helper()
		out, err := w.DescribeInstanceAttribute(t.Context(), &sdk.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return out
	}
	if g := read("groupSet").Groups; len(g) != 1 || *g[0].GroupId != web {
		t.Errorf("the groups are %v", g)
	}
	if *read("sourceDestCheck").SourceDestCheck.Value || *w.instance(id).NetworkInterfaces[0].SourceDestCheck {
		t.Error("sources are still checked")
	}
	if _, err := w.ResetInstanceAttribute(t.Context(), &sdk.ResetInstanceAttributeInput{InstanceId: &id, Attribute: "sourceDestCheck"}); err != nil {
		t.Fatal(err)
	}
	if !*read("sourceDestCheck").SourceDestCheck.Value {
		t.Error("a reset leaves the sources unchecked")
	}
	for name, ok := range map[string]bool{
		"shutdown behaviour": *read("instanceInitiatedShutdownBehavior").InstanceInitiatedShutdownBehavior.Value == "stop",
		"type":               *read("instanceType").InstanceType.Value == "t3.micro",
		"user data":          read("userData").UserData.Value == nil,
		"root device":        *read("rootDeviceName").RootDeviceName.Value == "/dev/xvda",
		"EBS":                *read("ebsOptimized").EbsOptimized.Value,
		"ENA":                *read("enaSupport").EnaSupport.Value,
		"termination":        !*read("disableApiTermination").DisableApiTermination.Value,
		"stop":               !*read("disableApiStop").DisableApiStop.Value,
		"block devices":      *read("blockDeviceMapping").BlockDeviceMappings[0].DeviceName == "/dev/xvda",
	} {
		if !ok {
			t.Errorf("%s reads wrong", name)
		}
	}
	if read("sriovNetSupport").SriovNetSupport.Value != nil {
		t.Error("there is SR-IOV")
	}
}

func TestMetadataOptionsAreSetAtLaunchAndLater(t *testing.T) {
	w := newWorld(t)
	id := w.running(func(in *order) {
		in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpTokens: "required", HttpPutResponseHopLimit: aws.Int32(2)}
	})
	if m := w.instance(id).MetadataOptions; m.HttpTokens != "required" || *m.HttpPutResponseHopLimit != 2 || m.HttpEndpoint != "enabled" || m.State != "applied" {
		t.Errorf("launched with %+v", m)
	}
	out, err := w.ModifyInstanceMetadataOptions(t.Context(), &sdk.ModifyInstanceMetadataOptionsInput{InstanceId: &id, HttpTokens: "optional",
		HttpEndpoint: "disabled", InstanceMetadataTags: "enabled", HttpProtocolIpv6: "enabled"})
	if err != nil || out.InstanceMetadataOptions.HttpEndpoint != "disabled" || out.InstanceMetadataOptions.State != "pending" {
		t.Errorf("answered %+v, %v", out, err)
	}
	if m := w.instance(id).MetadataOptions; m.HttpTokens != "optional" || *m.HttpPutResponseHopLimit != 2 || m.HttpEndpoint != "disabled" || m.InstanceMetadataTags != "enabled" || m.HttpProtocolIpv6 != "enabled" {
		t.Errorf("it has %+v", m)
	}
	w.unchanged(func() {
		_, err = w.ModifyInstanceMetadataOptions(t.Context(), &sdk.ModifyInstanceMetadataOptionsInput{InstanceId: &id, HttpPutResponseHopLimit: aws.Int32(65)})
		refused(t, err, "InvalidParameterValue")
	})
}

func TestTheConsoleIsReadFromTheNode(t *testing.T) {
	w := newWorld(t)
	id := *w.launch()[0].InstanceId
	read := func() (string, error) {
		out, err := w.GetConsoleOutput(t.Context(), &sdk.GetConsoleOutputInput{InstanceId: &id, Latest: aws.Bool(true)})
		if err != nil {
			return "", err
		}
		text, err := base64.StdEncoding.DecodeString(*out.Output)
		return string(text), err
	}
	w.console = console{text: []byte("booted\n"), at: time.Now()}
	if text, err := read(); text != "" || err != nil {
		t.Errorf("before it has a node: %q, %v", text, err)
	}
	w.settle()
	if text, err := read(); text != "booted\n" || err != nil {
		t.Errorf("running: %q, %v", text, err)
	}
	w.console.err = errors.New("the node is cut off")
	_, err := read()
	refused(t, err, "Unavailable", id)
	_, err = w.stranger.GetConsoleOutput(t.Context(), &sdk.GetConsoleOutputInput{InstanceId: &id})
	refused(t, err, "InvalidInstanceID.NotFound")
}
