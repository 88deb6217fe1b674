package image

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/image/diskheader"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// maxStored bounds the bytes of a disk as the store keeps it: what is empty takes none.
	maxStored = 64 << 30
	// conversions is how many disks are worked on at a time.
	conversions = 2
)

// Steps of an import of a disk, as parts of 100.
const (
	diskCheck   = 25
	diskConvert = 30
	diskKeep    = 85
)

// DiskOptions are what an import of a whole disk is told.
type DiskOptions struct {
	Name         string
	Format       diskheader.Format // what it has to be; None for whichever it is
	Firmware     cloud.Firmware    // what its machines start with; FirmwareNone finds out by looking
	Devices      cloud.Devices
	Architecture string // EC2's word; "" is this node's
	Config       Config
}

// IsDisk tells whether what a reader is about to give is a disk image, and of which format. Nothing of it is lost.
func IsDisk(r *bufio.Reader) (diskheader.Format, error) {
	first, err := r.Peek(diskheader.Peek)
	if err != nil && !errors.Is(err, io.EOF) {
		return diskheader.None, err
	}
	format, err := diskheader.Detect(first)
	if err != nil {
		return format, invalid("%w", err)
	}
	return format, nil
}

// ImportDisk brings a whole disk in: qcow2, raw, vmdk or vdi, of which its first bytes tell which. Its headers are judged here, then
// qemu-img, confined, checks it and writes it anew. So a hypervisor only ever opens what this node wrote itself: a qcow2 of one
// file, of one state, plain. The same bytes make the same image.
func (s *Store) ImportDisk(ctx context.Context, r io.Reader, o DiskOptions, p Progress) (img Image, err error) {
	select {
	case s.converting <- struct{}{}:
		defer func() { <-s.converting }()
	case <-ctx.Done():
		return img, ctx.Err()
	}
	w, err := s.newWorkbench()
	if err != nil {
		return img, fmt.Errorf("import a disk: %w", err)
	}
	defer func() { err = errors.Join(err, w.close()) }()
	report(p, 0, 100, "reading the disk")
	in := bufio.NewReaderSize(&limited{ctx: ctx, s: s, r: r}, 1<<20)
	format, err := IsDisk(in)
	switch {
	case err != nil:
		return img, err
	case format == diskheader.None:
		return img, invalid("it is neither qcow2, raw with a partition table, vmdk nor vdi; a compressed disk is to be unpacked first")
	case o.Format != diskheader.None && o.Format != format:
		return img, invalid("it is said to be %s, and is %s", o.Format, format)
	}
	size, err := w.put("in", in)
	if err != nil {
		return img, fmt.Errorf("read the disk: %w", err)
	}
	return s.keepDisk(ctx, w, format, size, o, p)
}

// keepDisk makes an image of the file "in" on a workbench.
func (s *Store) keepDisk(ctx context.Context, w *workbench, format diskheader.Format, size int64, o DiskOptions, p Progress) (Image, error) {
	h, err := w.judge("in", format, size)
	if err != nil {
		return Image{}, err
	}
	img := Image{Name: o.Name, Kind: KindDisk, Format: string(diskheader.QCOW2), VirtualSize: h.Virtual, Firmware: o.Firmware, Devices: o.Devices, Architecture: o.Architecture,
		Config: o.Config}
	if img.Architecture == "" {
		img.Architecture = ec2Architecture(runtime.GOARCH)
	}
	if err := w.rewrite(ctx, h, size, p); err != nil {
		return Image{}, err
	}
	if img.Firmware == cloud.FirmwareNone {
		if img.Firmware, err = w.firmware(ctx, img.Architecture); err != nil {
			return Image{}, err
		}
	}
	report(p, diskKeep, 100, "keeping the disk")
	out, err := os.Open(w.path("out"))
	if err != nil {
		return Image{}, err
	}
	defer out.Close()
	return s.AddFile(ctx, out, img)
}

// judge reads an image's headers.
func (w *workbench) judge(name string, format diskheader.Format, size int64) (diskheader.Header, error) {
	f, err := os.Open(w.path(name))
	if err != nil {
		return diskheader.Header{}, err
	}
	defer f.Close()
	h, err := diskheader.Read(format, f, size)
	if errors.Is(err, diskheader.ErrRefused) {
		err = invalid("%w", err)
	}
	return h, err
}

