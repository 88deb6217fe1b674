package awsapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	sdksts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/sts"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	testKey    = "AKIATESTTESTTESTTEST"
	testSecret = "a/secret+with=signs"
)

// endpoint serves a registry with one known key; what it answers is held against AWS's model.
func endpoint(t testing.TB, register func(*awsapi.Registry), now func() time.Time) string {
	t.Helper()
	return serve(t, wiretest.Handler(t, server(register, now), gen.Services()...))
}

func serve(t testing.TB, h http.Handler) string {
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	return ts.URL
}

func server(register func(*awsapi.Registry), now func() time.Time) *awsapi.Server {
	r := awsapi.NewRegistry(gen.Services()...)
	if register != nil {
		register(r)
	}
	keys := func(_ context.Context, id cloud.AccessKeyID) (string, awsapi.Identity, error) {
		if id != testKey {
			return "", awsapi.Identity{}, awsapi.ErrNoKey
		}
		return testSecret, awsapi.Identity{Account: "123456789012", AccessKey: id, ARN: "arn:aws:iam::123456789012:root"}, nil
	}
	return &awsapi.Server{Registry: r, Auth: &awsapi.Authenticator{Region: "us-east-1", Keys: keys, Now: now}, Logger: slog.New(slog.DiscardHandler)}
}

func sdkClient(url, secret string) *sdk.Client {
	return sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &url, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(testKey, secret, "")})
}

func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return fmt.Sprint(err)
}

func TestAWSsOwnSDKIsUnderstoodAndUnderstands(t *testing.T) {
	var got *ec2.RunInstancesRequest
	var who awsapi.Call
	url := endpoint(t, func(r *awsapi.Registry) {
		awsapi.Handle(r, ec2.ActionRunInstances, func(_ context.Context, c *awsapi.Call, req *ec2.RunInstancesRequest) (*ec2.Reservation, error) {
			got, who = req, *c
			return &ec2.Reservation{ReservationId: new("r-1"), Instances: []ec2.Instance{{InstanceId: new("i-1"),
				State: &ec2.InstanceState{Name: new("pending"), Code: new(int64(0))}, LaunchTime: new(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
				Tags: []ec2.Tag{{Key: new("a<b"), Value: new("c&d\u00e9")}}, SecurityGroups: []ec2.GroupIdentifier{}}}}, nil
		}, awsapi.Honours("ImageId", "MinCount", "MaxCount", "SecurityGroupIds", "TagSpecifications", "UserData", "ClientToken"))
	}, time.Now)
	out, err := sdkClient(url, testSecret).RunInstances(t.Context(), &sdk.RunInstancesInput{
		ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(3), SecurityGroupIds: []string{"sg-1", "sg-2"}, UserData: aws.String("eA=="),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("ö & ü")}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if *got.ImageId != "ami-1" || *got.MaxCount != 3 || !reflect.DeepEqual(got.SecurityGroupIds, []string{"sg-1", "sg-2"}) ||
		*got.TagSpecifications[0].Tags[0].Value != "ö & ü" || *got.TagSpecifications[0].ResourceType != "instance" || got.ClientToken == nil {
		t.Errorf("the request arrived as %+v", got)
	}
	if who.Account != "123456789012" || who.Action != "RunInstances" || who.RequestID == "" {
		t.Errorf("the call arrived as %+v", who)
	}
	i := out.Instances[0]
	if *out.ReservationId != "r-1" || *i.InstanceId != "i-1" || i.State.Name != types.InstanceStateNamePending || *i.Tags[0].Key != "a<b" ||
		*i.Tags[0].Value != "c&d\u00e9" || !i.LaunchTime.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("the answer arrived as %+v", out)
	}
}

func TestTheClientsSideIsTheServersMirror(t *testing.T) {
	request := &ec2.RunInstancesRequest{ImageId: new("ami-1"), MinCount: new(int64(1)), MaxCount: new(int64(2)), SecurityGroups: []string{"a", "b"},
		Placement: &ec2.Placement{AvailabilityZone: new("us-east-1a")}, EbsOptimized: new(true)}
	answer := &ec2.Reservation{Instances: []ec2.Instance{{InstanceId: new("i-1"), EnaSupport: new(true), Tags: []ec2.Tag{{Key: new("k"), Value: new("")}}}},
		Groups: []ec2.GroupIdentifier{}}
	url := endpoint(t, func(r *awsapi.Registry) {
		awsapi.Handle(r, ec2.ActionRunInstances, func(_ context.Context, _ *awsapi.Call, req *ec2.RunInstancesRequest) (*ec2.Reservation, error) {
			if !reflect.DeepEqual(req, request) {
				t.Errorf("the request arrived as %+v", req)
			}
			return answer, nil
		}, awsapi.Honours("ImageId", "MinCount", "MaxCount", "SecurityGroups", "Placement", "EbsOptimized"))
	}, time.Now)
	c := ec2.Client{Client: &awsapi.Client{Endpoint: url, Region: "us-east-1", AccessKey: testKey, Secret: testSecret}}
	got, err := c.RunInstances(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, answer) {
		t.Errorf("the answer arrived as %+v", got)
	}
}

func TestTheQueryProtocolWorksForSTS(t *testing.T) {
	url := endpoint(t, func(r *awsapi.Registry) {
		awsapi.Handle(r, sts.ActionGetCallerIdentity, func(_ context.Context, c *awsapi.Call, _ *sts.GetCallerIdentityRequest) (*sts.GetCallerIdentityResponse, error) {
			return &sts.GetCallerIdentityResponse{Account: new(string(c.Account)), Arn: new(c.ARN)}, nil
		})
	}, time.Now)
	client := sdksts.New(sdksts.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: credentials.NewStaticCredentialsProvider(testKey, testSecret, "")})
	out, err := client.GetCallerIdentity(t.Context(), &sdksts.GetCallerIdentityInput{})
	if err != nil || *out.Account != "123456789012" {
		t.Errorf("%+v, %v", out, err)
	}
	wrong := sdksts.New(sdksts.Options{Region: "us-east-1", BaseEndpoint: &url, RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider(testKey, "wrong", "")})
	if _, err := wrong.GetCallerIdentity(t.Context(), &sdksts.GetCallerIdentityInput{}); codeOf(err) != "SignatureDoesNotMatch" {
		t.Errorf("a wrong secret is answered %v", err)
	}
}

