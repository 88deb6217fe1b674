package ec2_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/store"
)

const volumeKeyID = "01234567-89ab-8cde-8f01-23456789abcd"

func (w *world) snapshotOf(volume string) *sdk.CreateSnapshotOutput {
	w.t.Helper()
	out, err := w.CreateSnapshot(w.t.Context(), &sdk.CreateSnapshotInput{VolumeId: &volume})
	if err != nil {
		w.t.Fatal(err)
	}
	w.settle()
	return out
}

func TestVolumesAreEncryptedByTheRegionsKey(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	def, err := w.GetEbsDefaultKmsKeyId(ctx, &sdk.GetEbsDefaultKmsKeyIdInput{})
	if err != nil || !strings.HasPrefix(*def.KmsKeyId, "arn:aws:kms:us-east-1:") || !strings.HasSuffix(*def.KmsKeyId, ":key/"+volumeKeyID) {
		t.Fatal(aws.ToString(def.KmsKeyId), err)
	}
	clear := w.volume(1)
	if v := w.describedVolume(clear); *v.Encrypted || v.KmsKeyId != nil {
		t.Errorf("one that nobody wants encrypted: %+v", v)
	}
	for _, key := range []*string{nil, def.KmsKeyId, aws.String(volumeKeyID), aws.String("alias/aws/ebs")} {
		id := w.volume(1, func(in *sdk.CreateVolumeInput) { in.Encrypted, in.KmsKeyId = aws.Bool(true), key })
		if v := w.describedVolume(id); !*v.Encrypted || aws.ToString(v.KmsKeyId) != *def.KmsKeyId {
			t.Errorf("with the key %s: %+v", aws.ToString(key), v)
		}
		snap := w.snapshotOf(id)
		if !*snap.Encrypted || aws.ToString(snap.KmsKeyId) != *def.KmsKeyId {
			t.Errorf("its snapshot: %+v", snap)
		}
		of := w.volume(1, func(in *sdk.CreateVolumeInput) { in.SnapshotId, in.Encrypted = snap.SnapshotId, aws.Bool(false) })
		if v := w.describedVolume(of); !*v.Encrypted {
			t.Error("a volume of it is not")
		}
		i := w.launch(mapped("/dev/sdf", &types.EbsBlockDevice{SnapshotId: snap.SnapshotId}))[0]
		if v := w.describedVolume(*extra(w.instance(*i.InstanceId))["/dev/sdf"].VolumeId); !*v.Encrypted {
			t.Error("a launch's volume of it is not")
		}
	}
	snap := w.snapshotOf(clear)
	if of := w.volume(1, func(in *sdk.CreateVolumeInput) { in.SnapshotId, in.Encrypted = snap.SnapshotId, aws.Bool(true) }); !*w.describedVolume(of).Encrypted {
		t.Error("an encrypted volume of a snapshot that is not")
	}
	if _, err := w.CopySnapshot(ctx, &sdk.CopySnapshotInput{SourceRegion: aws.String("us-east-1"), SourceSnapshotId: snap.SnapshotId, Encrypted: aws.Bool(true)}); err != nil {
		t.Error(err)
	}
	for is, count := range map[string]int{"true": 5, "false": 1} {
		out, err := w.DescribeSnapshots(ctx, &sdk.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: filterList("encrypted", is)})
		if err != nil || len(out.Snapshots) != count {
			t.Errorf("snapshots that are encrypted, %s: %d, %v", is, len(out.Snapshots), err)
		}
	}
	out, err := w.DescribeVolumes(ctx, &sdk.DescribeVolumesInput{Filters: filterList("encrypted", "true")})
	if err != nil || len(out.Volumes) != 13 {
		t.Errorf("%d encrypted volumes, %v", len(out.Volumes), err)
	}
}

