package ec2_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// wholeDisk imports a file that was uploaded.
func wholeDisk(name string, change func(*sdk.ImportImageInput)) *sdk.ImportImageInput {
	in := &sdk.ImportImageInput{DiskContainers: []types.ImageDiskContainer{{Url: aws.String("upload:sha256:" + strings.Repeat("a", 64))}},
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeImportImageTask, Tags: []types.Tag{{Key: aws.String("Name"), Value: &name}}}}}
	change(in)
	return in
}

func taskTag(in *sdk.ImportImageInput, key, value string) {
	in.TagSpecifications[0].Tags = append(in.TagSpecifications[0].Tags, types.Tag{Key: &key, Value: &value})
}

func TestTheImportOfAWholeDiskSaysWhatItIsStartedWith(t *testing.T) {
	w := newWorld(t)
	out, err := w.ImportImage(t.Context(), wholeDisk("old", func(in *sdk.ImportImageInput) {
		in.DiskContainers[0].Format, in.BootMode, in.Architecture = aws.String("VMDK"), types.BootModeValuesLegacyBios, aws.String("x86_64")
		taskTag(in, cloud.TagDevices, "emulated")
	}))
	if err != nil {
		t.Fatal(err)
	}
	task, _ := store.Get(w.store.View(), store.ImportTasks, cloud.ImportTaskID(*out.ImportTaskId))
	if task.Format != "vmdk" || task.Firmware != cloud.FirmwareBIOS || task.Architecture != "x86_64" || task.Devices != cloud.DevicesEmulated || task.Tags[cloud.TagDevices] != "emulated" || !task.OfDisk() {
		t.Errorf("the node is told %+v", task)
	}
	tasks, err := w.DescribeImportImageTasks(t.Context(), &sdk.DescribeImportImageTasksInput{ImportTaskIds: []string{*out.ImportTaskId}})
	if err != nil || len(tasks.ImportImageTasks) != 1 || tasks.ImportImageTasks[0].BootMode != types.BootModeValuesLegacyBios {
		t.Errorf("%+v, %v", tasks, err)
	}
	if out, err = w.ImportImage(t.Context(), wholeDisk("any", func(*sdk.ImportImageInput) {})); err != nil {
		t.Fatal(err)
	}
	if task, _ := store.Get(w.store.View(), store.ImportTasks, cloud.ImportTaskID(*out.ImportTaskId)); task.OfDisk() {
		t.Errorf("an upload of which nothing is said is %+v", task)
	}
}

func TestTheImportOfAWholeDiskRefusesWhatItCannotBe(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		change func(*sdk.ImportImageInput)
		code   string
	}{
		"another cloud's format": {func(in *sdk.ImportImageInput) { in.DiskContainers[0].Format = aws.String("VHD") }, "UnsupportedOperation"},
		"no format":              {func(in *sdk.ImportImageInput) { in.DiskContainers[0].Format = aws.String("floppy") }, "InvalidParameterValue"},
		"a preference":           {func(in *sdk.ImportImageInput) { in.BootMode = types.BootModeValuesUefiPreferred }, "UnsupportedOperation"},
		"an old processor":       {func(in *sdk.ImportImageInput) { in.Architecture = aws.String("i386") }, "UnsupportedOperation"},
		"BIOS for arm64": {func(in *sdk.ImportImageInput) {
			in.Architecture, in.BootMode = aws.String("arm64"), types.BootModeValuesLegacyBios
		}, "InvalidParameterCombination"},
		"other devices": {func(in *sdk.ImportImageInput) { taskTag(in, cloud.TagDevices, "scsi") }, "InvalidParameterValue"},
		"a registry's image": {func(in *sdk.ImportImageInput) {
			in.DiskContainers[0].Url, in.BootMode = aws.String("docker://docker.io/library/nginx:1"), types.BootModeValuesUefi
		}, "InvalidParameterCombination"},
	} {
		if _, err := w.ImportImage(t.Context(), wholeDisk("disk", c.change)); codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}
