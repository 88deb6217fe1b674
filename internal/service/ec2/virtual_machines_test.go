package ec2_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// withVMs gives the node an engine for virtual machines, of its own architecture unless others are named.
func (w *world) withVMs(guests ...string) *world {
	w.update(func(tx *store.Tx) {
		node, _ := store.Get(tx, store.Nodes, w.node)
		node.Engines = map[cloud.Isolation]string{cloud.IsolationContainer: "runc", cloud.IsolationVM: "QEMU"}
		node.Guests = guests
		store.Put(tx, store.Nodes, node)
	})
	return w
}

// file adds a kernel or RAM disk, whose digest is its name's letters.
func (w *world) file(kind cloud.ImageType, name, arch string, change ...func(*cloud.Image)) string {
	w.t.Helper()
	return w.addImage(w.key.Account, name, arch, append([]func(*cloud.Image){func(i *cloud.Image) {
		i.ID, i.Type, i.Digest = cloud.NewImageID(w.rand, kind), kind, "sha256:"+name
		i.Hardware.Content = cloud.ContentFile
	}}, change...)...)
}

// kernel adds a kernel with the RAM disk that goes with it.
func (w *world) kernel(name, arch string, change ...func(*cloud.Image)) (kernel, ramdisk string) {
	ramdisk = w.file(cloud.ImageRamdisk, name+"-ramdisk", arch, change...)
	return w.file(cloud.ImageKernel, name, arch, append(change, func(i *cloud.Image) {
		i.Hardware.Ramdisk, i.Hardware.RamdiskDigest = cloud.ImageID(ramdisk), "sha256:"+name+"-ramdisk"
	})...), ramdisk
}

func (w *world) disk(arch string, firmware cloud.Firmware) string {
	return w.addImage(w.key.Account, "disk-"+arch+string(firmware), arch, func(i *cloud.Image) {
		i.Isolation, i.Digest = cloud.IsolationVM, "sha256:disk"
		i.Hardware = cloud.Hardware{Content: cloud.ContentDisk, Firmware: firmware}
	})
}

func (w *world) register(in sdk.RegisterImageInput) (string, error) {
	out, err := w.RegisterImage(w.t.Context(), &in)
	if err != nil {
		return "", err
	}
	return *out.ImageId, nil
}

