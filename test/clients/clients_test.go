//go:build clients

// Package clients drives a cloud with clients that aren't Go's, as they come from Debian's packages. `make test-clients`
// installs them and runs it.
package clients

import (
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

var recap = regexp.MustCompile(`ok=(\d+) +changed=(\d+) +unreachable=0 +failed=0`)

func TestAnsibleBuildsANetworkTakesItDownAndFindsNothingToChangeTheSecondTime(t *testing.T) {
	c := cloudtest.Start(t)
	play := func(book string) (tasks, changed string) {
		t.Helper()
		cmd := exec.Command("/usr/bin/ansible-playbook", "-i", "localhost,", book)
		cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin", "AWS_ENDPOINT_URL="+c.Door(), "AWS_ACCESS_KEY_ID="+c.Key.AccessKey, "AWS_SECRET_ACCESS_KEY="+c.Key.Secret,
			"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "ANSIBLE_NOCOLOR=1", "ANSIBLE_LOCAL_TEMP="+t.TempDir(), "ANSIBLE_REMOTE_TEMP="+t.TempDir())
		out, err := cmd.CombinedOutput()
		m := recap.FindStringSubmatch(string(out))
		if err != nil || m == nil {
			t.Fatalf("ansible-playbook %s: %v\n%s", book, err, out)
		}
		return m[1], m[2]
	}
	for _, book := range []string{"network.yml", "teardown.yml"} {
		if tasks, changed := play(book); changed == "0" {
			t.Errorf("the first run of %s did %s tasks and changed nothing", book, tasks)
		}
		if tasks, changed := play(book); tasks == "0" || changed != "0" {
			t.Errorf("the second run of %s did %s tasks and changed %s things", book, tasks, changed)
		}
	}
	left, err := c.EC2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{})
	if err != nil || len(left.NetworkInterfaces) != 0 {
		t.Errorf("interfaces are left: %+v, %v", left, err)
	}
	addresses, err := c.EC2.DescribeAddresses(t.Context(), &ec2.DescribeAddressesInput{})
	if err != nil || len(addresses.Addresses) != 0 {
		t.Errorf("addresses are left: %+v, %v", addresses, err)
	}
}

// script runs a program of Debian's Python, with its packages, against a cloud.
func script(t *testing.T, c *cloudtest.Cloud, name string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", name)
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1", "ENDPOINT="+c.Door(), "WORK="+t.TempDir(), "AWS_ACCESS_KEY_ID="+c.Key.AccessKey,
		"AWS_SECRET_ACCESS_KEY="+c.Key.Secret, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	t.Logf("%s", out)
}

func TestATwoTierNetworkIsBuiltChangedAndTakenDownInAnyOrderWithBoto3(t *testing.T) {
	script(t, cloudtest.Start(t), "two_tier.py")
}

func TestLibcloudDrivesNodesAddressesAndNetworks(t *testing.T) {
	script(t, cloudtest.Start(t), "nodes.py")
}
