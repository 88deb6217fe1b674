package ec2

import (
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// isolationTag is the cloud's own tag of images and instances that are virtual machines.
func isolationTag(i cloud.Isolation) cloud.Tags {
	if i != cloud.IsolationVM {
		return nil
	}
	return cloud.Tags{cloud.TagIsolation: string(i)}
}

// visibleFile finds a kernel or RAM disk that an account may start machines of an architecture with.
func visibleFile(r store.Reader, account cloud.AccountID, id string, kind cloud.ImageType, architecture string) (*cloud.Image, error) {
	malformed, parameter, prefix := "InvalidKernelId.Malformed", "KernelId", "aki-"
	if kind == cloud.ImageRamdisk {
		malformed, parameter, prefix = "InvalidRamDiskId.Malformed", "RamdiskId", "ari-"
	}
	if !cloud.ValidID[cloud.ImageID](id) {
		return nil, awsapi.Errorf(malformed, "Invalid id: \"%s\" (expecting \"%s...\")", id, prefix)
	}
	img, ok := store.Get(r, store.Images, cloud.ImageID(id))
	switch {
	case !ok || !mayLaunch(img, account):
		return nil, awsapi.Errorf("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", id)
	case img.Kind() != kind:
		return nil, awsapi.InvalidParameterValue("The value '%s' of %s is the id of a %s image", id, parameter, img.Kind())
	case img.State != cloud.ImageAvailable:
		return nil, imageUnavailable(img)
	case img.Architecture != architecture:
		return nil, awsapi.InvalidParameterValue("The architecture '%s' of %s does not match the architecture '%s' of the machine that it is to start", img.Architecture, id, architecture)
	}
	return img, nil
}

// startedWith is the hardware of a virtual machine of img whose kernel and RAM disk a call names. What it doesn't name is as
// the image has it; a kernel alone brings the RAM disk that goes with it.
func startedWith(r store.Reader, account cloud.AccountID, img *cloud.Image, kernel, ramdisk string) (cloud.Hardware, error) {
	h := img.Hardware
	switch {
	case !img.VM():
		return h, awsapi.InvalidCombination("Instances of %s are containers, which share their server's kernel: KernelId and RamdiskId are for virtual machines. RegisterImage with ImageLocation=%s and a KernelId makes an image of virtual machines of it.", img.ID, img.ID)
	case h.Content != cloud.ContentLayers:
		return h, awsapi.InvalidCombination("The image is a whole disk with a boot loader of its own: KernelId and RamdiskId are for images of layers")
	}
	if kernel != "" {
		k, err := visibleFile(r, account, kernel, cloud.ImageKernel, img.Architecture)
		if err != nil {
			return h, err
		}
		takeKernel(&h, k)
	}
	if ramdisk != "" {
		d, err := visibleFile(r, account, ramdisk, cloud.ImageRamdisk, img.Architecture)
		if err != nil {
			return h, err
		}
		h.Ramdisk, h.RamdiskDigest = d.ID, d.Digest
	}
	if h.Kernel == "" {
		return h, awsapi.InvalidCombination("A RamdiskId goes with a KernelId, and the image has no kernel of its own")
	}
	return h, nil
}

func takeKernel(h *cloud.Hardware, k *cloud.Image) {
	h.Kernel, h.KernelDigest = k.ID, k.Digest
	h.Ramdisk, h.RamdiskDigest = k.Hardware.Ramdisk, k.Hardware.RamdiskDigest
}

// newestKernel finds the kernel for machines of layers that name none: the newest one of an architecture that is the account's
// own or its operator's; nil when there is none.
func newestKernel(r store.Reader, account cloud.AccountID, architecture string) *cloud.Image {
	operator := cloud.AccountID("")
	if region, ok := store.Region(r); ok {
		operator = region.Root
	}
	var newest *cloud.Image
	for _, img := range store.List(r, store.Images) {
		switch {
		case img.Kind() != cloud.ImageKernel || img.State != cloud.ImageAvailable || img.Architecture != architecture:
		case img.Account != account && (img.Account != operator || !mayLaunch(img, account)):
		case newest == nil || img.Created.After(newest.Created) || img.Created.Equal(newest.Created) && img.ID > newest.ID:
			newest = img
		}
	}
	return newest
}

// bootable is what a virtual machine of an image is started with, by a call that may name its kernel and RAM disk.
func bootable(tx *store.Tx, account cloud.AccountID, img *cloud.Image, kernel, ramdisk string) (cloud.Hardware, error) {
	h := img.Hardware
	if kernel == "" && img.VM() && h.Content == cloud.ContentLayers && h.Kernel == "" {
		k := newestKernel(tx.View(), account, img.Architecture)
		if k == nil {
			return h, awsapi.InvalidCombination("The image %s has no kernel, and there is none for %s in this account: `nacre image bake linux-%s` brings one; or give a KernelId", img.ID, img.Architecture, cloud.DebianArchitecture(img.Architecture))
		}
		kernel = string(k.ID)
	}
	if kernel == "" && ramdisk == "" {
		return h, nil
	}
	return startedWith(tx, account, img, kernel, ramdisk)
}

// unneeded refuses to give up a kernel or RAM disk that images or instances are started with.
func unneeded(tx *store.Tx, file *cloud.Image) error {
	if file.Kind() == cloud.ImageMachine {
		return nil
	}
	needs := func(h cloud.Hardware) bool { return h.Kernel == file.ID || h.Ramdisk == file.ID }
	for _, img := range store.List(tx, store.Images) {
		if img.State != cloud.ImageDeregistered && needs(img.Hardware) {
			name := string(img.ID)
			if img.Account != file.Account {
				name = "of another account"
			}
			return awsapi.Errorf("DependencyViolation", "The image %s is what machines of the image %s are started with; deregister that first", file.ID, name)
		}
	}
	for _, i := range store.List(tx, store.Instances) {
		if i.State != cloud.StateTerminated && needs(i.Hardware) {
			name := string(i.ID)
			if i.Account != file.Account {
				name = "of another account"
			}
			return awsapi.Errorf("DependencyViolation", "The image %s is what the instance %s is started with", file.ID, name)
		}
	}
	return nil
}

// startInstanceWith gives a stopped instance another kernel or RAM disk; it needs values for what it is to change.
func startInstanceWith(tx *store.Tx, i *cloud.Instance, kernel, ramdisk string) error {
	if kernel == "" && ramdisk == "" {
		return awsapi.InvalidParameterValue("Invalid value '' for a kernel or RAM disk; ResetInstanceAttribute takes the image's own again.")
	}
	like := &cloud.Image{ID: i.Image, Isolation: i.Isolation, Architecture: i.Architecture, Hardware: i.Hardware}
	h, err := startedWith(tx, i.Account, like, kernel, ramdisk)
	if err == nil {
		i.Hardware = h
	}
	return err
}

// resetKernel gives a stopped instance the kernel and RAM disk that its image would be launched with now. A container has none.
func resetKernel(tx *store.Tx, i *cloud.Instance) error {
	if !i.VM() || i.Hardware.Content != cloud.ContentLayers {
		return nil
	}
	img, ok := store.Get(tx, store.Images, i.Image)
	if !ok {
		return awsapi.Errorf("InvalidAMIID.NotFound", "The image id '[%s]', whose kernel it would be, does not exist", i.Image)
	}
	h, err := bootable(tx, i.Account, img, "", "")
	if err == nil {
		i.Hardware = h
	}
	return err
}
