package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// rootOf is the id of an instance's root volume.
func rootOf(t *testing.T, i types.Instance) string {
	t.Helper()
	for _, m := range i.BlockDeviceMappings {
		if *m.DeviceName == *i.RootDeviceName {
			return *m.Ebs.VolumeId
		}
	}
	t.Fatalf("%s has no root", *i.InstanceId)
	return ""
}

func TestTheRootOfAVirtualMachineIsAVolume(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	c.Nacre("run", "busybox", "--vm", "--name", "first", "--key", "k", "--group", "ssh", "--disk", "1", "--encrypted")
	first := named{c, "first"}.instance(t)
	m := c.SSH(first, "root", key).WaitLogin()
	root := rootOf(t, first)
	if got := m.Run("cat /sys/block/vda/size /sys/block/vda/serial"); got != fmt.Sprintf("%d\n%s", 1<<30/512, strings.Replace(root, "-", "", 1)) {
		t.Errorf("the disk of 1 GiB is %q", got)
	}
	if !*volumeOf(t, c, root).Encrypted {
		t.Error("the root is not encrypted")
	}
	// A snapshot of the running root, and a start after a kill, with what was written.
	m.Run("echo before >/kept; sync")
	c.Nacre("volume", "snapshot", root, "--name", "s")
	m.Run("echo after >/kept; sync")
	hidden(t, c, m, "/hidden")
	c.Nacre("volume", "grow", root, "--size", "2")
	if got := m.Run("sleep 1; cat /sys/block/vda/size"); got != fmt.Sprint(2<<30/512) {
		t.Errorf("the grown root has %s sectors", got)
	}
	c.Kill()
	c.Up()
	c.Nacre("stop", "first")
	c.WaitState(*first.InstanceId, types.InstanceStateNameStopped)
	// The root of one is another's data, and so is a volume of its snapshot.
	container := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	n := c.SSH(container, "root", key).WaitLogin()
	c.Nacre("volume", "detach", root)
	if said, err := c.Try("start", "first"); err == nil || !strings.Contains(said+err.Error(), "does not have a volume attached at root") {
		t.Errorf("it is started without a root: %s %v", said, err)
	}
	if _, err := c.EC2.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{root}, Tags: []types.Tag{{Key: new("nacre:mount"), Value: new("/mnt")}}}); err != nil {
		t.Fatal(err)
	}
	c.Nacre("volume", "attach", root, *container.InstanceId)
	old := made(c, "--snapshot", "s", "--mount", "/old")
	c.Nacre("volume", "attach", old, *container.InstanceId)
	if got := n.Run("cat /mnt/kept /old/kept; echo repaired >/mnt/kept; sync"); got != "after\nbefore" {
		t.Errorf("the root and its snapshot hold %q", got)
	}
	// Either is what the machine starts from.
	for volume, want := range map[string]string{root: "repaired", old: "before"} {
		c.Nacre("volume", "detach", volume)
		c.Nacre("volume", "attach", volume, "first", "--device", "/dev/xvda")
		c.Nacre("start", "first")
		again := c.WaitState(*first.InstanceId, types.InstanceStateNameRunning)
		if got := c.SSH(again, "root", key).WaitLogin().Run("cat /kept"); got != want {
			t.Errorf("its root holds %q, not %q", got, want)
		}
		c.Nacre("stop", "first")
		c.WaitState(*first.InstanceId, types.InstanceStateNameStopped)
		c.Nacre("volume", "detach", volume)
	}
	c.Nacre("volume", "attach", root, "first", "--device", "/dev/xvda")
	// What was attached later stays; what came with a launch goes.
	own := rootOf(t, container)
	c.Terminate(*first.InstanceId, *container.InstanceId)
	c.WaitFor(cloudtest.StateLimit, "the root stays", func() error {
		if v := volumeOf(t, c, root); v.State != types.VolumeStateAvailable {
			return fmt.Errorf("it is %s", v.State)
		}
		return nil
	})
	if _, err := c.EC2.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{own}}); cloudtest.Code(err) != "InvalidVolume.NotFound" {
		t.Errorf("the container's root is described: %v", err)
	}
}
