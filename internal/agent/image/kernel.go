package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

const (
	// maxKernel bounds a kernel and each of its modules, in bytes.
	maxKernel = 64 << 20
	// guestProgram is the base name of the guest's program among the files that disks get.
	guestProgram = "nacre-guest"
)

// kernelPackages are Debian's kernels for virtual machines.
var kernelPackages = map[string]string{"amd64": "linux-image-cloud-amd64", "arm64": "linux-image-cloud-arm64"}

// bootModules are what a virtual machine has to have before its root, in the order of loading; what the kernel has built in is
// not there as a file.
var bootModules = []string{"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci_modern_dev",
	"drivers/virtio/virtio_pci", "drivers/block/virtio_blk", "drivers/char/virtio_console", "net/core/failover", "drivers/net/net_failover",
	"drivers/net/virtio_net", "drivers/char/hw_random/rng-core", "drivers/char/hw_random/virtio-rng", "drivers/virtio/virtio_balloon", "drivers/virtio/virtio_mem",
	"lib/crc16", "crypto/crc32c_generic", "lib/libcrc32c", "fs/mbcache", "fs/jbd2/jbd2", "fs/ext4/ext4"}

// bakeKernel fetches Debian's kernel for virtual machines and makes a RAM disk for it: the modules above and the guest's program,
// which loads them, mounts the root and goes on there.
func (s *Store) bakeKernel(ctx context.Context, architecture string, p Progress) (kernel, ramdisk Image, err error) {
	report(p, int64(len(debianSteps)), int64(len(debianSteps)+1), "fetching the kernel of virtual machines")
	name, ok := kernelPackages[architecture]
	if !ok {
		return kernel, ramdisk, fmt.Errorf("bake a kernel: there is no package of one for %s", architecture)
	}
	program, err := s.guestProgram(architecture)
	if err != nil {
		return kernel, ramdisk, err
	}
	found := kernelFiles{modules: map[string][]byte{}}
	err = s.debstrap(ctx, "kernel", architecture, []string{extract, "--include=" + name}, nil, func(_ context.Context, r io.Reader) error { return found.read(r) })
	if err != nil {
		return kernel, ramdisk, err
	}
	if len(found.kernel) == 0 {
		return kernel, ramdisk, fmt.Errorf("bake a kernel: the package %s brought none", name)
	}
	disk, err := makeRamdisk(program, found.modules)
	if err != nil {
		return kernel, ramdisk, err
	}
	if kernel, err = s.AddFile(ctx, bytes.NewReader(found.kernel), Image{Name: found.version, Kind: KindKernel, Architecture: ec2Architecture(architecture)}); err != nil {
		return kernel, ramdisk, err
	}
	ramdisk, err = s.AddFile(ctx, bytes.NewReader(disk), Image{Name: found.version, Kind: KindRamdisk, Architecture: ec2Architecture(architecture)})
	return kernel, ramdisk, err
}

func (s *Store) guestProgram(architecture string) ([]byte, error) {
	g, err := s.guest(ec2Architecture(architecture))
	if err != nil {
		return nil, err
	}
	for _, f := range g.files {
		if path.Base(f.Path) == guestProgram {
			return f.Content, nil
		}
	}
	return nil, errors.New("bake a kernel: this nacre was built without the program of its virtual machines; build it with `make build`")
}

// kernelFiles are what of a kernel's package is used.
type kernelFiles struct {
	version string // such as "6.1.0-56-cloud-amd64"
	kernel  []byte
	modules map[string][]byte // by their path below kernel/, without the ending
}

// read picks them out of a tar stream.
func (k *kernelFiles) read(r io.Reader) error {
	wanted := map[string]bool{}
	for _, m := range bootModules {
		wanted[m] = true
	}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // its maker's end is at the end
			return err
		}
		if err != nil {
			return fmt.Errorf("read the kernel's package: %w", err)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		version, isKernel := strings.CutPrefix(name, "boot/vmlinuz-")
		_, module, isModule := strings.Cut(name, "/kernel/")
		module, plain := strings.CutSuffix(module, ".ko")
		if h.Typeflag != tar.TypeReg || !isKernel && !(isModule && plain && wanted[module]) {
			continue
		}
		if h.Size > maxKernel {
			return fmt.Errorf("read the kernel's package: %s has %d bytes; %d are the most", name, h.Size, maxKernel)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			return fmt.Errorf("read the kernel's package: %w", err)
		}
		if isKernel {
			k.version, k.kernel = version, b
		} else {
			k.modules[module] = b
		}
	}
}

// makeRamdisk makes an initial RAM disk: a cpio archive in the "newc" format (the kernel's Documentation/driver-api/early-userspace),
// compressed. The same files make the same bytes.
func makeRamdisk(program []byte, modules map[string][]byte) ([]byte, error) {
	var a cpio
	for _, d := range []string{"dev", "proc", "sys", "root", "modules"} {
		a.add(d, 0o040755, nil)
	}
	a.add("init", 0o100755, program)
	n := 0
	for _, m := range bootModules {
		if b, ok := modules[m]; ok {
			a.add(fmt.Sprintf("modules/%02d-%s.ko", n, path.Base(m)), 0o100644, b)
			n++
		}
	}
	a.add("TRAILER!!!", 0, nil)
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(a.Bytes()); err != nil {
		return nil, fmt.Errorf("compress the RAM disk: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compress the RAM disk: %w", err)
	}
	return out.Bytes(), nil
}

type cpio struct {
	bytes.Buffer
	inode int
}

func (a *cpio) add(name string, mode uint32, content []byte) {
	a.inode++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.Write(content)
	a.pad()
}

func (a *cpio) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}
