package ec2

import (
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// devicesAsTagged gives an image the devices that its tag asks for. Instances that were launched before keep theirs.
func devicesAsTagged(img *cloud.Image) error {
	want, tagged := img.Tags[cloud.TagDevices]
	switch {
	case !tagged:
		img.Hardware.Devices = cloud.DevicesVirtio
		return nil
	case want != string(cloud.DevicesEmulated):
		return awsapi.InvalidParameterValue("The tag %s has the value '%.100s'; %s is the only one", cloud.TagDevices, want, cloud.DevicesEmulated)
	case !img.VM() || img.Hardware.Content != cloud.ContentDisk:
		return awsapi.InvalidCombination("The tag %s is for images of whole disks; %s", cloud.TagDevices, withoutFirmware(img))
	case img.Architecture != ec2.ArchitectureValuesX8664:
		return awsapi.InvalidCombination("Emulated devices are not for the architecture %s", img.Architecture)
	}
	img.Hardware.Devices = cloud.DevicesEmulated
	return nil
}

// devicesLike gives an image that is made of another one that one's devices, unless its own tag says more.
func devicesLike(img, from *cloud.Image) error {
	if _, said := img.Tags[cloud.TagDevices]; !said && img.Hardware.Content == cloud.ContentDisk && from.Hardware.Devices == cloud.DevicesEmulated {
		img.Tags = withTags(img.Tags, cloud.Tags{cloud.TagDevices: string(cloud.DevicesEmulated)})
	}
	return devicesAsTagged(img)
}

// imagesTagged does what images' tags ask for.
func imagesTagged(t taggable) taggable {
	t.change = func(tx *store.Tx, account cloud.AccountID, id string, apply func(cloud.Tags) (cloud.Tags, error)) (bool, error) {
		img, ok := store.Get(tx, store.Images, cloud.ImageID(id))
		if !ok || img.Account != account {
			return false, nil
		}
		tags, err := apply(img.Tags)
		if err != nil {
			return true, err
		}
		img.Tags = tags
		if err := devicesAsTagged(img); err != nil {
			return true, err
		}
		store.Put(tx, store.Images, img)
		return true, nil
	}
	return t
}
