package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

func TestBadInputGetsAWSErrorsAndMakesNothing(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	image := c.ImageID("busybox")
	run := func(change func(*ec2.RunInstancesInput)) error {
		in := &ec2.RunInstancesInput{ImageId: &image, InstanceType: types.InstanceTypeT3Nano, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
		change(in)
		_, err := c.EC2.RunInstances(ctx, in)
		return err
	}
	for name, test := range map[string]struct {
		change func(*ec2.RunInstancesInput)
		code   string
	}{
		"no such image":        {func(in *ec2.RunInstancesInput) { in.ImageId = aws.String("ami-0123456789abcdef0") }, "InvalidAMIID.NotFound"},
		"malformed image":      {func(in *ec2.RunInstancesInput) { in.ImageId = aws.String("debian") }, "InvalidAMIID.Malformed"},
		"no such key":          {func(in *ec2.RunInstancesInput) { in.KeyName = aws.String("nobody") }, "InvalidKeyPair.NotFound"},
		"no such group":        {func(in *ec2.RunInstancesInput) { in.SecurityGroupIds = []string{"sg-0123456789abcdef0"} }, "InvalidGroup.NotFound"},
		"no such subnet":       {func(in *ec2.RunInstancesInput) { in.SubnetId = aws.String("subnet-0123456789abcdef0") }, "InvalidSubnetID.NotFound"},
		"no instances":         {func(in *ec2.RunInstancesInput) { in.MinCount, in.MaxCount = aws.Int32(0), aws.Int32(0) }, "InvalidParameterValue"},
		"more least than most": {func(in *ec2.RunInstancesInput) { in.MinCount = aws.Int32(2) }, "InvalidParameterValue"},
		"unknown type":         {func(in *ec2.RunInstancesInput) { in.InstanceType = "t3.gigantic" }, "InvalidParameterValue"},
		"other architecture":   {func(in *ec2.RunInstancesInput) { in.InstanceType = types.InstanceTypeT4gNano }, "InvalidParameterValue"},
		"user data too long": {func(in *ec2.RunInstancesInput) {
			in.UserData = aws.String(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), 16385)))
		}, "InvalidParameterValue"},
		"user data no base64": {func(in *ec2.RunInstancesInput) { in.UserData = aws.String("%%%") }, "InvalidUserData.Malformed"},
	} {
		t.Run(name, func(t *testing.T) { cloudtest.WantCode(t, run(test.change), test.code) })
	}
	out, err := c.EC2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	if err != nil || len(out.Reservations) != 0 {
		t.Errorf("%d reservations were made, error %v", len(out.Reservations), err)
	}
	_, err = c.EC2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{"i-0123456789abcdef0"}})
	cloudtest.WantCode(t, err, "InvalidInstanceID.NotFound")
	_, err = c.EC2.CreateTransitGateway(ctx, &ec2.CreateTransitGatewayInput{})
	cloudtest.WantCode(t, err, "UnsupportedOperation")
	err = run(func(in *ec2.RunInstancesInput) { in.DryRun = aws.Bool(true) })
	cloudtest.WantCode(t, err, "DryRunOperation")

	forged := c.As(c.Key.AccessKey, "not-the-secret")
	_, err = forged.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	cloudtest.WantCode(t, err, "AuthFailure")
}

func TestRawNonsenseNeitherBreaksNorBlocksTheEndpoint(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	address := strings.TrimPrefix(c.Endpoint, "http://")
	post := func(body io.Reader) int {
		resp, err := http.Post(c.Endpoint, "application/x-www-form-urlencoded", body)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	if got := post(bytes.NewReader(make([]byte, 2<<20))); got != http.StatusRequestEntityTooLarge {
		t.Errorf("two mebibytes are answered %d", got)
	}
	for _, body := range []string{"", "%zz", "Action=RunInstances", "Action=Nonsense&Version=2016-11-15", strings.Repeat("a.1.", 5000) + "=1"} {
		if got := post(strings.NewReader(body)); got < 400 || got >= 500 {
			t.Errorf("%.40q is answered %d", body, got)
		}
	}
	// Clients that say nothing hold nobody up.
	for range 50 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nAc")
	}
	begin := time.Now()
	if _, err := c.EC2.DescribeRegions(t.Context(), &ec2.DescribeRegionsInput{}); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("fifty silent clients held a call up for %v", took)
	}
}

func TestDebiansAWSCLIDrivesTheCloud(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	door := c.Door()
	aws := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("/usr/bin/aws", append([]string{"--endpoint-url", door, "--output", "text"}, args...)...)
		cmd.Env = append(cmd.Environ(), "AWS_ACCESS_KEY_ID="+c.Key.AccessKey, "AWS_SECRET_ACCESS_KEY="+c.Key.Secret,
			"AWS_DEFAULT_REGION="+c.Key.Region, "AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := aws("sts", "get-caller-identity", "--query", "Account"); got != c.Key.Account {
		t.Errorf("the account is %q", got)
	}
	image := aws("ec2", "describe-images", "--owners", "self", "--query", "Images[0].ImageId")
	id := aws("ec2", "run-instances", "--image-id", image, "--instance-type", "t3.nano", "--query", "Instances[0].InstanceId")
	aws("ec2", "wait", "instance-running", "--instance-ids", id)
	if got := aws("ec2", "describe-instances", "--filters", "Name=instance-state-name,Values=run*", "--query", "Reservations[].Instances[].InstanceId"); got != id {
		t.Errorf("running are %q, want %s", got, id)
	}
	aws("ec2", "create-tags", "--resources", id, "--tags", "Key=Name,Value=web")
	if got := aws("ec2", "describe-tags", "--filters", "Name=resource-id,Values="+id, "--query", "Tags[0].Value"); got != "web" {
		t.Errorf("the tag is %q", got)
	}
	aws("ec2", "terminate-instances", "--instance-ids", id)
	aws("ec2", "wait", "instance-terminated", "--instance-ids", id)
}
