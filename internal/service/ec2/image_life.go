package ec2

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerImageLife(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCopyImage, s.copyImage, awsapi.Honours("ClientToken", "CopyImageTags", "Description", "Encrypted", "Name", "SourceImageId", "SourceRegion", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionEnableImageDeprecation, s.enableImageDeprecation, awsapi.Honours("DeprecateAt", "ImageId"))
	awsapi.Handle(r, ec2.ActionDisableImageDeprecation, s.disableImageDeprecation, awsapi.Honours("ImageId"))
	awsapi.Handle(r, ec2.ActionEnableImageDeregistrationProtection, s.enableImageDeregistrationProtection, awsapi.Honours("ImageId", "WithCooldown"))
	awsapi.Handle(r, ec2.ActionDisableImageDeregistrationProtection, s.disableImageDeregistrationProtection, awsapi.Honours("ImageId"))
	awsapi.Handle(r, ec2.ActionEnableImage, s.enableImage, awsapi.Honours("ImageId"))
	awsapi.Handle(r, ec2.ActionDisableImage, s.disableImage, awsapi.Honours("ImageId"))
}

const (
	// maxDeprecation and maxPublicDeprecation are how far ahead EC2 lets an image's deprecation be, in years.
	maxDeprecation, maxPublicDeprecation = 10, 2
	// cooldown is how long an image stays protected after its protection was switched off.
	cooldown = 24 * time.Hour
)

// copyImage makes a further AMI of the same content, which every node has or fetches once for both.
func (s *Service) copyImage(ctx context.Context, call *awsapi.Call, req *ec2.CopyImageRequest) (*ec2.CopyImageResult, error) {
	name := deref(req.Name)
	if err := validImageName(name); err != nil {
		return nil, err
	}
	if from := deref(req.SourceRegion); from != call.Region {
		return nil, awsapi.InvalidParameterValue("The region '%s' is not part of this cloud, which has %s.", from, call.Region)
	}
	tags, err := tagsFor(req.TagSpecifications, "image", "snapshot")
	if err != nil {
		return nil, err
	}
	ids := make([]cloud.SnapshotID, 1+maxAttachments)
	for n := range ids {
		ids[n] = newID[cloud.SnapshotID](s)
	}
	hash, id := awsapi.RequestHash(req), newID[cloud.ImageID](s)
	err = s.update(ctx, call, func(tx *store.Tx) error {
		done, err := once(tx, call, "CopyImage", deref(req.ClientToken), hash, string(id))
		if err != nil {
			return err
		}
		if done != "" {
			id = cloud.ImageID(done)
			return nil
		}
		from, err := visibleImage(tx, call.Account, deref(req.SourceImageId))
		if err != nil {
			return err
		}
		if from.State != cloud.ImageAvailable {
			return imageUnavailable(from)
		}
		if from.Kind() != cloud.ImageMachine {
			return awsapi.InvalidParameterValue("The image %s is a %s, and only machine images are copied", from.ID, from.Kind())
		}
		if err := claimImageName(tx, call.Account, name, id); err != nil {
			return err
		}
		made := &cloud.Image{ID: id, Account: call.Account, Name: name, Description: deref(req.Description), Digest: from.Digest, Location: from.Location,
			Isolation: from.Isolation, Hardware: from.Hardware,
			Architecture: from.Architecture, State: cloud.ImageAvailable, System: from.System, SizeMiB: from.SizeMiB, Tags: tags["image"], Created: call.Now, Source: from.ID}
		if deref(req.CopyImageTags) && from.Account == call.Account {
			made.Tags = withTags(userTags(from.Tags), tags["image"])
			if len(made.Tags) > cloud.MaxTagsPerResource {
				return tooManyTags()
			}
		}
		made.Tags = withTags(made.Tags, isolationTag(made.Isolation))
		if deref(req.Encrypted) && from.Root() == nil {
			return awsapi.Unsupported("The value true of Encrypted is not supported for %s: its root begins as a layer or disk that all of its instances share, and no snapshot. Encrypt the roots of its virtual machines at the launch.", from.ID)
		}
		if err := copyVolumes(tx, call, made, from, ids, encryption{asked: deref(req.Encrypted)}, tags["snapshot"]); err != nil {
			return err
		}
		if err := devicesLike(made, from); err != nil {
			return err
		}
		store.Put(tx, store.Images, made)
		return nil
	})
	return &ec2.CopyImageResult{ImageId: text(id)}, err
}

// copyVolumes gives a copy of an image snapshots of its own, as they may go before it does. It is pending until they are there.
func copyVolumes(tx *store.Tx, call *awsapi.Call, made, from *cloud.Image, ids []cloud.SnapshotID, wished encryption, tags cloud.Tags) error {
	made.Volumes = slices.Clone(from.Volumes)
	for n := range made.Volumes {
		v := &made.Volumes[n]
		snap, ok := store.Get(tx, store.Snapshots, v.Snapshot)
		if !ok {
			continue // it begins empty
		}
		if err := roomForSnapshot(tx, call.Account, ""); err != nil {
			return err
		}
		var err error
		if v.Encrypted, err = wished.settle(tx, call.Account, snap.Encrypted); err != nil {
			return err
		}
		v.Snapshot, made.State = ids[n], cloud.ImagePending
		store.Put(tx, store.Snapshots, &cloud.Snapshot{ID: ids[n], Account: call.Account, Volume: copiedVolume, SizeGiB: snap.SizeGiB, Node: snap.Node, Source: snap.ID, Origin: snap.Origin, Encrypted: v.Encrypted,
			Description: fmt.Sprintf("Copied for DestinationAmi %s from SourceAmi %s for SourceSnapshot %s.", made.ID, from.ID, snap.ID), Tags: tags, Created: call.Now, State: cloud.SnapshotPending})
	}
	return nil
}

