package machinetest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
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

func (a *archive) file(t testing.TB, name, source string) {
	t.Helper()
	b, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	a.add(name, syscall.S_IFREG|0o755, b)
}

// write ends the archive and compresses it.
func (a *archive) write(t testing.TB, path string) {
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

// CloudKernel fetches Debian's cloud kernel package once and unpacks it; the directory holds boot and lib.
func CloudKernel(t testing.TB) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	cache := filepath.Join(filepath.Dir(here), "../../../../.cache/kernel")
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
	"drivers/block/virtio_blk", "drivers/virtio/virtio_balloon", "drivers/virtio/virtio_mem"}

// DiskSize is larger than the file system that is made on the disk, as a root volume may be larger than its image.
const DiskSize = 128 << 20

// MakeRoot makes a disk with an ext4 root of busybox and the guest's program, of half the disk's size.
func MakeRoot(t testing.TB, disk string, program []byte) {
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
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	for to, b := range map[string][]byte{"bin/busybox": busybox, "bin/nacre-guest": program} {
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
	if err := os.Truncate(disk, DiskSize); err != nil {
		t.Fatal(err)
	}
}

// MakeProofInitrd makes a RAM disk whose first program is the guest's, without modules. It returns a kernel to boot it with.
func MakeProofInitrd(t testing.TB, path string, program []byte) (kernelImage string) {
	t.Helper()
	a := &archive{}
	for _, d := range []string{"dev", "proc", "sys", "root", "modules"} {
		a.add(d, syscall.S_IFDIR|0o755, nil)
	}
	a.add("init", syscall.S_IFREG|0o755, program)
	a.write(t, path)
	images, _ := filepath.Glob(CloudKernel(t) + "/boot/vmlinuz-*")
	return images[len(images)-1]
}

// MakeInitrd makes a RAM disk that loads what a virtual machine needs, mounts its first disk and starts the guest's program there.
// It returns the kernel that goes with it.
func MakeInitrd(t testing.TB, path string) (kernelImage string) {
	t.Helper()
	kernel := CloudKernel(t)
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
	a.write(t, path)
	images, _ := filepath.Glob(kernel + "/boot/vmlinuz-*")
	return images[len(images)-1]
}