func TestWhatIsNotBuiltOrNotHonouredIsRefusedByName(t *testing.T) {
	url := endpoint(t, func(r *awsapi.Registry) {
		awsapi.Handle(r, ec2.ActionRunInstances, func(context.Context, *awsapi.Call, *ec2.RunInstancesRequest) (*ec2.Reservation, error) {
			t.Error("the handler was called")
			return &ec2.Reservation{}, nil
		}, awsapi.Honours("ImageId", "MinCount", "MaxCount", "ClientToken", "Placement.AvailabilityZone"))
	}, time.Now)
	c := sdkClient(url, testSecret)
	run := func(change func(*sdk.RunInstancesInput)) error {
		in := &sdk.RunInstancesInput{ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
		change(in)
		_, err := c.RunInstances(t.Context(), in)
		return err
	}
	for name, test := range map[string]struct {
		err  error
		code string
		says string
	}{
		"action": {func() error {
			_, err := c.CreateTransitGateway(t.Context(), &sdk.CreateTransitGatewayInput{})
			return err
		}(), "UnsupportedOperation", "CreateTransitGateway"},
		"parameter": {run(func(in *sdk.RunInstancesInput) { in.RamdiskId = aws.String("ari-1") }), "UnsupportedOperation", "RamdiskId"},
		"member of a structure": {run(func(in *sdk.RunInstancesInput) {
			in.Placement = &types.Placement{AvailabilityZone: aws.String("a"), HostId: aws.String("h")}
		}), "UnsupportedOperation", "Placement.HostId"},
		"member of a list": {run(func(in *sdk.RunInstancesInput) {
			in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdb")}}
		}), "UnsupportedOperation", "BlockDeviceMapping"},
	} {
		if codeOf(test.err) != test.code || !strings.Contains(test.err.Error(), test.says) {
			t.Errorf("%s: %v, want %s naming %s", name, test.err, test.code, test.says)
		}
	}
}

func TestAPanicIsOneCallsFailure(t *testing.T) {
	calls := 0
	url := serve(t, server(func(r *awsapi.Registry) {
		awsapi.Handle(r, ec2.ActionDescribeRegions, func(context.Context, *awsapi.Call, *ec2.DescribeRegionsRequest) (*ec2.DescribeRegionsResult, error) {
			if calls++; calls == 1 {
				panic("on purpose")
			}
			return &ec2.DescribeRegionsResult{}, nil
		})
	}, time.Now))
	c := sdkClient(url, testSecret)
	if _, err := c.DescribeRegions(t.Context(), &sdk.DescribeRegionsInput{}); codeOf(err) != "InternalError" || strings.Contains(err.Error(), "on purpose") {
		t.Errorf("answered %v, want an InternalError that doesn't tell the panic", err)
	}
	if _, err := c.DescribeRegions(t.Context(), &sdk.DescribeRegionsInput{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// raw sends a form signed by hand, changed by change before it goes out.
func raw(t *testing.T, url, method, query, body string, at time.Time, change func(*http.Request)) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url+"/"+query, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return signed(t, req, body, "ec2", at, change)
}

// signed sends a request, signed for a service.
func signed(t *testing.T, req *http.Request, body, service string, at time.Time, change func(*http.Request)) (int, string) {
	t.Helper()
	creds := aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}
	if err := v4.NewSigner().SignHTTP(t.Context(), creds, req, sha256Hex(body), service, "us-east-1", at); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

func regions(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeRegions, func(context.Context, *awsapi.Call, *ec2.DescribeRegionsRequest) (*ec2.DescribeRegionsResult, error) {
		return &ec2.DescribeRegionsResult{Regions: []ec2.Region{}}, nil
	}, awsapi.Honours("RegionNames", "Filters"))
}

func TestSignatures(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	url := endpoint(t, regions, func() time.Time { return now })
	const body = "Action=DescribeRegions&Version=2016-11-15"
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	auth := func(from, to string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), from, to, 1))
		}
	}
	for name, test := range map[string]struct {
		at     time.Time
		change func(*http.Request)
		status int
		code   string
	}{
		"good":                  {now, nil, 200, ""},
		"ten minutes old":       {now.Add(-10 * time.Minute), nil, 200, ""},
		"twenty minutes old":    {now.Add(-20 * time.Minute), nil, 400, "RequestExpired"},
		"of the future":         {now.Add(20 * time.Minute), nil, 400, "RequestExpired"},
		"missing":               {now, func(r *http.Request) { r.Header.Del("Authorization") }, 403, "MissingAuthenticationToken"},
		"truncated":             {now, func(r *http.Request) { a := r.Header.Get("Authorization"); r.Header.Set("Authorization", a[:len(a)-5]) }, 401, "AuthFailure"},
		"without its signature": {now, auth(", Signature=", ", Sig="), 401, "AuthFailure"},
		"forged":                {now, auth("Signature=", "Signature=0"), 401, "AuthFailure"},
		"of an unknown key":     {now, auth(testKey, "AKIANOBODYNOBODYNOBO"), 401, "AuthFailure"},
		"of another region":     {now, auth("us-east-1", "eu-west-1"), 401, "AuthFailure"},
		"of another day":        {now, auth("20260304", "20260303"), 401, "AuthFailure"},
		"with a session token":  {now, header("X-Amz-Security-Token", "x"), 401, "AuthFailure"},
		"with an added header":  {now, header("X-Amz-Target", "x"), 401, "AuthFailure"},
		"another algorithm":     {now, header("Authorization", "Basic abc"), 401, "AuthFailure"},
		"endless":               {now, header("Authorization", "AWS4-HMAC-SHA256 "+strings.Repeat("x", 20000)), 401, "AuthFailure"},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := raw(t, url, "POST", "", body, test.at, test.change)
			if status != test.status || !strings.Contains(text, test.code) {
				t.Errorf("answered %d: %s; want %d %s", status, text, test.status, test.code)
			}
		})
	}
	t.Run("of another body", func(t *testing.T) {
		status, text := raw(t, url, "POST", "", body, now, func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(strings.Replace(body, "Regions", "Regionz", 1)))
		})
		if status != 401 {
			t.Errorf("answered %d: %s", status, text)
		}
	})
}