// node names an image to qemu-img, with its format, and that nothing stands behind it.
func node(format diskheader.Format, name string) string {
	b, err := json.Marshal(map[string]any{"driver": format, "file": map[string]any{"driver": "file", "filename": imgWork + "/" + name}})
	if err != nil {
		panic(err) // strings only
	}
	text := string(b)
	if format == diskheader.QCOW2 || format == diskheader.VMDK {
		text = text[:len(text)-1] + `,"backing":null}`
	}
	return "json:" + text
}

// rewrite checks the image "in" and writes it anew as "out".
func (w *workbench) rewrite(ctx context.Context, h diskheader.Header, size int64, p Progress) error {
	if h.Format != diskheader.Raw {
		report(p, diskCheck, 100, "checking the disk")
		// 3 tells of room that nothing uses, which is not copied.
		if err := w.run(ctx, 0, nil, "check", "-q", node(h.Format, "in")); err != nil && code(err) != 3 {
			return w.because("check the image", err)
		}
	}
	room, err := w.s.left()
	if err != nil {
		return err
	}
	most := min(h.Virtual+h.Virtual/512+16<<20, maxStored, room)
	if most <= 0 {
		return w.s.Room(size)
	}
	tell := func(percent float64) {
		report(p, diskConvert+int64(percent*(diskKeep-diskConvert)/100), 100, "converting the disk")
	}
	err = w.run(ctx, most, tell, "convert", "-p", "-O", string(diskheader.QCOW2), "-o", "compat=1.1", node(h.Format, "in"), imgWork+"/out")
	if err != nil && strings.Contains(err.Error(), unix.EFBIG.Error()) || code(err) == 128+int(unix.SIGXFSZ) {
		if most == room {
			return fmt.Errorf("%w: the disk holds more than the %d MiB that are left", ErrFull, room>>20)
		}
		return invalid("it holds more than %d MiB; a disk image has %d at most", most>>20, int64(maxStored>>20))
	}
	if err != nil {
		return w.because("convert the image", err)
	}
	info, err := os.Stat(w.path("out"))
	if err != nil {
		return err
	}
	again, err := w.judge("out", diskheader.QCOW2, info.Size())
	if err == nil && again.Virtual != h.Virtual {
		err = invalid("its header tells of a disk of %d bytes, and qemu-img read %d", h.Virtual, again.Virtual)
	}
	return err
}

// firmware finds out what the disk "out" can be started with. BIOS comes first where both would do: it is up sooner.
func (w *workbench) firmware(ctx context.Context, architecture string) (cloud.Firmware, error) {
	err := w.run(ctx, diskheader.BootBytes, nil, "dd", "-f", string(diskheader.QCOW2), "-O", "raw", "bs=512", "count="+strconv.Itoa(diskheader.BootBytes/512), "if="+imgWork+"/out", "of="+imgWork+"/first")
	if err != nil {
		return "", w.because("read the disk's first sectors", err)
	}
	first, err := os.ReadFile(w.path("first"))
	if err != nil {
		return "", err
	}
	bios, uefi := diskheader.Boot(first)
	switch {
	case bios && architecture == ec2Architecture("amd64"):
		return cloud.FirmwareBIOS, nil
	case uefi:
		return cloud.FirmwareUEFI, nil
	}
	return "", invalid("nothing on the disk can be started: its first sector has no code and it has no EFI system partition; --boot-mode says which firmware tries it all the same")
}

// because tells what of a failed run is the image's fault: what qemu-img ended with by itself, or because of its limits.
func (w *workbench) because(what string, err error) error {
	switch c := code(err); {
	case c == 0, c == unconfined, c == 128+int(unix.SIGKILL):
		return fmt.Errorf("%s: %w", what, err)
	}
	return invalid("%s: %w", what, err)
}

// code is what a program ended with, 128+n for signal n; 0 for what is no program's end.
func code(err error) int {
	var ended *exec.ExitError
	if !errors.As(err, &ended) {
		return 0
	}
	return ended.ExitCode()
}
