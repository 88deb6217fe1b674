package ec2_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// described shows an image to its owner, nil when it isn't shown.
func described(t *testing.T, client *sdk.Client, in sdk.DescribeImagesInput) []types.Image {
	t.Helper()
	out, err := client.DescribeImages(t.Context(), &in)
	if err != nil {
		t.Fatal(err)
	}
	return out.Images
}

func TestACopiedImageIsAnImageOfItsOwn(t *testing.T) {
	w := newWorld(t)
	if _, err := w.CreateTags(t.Context(), &sdk.CreateTagsInput{Resources: []string{w.image}, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}); err != nil {
		t.Fatal(err)
	}
	in := sdk.CopyImageInput{SourceImageId: &w.image, SourceRegion: aws.String("us-east-1"), Name: aws.String("copy"), Description: aws.String("of it"), CopyImageTags: aws.Bool(true), ClientToken: aws.String("once"),
		TagSpecifications: []types.TagSpecification{tagSpec("image", "c", "d")}}
	copied, err := w.CopyImage(t.Context(), &in)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.CopyImage(t.Context(), &in); err != nil || *again.ImageId != *copied.ImageId {
		t.Error("the retry copied once more", err)
	}
	if _, err := w.DeregisterImage(t.Context(), &sdk.DeregisterImageInput{ImageId: &w.image}); err != nil {
		t.Fatal(err)
	}
	img := described(t, w.Client, sdk.DescribeImagesInput{ImageIds: []string{*copied.ImageId}})[0]
	if *img.Name != "copy" || *img.Description != "of it" || len(img.Tags) != 2 || img.State != "available" {
		t.Errorf("copied as %+v", img)
	}
	w.launch(func(in *order) { in.ImageId = copied.ImageId })
	w.unchanged(func() {
		in := sdk.CopyImageInput{SourceImageId: copied.ImageId, SourceRegion: aws.String("eu-west-1"), Name: aws.String("far")}
		_, err := w.CopyImage(t.Context(), &in)
		refused(t, err, "InvalidParameterValue", "eu-west-1")
		_, err = w.CopyImage(t.Context(), &sdk.CopyImageInput{SourceImageId: copied.ImageId, SourceRegion: aws.String("us-east-1"), Name: aws.String("copy")})
		refused(t, err, "InvalidAMIName.Duplicate")
		_, err = w.CopyImage(t.Context(), &sdk.CopyImageInput{SourceImageId: copied.ImageId, SourceRegion: aws.String("us-east-1"), Name: aws.String("safe"), Encrypted: aws.Bool(true)})
		refused(t, err, "UnsupportedOperation", "Encrypted")
		_, err = w.stranger.CopyImage(t.Context(), &sdk.CopyImageInput{SourceImageId: copied.ImageId, SourceRegion: aws.String("us-east-1"), Name: aws.String("theirs")})
		refused(t, err, "InvalidAMIID.NotFound")
	})
}

func TestADeprecatedImageIsShownToItsOwnerAndToThoseWhoAsk(t *testing.T) {
	w := newWorld(t)
	public := w.addImage(w.key.Account, "public", "x86_64", func(i *cloud.Image) { i.Public = true })
	at := time.Now().Add(time.Hour)
	if _, err := w.EnableImageDeprecation(t.Context(), &sdk.EnableImageDeprecationInput{ImageId: &public, DeprecateAt: &at}); err != nil {
		t.Fatal(err)
	}
	ask := sdk.DescribeImagesInput{ImageIds: []string{public}}
	if list := described(t, w.stranger, ask); len(list) != 1 || list[0].DeprecationTime == nil {
		t.Errorf("before its time: %+v", list)
	}
	w.update(func(tx *store.Tx) {
		img, _ := store.Get(tx, store.Images, cloud.ImageID(public))
		img.DeprecateAt = time.Now().Add(-time.Hour)
		store.Put(tx, store.Images, img)
	})
	if list := described(t, w.stranger, ask); len(list) != 0 {
		t.Error("others see it unasked")
	}
	if list := described(t, w.Client, ask); len(list) != 1 {
		t.Error("its owner doesn't see it")
	}
	ask.IncludeDeprecated = aws.Bool(true)
	if list := described(t, w.stranger, ask); len(list) != 1 {
		t.Error("others don't see it when they ask")
	}
	past := time.Now().Add(-time.Hour)
	_, err := w.EnableImageDeprecation(t.Context(), &sdk.EnableImageDeprecationInput{ImageId: &public, DeprecateAt: &past})
	refused(t, err, "InvalidParameterValue", "past")
	_, err = w.stranger.DisableImageDeprecation(t.Context(), &sdk.DisableImageDeprecationInput{ImageId: &public})
	refused(t, err, "AuthFailure")
	if _, err := w.DisableImageDeprecation(t.Context(), &sdk.DisableImageDeprecationInput{ImageId: &public}); err != nil {
		t.Error(err)
	}
}

