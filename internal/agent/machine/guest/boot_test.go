package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
)

// archive is an initial RAM disk in the making: a cpio archive in the "newc" format, compressed.
type archive struct {
	bytes.Buffer
	inode int
}

func (a *archive) add(name string, mode uint32, content []byte) {
	a.inode++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

func (a *archive) file(t *testing.T, name, source string) {
	t.Helper()
	b, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	a.add(name, syscall.S_IFREG|0o755, b)
}

// write ends the archive and compresses it.
func (a *archive) write(t *testing.T, path string) {
	t.Helper()
	a.add("TRAILER!!!", 0, nil)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
	z.Write(a.Bytes())
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// cloudKernel fetches Debian's cloud kernel package once and unpacks it; the directory holds boot and lib.
func cloudKernel(t *testing.T) string {
	t.Helper()
	cache, err := filepath.Abs("../../../../.cache/kernel")
	if err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(cache + "/boot/vmlinuz-*"); len(found) > 0 {
		return cache
	}
	if err := os.MkdirAll(filepath.Dir(cache), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(cache), "kernel-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	fetch := exec.Command("/bin/sh", "-ec", `
apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || apt-get update
apt-get download "$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p')"
dpkg-deb -x linux-image-*.deb kernel`)
	fetch.Dir = dir
	if out, err := fetch.CombinedOutput(); err != nil {
		t.Fatalf("Debian's cloud kernel can't be fetched: %v\n%s", err, out)
	}
	// Another run may have been first.
	if err := os.Rename(dir+"/kernel", cache); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return cache
}

// modules are what the port and the network card need, in the order of loading.
var modules = []string{"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci_modern_dev",
	"drivers/virtio/virtio_pci", "drivers/char/virtio_console", "net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net",
	"drivers/block/virtio_blk"}

// diskSize is larger than the file system that is made on the disk, as a root volume may be larger than its image.
const diskSize = 128 << 20

// makeRoot makes a disk with an ext4 root of busybox and the guest's program, of half the disk's size.
func makeRoot(t *testing.T, disk string) {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "proc", "sys", "dev", "run", "tmp", "etc"} {
		if err := os.Mkdir(root+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sh", "id", "hostname", "cat", "date", "sed", "ip", "head", "stty", "sleep", "df"} {
		if err := os.Symlink("busybox", root+"/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for to, from := range map[string]string{"bin/busybox": "/bin/busybox", "bin/nacre-guest": "guestbin/nacre-guest-amd64"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+"/"+to, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"passwd": "root:x:0:0::/:/bin/sh\nweb:x:33:33::/tmp:/bin/sh\n", "group": "root:x:0:\nweb:x:33:\n"} {
		if err := os.WriteFile(root+"/etc/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", root, disk, "64M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Truncate(disk, diskSize); err != nil {
		t.Fatal(err)
	}
}

// boot starts a machine that holds the guest's program as its first process and busybox, and returns its socket and console.
func boot(t *testing.T) (socket string, console string, qemu *exec.Cmd) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine")
	}
	for _, p := range []string{"qemu-system-x86_64", "busybox"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is not installed; `make deps` installs it", p)
		}
	}
	if _, err := os.Stat("guestbin/nacre-guest-amd64"); err != nil {
		t.Fatal("the guest's program is not built; `make guest` builds it")
	}
	kernel := cloudKernel(t)
	a := &archive{}
	for _, d := range []string{"bin", "proc", "sys", "dev", "root", "m"} {
		a.add(d, syscall.S_IFDIR|0o755, nil)
	}
	a.file(t, "bin/busybox", "/bin/busybox")
	script := "#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n"
	for _, m := range modules {
		found, _ := filepath.Glob(kernel + "/lib/modules/*/kernel/" + m + ".ko")
		if len(found) == 0 {
			t.Fatalf("the kernel has no module %s", m)
		}
		name := "m/" + filepath.Base(m) + ".ko"
		a.file(t, name, found[0])
		script += "/bin/busybox insmod /" + name + "\n"
	}
	script += "/bin/busybox mount -t ext4 /dev/vda /root && exec /bin/busybox switch_root /root /bin/nacre-guest\n"
	a.add("init", syscall.S_IFREG|0o755, []byte(script))
	dir := t.TempDir()
	makeRoot(t, dir+"/disk")
	a.write(t, dir+"/initrd")
	images, _ := filepath.Glob(kernel + "/boot/vmlinuz-*")
	console, socket = dir+"/console", dir+"/guest"
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	qemu = exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", images[len(images)-1], "-initrd", dir+"/initrd", "-append", "console=ttyS0 quiet panic=-1",
		"-serial", "file:"+console, "-device", "virtio-serial-pci", "-chardev", "socket,id=guest,server=on,wait=off,path="+socket,
		"-device", "virtserialport,chardev=guest,name="+wire.Port,
		"-drive", "if=virtio,format=raw,file="+dir+"/disk", "-netdev", "hubport,id=net,hubid=1", "-device", "virtio-net-pci,netdev=net,romfile=,mac=02:00:0a:00:00:04")
	qemu.Stderr = os.Stderr
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		qemu.Process.Kill()
		qemu.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(console)
			t.Logf("the console:\n%s", b)
		}
	})
	return socket, console, qemu
}

// dial waits for QEMU's socket and the guest behind it.
func dial(t *testing.T, socket string) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	c, err := Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestARealMachineTakesItsIdentityRunsProcessesAndItsApplicationAndEndsWithIt(t *testing.T) {
	socket, console, qemu := boot(t)
	began := time.Now()
	c := dial(t, socket)
	t.Logf("the guest answered after %v", time.Since(began).Round(time.Millisecond))
	if !c.Welcome.Ready || !c.Welcome.Init || c.Welcome.BootID == "" {
		t.Fatalf("%+v", c.Welcome)
	}
	cmd := func(script string) machine.ExecSpec {
		return machine.ExecSpec{Args: []string{"/bin/sh", "-c", script}}
	}
	// Processes run before the machine has an identity.
	if code, out, errs := run(t, c, cmd("id -u; echo $HOME; exit 5")); code != 5 || out != "0\n/\n" {
		t.Fatalf("%d, %q, %q", code, out, errs)
	}
	id := wire.Identity{MachineID: strings.Repeat("ab", 16), BootID: "11111111-2222-3333-4444-555555555555", Entropy: bytes.Repeat([]byte{7}, 64),
		Time: time.Date(2031, 5, 6, 0, 0, 0, 0, time.UTC).UnixNano()}
	id.Instance, id.Hostname, id.FQDN, id.Address, id.Resolvers = "i-0123456789abcdef0", "ip-10-0-0-4", "ip-10-0-0-4.ec2.internal", "10.0.0.4", []string{"10.0.0.2"}
	id.Interfaces = []wire.Interface{{MAC: "02:00:0a:00:00:04", MTU: 1400, Addresses: []string{"10.0.0.4/20"}, Gateway: "10.0.0.1"}}
	id.Args, id.User, id.StopSignal = []string{"sh", "-c", "id -un; trap 'echo app told; exit 4' TERM; trap '' HUP; while :; do sleep 0.1; done"}, "web", int(syscall.SIGTERM)
	got, err := c.Identify(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Notes) > 0 {
		t.Errorf("%q", got.Notes)
	}
	if again, err := c.Identify(within(t), id); err != nil || len(again.Notes) != len(got.Notes) {
		t.Errorf("said again: %+v, %v", again, err)
	}
	other := id
	other.Instance = "i-00000000000000000"
	if _, err := c.Identify(within(t), other); err == nil {
		t.Error("a machine became another one")
	}
	_, out, errs := run(t, c, cmd("hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; date +%Y-%m; sed -n 's/nameserver //p' /etc/resolv.conf"))
	want := "ip-10-0-0-4\n" + id.MachineID + "\n" + id.BootID + "\n2031-05\n10.0.0.2\n"
	if out != want {
		t.Errorf("%q, not %q; %q", out, want, errs)
	}
	if _, out, _ := run(t, c, cmd("ip -o addr show eth0; ip link show eth0; ip route; ip addr show lo")); !strings.Contains(out, "inet 10.0.0.4/20 ") || !strings.Contains(out, "mtu 1400 ") ||
		!strings.Contains(out, "default via 10.0.0.1 dev eth0") || !strings.Contains(out, "127.0.0.1/8") {
		t.Errorf("the network is %s", out)
	}
	_, out, _ = run(t, c, cmd("df -k / | sed -n '$s/^[^ ]* *\\([0-9]*\\) .*/\\1/p'"))
	var kib int
	if _, err := fmt.Sscan(out, &kib); err != nil || kib < 100<<10 {
		t.Errorf("the root has %q KiB on a disk of %d", out, diskSize>>10)
	}
	st, err := c.Stats(within(t))
	if err != nil || st.MemoryTotal < 100<<20 || st.MemoryAvailable <= 0 || st.MemoryAvailable > st.MemoryTotal || st.Uptime <= 0 {
		t.Errorf("%+v, %v", st, err)
	}
	// The agent goes away and comes back.
	c.Close()
	c = dial(t, socket)
	if c.Welcome.Ready || c.Welcome.BootID != id.BootID {
		t.Errorf("%+v", c.Welcome)
	}
	var much bytes.Buffer
	spec := cmd("head -c 2000000 /dev/zero; stty size")
	spec.TTY, spec.Cols, spec.Rows, spec.Stdout = true, 90, 40, &much
	p, err := c.Exec(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil || much.Len() != 2000000+len("40 90\r\n") {
		t.Errorf("%d, %v, %d bytes", code, err, much.Len())
	}
	if err := c.Shutdown(within(t), false); err != nil {
		t.Error(err)
	}
	if err := qemu.Wait(); err != nil {
		t.Errorf("the machine did not power off: %v", err)
	}
	b, err := os.ReadFile(console)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"nacre-guest: instance i-0123456789abcdef0 on ip-10-0-0-4 is up", "web", "app told", "shutting down", "the machine ends with code 0"} {
		if !strings.Contains(string(b), line) {
			t.Errorf("the console does not say %q", line)
		}
	}
}
