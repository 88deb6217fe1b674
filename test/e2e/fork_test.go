package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// launchTag is how a virtual machine came to run.
func launchTag(i types.Instance) string {
	for _, tag := range i.Tags {
		if *tag.Key == "aws:nacre:launch" {
			return *tag.Value
		}
	}
	return ""
}

func TestVirtualMachinesOfOneImageAreForkedAndAreStrangers(t *testing.T) {
	t.Parallel()
	const clones = 20
	c := cloudtest.New(t)
	c.Up("--cpu-overcommit", "64", "--memory-overcommit", "16")
	c.Nacre("image", "bake", "busybox")
	c.Nacre("image", "bake", "linux")
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	c.Nacre("run", "busybox", "--vm", "--type", "t3.nano", "--key", "k", "--group", "ssh", "--name", "first")
	image := c.ImageID("busybox-vm")
	c.WaitFor(60*time.Second, "a template", func() error {
		if !strings.Contains(c.Log(), "a template was made") {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	machines := c.LaunchMany(clones, withImage(image), cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	c.Strangers().Meet(machines, "admin", key)
	i := machines[0]
	if got := launchTag(i); got != "forked" {
		t.Errorf("its launch is told as %q", got)
	}
	if n := strings.Count(c.Log(), "it boots"); n > 0 {
		t.Errorf("%d launches could not be forked", n)
	}
	// What it wrote is its own after a boot of its own, too.
	c.SSH(i, "admin", key).Run("echo " + *i.InstanceId + " >mine; sync")
	c.Nacre("stop", *i.InstanceId)
	c.WaitState(*i.InstanceId, types.InstanceStateNameStopped)
	c.Nacre("start", *i.InstanceId)
	again := c.WaitState(*i.InstanceId, types.InstanceStateNameRunning)
	if got := c.SSH(again, "admin", key).WaitLogin().Run("cat mine"); got != *i.InstanceId {
		t.Errorf("%s finds %q", *i.InstanceId, got)
	}
	if got := launchTag(again); got != "booted" {
		t.Errorf("its start is told as %q", got)
	}
	// A kill leaves neither the template nor a machine that was to become one, and the next launch boots and says so.
	c.Kill()
	c.Up()
	cold := c.Launch(withImage(image), cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	if got := launchTag(cold); got != "booted: there is no template of its image and type yet" {
		t.Errorf("a launch after a restart is told as %q", got)
	}
}

func TestAServerWithoutRoomForTemplatesBootsItsMachinesAndSaysWhy(t *testing.T) {
	t.Parallel()
	c := cloudtest.New(t)
	c.Up("--template-memory", "1")
	c.Nacre("image", "bake", "busybox")
	c.Nacre("image", "bake", "linux")
	c.Nacre("run", "busybox", "--vm", "--type", "t3.nano", "--name", "first")
	const told = "no template was made"
	c.WaitFor(60*time.Second, "an attempt to make a template", func() error {
		if !strings.Contains(c.Log(), told) {
			return fmt.Errorf("there was none")
		}
		return nil
	})
	for range 2 {
		i := c.Launch(withImage(c.ImageID("busybox-vm")), func(in *ec2.RunInstancesInput) { in.InstanceType = "t3.nano" })
		if got := launchTag(i); !strings.HasPrefix(got, "booted: it has no template: there is no room for a template: ") {
			t.Errorf("a launch is told as %q", got)
		}
	}
	if n := strings.Count(c.Log(), told); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
}
