package awsapi_test

import (
	"context"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdkconnect "github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	connecttypes "github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	connect "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2instanceconnect"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
)

var someKey = "ssh-ed25519 " + strings.Repeat("A", 80)

func sendKeys(r *awsapi.Registry) {
	awsapi.Handle(r, connect.ActionSendSSHPublicKey, func(_ context.Context, c *awsapi.Call, req *connect.SendSSHPublicKeyRequest) (*connect.SendSSHPublicKeyResponse, error) {
		switch *req.InstanceId {
		case "i-0000000001":
			return &connect.SendSSHPublicKeyResponse{RequestId: &c.RequestID, Success: new(*req.InstanceOSUser == "ec2-user")}, nil
		case "i-0000000002":
			return nil, awsapi.Errorf("SerialConsoleSessionUnavailableException", "try later")
		case "i-0000000003":
			panic("on purpose")
		}
		return nil, awsapi.Errorf("EC2InstanceNotFoundException", "The instance '%s' isn't there.", *req.InstanceId)
	}, awsapi.Honours("InstanceId", "InstanceOSUser", "SSHPublicKey"))
}

func connectClient(url, secret string) *sdkconnect.Client {
	return sdkconnect.New(sdkconnect.Options{Region: "us-east-1", BaseEndpoint: &url, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(testKey, secret, "")})
}

func sending(instance string) *sdkconnect.SendSSHPublicKeyInput {
	return &sdkconnect.SendSSHPublicKeyInput{InstanceId: &instance, InstanceOSUser: aws.String("ec2-user"), SSHPublicKey: &someKey}
}

func TestAWSsOwnSDKSpeaksJSONWithTheServer(t *testing.T) {
	url := endpoint(t, sendKeys, time.Now)
	out, err := connectClient(url, testSecret).SendSSHPublicKey(t.Context(), sending("i-0000000001"))
	if err != nil || !out.Success || out.RequestId == nil {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err = connectClient(url, testSecret).SendSSHPublicKey(t.Context(), sending("i-0000000009"))
	var missing *connecttypes.EC2InstanceNotFoundException
	if !errors.As(err, &missing) || !strings.Contains(missing.ErrorMessage(), "i-0000000009") {
		t.Errorf("an error of the model's arrives as %v", err)
	}
}

func TestJSONServicesAnswerErrorsInTheirOwnWordsAndStatus(t *testing.T) {
	url := endpoint(t, sendKeys, time.Now)
	c := connectClient(url, testSecret)
	zoned, long := sending("i-0000000001"), sending("i-0000000001")
	zoned.AvailabilityZone = aws.String("us-east-1a")
	long.InstanceOSUser = aws.String(strings.Repeat("u", 40))
	for name, test := range map[string]struct {
		client *sdkconnect.Client
		in     *sdkconnect.SendSSHPublicKeyInput
		code   string
		says   string
		status int
	}{
		"not there":          {c, sending("i-0000000009"), "EC2InstanceNotFoundException", "isn't there", 400},
		"a fault":            {c, sending("i-0000000002"), "SerialConsoleSessionUnavailableException", "try later", 500},
		"a panic":            {c, sending("i-0000000003"), "InternalFailure", "internal error", 500},
		"not honoured":       {c, zoned, "UnsupportedOperationException", "AvailabilityZone of SendSSHPublicKey", 400},
		"too long":           {c, long, "ValidationException", "InstanceOSUser", 400},
		"a forged signature": {connectClient(url, "wrong"), sending("i-0000000001"), "InvalidSignatureException", "does not match", 400},
	} {
		_, err := test.client.SendSSHPublicKey(t.Context(), test.in)
		var http *smithyhttp.ResponseError
		if codeOf(err) != test.code || !strings.Contains(err.Error(), test.says) || !errors.As(err, &http) || http.HTTPStatusCode() != test.status {
			t.Errorf("%s: %v; want %s, %q and status %d", name, err, test.code, test.says, test.status)
		}
	}
	_, err := c.SendSerialConsoleSSHPublicKey(t.Context(), &sdkconnect.SendSerialConsoleSSHPublicKeyInput{InstanceId: aws.String("i-0000000001"), SSHPublicKey: &someKey})
	if codeOf(err) != "UnknownOperationException" || !strings.Contains(err.Error(), "not built") {
		t.Errorf("an action without a handler: %v", err)
	}
}

func TestTheOwnClientSpeaksJSONWithTheServer(t *testing.T) {
	url := endpoint(t, sendKeys, time.Now)
	c := connect.Client{Client: &awsapi.Client{Endpoint: url, Region: "us-east-1", AccessKey: testKey, Secret: testSecret}}
	req := &connect.SendSSHPublicKeyRequest{InstanceId: new("i-0000000001"), InstanceOSUser: new("root"), SSHPublicKey: &someKey}
	got, err := c.SendSSHPublicKey(t.Context(), req)
	if err != nil || got.Success == nil || *got.Success {
		t.Fatalf("%+v, %v", got, err)
	}
	req.InstanceId = new("i-0000000009")
	_, err = c.SendSSHPublicKey(t.Context(), req)
	var e *awsapi.Error
	if !errors.As(err, &e) || e.Code != "EC2InstanceNotFoundException" || e.Status != 400 || e.RequestID == "" {
		t.Errorf("an error arrives as %+v", err)
	}
}

// target sends a body to a target, signed for the service of EC2 Instance Connect, and changed by change before it goes out.
func target(t *testing.T, url, method, target, body string, change func(*http.Request)) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	if target != "" {
		req.Header.Set("X-Amz-Target", target)
	}
	return signed(t, req, body, "ec2-instance-connect", time.Now(), change)
}

