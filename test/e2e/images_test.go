package e2e

import (
	"fmt"
	"path/filepath"

	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// ofImage launches from an image.
func ofImage(id string) cloudtest.Option {
	return func(in *ec2.RunInstancesInput) { in.ImageId = &id }
}

// imageOf is an image as the API shows it.
func imageOf(t *testing.T, c *cloudtest.Cloud, id string) types.Image {
	t.Helper()
	out, err := c.EC2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{id}})
	if err != nil || len(out.Images) != 1 {
		t.Fatalf("%d images %s, %v", len(out.Images), id, err)
	}
	return out.Images[0]
}

// waitImage waits until an image is in a state.
func waitImage(t *testing.T, c *cloudtest.Cloud, id string, want types.ImageState) types.Image {
	t.Helper()
	var img types.Image
	c.WaitFor(cloudtest.StateLimit, id+" to be "+string(want), func() error {
		if img = imageOf(t, c, id); img.State != want {
			return fmt.Errorf("it is %s: %+v", img.State, img.StateReason)
		}
		return nil
	})
	return img
}

// createImage makes an image of an instance.
func createImage(t *testing.T, c *cloudtest.Cloud, instance, name string, noReboot bool) string {
	t.Helper()
	out, err := c.EC2.CreateImage(t.Context(), &ec2.CreateImageInput{InstanceId: &instance, Name: &name, NoReboot: &noReboot})
	if err != nil {
		t.Fatal(err)
	}
	return *out.ImageId
}

func TestAnImageOfAContainerIsWhatItWroteOverSharedLayers(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	first := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group), cloudtest.WithUserData("IyEvYmluL3NoCmVjaG8gJChob3N0bmFtZSkgPj4vdXNlci1kYXRhCg==")) // it notes the name that it ran under
	m := c.SSH(first, "root", key).WaitLogin()
	m.Run("echo kept >/root/kept; chown 1000:1000 /root/kept; rm /bin/vi; mkdir /opt; ln /root/kept /opt/linked; echo 0123456789abcdef0123456789abcdef >/etc/machine-id")
	started := m.Run("cat /proc/1/stat | cut -d' ' -f22")

	// It goes on, and stands still only while its files are read.
	running := createImage(t, c, *first.InstanceId, "running", true)
	if img := waitImage(t, c, running, types.ImageStateAvailable); *img.SourceInstanceId != *first.InstanceId || *img.ImageLocation != *img.OwnerId+"/running" {
		t.Errorf("it is %+v", img)
	}
	if again := m.Run("cat /proc/1/stat | cut -d' ' -f22"); again != started {
		t.Error("the instance was started again")
	}
	// A second one, of the instance at rest: it is rebooted.
	m.Run("echo later >/root/later")
	c.Nacre("image", "create", *first.InstanceId, "rebooted")
	c.WaitFor(cloudtest.StateLimit, "the reboot", func() error {
		if again, code := m.Try("cat /proc/1/stat | cut -d' ' -f22"); code != 0 || strings.TrimSpace(again) == started {
			return fmt.Errorf("it is %q", again)
		}
		return nil
	})
	if said, err := c.Try("image", "create", *first.InstanceId, "rebooted"); err == nil || !strings.Contains(said, "already in use") {
		t.Errorf("a second image of the name: %s", said)
	}
	if out := c.Nacre("image", "inspect", "rebooted", "--layers"); !strings.Contains(out, "/bin/busybox") || !strings.Contains(out, running) || !strings.Contains(out, *first.InstanceId) {
		t.Errorf("its layers are shown as\n%s", out)
	}
	if out := c.Nacre("image", "du"); !strings.Contains(out, running) || !strings.Contains(out, "total") {
		t.Errorf("the bytes are shown as\n%s", out)
	}
	// It leaves as an archive, and comes back.
	archive := filepath.Join(t.TempDir(), "exported.tar")
	c.Nacre("image", "export", "rebooted", archive)
	c.Nacre("image", "import", archive, "--name", "imported")
	if again := imageOf(t, c, c.ImageID("imported")); again.State != types.ImageStateAvailable {
		t.Errorf("what was exported came back as %+v", again)
	}
	if said, err := c.Try("image", "export", "rebooted", archive, "--format", "qcow2"); err == nil || !strings.Contains(said, "oci") {
		t.Errorf("a disk was exported of layers: %s", said)
	}
	// nacre's death in the middle ends in an image, or in what it was, and the instance goes on.
	crashed := createImage(t, c, *first.InstanceId, "crashed", true)
	c.Kill()
	c.Up()
	waitImage(t, c, crashed, types.ImageStateAvailable)
	m.WaitLogin()

	for id, want := range map[string]string{running: "kept", c.ImageID("imported"): "kept\nlater", crashed: "kept\nlater"} {
		again := c.Launch(ofImage(id), cloudtest.WithKey("k"), cloudtest.WithGroups(group))
		n := c.SSH(again, "root", key).WaitLogin()
		if got := n.Run("cat /root/kept /root/later 2>/dev/null; true"); got != want {
			t.Errorf("an instance of %s has %q, not %q", id, got, want)
		}
		if got := n.Run("stat -c '%u:%g %h' /root/kept; test -e /bin/vi || echo gone; cat /var/lib/nacre/instance-id; hostname; cat /etc/hostname; wc -l </user-data; grep -c 0123 /etc/machine-id; true"); got !=
			fmt.Sprintf("1000:1000 2\ngone\n%s\n%s\n%[2]s\n1\n0", *again.InstanceId, strings.SplitN(*again.PrivateDnsName, ".", 2)[0]) {
			t.Errorf("an instance of %s says %q", id, got)
		}
		c.Terminate(*again.InstanceId)
	}
	c.Terminate(*first.InstanceId)
	if i := c.Launch(ofImage(running)); *i.ImageId != running {
		t.Error("an image doesn't outlive its instance")
	}
}

