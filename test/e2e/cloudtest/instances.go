package cloudtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// StateLimit bounds how long a state may take to come.
const StateLimit = 60 * time.Second

// ImageID finds an image by its name.
func (c *Cloud) ImageID(name string) string {
	c.t.Helper()
	out, err := c.EC2.DescribeImages(context.Background(), &ec2.DescribeImagesInput{
		Filters: []types.Filter{{Name: aws.String("name"), Values: []string{name}}}})
	if err != nil {
		c.t.Fatal(err)
	}
	if len(out.Images) != 1 {
		c.t.Fatalf("%d images are named %s", len(out.Images), name)
	}
	return *out.Images[0].ImageId
}

// Option changes a launch.
type Option func(*ec2.RunInstancesInput)

// Launch runs one t3.nano from the image "busybox" and waits until it runs.
func (c *Cloud) Launch(options ...Option) types.Instance {
	c.t.Helper()
	return c.LaunchMany(1, options...)[0]
}

// LaunchMany runs n instances in one call and waits until all run.
func (c *Cloud) LaunchMany(n int, options ...Option) []types.Instance {
	c.t.Helper()
	in := &ec2.RunInstancesInput{ImageId: aws.String(c.ImageID("busybox")), InstanceType: types.InstanceTypeT3Nano,
		MinCount: aws.Int32(int32(n)), MaxCount: aws.Int32(int32(n))}
	for _, o := range options {
		o(in)
	}
	out, err := c.EC2.RunInstances(context.Background(), in)
	if err != nil {
		c.t.Fatal(err)
	}
	var list []types.Instance
	for _, i := range out.Instances {
		if i.State.Name != types.InstanceStateNamePending {
			c.t.Errorf("RunInstances answers %s in state %s", *i.InstanceId, i.State.Name)
		}
	}
	for _, i := range out.Instances {
		list = append(list, c.WaitState(*i.InstanceId, types.InstanceStateNameRunning))
	}
	return list
}

// Describe returns an instance as the API shows it now.
func (c *Cloud) Describe(id string) types.Instance {
	c.t.Helper()
	out, err := c.EC2.DescribeInstances(context.Background(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		c.t.Fatal(err)
	}
	return out.Reservations[0].Instances[0]
}

// WaitState waits for an instance's state and returns the instance as it is then.
func (c *Cloud) WaitState(id string, want types.InstanceStateName) types.Instance {
	c.t.Helper()
	var i types.Instance
	c.WaitFor(StateLimit, id+" to be "+string(want), func() error {
		i = c.Describe(id)
		if i.State.Name == want {
			return nil
		}
		reason := ""
		if i.StateReason != nil {
			reason = *i.StateReason.Message
		}
		if i.State.Name == types.InstanceStateNameTerminated {
			c.t.Fatalf("%s is terminated: %s", id, reason)
		}
		return fmt.Errorf("it is %s: %s", i.State.Name, reason)
	})
	return i
}

// Terminate terminates instances and waits until they are.
func (c *Cloud) Terminate(ids ...string) {
	c.t.Helper()
	if _, err := c.EC2.TerminateInstances(context.Background(), &ec2.TerminateInstancesInput{InstanceIds: ids}); err != nil {
		c.t.Fatal(err)
	}
	for _, id := range ids {
		c.WaitState(id, types.InstanceStateNameTerminated)
	}
}

// Group makes a security group that lets in TCP on the ports from everywhere.
func (c *Cloud) Group(name string, ports ...int32) string {
	c.t.Helper()
	out, err := c.EC2.CreateSecurityGroup(context.Background(), &ec2.CreateSecurityGroupInput{
		GroupName: &name, Description: aws.String("made by a test")})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range ports {
		c.Allow(*out.GroupId, p)
	}
	return *out.GroupId
}

// Allow lets TCP on a port into a group from everywhere.
func (c *Cloud) Allow(group string, port int32) {
	c.t.Helper()
	_, err := c.EC2.AuthorizeSecurityGroupIngress(context.Background(), &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &group, IpPermissions: []types.IpPermission{TCP(port)}})
	if err != nil {
		c.t.Fatal(err)
	}
}

// TCP is the permission for one port from everywhere.
func TCP(port int32) types.IpPermission {
	return types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port,
		IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}
}

// KeyPair makes a key pair and returns its private key's file.
func (c *Cloud) KeyPair(name string) string {
	c.t.Helper()
	out, err := c.EC2.CreateKeyPair(context.Background(), &ec2.CreateKeyPairInput{KeyName: &name, KeyType: types.KeyTypeEd25519})
	if err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(c.t.TempDir(), name+".pem")
	if err := os.WriteFile(path, []byte(*out.KeyMaterial), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// WithKey launches with a key pair.
func WithKey(name string) Option { return func(in *ec2.RunInstancesInput) { in.KeyName = &name } }

// WithGroups launches with security groups.
func WithGroups(ids ...string) Option {
	return func(in *ec2.RunInstancesInput) { in.SecurityGroupIds = ids }
}

// WithUserData launches with user data, encoded as the API wants it.
func WithUserData(encoded string) Option {
	return func(in *ec2.RunInstancesInput) { in.UserData = &encoded }
}

// Machine is how to log in to an instance.
type Machine struct {
	t       testing.TB
	User    string
	Address string
	Key     string
}

// SSH is an instance's way in by its public address.
func (c *Cloud) SSH(i types.Instance, user, key string) *Machine {
	c.t.Helper()
	if i.PublicIpAddress == nil {
		c.t.Fatalf("%s has no public address", *i.InstanceId)
	}
	return &Machine{t: c.t, User: user, Address: *i.PublicIpAddress, Key: key}
}

// Options are what ssh and scp need to be told.
func (m *Machine) Options() []string {
	return []string{"-i", m.Key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"}
}

// Try runs a command inside and returns its output and exit code; 255 is ssh's own failure.
func (m *Machine) Try(command string) (string, int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", append(m.Options(), m.User+"@"+m.Address, command)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out.String(), 0
	case errors.As(err, &exit):
		return out.String(), exit.ExitCode()
	}
	m.t.Fatalf("ssh: %v", err)
	return "", 0
}

// Run is Try for commands that must work.
func (m *Machine) Run(command string) string {
	m.t.Helper()
	out, code := m.Try(command)
	if code != 0 {
		m.t.Fatalf("ssh %s@%s %q: exit %d\n%s", m.User, m.Address, command, code, out)
	}
	return strings.TrimSpace(out)
}

// loginLimit is how long an instance may take to let in: a translated machine boots first, beside whatever else the host runs.
const loginLimit = 2 * time.Minute

// WaitLogin waits until the instance lets the key in.
func (m *Machine) WaitLogin() *Machine {
	m.t.Helper()
	WaitFor(m.t, loginLimit, "SSH to let in", func() error {
		if out, code := m.Try("true"); code != 0 {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	return m
}

// Code is the AWS error code of an error, "" for none.
func Code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	if err != nil {
		return "not an API error: " + err.Error()
	}
	return ""
}

// WantCode fails the test unless err has the AWS error code.
func WantCode(t testing.TB, err error, code string) {
	t.Helper()
	if got := Code(err); got != code {
		t.Errorf("error code %q, want %q (%v)", got, code, err)
	}
}

// Sum is the SHA-256 of a file's bytes.
func Sum(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
