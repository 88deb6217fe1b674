package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// extra are an instance's volumes beside its root, by device.
func extra(i types.Instance) map[string]string {
	out := map[string]string{}
	for _, m := range i.BlockDeviceMappings {
		if *m.DeviceName != *i.RootDeviceName {
			out[*m.DeviceName] = *m.Ebs.VolumeId
		}
	}
	return out
}

func (n named) instance(t *testing.T) types.Instance {
	t.Helper()
	out, err := n.cloud.EC2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: new("tag:Name"), Values: []string{n.name}}}})
	if err != nil || len(out.Reservations) != 1 {
		t.Fatalf("%s: %v, %+v", n.name, err, out)
	}
	return out.Reservations[0].Instances[0]
}

// named is an instance by its name.
type named struct {
	cloud *cloudtest.Cloud
	name  string
}

func TestVolumesOfALaunchAreThereWhenItRunsAndGoWithIt(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	key := c.KeyPair("k")
	group := c.Group("ssh", 22)
	c.Nacre("run", "busybox", "--name", "mounted", "--key", "k", "--group", "ssh", "--volume", "1:/srv/data")
	mounted := named{c, "mounted"}.instance(t)
	m := c.SSH(mounted, "root", key).WaitLogin()
	m.Run("echo kept >/srv/data/file; sync")
	data := extra(mounted)["/dev/sdf"]
	if v := volumeOf(t, c, data); v.State != types.VolumeStateInUse || v.VolumeType != types.VolumeTypeGp3 || !*v.Attachments[0].DeleteOnTermination {
		t.Errorf("the volume is %+v", v)
	}
	c.Nacre("volume", "snapshot", data, "--name", "s")
	snapshots, err := c.EC2.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{})
	if err != nil {
		t.Fatal(err)
	}
	// The container and the virtual machine are launched by one that is killed as soon as it has promised them.
	launch := func(image string, size types.InstanceType) types.Instance {
		out, err := c.EC2.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: new(c.ImageID(image)), InstanceType: size, MinCount: new(int32(1)), MaxCount: new(int32(1)), KeyName: new("k"),
			SecurityGroupIds: []string{group}, BlockDeviceMappings: []types.BlockDeviceMapping{
				{DeviceName: new("/dev/sdf"), Ebs: &types.EbsBlockDevice{SnapshotId: snapshots.Snapshots[0].SnapshotId, DeleteOnTermination: new(false)}},
				{DeviceName: new("/dev/sdg"), Ebs: &types.EbsBlockDevice{VolumeSize: new(int32(2))}}}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Instances[0]
	}
	c.Nacre("run", "busybox", "--vm", "--name", "first", "--key", "k", "--group", "ssh") // which registers the image
	c.Terminate(*named{c, "first"}.instance(t).InstanceId)
	pending := []types.Instance{launch("busybox", types.InstanceTypeT3Nano), launch("busybox-vm", types.InstanceTypeT3Nano)}
	c.Kill()
	c.Up()
	for n, i := range pending {
		i = c.WaitState(*i.InstanceId, types.InstanceStateNameRunning)
		m := c.SSH(i, "root", key).WaitLogin()
		if n == 0 {
			if got := m.Run("mkdir /mnt; mount -t ext4 /dev/xvdf /mnt 2>/dev/null; blockdev --getsize64 /dev/xvdg; dd if=/dev/xvdf bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1"); got != fmt.Sprintf("%d\n 53 ef", 2<<30) {
				t.Errorf("the container has %q", got)
			}
		} else if got := m.Run("mkdir -p /mnt; for d in vdb vdc; do mount -t ext4 /dev/$d /mnt 2>/dev/null && cat /mnt/file; done; cat /sys/block/vdb/size /sys/block/vdc/size | sort -n"); got != fmt.Sprintf("kept\n%d\n%d", 1<<30/512, 2<<30/512) {
			t.Errorf("the virtual machine has %q", got)
		}
		list := extra(i)
		c.WaitFor(cloudtest.StateLimit, "its volumes are attached", func() error {
			for device, id := range list {
				if v := volumeOf(t, c, id); v.State != types.VolumeStateInUse || v.Attachments[0].State != types.VolumeAttachmentStateAttached {
					return fmt.Errorf("%s is %s, %s", device, v.State, v.Attachments[0].State)
				}
			}
			return nil
		})
		c.Terminate(*i.InstanceId)
		c.WaitFor(cloudtest.StateLimit, "one volume stays", func() error {
			if v := volumeOf(t, c, list["/dev/sdf"]); v.State != types.VolumeStateAvailable {
				return fmt.Errorf("the one that stays is %s", v.State)
			}
			_, err := c.EC2.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{list["/dev/sdg"]}})
			if cloudtest.Code(err) != "InvalidVolume.NotFound" {
				return fmt.Errorf("the other one is described: %v", err)
			}
			return nil
		})
		c.Nacre("volume", "rm", list["/dev/sdf"])
	}
	if said, err := c.Try("run", "busybox", "--volume", "16000"); err == nil || !strings.Contains(said+err.Error(), "InsufficientVolumeCapacity") {
		t.Errorf("a volume larger than the disk: %s %v", said, err)
	}
	c.Terminate(*mounted.InstanceId)
}