func TestPresignedURLs(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	url := endpoint(t, regions, func() time.Time { return now })
	get := func(at time.Time, expires string, change func(string) string) (int, string) {
		req, err := http.NewRequest("GET", url+"/?Action=DescribeRegions&Version=2016-11-15&X-Amz-Expires="+expires, nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}, req, sha256Hex(""), "ec2", "us-east-1", at)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Get(change(signed))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	same := func(s string) string { return s }
	for name, test := range map[string]struct {
		at      time.Time
		expires string
		change  func(string) string
		status  int
	}{
		"good":      {now, "60", same, 200},
		"an hour":   {now.Add(-59 * time.Minute), "3600", same, 200},
		"expired":   {now.Add(-61 * time.Second), "60", same, 400},
		"too long":  {now, "604801", same, 401},
		"forged":    {now, "60", func(s string) string { return strings.Replace(s, "X-Amz-Signature=", "X-Amz-Signature=0", 1) }, 401},
		"changed":   {now, "60", func(s string) string { return strings.Replace(s, "DescribeRegions", "DescribeVpcs", 1) }, 401},
		"truncated": {now, "60", func(s string) string { return s[:strings.Index(s, "&X-Amz-SignedHeaders")] }, 401},
	} {
		if status, text := get(test.at, test.expires, test.change); status != test.status {
			t.Errorf("%s: answered %d: %s; want %d", name, status, text, test.status)
		}
	}
}