// sequel writes numbers of eight digits to two places in turn, each when the last is on its disk, and says when it has begun.
const sequel = `(n=10000000; while :; do n=$((n+1)); printf $n | dd of=/dev/vdb bs=512 count=1 conv=sync,fsync,notrunc 2>/dev/null; printf $n | dd of=/dev/vdc bs=512 count=1 conv=sync,fsync,notrunc 2>/dev/null; done) >/dev/null 2>&1 & sleep 1`

func TestAnImageOfAVirtualMachineIsItsDisksAtOneInstant(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	c.Nacre("run", "busybox", "--vm", "--name", "first", "--key", "k", "--group", "ssh", "--disk", "1", "--volume", "1:/dev/sdf", "--volume", "1:/dev/sdg")
	first := named{c, "first"}.instance(t)
	m := c.SSH(first, "root", key).WaitLogin()
	m.Run("echo kept >/root/kept; sync; " + sequel)
	identity := "cat /etc/machine-id; hostname; cat /var/lib/nacre/instance-id"
	was := m.Run(identity)

	running := createImage(t, c, *first.InstanceId, "running", true)
	snaps, err := c.EC2.CreateSnapshots(t.Context(), &ec2.CreateSnapshotsInput{InstanceSpecification: &types.InstanceSpecification{InstanceId: first.InstanceId}})
	if err != nil || len(snaps.Snapshots) != 3 {
		t.Fatalf("%+v, %v", snaps, err)
	}
	img := waitImage(t, c, running, types.ImageStateAvailable)
	if len(img.BlockDeviceMappings) != 3 || img.BlockDeviceMappings[2].Ebs.SnapshotId == nil {
		t.Errorf("it maps %+v", img.BlockDeviceMappings)
	}
	m.Run("true") // it goes on
	// The other one is rebooted for, and nacre dies meanwhile.
	m.Run("echo later >/root/later") // never told to be on the disk
	rebooted := createImage(t, c, *first.InstanceId, "rebooted", false)
	c.Kill()
	c.Up()
	waitImage(t, c, rebooted, types.ImageStateAvailable)
	m.WaitLogin()
	// A root that was kept by itself is one again.
	root := ""
	c.WaitFor(cloudtest.StateLimit, "the snapshots", func() error {
		out, err := c.EC2.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snaps.Snapshots[0].SnapshotId, *snaps.Snapshots[1].SnapshotId, *snaps.Snapshots[2].SnapshotId}})
		if err != nil {
			return err
		}
		for _, s := range out.Snapshots {
			if s.State != types.SnapshotStateCompleted {
				return fmt.Errorf("%s is %s", *s.SnapshotId, s.State)
			}
			if *s.VolumeId == rootOf(t, first) {
				root = *s.SnapshotId
			}
		}
		return nil
	})
	registered, err := c.EC2.RegisterImage(t.Context(), &ec2.RegisterImageInput{Name: new("registered"), BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: new("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: &root}}}})
	if err != nil {
		t.Fatal(err)
	}
	c.Terminate(*first.InstanceId)

	for id, want := range map[string]string{running: "kept", rebooted: "kept\nlater", *registered.ImageId: "kept"} {
		again := c.Launch(ofImage(id), cloudtest.WithKey("k"), cloudtest.WithGroups(group))
		n := c.SSH(again, "root", key).WaitLogin()
		if got := n.Run("cat /root/kept /root/later 2>/dev/null; true"); got != want {
			t.Errorf("an instance of %s has %q, not %q", id, got, want)
		}
		for line := range strings.SplitSeq(n.Run(identity), "\n") {
			if strings.Contains(was, line) {
				t.Errorf("an instance of %s is the first one: %s", id, line)
			}
		}
		how := ""
		for _, tag := range again.Tags {
			if *tag.Key == "aws:nacre:launch" {
				how = *tag.Value
			}
		}
		if !strings.Contains(how, "snapshot") {
			t.Errorf("an instance of %s was %q", id, how)
		}
		if id != *registered.ImageId {
			// What was written second is there only with what was written first.
			var one, two int
			if _, err := fmt.Sscan(n.Run("head -c 8 /dev/vdb; echo; head -c 8 /dev/vdc"), &one, &two); err != nil || one == 0 || one < two || one > two+1 {
				t.Errorf("the volumes of %s hold %d and %d, %v", id, one, two, err)
			}
		}
		c.Terminate(*again.InstanceId)
	}
}