func TestMalformedJSONCallsAreAnsweredInJSON(t *testing.T) {
	url := endpoint(t, sendKeys, time.Now)
	const send = "AWSEC2InstanceConnectService.SendSSHPublicKey"
	unsigned := func(r *http.Request) { r.Header.Del("Authorization") }
	for name, test := range map[string]struct {
		method, target, body string
		change               func(*http.Request)
		want                 string
	}{
		"no document":        {"POST", send, "no", nil, "SerializationException"},
		"nothing":            {"POST", send, "", nil, "ValidationException"},
		"no target":          {"POST", "", "{}", nil, "UnknownOperationException"},
		"half a target":      {"POST", "AWSEC2InstanceConnectService.", "{}", nil, "UnknownOperationException"},
		"another service":    {"POST", "Other.SendSSHPublicKey", "{}", nil, "UnknownOperationException"},
		"an unknown action":  {"POST", "AWSEC2InstanceConnectService.Nonsense", "{}", nil, "UnknownOperationException"},
		"a GET":              {"GET", send, "", nil, "UnknownOperationException"},
		"a form":             {"POST", send, "Action=SendSSHPublicKey", nil, "SerializationException"},
		"an unknown member":  {"POST", send, `{"Nonsense":1}`, nil, "UnsupportedOperationException"},
		"no signature":       {"POST", send, "{}", unsigned, "MissingAuthenticationTokenException"},
		"half a signature":   {"POST", send, "{}", func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=x") }, "IncompleteSignatureException"},
		"a target exchanged": {"POST", send, "{}", func(r *http.Request) { r.Header.Set("X-Amz-Target", "AWSEC2InstanceConnectService.Other") }, "InvalidSignatureException"},
	} {
		if status, text := target(t, url, test.method, test.target, test.body, test.change); status != 400 || !strings.Contains(text, `"__type":"`+test.want+`"`) {
			t.Errorf("%s: answered %d %s; want %s", name, status, text, test.want)
		}
	}
}

type mendRequest struct {
	ID   *string           `json:"Id" required:"true"`
	With map[string]string `json:"With"`
	Hard *bool             `json:"Hard"`
}

type mendResult struct {
	Mended []string `json:"Mended"`
}

func TestServicesCanBeWrittenByHand(t *testing.T) {
	own := awsapi.NewService("own", "2026-11-01", "Own_20261101", map[string]awsapi.Exception{"TornException": {Status: 409, Message: "message"}})
	mend := awsapi.Define[mendRequest, mendResult](own, "Mend")
	r := awsapi.NewRegistry(own)
	awsapi.Handle(r, mend, func(_ context.Context, _ *awsapi.Call, req *mendRequest) (*mendResult, error) {
		if *req.ID == "torn" {
			return nil, awsapi.Errorf("TornException", "It is torn.")
		}
		return &mendResult{Mended: []string{*req.ID, req.With["thread"]}}, nil
	}, awsapi.Honours("ID", "With"))
	s := server(nil, time.Now)
	s.Registry = r
	url := serve(t, wiretest.Handler(t, s, own))
	c := &awsapi.Client{Endpoint: url, Region: "us-east-1", AccessKey: testKey, Secret: testSecret}
	got, err := awsapi.Invoke(t.Context(), c, mend, &mendRequest{ID: new("coat"), With: map[string]string{"thread": "red"}})
	if err != nil || len(got.Mended) != 2 || got.Mended[1] != "red" {
		t.Errorf("%+v, %v", got, err)
	}
	var e *awsapi.Error
	if _, err := awsapi.Invoke(t.Context(), c, mend, &mendRequest{ID: new("torn")}); !errors.As(err, &e) || e.Code != "TornException" || e.Status != 409 {
		t.Errorf("an error arrives as %v", err)
	}
	if _, err := awsapi.Invoke(t.Context(), c, mend, &mendRequest{ID: new("coat"), Hard: new(true)}); awsapi.CodeOf(err) != "UnsupportedOperationException" {
		t.Errorf("what isn't honoured is answered %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a shape that the codecs can't take is defined")
		}
	}()
	awsapi.Define[struct {
		ID string `json:"Id"`
	}, mendResult](own, "Tear")
}

func TestDebiansCLISpeaksJSONToTheServer(t *testing.T) {
	if _, err := exec.LookPath("/usr/bin/aws"); err != nil {
		t.Fatal("Debian's awscli is missing; `make deps` installs it")
	}
	url := endpoint(t, sendKeys, time.Now)
	cmd := exec.Command("/usr/bin/aws", "--endpoint-url", url, "ec2-instance-connect", "send-ssh-public-key", "--instance-id", "i-0000000001",
		"--instance-os-user", "ec2-user", "--ssh-public-key", someKey, "--query", "Success", "--output", "text")
	cmd.Env = append(cmd.Environ(), "AWS_ACCESS_KEY_ID="+testKey, "AWS_SECRET_ACCESS_KEY="+testSecret, "AWS_DEFAULT_REGION=us-east-1",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "True" {
		t.Errorf("%v: %s", err, out)
	}
}
