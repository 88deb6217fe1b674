//go:build slow

package slow

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// plainModules are what Debian's kernel for any PC loads for an AHCI controller's disk, the file system on it and an e1000, in order.
// None knows of a hypervisor.
var plainModules = []string{"arch/x86/crypto/crc32c-intel", "crypto/crc32c_generic", "crypto/crct10dif_common", "crypto/crct10dif_generic", "lib/crc-t10dif", "lib/crc64",
	"crypto/crc64_rocksoft_generic", "lib/crc64-rocksoft", "drivers/scsi/scsi_common", "drivers/scsi/scsi_mod", "block/t10-pi", "drivers/scsi/sd_mod", "drivers/ata/libata",
	"drivers/ata/libahci", "drivers/ata/ahci", "lib/crc16", "fs/mbcache", "fs/jbd2/jbd2", "fs/ext4/ext4", "drivers/net/ethernet/intel/e1000/e1000"}

// plainMore has the system tell of its devices, serve its disk on two ports, fetch what its neighbour serves, show and read a terminal on its
// screen, and put in force each card that comes.
const plainMore = `
devices=
for d in /sys/bus/pci/devices/*; do
  by=$(readlink $d/driver)
  devices="$devices $(cat $d/vendor):$(cat $d/device)=${by##*/}"
done
echo "tiny: devices$devices"
echo "tiny: disk $(readlink -f /sys/block/$disk) eth0 $(readlink -f /sys/class/net/eth0)"
[ -e /disk/bytes ] || { dd if=/dev/urandom of=/disk/bytes bs=64k count=64; sync; } 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
httpd -p 80 -h /disk; httpd -p 8080 -h /disk
echo "tiny: in boot $(wc -l </disk/boots) its bytes are $(md5sum </disk/bytes | cut -c1-32), its neighbour's $(wget -qO- http://$told/bytes | md5sum | cut -c1-32)"
yes 'a screen' | head -n 20 >/dev/tty1
while read l </dev/tty1; do echo "tiny: typed $l"; done &
{
  cards=eth0
  while sleep 1; do
    now=$(cd /sys/class/net; echo eth*)
    [ "$now" = "$cards" ] && continue
    cards=$now
    for c in $now; do
      [ $c = eth0 ] || card $c
    done
    echo "tiny: cards are$(for c in $now; do by=$(readlink /sys/class/net/$c/device/driver); echo -n " $c=${by##*/}=$(address $c)"; done)."
  done
} &
`

// plainPC is a disk of a Linux that knows nothing but a PC's own devices.
func plainPC(t *testing.T) string {
	t.Helper()
	dir := machinetest.DebianKernel(t, "linux-image-amd64")
	kernel, err := os.ReadFile(machinetest.KernelFile(t, dir, "boot/vmlinuz-*"))
	if err != nil {
		t.Fatal(err)
	}
	var a machinetest.Archive
	a.Directories("modules")
	for n, m := range plainModules {
		a.File(t, fmt.Sprintf("modules/%02d-%s.ko", n, path.Base(m)), machinetest.KernelFile(t, dir, "lib/modules/*/kernel/"+m+".ko"))
	}
	return cloudtest.Tiny{Kernel: kernel, RAMDisk: a.Bytes(t), Disk: "sda", More: plainMore}.Make(t)
}

// sum is the MD5 sum of what is served at an address.
func sum(t *testing.T, c *cloudtest.Cloud, address string) string {
	t.Helper()
	var got string
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	c.WaitFor(patience, "what "+address+" serves", func() error {
		resp, err := client.Get("http://" + address + "/bytes")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		h := md5.New()
		if n, err := io.Copy(h, resp.Body); err != nil || n != 4<<20 {
			return fmt.Errorf("it serves %d bytes with status %s: %v", n, resp.Status, err)
		}
		got = hex.EncodeToString(h.Sum(nil))
		return nil
	})
	return got
}

