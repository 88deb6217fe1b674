//go:build slow

package slow

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// foreign is the architecture that this server only translates: Debian's word, EC2's, the kernel's, what firmware starts, and a type of it.
type foreign struct {
	debian, ec2, kernel, efi string
	size                     types.InstanceType
}

func foreigner() foreign {
	if runtime.GOARCH == "arm64" {
		return foreign{"amd64", "x86_64", "x86_64", "BOOTX64.EFI", types.InstanceTypeT3Micro}
	}
	return foreign{"arm64", "arm64", "aarch64", "BOOTAA64.EFI", types.InstanceTypeT4gMicro}
}

// bake takes the time that emulation takes.
func bake(t *testing.T, c *cloudtest.Cloud, recipe string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, cloudtest.Binary(t), "image", "bake", recipe)
	cmd.Env = append(os.Environ(), "NACRE_DATA_DIR="+c.Dir, "AWS_ENDPOINT_URL=", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("bake %s: %v\n%s", recipe, err, out)
	}
}

func TestADebianOfAnotherArchitectureIsAnInstanceLikeAnyOther(t *testing.T) {
	other := foreigner()
	recipe := "debian-12-" + other.debian
	c := cloudtest.Start(t)
	bake(t, c, recipe)
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	image := c.ImageID(recipe)
	found, err := c.EC2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: new("architecture"), Values: []string{other.ec2}}, {Name: new("image-type"), Values: []string{"machine"}}}})
	if err != nil || len(found.Images) != 1 || *found.Images[0].ImageId != image || found.Images[0].KernelId == nil {
		t.Fatalf("images for %s: %+v, %v", other.ec2, found, err)
	}
	of := func(size types.InstanceType) cloudtest.Option {
		return func(in *ec2.RunInstancesInput) { in.ImageId, in.InstanceType = &image, size }
	}
	data := base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\ndpkg --print-architecture >/var/told\n"))
	i := c.Launch(of(other.size), cloudtest.WithKey("k"), cloudtest.WithGroups(group), cloudtest.WithUserData(data))
	if string(i.Architecture) != other.ec2 {
		t.Errorf("the instance is described as %s", i.Architecture)
	}
	m := c.SSH(i, "admin", key).WaitLogin()
	if got, want := m.Run("uname -m; cat /var/told; hostname -I | cut -d' ' -f1; sudo -n id -un"), other.kernel+"\n"+other.debian+"\n"+*i.PrivateIpAddress+"\nroot"; got != want {
		t.Errorf("it says %q, not %q", got, want)
	}
	if got := m.Run("curl -s http://169.254.169.254/latest/meta-data/instance-type"); got != string(other.size) {
		t.Errorf("its metadata say %q", got)
	}
	boot := m.Run("cat /proc/sys/kernel/random/boot_id; echo kept >kept; sync")

	// The next ones are forked, and strangers to each other.
	c.WaitFor(10*time.Minute, "a template", func() error {
		if !strings.Contains(c.Log(), "a template was made") {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	forks := c.LaunchMany(2, of(other.size), cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	c.Strangers().Meet(forks, "admin", key)
	for _, f := range forks {
		how := ""
		for _, tag := range c.Describe(*f.InstanceId).Tags {
			if *tag.Key == "aws:nacre:launch" {
				how = *tag.Value
			}
		}
		if how != "forked" {
			t.Errorf("the launch of %s is told as %q", *f.InstanceId, how)
		}
	}
	c.Terminate(*forks[0].InstanceId, *forks[1].InstanceId)

	// It outlives the manager, gets a card and loses it while it runs, and boots anew.
	c.Kill()
	c.Up()
	if got := m.WaitLogin().Run("cat /proc/sys/kernel/random/boot_id"); got != boot {
		t.Error("it was booted anew")
	}
	card, err := c.EC2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: i.SubnetId})
	if err != nil {
		t.Fatal(err)
	}
	attached, err := c.EC2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{InstanceId: i.InstanceId, NetworkInterfaceId: card.NetworkInterface.NetworkInterfaceId, DeviceIndex: new(int32(1))})
	if err != nil {
		t.Fatal(err)
	}
	cards := func(want string) {
		t.Helper()
		c.WaitFor(time.Minute, "its cards are "+want, func() error {
			if got := strings.Join(strings.Fields(m.Run("ls /sys/class/net")), " "); got != want {
				return fmt.Errorf("they are %s", got)
			}
			return nil
		})
	}
	cards("eth0 eth1 lo")
	if _, err := c.EC2.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: attached.AttachmentId}); err != nil {
		t.Fatal(err)
	}
	cards("eth0 lo")
	if _, err := c.EC2.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{*i.InstanceId}}); err != nil {
		t.Fatal(err)
	}
	c.WaitFor(5*time.Minute, "it boots anew", func() error {
		if out, code := m.Try("cat /proc/sys/kernel/random/boot_id kept"); code != 0 || strings.Contains(out, boot) || !strings.Contains(out, "kept") {
			return fmt.Errorf("it says %q (%d)", out, code)
		}
		return nil
	})
	c.Nacre("stop", *i.InstanceId)
	c.WaitState(*i.InstanceId, types.InstanceStateNameStopped)
	c.Nacre("start", *i.InstanceId)
	i = c.WaitState(*i.InstanceId, types.InstanceStateNameRunning)
	if got := c.SSH(i, "admin", key).WaitLogin().Run("cat kept /var/told"); got != "kept\n"+other.debian {
		t.Errorf("after a stop its disk says %q", got)
	}

	// A type of the server's own architecture is refused.
	own := types.InstanceTypeT3Micro
	if other.size == own {
		own = types.InstanceTypeT4gMicro
	}
	_, err = c.EC2.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: &image, InstanceType: own, MinCount: new(int32(1)), MaxCount: new(int32(1))})
	cloudtest.WantCode(t, err, "InvalidParameterValue")
	c.Terminate(*i.InstanceId)
}

