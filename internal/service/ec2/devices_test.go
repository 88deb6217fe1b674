package ec2_test

import (
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestAnImagesTagChoosesTheDevicesOfItsMachines(t *testing.T) {
	w := newWorld(t)
	disk := w.disk("x86_64", cloud.FirmwareBIOS)
	arm := w.disk("arm64", cloud.FirmwareUEFI)
	devices := func(id string, want cloud.Devices) {
		t.Helper()
		img, ok := store.Get(w.store.View(), store.Images, cloud.ImageID(id))
		if !ok || img.Hardware.Devices != want || img.Tags[cloud.TagDevices] != string(want) {
			t.Errorf("%s has the devices %q and the tags %v", id, img.Hardware.Devices, img.Tags)
		}
	}
	emulated := []types.Tag{{Key: new(cloud.TagDevices), Value: new("emulated")}}
	tag := func(id string, tags ...types.Tag) error {
		_, err := w.CreateTags(t.Context(), &sdk.CreateTagsInput{Resources: []string{id}, Tags: tags})
		return err
	}
	made, err := w.register(sdk.RegisterImageInput{Name: new("old-pc"), ImageLocation: &disk,
		TagSpecifications: []types.TagSpecification{{ResourceType: "image", Tags: emulated}}})
	if err != nil {
		t.Fatal(err)
	}
	devices(made, cloud.DevicesEmulated)
	again, err := w.register(sdk.RegisterImageInput{Name: new("pc-again"), ImageLocation: &made})
	if err != nil {
		t.Fatal(err)
	}
	devices(again, cloud.DevicesEmulated)
	copied, err := w.CopyImage(t.Context(), &sdk.CopyImageInput{Name: new("pc-copy"), SourceImageId: &made, SourceRegion: new("us-east-1")})
	if err != nil {
		t.Fatal(err)
	}
	if err := tag(*copied.ImageId, types.Tag{Key: new("Name"), Value: new("x")}); err != nil {
		t.Fatal(err)
	}
	devices(*copied.ImageId, cloud.DevicesEmulated)
	if _, err := w.DeleteTags(t.Context(), &sdk.DeleteTagsInput{Resources: []string{made}, Tags: []types.Tag{{Key: new(cloud.TagDevices)}}}); err != nil {
		t.Fatal(err)
	}
	devices(made, cloud.DevicesVirtio)
	if err := tag(made, emulated...); err != nil {
		t.Fatal(err)
	}
	devices(made, cloud.DevicesEmulated)

	refused(t, tag(made, types.Tag{Key: new(cloud.TagDevices), Value: new("vmware")}), "InvalidParameterValue")
	refused(t, tag(arm, emulated...), "InvalidParameterCombination")
	containers := w.addImage(w.key.Account, "containers", "x86_64")
	refused(t, tag(containers, emulated...), "InvalidParameterCombination")
}