func imageUnavailable(img *cloud.Image) error {
	return awsapi.Errorf("InvalidAMIID.Unavailable", "The image id '[%s]' is no longer available", img.ID)
}

// changeImage changes one of the caller's own images.
func (s *Service) changeImage(ctx context.Context, call *awsapi.Call, id *string, change func(*cloud.Image) error) error {
	return s.update(ctx, call, func(tx *store.Tx) error {
		img, err := ownImage(tx, call.Account, deref(id))
		if err != nil {
			return err
		}
		if err := change(img); err != nil {
			return err
		}
		store.Put(tx, store.Images, img)
		return nil
	})
}

func (s *Service) enableImageDeprecation(ctx context.Context, call *awsapi.Call, req *ec2.EnableImageDeprecationRequest) (*ec2.EnableImageDeprecationResult, error) {
	at := req.DeprecateAt.UTC().Round(time.Minute)
	err := s.changeImage(ctx, call, req.ImageId, func(img *cloud.Image) error {
		last := call.Now.AddDate(maxDeprecation, 0, 0)
		if img.Public {
			last = img.Created.AddDate(maxPublicDeprecation, 0, 0)
		}
		switch {
		case at.Before(call.Now):
			return awsapi.InvalidParameterValue("The deprecation date %s is in the past.", timeText(at))
		case at.After(last):
			return awsapi.InvalidParameterValue("The deprecation date %s is after the last one possible, %s.", timeText(at), timeText(last))
		}
		img.DeprecateAt = at
		return nil
	})
	return &ec2.EnableImageDeprecationResult{Return: new(true)}, err
}

func (s *Service) disableImageDeprecation(ctx context.Context, call *awsapi.Call, req *ec2.DisableImageDeprecationRequest) (*ec2.DisableImageDeprecationResult, error) {
	err := s.changeImage(ctx, call, req.ImageId, func(img *cloud.Image) error {
		img.DeprecateAt = time.Time{}
		return nil
	})
	return &ec2.DisableImageDeprecationResult{Return: new(true)}, err
}

// deprecated tells whether EC2 shows an image to its owner only.
func deprecated(img *cloud.Image, now time.Time) bool {
	return !img.DeprecateAt.IsZero() && !now.Before(img.DeprecateAt)
}

func (s *Service) enableImageDeregistrationProtection(ctx context.Context, call *awsapi.Call, req *ec2.EnableImageDeregistrationProtectionRequest) (*ec2.EnableImageDeregistrationProtectionResult, error) {
	err := s.changeImage(ctx, call, req.ImageId, func(img *cloud.Image) error {
		img.Protection = cloud.ImageProtection{Enabled: true, Cooldown: deref(req.WithCooldown)}
		return nil
	})
	return &ec2.EnableImageDeregistrationProtectionResult{Return: new("true")}, err
}

func (s *Service) disableImageDeregistrationProtection(ctx context.Context, call *awsapi.Call, req *ec2.DisableImageDeregistrationProtectionRequest) (*ec2.DisableImageDeregistrationProtectionResult, error) {
	err := s.changeImage(ctx, call, req.ImageId, func(img *cloud.Image) error {
		if img.Protection.Enabled && img.Protection.Cooldown {
			img.Protection.Until = call.Now.Add(cooldown)
		}
		img.Protection.Enabled, img.Protection.Cooldown = false, false
		return nil
	})
	return &ec2.DisableImageDeregistrationProtectionResult{Return: new("true")}, err
}

// protectionText is EC2's word for an image's protection.
func protectionText(p cloud.ImageProtection) string {
	switch {
	case !p.Enabled:
		return "disabled"
	case p.Cooldown:
		return "enabled-with-cooldown"
	}
	return "enabled-without-cooldown"
}

// deregistrable refuses to give up an image that is protected.
func deregistrable(img *cloud.Image, now time.Time) error {
	switch {
	case img.Protection.Enabled:
		return awsapi.Errorf("OperationNotPermitted", "The image '%s' is protected from deregistration. Disable its deregistration protection and try again.", img.ID)
	case now.Before(img.Protection.Until):
		return awsapi.Errorf("OperationNotPermitted", "The image '%s' is protected from deregistration until the cooldown of its protection ends at %s.", img.ID, timeText(img.Protection.Until))
	}
	return nil
}

func (s *Service) disableImage(ctx context.Context, call *awsapi.Call, req *ec2.DisableImageRequest) (*ec2.DisableImageResult, error) {
	err := s.changeImage(ctx, call, req.ImageId, func(img *cloud.Image) error {
		if img.State != cloud.ImageAvailable && img.State != cloud.ImageDisabled {
			return imageUnavailable(img)
		}
		img.State, img.Public, img.Launch = cloud.ImageDisabled, false, nil
		return nil
	})
	return &ec2.DisableImageResult{Return: new(true)}, err
}

func (s *Service) enableImage(ctx context.Context, call *awsapi.Call, req *ec2.EnableImageRequest) (*ec2.EnableImageResult, error) {
	err := s.changeImage(ctx, call, req.ImageId, func(img *cloud.Image) error {
		if img.State != cloud.ImageDisabled && img.State != cloud.ImageAvailable {
			return imageUnavailable(img)
		}
		img.State = cloud.ImageAvailable
		return nil
	})
	return &ec2.EnableImageResult{Return: new(true)}, err
}