func TestAnAccountHasAllItsVolumesEncrypted(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	snap := w.snapshotOf(w.volume(1))
	vm := w.vm()
	root := func(image string) bool { return *w.root(w.launch(ofImage(image))[0]).Encrypted }
	if root(vm) {
		t.Error("before")
	}
	for _, on := range []bool{true, false} {
		if on {
			if _, err := w.EnableEbsEncryptionByDefault(ctx, &sdk.EnableEbsEncryptionByDefaultInput{}); err != nil {
				t.Fatal(err)
			}
		} else if _, err := w.DisableEbsEncryptionByDefault(ctx, &sdk.DisableEbsEncryptionByDefaultInput{}); err != nil {
			t.Fatal(err)
		}
		if got, err := w.GetEbsEncryptionByDefault(ctx, &sdk.GetEbsEncryptionByDefaultInput{}); err != nil || *got.EbsEncryptionByDefault != on {
			t.Error(got, err)
		}
		if id := w.volume(1); *w.describedVolume(id).Encrypted != on {
			t.Errorf("by default %v: an empty volume", on)
		}
		if id := w.volume(1, func(in *sdk.CreateVolumeInput) { in.SnapshotId = snap.SnapshotId }); *w.describedVolume(id).Encrypted != on {
			t.Errorf("by default %v: a volume of a snapshot", on)
		}
		if root(vm) != on {
			t.Errorf("by default %v: a virtual machine's root", on)
		}
		if root(w.image) { // a layer, which says so
			t.Error("a container's root is encrypted")
		}
	}
}

func TestKeysThatThisCloudHasNotAreRefused(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	snap := w.snapshotOf(w.volume(1))
	w.unchanged(func() {
		for _, key := range []string{"k", "alias/mine", "arn:aws:kms:us-east-1:123456789012:key/" + volumeKeyID, "00000000-0000-0000-0000-000000000000"} {
			_, err := w.CreateVolume(ctx, &sdk.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), Encrypted: aws.Bool(true), KmsKeyId: &key})
			refused(t, err, "InvalidParameterValue", key)
			_, err = w.CopySnapshot(ctx, &sdk.CopySnapshotInput{SourceRegion: aws.String("us-east-1"), SourceSnapshotId: snap.SnapshotId, Encrypted: aws.Bool(true), KmsKeyId: &key})
			refused(t, err, "InvalidParameterValue", key)
			_, err = w.ModifyEbsDefaultKmsKeyId(ctx, &sdk.ModifyEbsDefaultKmsKeyIdInput{KmsKeyId: &key})
			refused(t, err, "InvalidParameterValue", "no KMS")
		}
		_, err := w.CreateVolume(ctx, &sdk.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), KmsKeyId: aws.String("alias/aws/ebs")})
		refused(t, err, "InvalidParameterDependency", "Encrypted")
		_, err = w.run(mapped("/dev/xvda", &types.EbsBlockDevice{Encrypted: aws.Bool(true)}))
		refused(t, err, "UnsupportedOperation", "containers")
	})
	for _, f := range []func() (*string, error){
		func() (*string, error) {
			out, err := w.ModifyEbsDefaultKmsKeyId(ctx, &sdk.ModifyEbsDefaultKmsKeyIdInput{KmsKeyId: aws.String("alias/aws/ebs")})
			return out.KmsKeyId, err
		},
		func() (*string, error) {
			out, err := w.ResetEbsDefaultKmsKeyId(ctx, &sdk.ResetEbsDefaultKmsKeyIdInput{})
			return out.KmsKeyId, err
		},
	} {
		if key, err := f(); err != nil || !strings.HasSuffix(*key, volumeKeyID) {
			t.Error(key, err)
		}
	}
	w.update(func(tx *store.Tx) {
		region, _ := store.Region(tx)
		region.VolumeKey = "" // as before the first start that made one
		store.Put(tx, store.Regions, region)
	})
	_, err := w.CreateVolume(ctx, &sdk.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), Encrypted: aws.Bool(true)})
	refused(t, err, "EncryptedVolumesNotSupported", "no key")
	_, err = w.EnableEbsEncryptionByDefault(ctx, &sdk.EnableEbsEncryptionByDefaultInput{})
	refused(t, err, "EncryptedVolumesNotSupported", "no key")
}
