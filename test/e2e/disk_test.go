package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

func TestAWholeDiskBootsByItsOwnLoaderAndAsksWhoItIs(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	raw := c.Tiny().Make(t)
	vmdk := filepath.Join(t.TempDir(), "tiny.vmdk")
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	c.Nacre("image", "import", raw, "--name", "tiny")
	c.Nacre("image", "import", vmdk, "--name", "tiny-uefi", "--boot-mode", "uefi", "--format", "vmdk")
	for name, want := range map[string]types.BootModeValues{"tiny": types.BootModeValuesLegacyBios, "tiny-uefi": types.BootModeValuesUefi} {
		out, err := c.EC2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{c.ImageID(name)}})
		if err != nil || out.Images[0].BootMode != want {
			t.Errorf("%s: %+v, %v", name, out.Images, err)
		}
	}
	data := base64.StdEncoding.EncodeToString([]byte("greetings"))
	vm := c.Launch(withImage(c.ImageID("tiny")), cloudtest.WithUserData(data), func(in *ec2.RunInstancesInput) {
		in.HibernationOptions = &types.HibernationOptionsRequest{Configured: new(true)}
	})
	id := *vm.InstanceId
	first := c.Says(id, `tiny: boot 1 by bios of 16777216 sectors, Amazon EC2`)
	if serial := c.Says(id, `tiny: serial (\S+) uuid (\S+)`); len(first) == 0 || !strings.HasPrefix(serial[1], "ec2") || serial[1] != serial[2] {
		t.Errorf("cloud-init would not know it by %q", serial)
	}
	if told := c.Says(id, `tiny: (i-\w+) at ([0-9.]+)/\d+ is told: (\w+)`); told[1] != id || told[2] != *vm.PrivateIpAddress || told[3] != "greetings" {
		t.Errorf("it is told %q", told)
	}

	// It outlives the manager, and is where it was after hibernation.
	boot := c.Says(id, `tiny: (\S+) lives \d+`)[1]
	c.Kill()
	c.Up()
	c.WaitState(id, types.InstanceStateNameRunning)
	c.Nacre("stop", "--hibernate", id)
	c.WaitState(id, types.InstanceStateNameStopped)
	n := 0
	fmt.Sscan(c.Says(id, `tiny: `+boot+` lives (\d+)`)[1], &n)
	c.Nacre("start", id)
	c.Says(id, fmt.Sprintf(`tiny: %s lives %d\b`, boot, n+2))
	if text, err := c.Console(id); err != nil || strings.Contains(text, "tiny: boot 2") {
		t.Errorf("it was booted anew, %v", err)
	}

	// It takes no notice of the power button: what is asked politely happens by force in the end.
	if _, err := c.EC2.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	c.Says(id, `tiny: boot 2 by bios`)
	if _, err := c.EC2.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}, Force: new(true)}); err != nil {
		t.Fatal(err)
	}
	c.WaitState(id, types.InstanceStateNameStopped)
	c.Nacre("start", id)
	c.Says(id, `tiny: boot 3 by bios`)

	other := c.Launch(withImage(c.ImageID("tiny-uefi")))
	c.Says(*other.InstanceId, `tiny: boot 1 by uefi`)
	c.Terminate(id, *other.InstanceId)
}

func TestHostileDisksAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	dir := t.TempDir()
	qcow := filepath.Join(dir, "into-the-host.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", qcow, "1M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	flat := filepath.Join(dir, "flat.vmdk")
	if err := os.WriteFile(flat, []byte("# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/shadow\" 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		args []string
		why  string
	}{
		{[]string{qcow}, "backing file"},
		{[]string{flat}, "names other files"},
		{[]string{"/bin/true", "--boot-mode", "uefi"}, "neither qcow2, raw"},
	} {
		if out, err := c.Try(append([]string{"image", "import", "--name", "hostile"}, x.args...)...); err == nil || !strings.Contains(out+err.Error(), x.why) {
			t.Errorf("%v: %v\n%s", x.args, err, out)
		}
	}
}
