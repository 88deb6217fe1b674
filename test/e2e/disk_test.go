package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/agent/image/bootdisk"
	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// tinyInit is the first program of a system that knows of no nacre: it asks the network who it is, and tells the console.
const tinyInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in /modules/*.ko; do insmod $m; done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
boot=$(cat /proc/sys/kernel/random/boot_id)
mount -t ext4 /dev/vda1 /disk && echo $boot >>/disk/boots && sync
[ -d /sys/firmware/efi ] && by=uefi || by=bios
ip link set lo up; ip link set eth0 up
until udhcpc -i eth0 -n -q -t 5 -T 2 -s /bin/lease; do sleep 1; done >/dev/null
ask() { wget -qO- --header "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/$1; }
until [ -n "$token" ]; do
  token=$(printf 'PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 600\r\nConnection: close\r\n\r\n' | nc 169.254.169.254 80 | tail -n 1)
done
echo "tiny: boot $(wc -l </disk/boots) by $by of $(cat /sys/block/vda/size) sectors, $(cat /sys/class/dmi/id/sys_vendor)"
echo "tiny: serial $(cat /sys/class/dmi/id/product_serial) uuid $(cat /sys/class/dmi/id/product_uuid)"
echo "tiny: $(ask meta-data/instance-id) at $(ip -o -4 addr show eth0 | tr -s ' ' | cut -d' ' -f4) is told: $(ask user-data)"
n=0
while :; do sleep 1; n=$((n+1)); echo "tiny: $boot lives $n"; done
`

const tinyLease = `#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add $router dev $interface 2>/dev/null
ip route add default via $router dev $interface
`

// newc is a cpio archive that goes on where the kernel's RAM disk ends.
func newc(files map[string]string) []byte {
	var b bytes.Buffer
	add := func(name string, mode int, body string) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", 0, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0, name)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
		b.WriteString(body)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	add("bin", 0o040755, "")
	add("disk", 0o040755, "")
	for name, body := range files {
		add(name, 0o100755, body)
	}
	add("TRAILER!!!", 0, "")
	return b.Bytes()
}

// bakedFiles are the kernel and the RAM disk of the recipe linux, as the node keeps them.
func bakedFiles(t *testing.T, c *cloudtest.Cloud) (kernel, ramdisk []byte) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(c.Dir, "images/content/blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range blobs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 0x206 && string(b[0x202:0x206]) == "HdrS" {
			kernel = b
		}
		if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			if first, err := io.ReadAll(io.LimitReader(z, 6)); err == nil && string(first) == "070701" {
				ramdisk = b
			}
		}
	}
	if kernel == nil || ramdisk == nil {
		t.Fatal("the recipe linux brought no kernel or no RAM disk")
	}
	return kernel, ramdisk
}

// tinyDisk makes a whole disk that boots by BIOS and by UEFI: GRUB, a kernel, busybox. It is raw.
func tinyDisk(t *testing.T, c *cloudtest.Cloud) string {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	kernel, ramdisk := bakedFiles(t, c)
	ramdisk = append(ramdisk, make([]byte, (512-len(ramdisk)%512)%512)...)
	ramdisk = append(ramdisk, newc(map[string]string{"init": tinyInit, "bin/busybox": string(busybox), "bin/lease": tinyLease})...)
	dir := t.TempDir()
	s := bootdisk.Spec{Tree: filepath.Join(dir, "tree"), GRUB: "/usr/lib/grub", Work: filepath.Join(dir, "work"), To: filepath.Join(dir, "tiny.img"), Size: 96 << 20, Seed: "tiny", Time: time.Unix(1_700_000_000, 0)}
	for name, body := range map[string][]byte{
		"tree/boot/grub/grub.cfg": []byte("linux /boot/kernel console=ttyS0 quiet panic=-1 net.ifnames=0\ninitrd /boot/initrd\nboot\n"),
		"tree/boot/kernel":        kernel, "tree/boot/initrd": ramdisk, "work/.keep": nil,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := bootdisk.Make(t.Context(), s, func(string) {}); err != nil {
		t.Fatal(err)
	}
	return s.To
}

// says waits until an instance's console has a line, and returns what the expression's groups matched in the last such line.
func says(t *testing.T, c *cloudtest.Cloud, id, expression string) []string {
	t.Helper()
	line := regexp.MustCompile(expression)
	var found []string
	c.WaitFor(5*time.Minute, id+" to say "+expression, func() error {
		text, err := console(t, c, id)
		if err != nil {
			return err // a machine that is between two boots has none
		}
		all := line.FindAllStringSubmatch(text, -1)
		if len(all) == 0 {
			return fmt.Errorf("it says %q", text[max(0, len(text)-400):])
		}
		found = all[len(all)-1]
		return nil
	})
	return found
}

func console(t *testing.T, c *cloudtest.Cloud, id string) (string, error) {
	t.Helper()
	out, err := c.EC2.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &id, Latest: new(true)})
	if err != nil || out.Output == nil {
		return "", err
	}
	text, err := base64.StdEncoding.DecodeString(*out.Output)
	return string(text), err
}

func TestAWholeDiskBootsByItsOwnLoaderAndAsksWhoItIs(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	c.Nacre("image", "bake", "linux")
	raw := tinyDisk(t, c)
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
	first := says(t, c, id, `tiny: boot 1 by bios of 16777216 sectors, Amazon EC2`)
	if serial := says(t, c, id, `tiny: serial (\S+) uuid (\S+)`); len(first) == 0 || !strings.HasPrefix(serial[1], "ec2") || serial[1] != serial[2] {
		t.Errorf("cloud-init would not know it by %q", serial)
	}
	if told := says(t, c, id, `tiny: (i-\w+) at ([0-9.]+)/\d+ is told: (\w+)`); told[1] != id || told[2] != *vm.PrivateIpAddress || told[3] != "greetings" {
		t.Errorf("it is told %q", told)
	}

	// It outlives the manager, and is where it was after hibernation.
	boot := says(t, c, id, `tiny: (\S+) lives \d+`)[1]
	c.Kill()
	c.Up()
	c.WaitState(id, types.InstanceStateNameRunning)
	c.Nacre("stop", "--hibernate", id)
	c.WaitState(id, types.InstanceStateNameStopped)
	n := 0
	fmt.Sscan(says(t, c, id, `tiny: `+boot+` lives (\d+)`)[1], &n)
	c.Nacre("start", id)
	says(t, c, id, fmt.Sprintf(`tiny: %s lives %d\b`, boot, n+2))
	if text, err := console(t, c, id); err != nil || strings.Contains(text, "tiny: boot 2") {
		t.Errorf("it was booted anew, %v", err)
	}

	// It takes no notice of the power button: what is asked politely happens by force in the end.
	if _, err := c.EC2.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	says(t, c, id, `tiny: boot 2 by bios`)
	if _, err := c.EC2.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}, Force: new(true)}); err != nil {
		t.Fatal(err)
	}
	c.WaitState(id, types.InstanceStateNameStopped)
	c.Nacre("start", id)
	says(t, c, id, `tiny: boot 3 by bios`)

	other := c.Launch(withImage(c.ImageID("tiny-uefi")))
	says(t, c, *other.InstanceId, `tiny: boot 1 by uefi`)
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