func TestALinuxWithoutParavirtualDriversIsAnInstanceLikeAnyOther(t *testing.T) {
	c := cloudtest.Start(t)
	c.Nacre("image", "import", plainPC(t), "--name", "plain-pc", "--devices", "emulated")
	group := c.Group("web", 80)
	neighbour := c.Launch(cloudtest.WithGroups(group), cloudtest.WithUserData(base64.StdEncoding.EncodeToString(
		[]byte("#!/bin/sh\nmkdir /srv\nyes nacre | head -c 4194304 >/srv/bytes\nbusybox httpd -p 80 -h /srv\n"))))
	served := md5.Sum([]byte(strings.Repeat("nacre\n", 4<<20/6+1)[:4<<20]))
	if got := sum(t, c, *neighbour.PublicIpAddress); got != hex.EncodeToString(served[:]) {
		t.Errorf("the neighbour serves %s", got)
	}
	vm := c.Launch(cloudtest.WithGroups(group), cloudtest.WithUserData(base64.StdEncoding.EncodeToString([]byte(*neighbour.PrivateIpAddress))), func(in *ec2.RunInstancesInput) {
		in.ImageId, in.HibernationOptions = new(c.ImageID("plain-pc")), &types.HibernationOptionsRequest{Configured: new(true)}
	})
	id := *vm.InstanceId

	// It has a PC's own devices and no others, has an address by DHCP and knows who it is.
	devices := c.Says(id, `tiny: devices (.*)`)[1]
	for _, want := range []string{"0x8086:0x100e=e1000", "0x8086:0x2922=ahci", "0x1234:0x1111="} {
		if !strings.Contains(devices, want) {
			t.Errorf("its devices are %q, without %s", devices, want)
		}
	}
	if strings.Contains(devices, "0x1af4:") {
		t.Errorf("it has a paravirtual device: %q", devices)
	}
	if got := c.Says(id, `tiny: disk (\S+) eth0 (\S+)`); !strings.Contains(got[1], "/ata1/") || !strings.Contains(got[2], "/pci0000:00/") {
		t.Errorf("its disk and its card are at %q", got)
	}
	if told := c.Says(id, `tiny: (i-\w+) at ([0-9.]+)/\d+ is told: ([0-9.]+)`); told[1] != id || told[2] != *vm.PrivateIpAddress || told[3] != *neighbour.PrivateIpAddress {
		t.Errorf("it is told %q", told)
	}

	// Packets go both ways, as its group says: 4 MiB in and 4 MiB out come as they were sent.
	bytes := c.Says(id, `tiny: in boot 1 its bytes are (\w{32}), its neighbour's (\w{32})`)
	if bytes[2] != hex.EncodeToString(served[:]) {
		t.Errorf("of its neighbour it got %s", bytes[2])
	}
	same := func(address string) {
		t.Helper()
		if got := sum(t, c, address); got != bytes[1] {
			t.Errorf("%s serves %s, and the disk holds %s", address, got, bytes[1])
		}
	}
	same(*vm.PublicIpAddress)
	if conn, err := net.DialTimeout("tcp", *vm.PublicIpAddress+":8080", 3*time.Second); err == nil {
		conn.Close()
		t.Error("a port is reached that its group doesn't let in to")
	}

	// It has a screen and a keyboard.
	if _, err := c.EC2.EnableSerialConsoleAccess(t.Context(), &ec2.EnableSerialConsoleAccessInput{}); err != nil {
		t.Fatal(err)
	}
	_, port := c.OfferScreen(id)
	if err := c.View(port).Type("hello\uff0d"); err != nil { // the keysym of Return
		t.Fatal(err)
	}
	c.Says(id, `tiny: typed hello`)

	// A card comes while it runs, is there for another manager, and goes.
	card, err := c.EC2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: vm.SubnetId, Groups: []string{group}})
	if err != nil {
		t.Fatal(err)
	}
	attached, err := c.EC2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{InstanceId: &id, NetworkInterfaceId: card.NetworkInterface.NetworkInterfaceId, DeviceIndex: new(int32(1))})
	if err != nil {
		t.Fatal(err)
	}
	elastic, err := c.EC2.AllocateAddress(t.Context(), &ec2.AllocateAddressInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.EC2.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{AllocationId: elastic.AllocationId, NetworkInterfaceId: card.NetworkInterface.NetworkInterfaceId}); err != nil {
		t.Fatal(err)
	}
	c.Says(id, `tiny: cards are eth0=e1000=\S+ eth1=e1000=`+strings.ReplaceAll(*card.NetworkInterface.PrivateIpAddress, ".", `\.`)+`/\d+\.`)
	same(*elastic.PublicIp)
	c.Kill()
	c.Up()
	same(*elastic.PublicIp)
	if _, err := c.EC2.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: attached.AttachmentId}); err != nil {
		t.Fatal(err)
	}
	c.Says(id, `tiny: cards are eth0=e1000=[^ ]+\.\r?\n`)
	same(*vm.PublicIpAddress)

	// Hibernated, it goes on where it was; rebooted and started again, its disk holds what it held.
	boot := c.Says(id, `tiny: (\S+) lives \d+`)[1]
	c.Nacre("stop", "--hibernate", id)
	c.WaitState(id, types.InstanceStateNameStopped)
	n := 0
	fmt.Sscan(c.Says(id, `tiny: `+boot+` lives (\d+)`)[1], &n)
	c.Nacre("start", id)
	c.Says(id, fmt.Sprintf(`tiny: %s lives %d\b`, boot, n+2))
	same(*c.WaitState(id, types.InstanceStateNameRunning).PublicIpAddress)
	if _, err := c.EC2.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	if got := c.Says(id, `tiny: in boot 2 its bytes are (\w{32})`); got[1] != bytes[1] {
		t.Errorf("after a reboot its bytes are %s, not %s", got[1], bytes[1])
	}
	if _, err := c.EC2.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}, Force: new(true)}); err != nil {
		t.Fatal(err)
	}
	c.WaitState(id, types.InstanceStateNameStopped)
	volumeIsRefused(t, c, id)
	c.Nacre("start", id)
	if got := c.Says(id, `tiny: in boot 3 its bytes are (\w{32})`); got[1] != bytes[1] {
		t.Errorf("after a stop its bytes are %s, not %s", got[1], bytes[1])
	}
	same(*c.WaitState(id, types.InstanceStateNameRunning).PublicIpAddress)

	// What its devices can't do is refused.
	volumeIsRefused(t, c, id)
	_, err = c.EC2.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: new(c.ImageID("plain-pc")), InstanceType: types.InstanceTypeT3Nano, MinCount: new(int32(1)), MaxCount: new(int32(1)),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: new("/dev/sdf"), Ebs: &types.EbsBlockDevice{VolumeSize: new(int32(1))}}}})
	cloudtest.WantCode(t, err, "UnsupportedOperation")
	if out, err := c.Try("resize", id, "--memory", "1GiB"); err == nil || !strings.Contains(out, "no device by which its memory could change") {
		t.Errorf("more memory while it runs: %q, %v", out, err)
	}
	c.Terminate(id)
}