func TestABusyboxOfAnotherArchitectureTakesTheNewestKernelOfIts(t *testing.T) {
	other := foreigner()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "busybox-"+other.debian)
	c.Nacre("image", "bake", "linux-"+other.debian)
	key, group := c.KeyPair("k"), c.Group("ssh", 22)
	i := c.Launch(func(in *ec2.RunInstancesInput) {
		in.ImageId, in.InstanceType = new(c.ImageID("busybox-"+other.debian)), other.size
	}, cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	if got := c.SSH(i, "admin", key).WaitLogin().Run("uname -m"); got != other.kernel {
		t.Errorf("it says %q", got)
	}
}

func TestADiskOfAnotherArchitectureStartsByUEFI(t *testing.T) {
	other := foreigner()
	c := cloudtest.New(t)
	c.Up()
	c.Nacre("image", "bake", "linux-"+other.debian)
	disk := t.TempDir() + "/disk.raw"
	// A kernel is a program of the firmware's too. The largest file that this cloud has is one.
	out, err := exec.Command("sh", "-ec", `cd "$1"
kernel=$(ls -S "$2"/* | head -n 1)
truncate -s 96M esp
mformat -i esp -F -T 196608 ::
mmd -i esp ::EFI ::EFI/BOOT
mcopy -i esp "$kernel" "::EFI/BOOT/$3"
truncate -s 100M disk.raw
printf 'label: gpt\nstart=2048, size=196608, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n' | sfdisk -q disk.raw
dd if=esp of=disk.raw bs=1M seek=1 conv=notrunc status=none`, "sh", filepath.Dir(disk), c.Dir+"/images/content/blobs/sha256", other.efi).CombinedOutput()
	if err != nil {
		t.Fatalf("make a disk: %v\n%s", err, out)
	}
	c.Nacre("image", "import", disk, "--arch", other.ec2, "--name", "disk")
	c.Nacre("run", "disk", "--name", "d")
	found, err := c.EC2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: new("tag:Name"), Values: []string{"d"}}}})
	if err != nil {
		t.Fatal(err)
	}
	i := found.Reservations[0].Instances[0]
	if i.InstanceType != other.size || i.BootMode != types.BootModeValuesUefi {
		t.Errorf("it is a %s that starts by %q", i.InstanceType, i.BootMode)
	}
	c.WaitFor(5*time.Minute, "the firmware starts what is on the disk", func() error {
		out, err := c.EC2.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: i.InstanceId, Latest: new(true)})
		if err != nil {
			return err
		}
		text, err := base64.StdEncoding.DecodeString(*out.Output)
		if err == nil && !strings.Contains(string(text), "BdsDxe: starting") && !strings.Contains(string(text), "Unable to mount root fs") {
			err = fmt.Errorf("its console says %q", text)
		}
		return err
	})
}
