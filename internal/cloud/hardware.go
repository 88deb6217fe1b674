package cloud

import (
	"io"
	"strings"
)

// ImageType is EC2's image type: what an image id stands for.
type ImageType string

const (
	ImageMachine ImageType = "machine" // "ami-…": machines are launched from it
	ImageKernel  ImageType = "kernel"  // "aki-…": a kernel file that virtual machines are started with
	ImageRamdisk ImageType = "ramdisk" // "ari-…": the initial RAM disk that goes with a kernel
)

const kernelPrefix, ramdiskPrefix = "aki-", "ari-"

// TagIsolation is a tag of the cloud's own on the images whose instances are virtual machines, and on those instances. Its
// value is the isolation. EC2's answers have no element for it, and clients leave tags that begin with "aws:" alone.
const TagIsolation = "aws:nacre:isolation"

// TagLaunch is a tag of the cloud's own on running virtual machines: how they came to run. "forked" is from a template, "booted"
// is with the reason why not, "resumed" is from hibernation.
const TagLaunch = "aws:nacre:launch"

// Launched notes how an instance came to run, "" where there is but one way.
func (i *Instance) Launched(how string) {
	delete(i.Tags, TagLaunch)
	if how == "" {
		return
	}
	if i.Tags == nil {
		i.Tags = Tags{}
	}
	i.Tags[TagLaunch] = tagText(how)
}

// NewImageID draws the identifier of an image: a kernel's begins with "aki-", a RAM disk's with "ari-".
func NewImageID(rand io.Reader, t ImageType) ImageID {
	id := NewID[ImageID](rand)
	prefix := ""
	switch t {
	case ImageKernel:
		prefix = kernelPrefix
	case ImageRamdisk:
		prefix = ramdiskPrefix
	default:
		return id
	}
	return ImageID(prefix + strings.TrimPrefix(string(id), Prefix[ImageID]()))
}

// ImageContent says what an image's digest is the digest of.
type ImageContent string

const (
	ContentLayers ImageContent = ""     // an OCI manifest: layers, for containers and, with a kernel, for virtual machines
	ContentDisk   ImageContent = "disk" // a whole disk, qcow2 or raw, with a boot loader of its own
	ContentFile   ImageContent = "file" // a kernel's or RAM disk's bytes
)

// Firmware is what a virtual machine starts with.
type Firmware string

const (
	FirmwareNone Firmware = ""     // the kernel is started directly
	FirmwareBIOS Firmware = "bios" // EC2's boot mode "legacy-bios"
	FirmwareUEFI Firmware = "uefi"
)

// Devices is the kind of devices that a virtual machine sees.
type Devices string

const (
	DevicesVirtio   Devices = ""         // paravirtual: the guest's drivers know that they run on a hypervisor
	DevicesEmulated Devices = "emulated" // AHCI, e1000, a standard VGA: for systems without virtio drivers
)

// TagDevices is a tag of the task that imports a whole disk, and of its image: "emulated" where the disk's system has no drivers for
// paravirtual devices. EC2's API has no parameter for it.
const TagDevices = "nacre:devices"

// BootMode is EC2's word for f, "" where no firmware is involved.
func (f Firmware) BootMode() string {
	switch f {
	case FirmwareBIOS:
		return "legacy-bios"
	case FirmwareUEFI:
		return "uefi"
	}
	return ""
}

// Hardware is what a virtual machine is started with; zero for containers. A kernel's own names the RAM disk that goes with it.
type Hardware struct {
	Content         ImageContent `json:",omitempty"` // of the image: ContentLayers or ContentDisk
	Firmware        Firmware     `json:",omitempty"`
	Devices         Devices      `json:",omitempty"`
	Kernel, Ramdisk ImageID      `json:",omitempty"` // with FirmwareNone
	// KernelDigest and RamdiskDigest are the files' digests, "sha256:…".
	KernelDigest, RamdiskDigest string `json:",omitempty"`
}