func TestAProtectedImageIsNotDeregistered(t *testing.T) {
	w := newWorld(t)
	deregister := func() error {
		_, err := w.DeregisterImage(t.Context(), &sdk.DeregisterImageInput{ImageId: &w.image})
		return err
	}
	protect := func(cool bool, want string) {
		t.Helper()
		if _, err := w.EnableImageDeregistrationProtection(t.Context(), &sdk.EnableImageDeregistrationProtectionInput{ImageId: &w.image, WithCooldown: &cool}); err != nil {
			t.Fatal(err)
		}
		if got := *described(t, w.Client, sdk.DescribeImagesInput{ImageIds: []string{w.image}})[0].DeregistrationProtection; got != want {
			t.Errorf("protection is %s, want %s", got, want)
		}
		refused(t, deregister(), "OperationNotPermitted", "protected")
		if _, err := w.DisableImageDeregistrationProtection(t.Context(), &sdk.DisableImageDeregistrationProtectionInput{ImageId: &w.image}); err != nil {
			t.Fatal(err)
		}
	}
	protect(true, "enabled-with-cooldown")
	refused(t, deregister(), "OperationNotPermitted", "cooldown")
	w.update(func(tx *store.Tx) {
		img, _ := store.Get(tx, store.Images, cloud.ImageID(w.image))
		img.Protection.Until = time.Now().Add(-time.Second)
		store.Put(tx, store.Images, img)
	})
	protect(false, "enabled-without-cooldown")
	if err := deregister(); err != nil {
		t.Error(err)
	}
}

func TestADisabledImageIsPrivateHiddenAndNotLaunched(t *testing.T) {
	w := newWorld(t)
	shared := w.addImage(w.key.Account, "shared", "x86_64", func(i *cloud.Image) { i.Launch = []cloud.AccountID{strangerAccount} })
	if _, err := w.DisableImage(t.Context(), &sdk.DisableImageInput{ImageId: &shared}); err != nil {
		t.Fatal(err)
	}
	if list := described(t, w.Client, sdk.DescribeImagesInput{Owners: []string{"self"}}); len(list) != 1 {
		t.Errorf("%d images are shown", len(list))
	}
	if list := described(t, w.Client, sdk.DescribeImagesInput{Owners: []string{"self"}, IncludeDisabled: aws.Bool(true), Filters: filterList("state", "disabled")}); len(list) != 1 {
		t.Errorf("%d disabled images are shown", len(list))
	}
	launch := func(in *order) { in.ImageId = &shared }
	_, err := w.run(launch)
	refused(t, err, "InvalidAMIID.Unavailable")
	_, err = w.ModifyImageAttribute(t.Context(), &sdk.ModifyImageAttributeInput{ImageId: &shared, LaunchPermission: &types.LaunchPermissionModifications{Add: []types.LaunchPermission{{Group: "all"}}}})
	refused(t, err, "InvalidAMIID.Unavailable")
	if _, err := w.EnableImage(t.Context(), &sdk.EnableImageInput{ImageId: &shared}); err != nil {
		t.Fatal(err)
	}
	w.launch(launch)
	_, err = w.stranger.RunInstances(t.Context(), &sdk.RunInstancesInput{ImageId: &shared, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	refused(t, err, "InvalidAMIID.NotFound")
}

func TestAnImageSaysHowItsInstancesGetMetadataAndWhenItWasLaunched(t *testing.T) {
	w := newWorld(t)
	read := func(name types.ImageAttributeName) *sdk.DescribeImageAttributeOutput {
		t.Helper()
		out, err := w.DescribeImageAttribute(t.Context(), &sdk.DescribeImageAttributeInput{ImageId: &w.image, Attribute: name})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if read("imdsSupport").ImdsSupport.Value != nil || read("lastLaunchedTime").LastLaunchedTime.Value != nil || read("bootMode").BootMode.Value != nil {
		t.Error("a new image says something")
	}
	if _, err := w.ModifyImageAttribute(t.Context(), &sdk.ModifyImageAttributeInput{ImageId: &w.image, ImdsSupport: &types.AttributeValue{Value: aws.String("v2.0")}}); err != nil {
		t.Fatal(err)
	}
	if m := w.launch()[0].MetadataOptions; m.HttpTokens != "required" || *m.HttpPutResponseHopLimit != 2 {
		t.Errorf("launched with %+v", m)
	}
	if m := w.launch(func(in *order) { in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpTokens: "optional"} })[0].MetadataOptions; m.HttpTokens != "optional" {
		t.Errorf("the call's own options gave %+v", m)
	}
	first := *read("lastLaunchedTime").LastLaunchedTime.Value
	w.launch()
	if second := *read("lastLaunchedTime").LastLaunchedTime.Value; second != first {
		t.Errorf("the time went from %s to %s within a day", first, second)
	}
}