// vmImage makes virtual machines' image of the world's own.
func (w *world) vmImage(name, kernel string) string {
	w.t.Helper()
	id, err := w.register(sdk.RegisterImageInput{Name: &name, ImageLocation: &w.image, KernelId: &kernel})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func ofImage(image string) func(*order) { return func(in *order) { in.ImageId = &image } }

// rest stops a running instance.
func (w *world) rest(id string) {
	w.t.Helper()
	if _, err := w.stop(id); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

func TestAnImageOfLayersBecomesOneOfVirtualMachinesWithAKernel(t *testing.T) {
	w := newWorld(t).withVMs()
	kernel, ramdisk := w.kernel("linux", "x86_64")
	vm := w.vmImage("debian-12-vm", kernel)
	img := described(t, w.Client, sdk.DescribeImagesInput{Filters: filterList("kernel-id", kernel, "ramdisk-id", ramdisk, "image-type", "machine", "tag:aws:nacre:isolation", "vm")})
	if len(img) != 1 || *img[0].ImageId != vm || *img[0].KernelId != kernel || *img[0].RamdiskId != ramdisk || img[0].BootMode != "" || img[0].ImageType != "machine" {
		t.Fatalf("registered as %+v", img)
	}
	for kind, id := range map[string]string{"kernel": kernel, "ramdisk": ramdisk} {
		list := described(t, w.Client, sdk.DescribeImagesInput{Filters: filterList("image-type", kind)})
		if len(list) != 1 || *list[0].ImageId != id || list[0].RamdiskId != nil {
			t.Errorf("the images of type %s are %+v", kind, list)
		}
	}
	copied, err := w.CopyImage(t.Context(), &sdk.CopyImageInput{SourceImageId: &vm, SourceRegion: aws.String("us-east-1"), Name: aws.String("copy")})
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.register(sdk.RegisterImageInput{Name: aws.String("again"), ImageLocation: copied.ImageId})
	if err != nil {
		t.Fatal(err)
	}
	id := w.running(ofImage(again))
	i := w.instance(id)
	if *i.KernelId != kernel || *i.RamdiskId != ramdisk || i.VirtualizationType != "hvm" || i.Hypervisor != "xen" || i.BootMode != "" {
		t.Errorf("it runs as %+v", i)
	}
	if h := w.record(id); !h.VM() || h.Hardware.KernelDigest != "sha256:linux" || h.Hardware.RamdiskDigest != "sha256:linux-ramdisk" || h.ImageDigest != "sha256:"+strings.Repeat("a", 64) {
		t.Errorf("its node is told %s %+v", h.Isolation, h.Hardware)
	}
	container := w.running()
	if got := w.found("tag:aws:nacre:isolation", "vm", "kernel-id", kernel); len(got) != 1 || got[0] != id {
		t.Errorf("found %v as virtual machines", got)
	}
	if h := w.record(container); h.VM() || h.Hardware != (cloud.Hardware{}) {
		t.Errorf("a container is started with %+v", h.Hardware)
	}
	w.unchanged(func() {
		_, err := w.DeleteTags(t.Context(), &sdk.DeleteTagsInput{Resources: []string{vm}, Tags: []types.Tag{{Key: aws.String("aws:nacre:isolation")}}})
		refused(t, err, "InvalidParameterValue", "reserved")
	})
	if _, err := w.CreateTags(t.Context(), &sdk.CreateTagsInput{Resources: []string{kernel}, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}); err != nil {
		t.Error("a kernel takes no tags:", err)
	}
}

func TestALaunchNamesItsKernel(t *testing.T) {
	w := newWorld(t).withVMs()
	kernel, ramdisk := w.kernel("linux", "x86_64")
	other, otherDisk := w.kernel("other", "x86_64")
	arm, _ := w.kernel("arm", "arm64")
	vm := w.vmImage("linux-vm", kernel)
	with := func(kernel, ramdisk string) func(*order) {
		return func(in *order) {
			if kernel != "" {
				in.KernelId = &kernel
			}
			if ramdisk != "" {
				in.RamdiskId = &ramdisk
			}
		}
	}
	for _, c := range []struct{ kernel, ramdisk, wantKernel, wantRamdisk string }{
		{"", "", kernel, ramdisk}, {other, "", other, otherDisk}, {other, ramdisk, other, ramdisk}, {"", otherDisk, kernel, otherDisk},
	} {
		i := w.launch(ofImage(vm), with(c.kernel, c.ramdisk))[0]
		if *i.KernelId != c.wantKernel || *i.RamdiskId != c.wantRamdisk {
			t.Errorf("with %q and %q it has %s and %s", c.kernel, c.ramdisk, *i.KernelId, *i.RamdiskId)
		}
	}
	disk := w.disk("x86_64", cloud.FirmwareBIOS)
	w.unchanged(func() {
		for _, c := range []struct {
			image, kernel, ramdisk, code, says string
		}{
			{w.image, kernel, "", "InvalidParameterCombination", "containers"},
			{disk, kernel, "", "InvalidParameterCombination", "boot loader"},
			{vm, "aki-1", "", "InvalidKernelId.Malformed", "aki-"},
			{vm, "", "ari-1", "InvalidRamDiskId.Malformed", "ari-"},
			{vm, "aki-0123456789abcdef0", "", "InvalidAMIID.NotFound", "aki-"},
			{vm, ramdisk, "", "InvalidParameterValue", "ramdisk"},
			{vm, arm, "", "InvalidParameterValue", "architecture"},
			{kernel, "", "", "InvalidParameterValue", "kernel"},
		} {
			_, err := w.run(ofImage(c.image), with(c.kernel, c.ramdisk))
			refused(t, err, c.code, c.says)
		}
	})
}

func TestAVirtualMachineWithoutAKernelTakesTheNewest(t *testing.T) {
	w := newWorld(t).withVMs()
	bare := w.addImage(w.key.Account, "bare", "x86_64", func(i *cloud.Image) { i.Isolation = cloud.IsolationVM })
	w.unchanged(func() {
		_, err := w.run(ofImage(bare))
		refused(t, err, "InvalidParameterCombination", "nacre image bake linux-amd64")
	})
	w.kernel("old", "x86_64", func(i *cloud.Image) { i.Created = time.Now().Add(-time.Hour) })
	newest, _ := w.kernel("new", "x86_64")
	w.kernel("arm", "arm64", func(i *cloud.Image) { i.Created = time.Now().Add(time.Hour) })
	w.kernel("disabled", "x86_64", func(i *cloud.Image) { i.Created, i.State = time.Now().Add(time.Hour), cloud.ImageDisabled })
	if i := w.launch(ofImage(bare))[0]; *i.KernelId != newest {
		t.Errorf("it starts with %s, want %s", *i.KernelId, newest)
	}
}

func TestVirtualMachinesOfAnotherArchitectureRunWhereThereIsAnEngine(t *testing.T) {
	w := newWorld(t)
	kernel, _ := w.kernel("arm", "arm64")
	source := w.addImage(w.key.Account, "arm", "arm64")
	vm, err := w.register(sdk.RegisterImageInput{Name: aws.String("arm-vm"), ImageLocation: &source, KernelId: &kernel})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.run(ofImage(vm), ofType("t4g.small"))
	refused(t, err, "InsufficientInstanceCapacity", "isolation \"vm\"")
	w.withVMs()
	_, err = w.run(ofImage(vm), ofType("t4g.small"))
	refused(t, err, "InsufficientInstanceCapacity", "no hypervisor for arm64")
	w.withVMs("x86_64", "arm64")
	if i := w.launch(ofImage(vm), ofType("t4g.small"))[0]; i.Architecture != "arm64" {
		t.Errorf("it is %s", i.Architecture)
	}
	_, err = w.run(ofImage(source), ofType("t4g.small"))
	refused(t, err, "InsufficientInstanceCapacity", "arm64")
	_, err = w.run(ofImage(vm), ofType("t3.small"))
	refused(t, err, "InvalidParameterValue", "architecture")
}

func TestAKernelInUseStays(t *testing.T) {
	w := newWorld(t).withVMs()
	kernel, ramdisk := w.kernel("linux", "x86_64")
	vm := w.vmImage("linux-vm", kernel)
	id := w.running(ofImage(vm))
	deregister := func(id string) error {
		_, err := w.DeregisterImage(t.Context(), &sdk.DeregisterImageInput{ImageId: &id})
		return err
	}
	refused(t, deregister(kernel), "DependencyViolation", vm)
	refused(t, deregister(ramdisk), "DependencyViolation")
	if err := deregister(vm); err != nil {
		t.Fatal(err)
	}
	refused(t, deregister(kernel), "DependencyViolation", id)
	if _, err := w.TerminateInstances(t.Context(), &sdk.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	refused(t, deregister(ramdisk), "DependencyViolation", kernel)
	for _, file := range []string{kernel, ramdisk} {
		if err := deregister(file); err != nil {
			t.Error(err)
		}
	}
}

func TestAStoppedVirtualMachineChangesItsKernel(t *testing.T) {
	w := newWorld(t).withVMs()
	kernel, ramdisk := w.kernel("linux", "x86_64")
	other, otherDisk := w.kernel("other", "x86_64")
	id := w.running(ofImage(w.vmImage("linux-vm", kernel)))
	modify := func(in sdk.ModifyInstanceAttributeInput) error {
		in.InstanceId = &id
		_, err := w.ModifyInstanceAttribute(t.Context(), &in)
		return err
	}
	refused(t, modify(sdk.ModifyInstanceAttributeInput{Kernel: &types.AttributeValue{Value: &other}}), "IncorrectInstanceState", "kernel")
	w.rest(id)
	shows := func(wantKernel, wantRamdisk string) {
		t.Helper()
		k, err := w.DescribeInstanceAttribute(t.Context(), &sdk.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: "kernel"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := w.DescribeInstanceAttribute(t.Context(), &sdk.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: "ramdisk"})
		if err != nil {
			t.Fatal(err)
		}
		if *k.KernelId.Value != wantKernel || *r.RamdiskId.Value != wantRamdisk {
			t.Errorf("it has %s and %s, want %s and %s", *k.KernelId.Value, *r.RamdiskId.Value, wantKernel, wantRamdisk)
		}
	}
	if err := modify(sdk.ModifyInstanceAttributeInput{Kernel: &types.AttributeValue{Value: &other}}); err != nil {
		t.Fatal(err)
	}
	shows(other, otherDisk)
	if err := modify(sdk.ModifyInstanceAttributeInput{Attribute: "ramdisk", Value: &ramdisk}); err != nil {
		t.Fatal(err)
	}
	shows(other, ramdisk)
	if _, err := w.ResetInstanceAttribute(t.Context(), &sdk.ResetInstanceAttributeInput{InstanceId: &id, Attribute: "kernel"}); err != nil {
		t.Fatal(err)
	}
	shows(kernel, ramdisk)
	id = w.running()
	w.rest(id)
	refused(t, modify(sdk.ModifyInstanceAttributeInput{Kernel: &types.AttributeValue{Value: &other}}), "InvalidParameterCombination", "containers")
}

func TestADiskSaysHowItBoots(t *testing.T) {
	w := newWorld(t).withVMs()
	disk := w.disk("x86_64", cloud.FirmwareBIOS)
	list := described(t, w.Client, sdk.DescribeImagesInput{Filters: filterList("boot-mode", "legacy-bios")})
	if len(list) != 1 || *list[0].ImageId != disk || list[0].BootMode != "legacy-bios" {
		t.Errorf("boots as %+v", list)
	}
	uefi, err := w.register(sdk.RegisterImageInput{Name: aws.String("uefi"), ImageLocation: &disk, BootMode: "uefi"})
	if err != nil {
		t.Fatal(err)
	}
	if i := w.launch(ofImage(uefi))[0]; i.BootMode != "uefi" || i.CurrentInstanceBootMode != "uefi" || i.KernelId != nil {
		t.Errorf("launched as %+v", i)
	}
	arm := w.disk("arm64", cloud.FirmwareUEFI)
	w.unchanged(func() {
		_, err := w.register(sdk.RegisterImageInput{Name: aws.String("bios"), ImageLocation: &arm, BootMode: "legacy-bios"})
		refused(t, err, "InvalidParameterCombination", "arm64")
		_, err = w.register(sdk.RegisterImageInput{Name: aws.String("both"), ImageLocation: &disk, BootMode: "uefi-preferred"})
		refused(t, err, "UnsupportedOperation", "BootMode")
		_, err = w.register(sdk.RegisterImageInput{Name: aws.String("container"), ImageLocation: &w.image, BootMode: "uefi"})
		refused(t, err, "InvalidParameterCombination", "containers")
		_, err = w.register(sdk.RegisterImageInput{Name: aws.String("alone"), ImageLocation: &w.image, RamdiskId: aws.String("ari-0123456789abcdef0")})
		refused(t, err, "InvalidAMIID.NotFound", "ari-")
	})
}

func TestALaunchTemplateNamesAKernelAndHibernation(t *testing.T) {
	w := newWorld(t).withVMs()
	kernel, _ := w.kernel("linux", "x86_64")
	other, otherDisk := w.kernel("other", "x86_64")
	vm := w.vmImage("linux-vm", kernel)
	made, err := w.CreateLaunchTemplate(t.Context(), &sdk.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("machines"), LaunchTemplateData: &templateData{
		ImageId: &vm, KernelId: &kernel, RamDiskId: &otherDisk, HibernationOptions: &types.LaunchTemplateHibernationOptionsRequest{Configured: aws.Bool(true)}}})
	if err != nil {
		t.Fatal(err)
	}
	template := *made.LaunchTemplate.LaunchTemplateId
	i := w.launch(from(template, ""))[0]
	if *i.KernelId != kernel || *i.RamdiskId != otherDisk || !*i.HibernationOptions.Configured {
		t.Errorf("launched %+v", i)
	}
	if i := w.launch(from(template, ""), func(in *order) { in.KernelId, in.RamdiskId = &other, i.RamdiskId })[0]; *i.KernelId != other || *i.RamdiskId != otherDisk {
		t.Errorf("launched %+v", i)
	}
	data, err := w.GetLaunchTemplateData(t.Context(), &sdk.GetLaunchTemplateDataInput{InstanceId: i.InstanceId})
	if err != nil || *data.LaunchTemplateData.KernelId != kernel || *data.LaunchTemplateData.RamDiskId != otherDisk || !*data.LaunchTemplateData.HibernationOptions.Configured {
		t.Errorf("one more of it is %+v, %v", data, err)
	}
}

func TestAnImportIsOfAnArchitectureThatMachinesHave(t *testing.T) {
	w := newWorld(t)
	imported := func(source, architecture string) (*sdk.ImportImageOutput, error) {
		return w.ImportImage(t.Context(), &sdk.ImportImageInput{Architecture: &architecture, Description: aws.String("foreign"), DiskContainers: []types.ImageDiskContainer{{Url: &source}}})
	}
	_, err := imported("docker://debian:12", "i386")
	refused(t, err, "UnsupportedOperation", "i386")
	_, err = imported("docker://debian:12", "riscv64")
	refused(t, err, "UnsupportedOperation", "riscv64")
	_, err = imported("bake:debian-12", "arm64")
	refused(t, err, "InvalidParameterCombination", "bake:debian-12-arm64")
	out, err := imported("docker://debian:12", "arm64")
	if err != nil || aws.ToString(out.Architecture) != "arm64" {
		t.Errorf("%+v, %v", out, err)
	}
}
