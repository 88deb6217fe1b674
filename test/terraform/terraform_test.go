//go:build terraform

// Package terraform drives a cloud with OpenTofu and Terraform's AWS provider. `make test-terraform` builds them, which takes some
// minutes the first time, and runs it.
package terraform

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// story is a configuration in a directory of its own, with what tofu needs to know.
type story struct {
	t   *testing.T
	dir string
	env []string
}

func newStory(t *testing.T, c *cloudtest.Cloud) *story {
	t.Helper()
	tools, err := filepath.Abs("../../.cache/terraform")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("network.tf")
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, dir: t.TempDir()}
	rc := "provider_installation {\n  dev_overrides {\n    \"hashicorp/aws\" = \"" + tools + "\"\n  }\n  direct {}\n}\n"
	for name, text := range map[string]string{"network.tf": string(config), "rc": rc} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.KeyPair("terraform")
	s.env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+filepath.Join(s.dir, "rc"), "PATH="+tools+":/usr/bin:/bin", "CHECKPOINT_DISABLE=1", "HOME="+s.dir,
		"AWS_ENDPOINT_URL="+c.Door(), "AWS_ACCESS_KEY_ID="+c.Key.AccessKey, "AWS_SECRET_ACCESS_KEY="+c.Key.Secret, "AWS_REGION=us-east-1",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	return s
}

func (s *story) tofu(args ...string) (output string, code int) {
	s.t.Helper()
	cmd := exec.Command("tofu", append(args, "-no-color")...)
	cmd.Path = filepath.Join("../../.cache/terraform", "tofu")
	var err error
	if cmd.Path, err = filepath.Abs(cmd.Path); err != nil {
		s.t.Fatal(err)
	}
	cmd.Dir, cmd.Env, cmd.Err = s.dir, s.env, nil
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("tofu: %v", err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (s *story) must(args ...string) {
	s.t.Helper()
	if out, code := s.tofu(args...); code != 0 {
		s.t.Fatalf("tofu %v: exit %d\n%s", args, code, out)
	}
}

// settled: what was applied is read back as it was written.
func (s *story) settled(args ...string) {
	s.t.Helper()
	if out, code := s.tofu(append([]string{"plan", "-detailed-exitcode"}, args...)...); code != 0 {
		s.t.Errorf("there is something to change after it was applied: exit %d\n%s", code, out)
	}
}

func TestTerraformBuildsChangesAndTakesDownANetworkAndFindsNothingToChangeBetween(t *testing.T) {
	c := cloudtest.Start(t)
	s := newStory(t, c)
	s.must("apply", "-auto-approve")
	s.settled()
	s.must("apply", "-auto-approve", "-var", "later=true")
	s.settled("-var", "later=true")
	s.must("destroy", "-auto-approve", "-var", "later=true")
	vpcs, err := c.EC2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
	if err != nil || len(vpcs.Vpcs) != 1 {
		t.Errorf("VPCs are left beside the default one: %+v, %v", vpcs, err)
	}
	nics, err := c.EC2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{})
	if err != nil || len(nics.NetworkInterfaces) != 0 {
		t.Errorf("interfaces are left: %+v, %v", nics, err)
	}
	addresses, err := c.EC2.DescribeAddresses(t.Context(), &ec2.DescribeAddressesInput{})
	if err != nil || len(addresses.Addresses) != 0 {
		t.Errorf("addresses are left: %+v, %v", addresses, err)
	}
}
