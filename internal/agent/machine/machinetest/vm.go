package machinetest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// CloudKernel fetches Debian's cloud kernel package once and unpacks it; the directory holds boot and lib.
func CloudKernel(t testing.TB) string {
	t.Helper()
	return DebianKernel(t, "linux-image-cloud-amd64")
}

// DebianKernel fetches the kernel package that one of Debian's metapackages depends on, once, and unpacks it; the directory holds boot
// and lib.
func DebianKernel(t testing.TB, metapackage string) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	cache := filepath.Join(filepath.Dir(here), "../../../../.cache", metapackage)
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
apt-cache show "$1" >/dev/null 2>&1 || apt-get update
apt-get download "$(apt-cache depends "$1" | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p')"
dpkg-deb -x linux-image-*.deb kernel`, "sh", metapackage)
	fetch.Dir = dir
	if out, err := fetch.CombinedOutput(); err != nil {
		t.Fatalf("Debian's %s can't be fetched: %v\n%s", metapackage, err, out)
	}
	// Another run may have been first.
	if err := os.Rename(dir+"/kernel", cache); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return cache
}

// KernelFile finds a file of an unpacked kernel by its path, in which a star may stand for the version.
func KernelFile(t testing.TB, kernel, path string) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(kernel, path))
	if len(found) == 0 {
		t.Fatalf("the kernel in %s has no %s", kernel, path)
	}
	return found[len(found)-1]
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
	a := &Archive{}
	a.Directories("dev", "proc", "sys", "root", "modules")
	a.Program("init", program)
	a.write(t, path)
	return KernelFile(t, CloudKernel(t), "boot/vmlinuz-*")
}

// MakeInitrd makes a RAM disk that loads what a virtual machine needs, mounts its first disk and starts the guest's program there.
// It returns the kernel that goes with it.
func MakeInitrd(t testing.TB, path string) (kernelImage string) {
	t.Helper()
	kernel := CloudKernel(t)
	a := &Archive{}
	a.Directories("bin", "proc", "sys", "dev", "root", "m")
	a.File(t, "bin/busybox", "/bin/busybox")
	script := "#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n"
	for _, m := range modules {
		name := "m/" + filepath.Base(m) + ".ko"
		a.File(t, name, KernelFile(t, kernel, "lib/modules/*/kernel/"+m+".ko"))
		script += "/bin/busybox insmod /" + name + "\n"
	}
	script += "/bin/busybox mount -t ext4 /dev/vda /root && exec /bin/busybox switch_root /root /bin/nacre-guest\n"
	a.Program("init", []byte(script))
	a.write(t, path)
	return KernelFile(t, kernel, "boot/vmlinuz-*")
}