func TestMalformedFormsGetErrorsThatNameTheParameter(t *testing.T) {
	url := endpoint(t, func(r *awsapi.Registry) {
		awsapi.Handle(r, ec2.ActionRunInstances, func(context.Context, *awsapi.Call, *ec2.RunInstancesRequest) (*ec2.Reservation, error) {
			t.Error("the handler was called")
			return &ec2.Reservation{}, nil
		}, awsapi.Honours("ImageId", "MinCount", "MaxCount", "SecurityGroupIds"))
	}, time.Now)
	const call = "Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1"
	for body, want := range map[string]string{
		"Version=2016-11-15":                          "MissingAction",
		"Action=Nonsense":                             "InvalidAction",
		"Action=RunInstances":                         "MissingParameter",
		call + "&NoSuch=1":                            "UnknownParameter",
		call + "&ImageId.1=a":                         "UnknownParameter",
		call + "&MinCount=2":                          "InvalidParameterValue",
		call + "&NetworkInterface=a":                  "InvalidParameterValue",
		call + "&SecurityGroupId.x=a":                 "InvalidParameterValue",
		call + "&SecurityGroupId.99999=a":             "InvalidParameterValue",
		call + "&InstanceType=x":                      "InvalidParameterValue",
		call + "&EbsOptimized=maybe":                  "InvalidParameterValue",
		call + "&" + strings.Repeat("a.", 50) + "b=1": "UnknownParameter",
		call + "&%zz=1":                               "InvalidParameterValue",
		"Action=RunInstances&MinCount=one&MaxCount=1": "InvalidParameterValue",
	} {
		if status, text := raw(t, url, "POST", "", body, time.Now(), nil); status != 400 || !strings.Contains(text, want) {
			t.Errorf("%.60s: answered %d: %s; want %s", body, status, text, want)
		}
	}
}

func TestAHugeBodyIsRefusedBeforeItIsRead(t *testing.T) {
	url := endpoint(t, regions, time.Now)
	req, err := http.NewRequest("POST", url, &endless{limit: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 1 << 40
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("answered %d", resp.StatusCode)
	}
}

type endless struct{ limit int64 }

func (e *endless) Read(p []byte) (int, error) { return len(p), nil }

func TestDebiansCLISpeaksToTheServer(t *testing.T) {
	if _, err := exec.LookPath("/usr/bin/aws"); err != nil {
		t.Fatal("Debian's awscli is missing; `make deps` installs it")
	}
	url := endpoint(t, func(r *awsapi.Registry) {
		awsapi.Handle(r, ec2.ActionDescribeRegions, func(context.Context, *awsapi.Call, *ec2.DescribeRegionsRequest) (*ec2.DescribeRegionsResult, error) {
			return &ec2.DescribeRegionsResult{Regions: []ec2.Region{{RegionName: new("us-east-1")}}}, nil
		}, awsapi.Honours("RegionNames"))
	}, time.Now)
	cmd := exec.Command("/usr/bin/aws", "--endpoint-url", url, "ec2", "describe-regions", "--query", "Regions[].RegionName", "--output", "text")
	cmd.Env = append(cmd.Environ(), "AWS_ACCESS_KEY_ID="+testKey, "AWS_SECRET_ACCESS_KEY="+testSecret, "AWS_DEFAULT_REGION=us-east-1",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "us-east-1" {
		t.Errorf("%v: %s", err, out)
	}
}