// volumeIsRefused demands that an instance takes no volume, and that the volume is free afterwards.
func volumeIsRefused(t *testing.T, c *cloudtest.Cloud, id string) {
	t.Helper()
	vol, err := c.EC2.CreateVolume(t.Context(), &ec2.CreateVolumeInput{AvailabilityZone: c.Describe(id).Placement.AvailabilityZone, Size: new(int32(1))})
	if err != nil {
		t.Fatal(err)
	}
	c.WaitFor(time.Minute, *vol.VolumeId+" to be available", func() error {
		out, err := c.EC2.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{*vol.VolumeId}})
		if err == nil && out.Volumes[0].State != types.VolumeStateAvailable {
			err = fmt.Errorf("it is %s", out.Volumes[0].State)
		}
		return err
	})
	_, err = c.EC2.AttachVolume(t.Context(), &ec2.AttachVolumeInput{VolumeId: vol.VolumeId, InstanceId: &id, Device: new("/dev/sdf")})
	cloudtest.WantCode(t, err, "UnsupportedOperation")
	if err == nil || !strings.Contains(err.Error(), "emulated devices") {
		t.Errorf("the refusal says %v", err)
	}
	if _, err := c.EC2.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: vol.VolumeId}); err != nil {
		t.Error(err)
	}
}
