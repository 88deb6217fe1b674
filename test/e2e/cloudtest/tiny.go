package cloudtest

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/internal/agent/image/bootdisk"
	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
)

// tinyInit is the first program of a system that knows of no nacre: it asks the network who it is, and tells the console.
const tinyInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in /modules/*.ko; do insmod $m; done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
. /bin/disk
boot=$(cat /proc/sys/kernel/random/boot_id)
until [ -b /dev/${disk}1 ]; do sleep 1; done
mount -t ext4 /dev/${disk}1 /disk && echo $boot >>/disk/boots && sync
[ -d /sys/firmware/efi ] && by=uefi || by=bios
ip link set lo up
card() { # puts one in force
  ip link set $1 up
  until udhcpc -i $1 -n -q -t 5 -T 2 -O mtu -s /bin/lease || [ ! -e /sys/class/net/$1 ]; do sleep 1; done >/dev/null
}
address() { ip -o -4 addr show $1 | tr -s ' ' | cut -d' ' -f4; }
card eth0
ask() { wget -qO- --header "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/$1; }
until [ -n "$token" ]; do
  token=$(printf 'PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 600\r\nConnection: close\r\n\r\n' | nc 169.254.169.254 80 | tail -n 1)
done
told=$(ask user-data)
echo "tiny: boot $(wc -l </disk/boots) by $by of $(cat /sys/block/$disk/size) sectors, $(cat /sys/class/dmi/id/sys_vendor)"
echo "tiny: serial $(cat /sys/class/dmi/id/product_serial) uuid $(cat /sys/class/dmi/id/product_uuid)"
echo "tiny: $(ask meta-data/instance-id) at $(address eth0) is told: $told"
. /bin/more
n=0
while :; do sleep 1; n=$((n+1)); echo "tiny: $boot lives $n"; done
`

// tinyLease puts a lease in force. What is sent with a card's address leaves by that card.
const tinyLease = `#!/bin/busybox sh
[ "$1" = bound ] || exit 0
[ -z "$mtu" ] || ip link set $interface mtu $mtu
ip addr add $ip/$mask dev $interface
table=1${interface#eth}
ip rule add from $ip table $table
for t in main $table; do
  ip route add $router dev $interface table $t
  ip route add default via $router dev $interface table $t
done 2>/dev/null
`

// Tiny is a whole system on a disk of its own: GRUB, a kernel, busybox.
type Tiny struct {
	Kernel  []byte
	RAMDisk []byte // brings the modules that it loads, in the order of their names, as /modules/*.ko
	Disk    string // Linux's name for its disk, such as "vda"
	More    string // shell that it runs when it has told who it is, with $boot, $disk, $told (its user data), card, address and ask
}

// Make makes the disk, which boots by BIOS and by UEFI and is raw. The first partition is its own to write, at /disk.
func (s Tiny) Make(t testing.TB) string {
	t.Helper()
	var a machinetest.Archive
	a.Directories("bin", "proc", "sys", "dev", "disk")
	a.File(t, "bin/busybox", "/bin/busybox")
	for name, text := range map[string]string{"init": tinyInit, "bin/lease": tinyLease, "bin/disk": "disk=" + s.Disk + "\n", "bin/more": s.More} {
		a.Program(name, []byte(text))
	}
	ramdisk := append(bytes.Clone(s.RAMDisk), make([]byte, (512-len(s.RAMDisk)%512)%512)...)
	ramdisk = append(ramdisk, a.Bytes(t)...)
	dir := t.TempDir()
	spec := bootdisk.Spec{Tree: filepath.Join(dir, "tree"), GRUB: "/usr/lib/grub", Work: filepath.Join(dir, "work"), To: filepath.Join(dir, "tiny.img"), Size: 96 << 20, Seed: "tiny", Time: time.Unix(1_700_000_000, 0)}
	for name, body := range map[string][]byte{
		"tree/boot/grub/grub.cfg": []byte("linux /boot/kernel console=ttyS0 quiet panic=-1 net.ifnames=0\ninitrd /boot/initrd\nboot\n"),
		"tree/boot/kernel":        s.Kernel, "tree/boot/initrd": ramdisk, "work/.keep": nil,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := bootdisk.Make(t.Context(), spec, func(string) {}); err != nil {
		t.Fatal(err)
	}
	return spec.To
}

// Tiny is a system of the kernel and the RAM disk that the recipe linux brought, as the node keeps them: its devices are virtio's.
func (c *Cloud) Tiny() Tiny {
	c.t.Helper()
	blobs, err := filepath.Glob(filepath.Join(c.Dir, "images/content/blobs/sha256/*"))
	if err != nil {
		c.t.Fatal(err)
	}
	s := Tiny{Disk: "vda"}
	for _, path := range blobs {
		b, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(b) > 0x206 && string(b[0x202:0x206]) == "HdrS" {
			s.Kernel = b
		}
		if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			if first, err := io.ReadAll(io.LimitReader(z, 6)); err == nil && string(first) == "070701" {
				s.RAMDisk = b
			}
		}
	}
	if s.Kernel == nil || s.RAMDisk == nil {
		c.t.Fatal("the recipe linux brought no kernel or no RAM disk")
	}
	return s
}

// saysLimit is how long a machine may take to say something: a translated one boots first, beside whatever else the host runs.
const saysLimit = 5 * time.Minute

// Says waits until an instance's console has a line, and returns what the expression's groups matched in the last such line.
func (c *Cloud) Says(id, expression string) []string {
	c.t.Helper()
	line := regexp.MustCompile(expression)
	var found []string
	c.WaitFor(saysLimit, id+" to say "+expression, func() error {
		text, err := c.Console(id)
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

// Console is what an instance has written to its console.
func (c *Cloud) Console(id string) (string, error) {
	out, err := c.EC2.GetConsoleOutput(c.t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &id, Latest: new(true)})
	if err != nil || out.Output == nil {
		return "", err
	}
	text, err := base64.StdEncoding.DecodeString(*out.Output)
	return string(text), err
}
