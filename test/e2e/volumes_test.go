package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// made makes a volume with the command line and returns its id.
func made(c *cloudtest.Cloud, args ...string) string {
	out := c.Nacre(append([]string{"volume", "create"}, args...)...)
	return strings.Fields(strings.Split(out, "\n")[1])[0]
}

func volumeOf(t *testing.T, c *cloudtest.Cloud, id string) types.Volume {
	t.Helper()
	out, err := c.EC2.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Volumes[0]
}

// hidden writes something to a file inside, and looks for it on the server's disk, where it is not to be found.
func hidden(t *testing.T, c *cloudtest.Cloud, m *cloudtest.Machine, path string, how ...string) {
	t.Helper()
	secret := "nobody-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	// In two parts, so that no command line tells it.
	m.Run(fmt.Sprintf("a=%s; for i in 1 2 3 4; do echo $a-reads-this; done | dd of=%s conv=fsync,notrunc %s 2>/dev/null", secret, path, strings.Join(how, " ")))
	err := filepath.WalkDir(filepath.Join(c.Dir, "volumes"), func(file string, e os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() || e.Name() == "export" || e.Name() == "base" { // what daemons show, and what images brought
			return err
		}
		b, err := os.ReadFile(file)
		if bytes.Contains(b, []byte(secret+"-reads-this")) {
			t.Errorf("%s tells what was written", file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAContainersVolumesOutliveEverything(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	id := *i.InstanceId
	m := c.SSH(i, "root", key).WaitLogin()

	mounted := made(c, "--size", "1", "--name", "files", "--mount", "/srv/data")
	bare := made(c, "--size", "1", "--name", "bare", "--encrypted")
	c.Nacre("volume", "attach", "files", id)
	c.Nacre("volume", "attach", bare, id, "--device", "/dev/sdp")
	m.Run("echo first >/srv/data/file; sync; echo bytes | dd of=/dev/xvdp conv=fsync,notrunc 2>/dev/null")
	if got := m.Run("head -c 5 /dev/xvdp; stat -c %u:%g /srv/data/file"); got != "bytes"+"0:0" {
		t.Errorf("inside there is %q", got)
	}
	hidden(t, c, m, "/dev/xvdp", "seek=100")
	if said, err := c.Try("volume", "attach", bare, id); err == nil {
		t.Errorf("it was attached twice: %s", said)
	}
	if said, err := c.Try("volume", "rm", bare); err == nil || !strings.Contains(said+err.Error(), "VolumeInUse") {
		t.Errorf("it was deleted in use: %s", said)
	}
	devices := map[string]string{}
	for _, d := range c.Describe(id).BlockDeviceMappings {
		devices[*d.DeviceName] = *d.Ebs.VolumeId
	}
	if len(devices) != 3 || devices["/dev/sdf"] != mounted || devices["/dev/sdp"] != bare || devices["/dev/xvda"] == "" {
		t.Errorf("the instance is described with %v", devices)
	}

	// A snapshot is the volume as it was, whatever is written and killed later.
	c.Nacre("volume", "snapshot", "files", "--name", "before")
	m.Run("echo second >/srv/data/file; sync")
	c.Kill()
	c.KillDaemon(bare)
	c.Up()
	m.WaitLogin()
	c.WaitFor(cloudtest.StateLimit, "the device is served again", func() error {
		if out, code := m.Try("head -c 5 /dev/xvdp"); code != 0 || strings.TrimSpace(out) != "bytes" {
			return fmt.Errorf("it says %q (%d)", out, code)
		}
		return nil
	})
	c.KillDaemon(mounted)
	c.WaitFor(cloudtest.StateLimit, "the file system is mounted again", func() error {
		if out, code := m.Try("cat /srv/data/file"); code != 0 || strings.TrimSpace(out) != "second" {
			return fmt.Errorf("it says %q (%d)", out, code)
		}
		return nil
	})
	old := made(c, "--snapshot", "before", "--mount", "/srv/old")
	c.Nacre("volume", "attach", old, id)
	if got := m.Run("cat /srv/old/file; cat /srv/data/file"); got != "first\nsecond" {
		t.Errorf("of the snapshot and the volume there is %q", got)
	}

	// It grows while it is in use, and is never given to two.
	c.Nacre("volume", "grow", bare, "--size", "2")
	if got := m.Run("blockdev --getsize64 /dev/xvdp"); got != fmt.Sprint(2<<30) {
		t.Errorf("the grown device has %s bytes", got)
	}
	m.Run("(cd /srv/old; exec sleep 600) >/dev/null 2>&1 </dev/null & echo $! >/tmp/user")
	if said, err := c.Try("volume", "detach", old); err == nil || !strings.Contains(said+err.Error(), "in use") {
		t.Errorf("a file system that is in use was taken away: %s %v", said, err)
	}
	m.Run("kill $(cat /tmp/user)")
	c.WaitFor(cloudtest.StateLimit, "the volume that was busy leaves", func() error {
		if v := volumeOf(t, c, old); v.State != types.VolumeStateAvailable {
			return fmt.Errorf("it is %s, %+v", v.State, v.Attachments)
		}
		return nil
	})

	// It is there from the start of the next boot, and goes with the instance if that was asked for.
	c.Nacre("stop", id)
	c.WaitState(id, types.InstanceStateNameStopped)
	c.Nacre("start", id)
	m = c.SSH(c.WaitState(id, types.InstanceStateNameRunning), "root", key).WaitLogin()
	if got := m.Run("cat /srv/data/file; head -c 5 /dev/xvdp"); got != "second\nbytes" {
		t.Errorf("after another boot there is %q", got)
	}
	_, err := c.EC2.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{InstanceId: &id, BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{
		{DeviceName: new("/dev/sdp"), Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: new(true)}}}})
	if err != nil {
		t.Fatal(err)
	}
	c.Terminate(id)
	c.WaitFor(cloudtest.StateLimit, "the volume went with its instance", func() error {
		out, err := c.EC2.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})
		if err != nil {
			return err
		}
		for _, v := range out.Volumes {
			if *v.VolumeId == bare || v.State != types.VolumeStateAvailable {
				return fmt.Errorf("there is %s, %s", *v.VolumeId, v.State)
			}
		}
		return nil
	})
	c.Nacre("volume", "rm", "files")
	if said, err := c.Try("volume", "create", "--size", "16000"); err == nil || !strings.Contains(said+err.Error(), "InsufficientVolumeCapacity") {
		t.Errorf("a volume larger than the disk: %s %v", said, err)
	}
}

func TestAVirtualMachinesVolumesComeAndGoWhileItRuns(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	key := c.KeyPair("k")
	c.Group("ssh", 22)
	c.Nacre("run", "busybox", "--vm", "--name", "vm", "--key", "k", "--group", "ssh")
	out, err := c.EC2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: new("tag:Name"), Values: []string{"vm"}}}})
	if err != nil {
		t.Fatal(err)
	}
	vm := out.Reservations[0].Instances[0]
	id := *vm.InstanceId
	m := c.SSH(vm, "root", key).WaitLogin()
	v := made(c, "--size", "1", "--name", "data")
	c.Nacre("volume", "attach", v, id)
	// A guest finds a disk by itself, a moment later.
	c.WaitFor(cloudtest.StateLimit, "the guest has the disk", func() error {
		if serial, code := m.Try("cat /sys/block/vdb/serial"); code != 0 || strings.TrimSpace(serial) != strings.Replace(v, "-", "", 1) {
			return fmt.Errorf("its serial is %q (%d)", serial, code)
		}
		return nil
	})
	m.Run("echo first | dd of=/dev/vdb conv=fsync,notrunc 2>/dev/null")
	c.Nacre("volume", "snapshot", v, "--name", "s")
	m.Run("echo later | dd of=/dev/vdb conv=fsync,notrunc 2>/dev/null")
	c.Nacre("volume", "grow", v, "--size", "2")
	if got := m.Run("sleep 1; cat /sys/block/vdb/size"); got != fmt.Sprint(2<<30/512) {
		t.Errorf("the grown disk has %s sectors", got)
	}
	c.Kill()
	c.Up()
	c.Nacre("volume", "detach", v)
	if got := m.WaitLogin().Run("ls /sys/block"); strings.Contains(got, "vdb") {
		t.Errorf("it still has the disks %s", got)
	}
	of := made(c, "--snapshot", "s", "--size", "3")
	c.Nacre("volume", "attach", of, id)
	c.Nacre("stop", id)
	c.WaitState(id, types.InstanceStateNameStopped)
	c.Nacre("volume", "attach", v, id)
	c.Nacre("start", id)
	m = c.SSH(c.WaitState(id, types.InstanceStateNameRunning), "root", key).WaitLogin()
	content := map[string]string{}
	for _, d := range []string{"vdb", "vdc"} {
		content[m.Run("cat /sys/block/"+d+"/serial")] = m.Run("head -c 5 /dev/" + d)
	}
	if content[strings.Replace(v, "-", "", 1)] != "later" || content[strings.Replace(of, "-", "", 1)] != "first" {
		t.Errorf("after another boot the disks hold %v", content)
	}
	c.Terminate(id)
	c.WaitFor(10*time.Second, "the volumes are free", func() error {
		for _, x := range []string{v, of} {
			if got := volumeOf(t, c, x); got.State != types.VolumeStateAvailable {
				return fmt.Errorf("%s is %s", x, got.State)
			}
		}
		return nil
	})
}
