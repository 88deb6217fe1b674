// Package e2e drives real clouds with real clients: what a user sees, from launch to nothing left.
package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

func TestAnInstanceLivesThroughAllItsStates(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	key := c.KeyPair("k")
	ssh := c.Group("ssh", 22)
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(ssh))
	id := *i.InstanceId
	if i.PrivateIpAddress == nil || i.PublicIpAddress == nil || i.InstanceType != types.InstanceTypeT3Nano {
		t.Fatalf("a running instance lacks facts: %+v", i)
	}
	m := c.SSH(i, "admin", key).WaitLogin()
	m.Run("echo kept > ~/file")

	stop, err := c.EC2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	if change := stop.StoppingInstances[0]; change.PreviousState.Name != types.InstanceStateNameRunning || change.CurrentState.Name != types.InstanceStateNameStopping {
		t.Errorf("stop: from %s to %s", change.PreviousState.Name, change.CurrentState.Name)
	}
	stopped := c.WaitState(id, types.InstanceStateNameStopped)
	if stopped.PublicIpAddress != nil {
		t.Errorf("a stopped instance keeps its public address %s", *stopped.PublicIpAddress)
	}
	if got := aws.ToString(stopped.StateReason.Code); got != "Client.UserInitiatedShutdown" {
		t.Errorf("the reason for being stopped is %q", got)
	}
	if got := aws.ToString(stopped.PrivateIpAddress); got != *i.PrivateIpAddress {
		t.Errorf("the private address went from %s to %s", *i.PrivateIpAddress, got)
	}

	if _, err := c.EC2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	again := c.WaitState(id, types.InstanceStateNameRunning)
	m = c.SSH(again, "admin", key).WaitLogin()
	if got := m.Run("cat ~/file"); got != "kept" {
		t.Errorf("after stop and start the file holds %q", got)
	}
	boot := m.Run("cat /proc/sys/kernel/random/uuid >/tmp/mark; cut -d' ' -f22 /proc/1/stat")
	if _, err := c.EC2.RebootInstances(ctx, &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	c.WaitFor(30*time.Second, "the reboot", func() error {
		out, code := m.Try("cut -d' ' -f22 /proc/1/stat")
		if now := strings.TrimSpace(out); code != 0 || now == boot {
			return fmt.Errorf("exit %d, first process from %s, before %s", code, now, boot)
		}
		return nil
	})

	c.Terminate(id)
	gone := c.Describe(id)
	if gone.PrivateIpAddress != nil || len(gone.NetworkInterfaces) != 0 {
		t.Errorf("a terminated instance keeps addresses: %+v", gone)
	}
	if _, err := c.EC2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}}); err == nil {
		t.Error("a terminated instance was started")
	} else {
		cloudtest.WantCode(t, err, "IncorrectInstanceState")
	}
}

func TestAShutdownFromInsideStopsOrTerminatesAsAsked(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	ssh := c.Group("ssh", 22)
	terminate := func(in *ec2.RunInstancesInput) {
		in.InstanceInitiatedShutdownBehavior = types.ShutdownBehaviorTerminate
	}
	stops := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(ssh))
	ends := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(ssh), terminate)
	for _, i := range []types.Instance{stops, ends} {
		c.SSH(i, "root", key).WaitLogin().Try("poweroff")
	}
	stopped := c.WaitState(*stops.InstanceId, types.InstanceStateNameStopped)
	ended := c.WaitState(*ends.InstanceId, types.InstanceStateNameTerminated)
	for _, i := range []types.Instance{stopped, ended} {
		if got := aws.ToString(i.StateReason.Code); got != "Client.InstanceInitiatedShutdown" {
			t.Errorf("%s: the reason is %q", *i.InstanceId, got)
		}
	}
}

func TestUserDataRunsOnceAndTheConsoleTells(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	script := "#!/bin/sh\necho user data was here\ndate >> /root/runs\n"
	i := c.Launch(cloudtest.WithUserData(base64.StdEncoding.EncodeToString([]byte(script))))
	id := *i.InstanceId
	c.WaitFor(20*time.Second, "the console to tell", func() error {
		out, err := c.EC2.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &id})
		if err != nil {
			return err
		}
		text, err := base64.StdEncoding.DecodeString(aws.ToString(out.Output))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"user data was here", "-----BEGIN SSH HOST KEY FINGERPRINTS-----\n256 SHA256:", " (ED25519)\n"} {
			if !strings.Contains(strings.ReplaceAll(string(text), "\r", ""), want) {
				return fmt.Errorf("it says %q", text)
			}
		}
		return nil
	})
	if out := c.Nacre("logs", id); !strings.Contains(out, "user data was here") {
		t.Errorf("nacre logs says %q", out)
	}
}

func TestAllOrNothingBelowMinCount(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := context.Background()
	in := &ec2.RunInstancesInput{ImageId: aws.String(c.ImageID("busybox")), InstanceType: types.InstanceTypeC518xlarge,
		MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
	_, err := c.EC2.RunInstances(ctx, in)
	cloudtest.WantCode(t, err, "InsufficientInstanceCapacity")
	out, err := c.EC2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Reservations) != 0 {
		t.Errorf("%d reservations were made", len(out.Reservations))
	}
}

func TestAClientTokenLaunchesOnce(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	in := &ec2.RunInstancesInput{ImageId: aws.String(c.ImageID("busybox")), InstanceType: types.InstanceTypeT3Nano,
		MinCount: aws.Int32(1), MaxCount: aws.Int32(1), ClientToken: aws.String("once")}
	first, err := c.EC2.RunInstances(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.EC2.RunInstances(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := *first.Instances[0].InstanceId, *second.Instances[0].InstanceId; a != b {
		t.Errorf("the same token launched %s and %s", a, b)
	}
	other := *in
	other.InstanceType = types.InstanceTypeT3Micro
	_, err = c.EC2.RunInstances(t.Context(), &other)
	cloudtest.WantCode(t, err, "IdempotentParameterMismatch")
}

func TestTheCallerIsTheAccountsRoot(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	out, err := c.STS.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "arn:aws:iam::" + c.Key.Account + ":root"; *out.Account != c.Key.Account || *out.Arn != want {
		t.Errorf("account %s, ARN %s; want %s", *out.Account, *out.Arn, want)
	}
}
