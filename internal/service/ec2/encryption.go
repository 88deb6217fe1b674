package ec2

import (
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Volumes are encrypted by one key, the region's, which has the form of a KMS key and is in no KMS: there is none yet.

func (s *Service) registerEncryption(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionEnableEbsEncryptionByDefault, s.enableEbsEncryptionByDefault)
	awsapi.Handle(r, ec2.ActionDisableEbsEncryptionByDefault, s.disableEbsEncryptionByDefault)
	awsapi.Handle(r, ec2.ActionGetEbsEncryptionByDefault, s.getEbsEncryptionByDefault)
	awsapi.Handle(r, ec2.ActionGetEbsDefaultKmsKeyId, s.getEbsDefaultKmsKeyID)
	awsapi.Handle(r, ec2.ActionModifyEbsDefaultKmsKeyId, s.modifyEbsDefaultKmsKeyID, awsapi.Honours("KmsKeyId"))
	awsapi.Handle(r, ec2.ActionResetEbsDefaultKmsKeyId, s.resetEbsDefaultKmsKeyID)
}

// encryption is what a call says of it.
type encryption struct {
	asked bool
	key   string // "" for the region's
}

// parseEncryption reads a call's Encrypted and KmsKeyId.
func parseEncryption(encrypted *bool, key *string) (encryption, error) {
	if key != nil && !deref(encrypted) {
		return encryption{}, awsapi.Errorf("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	}
	return encryption{asked: deref(encrypted), key: deref(key)}, nil
}

// settle finds whether what a call makes is encrypted: because it says so, because what it is made of is, or because the account has all encrypted.
func (e encryption) settle(r store.Reader, account cloud.AccountID, of bool) (bool, error) {
	if e.key != "" {
		if _, err := volumeKey(r, account, e.key); err != nil {
			return false, err
		}
	}
	if !e.asked && !of && !settingsOf(r, account).EncryptVolumes {
		return false, nil
	}
	_, err := volumeKey(r, account, "")
	return true, err
}

// volumeKey is the ARN of the region's key as an account sees it. called is what the caller calls it, "" for not at all.
func volumeKey(r store.Reader, account cloud.AccountID, called string) (string, error) {
	region, ok := store.Region(r)
	if !ok || region.VolumeKey == "" {
		return "", awsapi.Errorf("EncryptedVolumesNotSupported", "This cloud has no key for encrypted volumes; its next start makes one.")
	}
	arn, alias := region.VolumeKeyARN(account), "alias/aws/ebs"
	if called != "" && !slices.Contains([]string{arn, region.VolumeKey, alias, region.KMSARN(account, alias)}, called) {
		return "", awsapi.InvalidParameterValue("The key '%s' does not exist: this cloud has no KMS, and one key for volumes, %s.", called, arn)
	}
	return arn, nil
}

// keyOf is what is shown as the key of something, nil for what is not encrypted.
func keyOf(r store.Reader, account cloud.AccountID, encrypted bool) *string {
	region, ok := store.Region(r)
	if !encrypted || !ok {
		return nil
	}
	return new(region.VolumeKeyARN(account))
}

func (s *Service) enableEbsEncryptionByDefault(ctx context.Context, call *awsapi.Call, _ *ec2.EnableEbsEncryptionByDefaultRequest) (*ec2.EnableEbsEncryptionByDefaultResult, error) {
	if _, err := volumeKey(s.store.View(), call.Account, ""); err != nil {
		return nil, err
	}
	err := s.changeSettings(ctx, call, func(chosen *cloud.AccountSettings) { chosen.EncryptVolumes = true })
	return &ec2.EnableEbsEncryptionByDefaultResult{EbsEncryptionByDefault: new(true)}, err
}

func (s *Service) disableEbsEncryptionByDefault(ctx context.Context, call *awsapi.Call, _ *ec2.DisableEbsEncryptionByDefaultRequest) (*ec2.DisableEbsEncryptionByDefaultResult, error) {
	err := s.changeSettings(ctx, call, func(chosen *cloud.AccountSettings) { chosen.EncryptVolumes = false })
	return &ec2.DisableEbsEncryptionByDefaultResult{EbsEncryptionByDefault: new(false)}, err
}

func (s *Service) getEbsEncryptionByDefault(_ context.Context, call *awsapi.Call, _ *ec2.GetEbsEncryptionByDefaultRequest) (*ec2.GetEbsEncryptionByDefaultResult, error) {
	return &ec2.GetEbsEncryptionByDefaultResult{EbsEncryptionByDefault: new(settingsOf(s.store.View(), call.Account).EncryptVolumes)}, nil
}

func (s *Service) getEbsDefaultKmsKeyID(_ context.Context, call *awsapi.Call, _ *ec2.GetEbsDefaultKmsKeyIdRequest) (*ec2.GetEbsDefaultKmsKeyIdResult, error) {
	arn, err := volumeKey(s.store.View(), call.Account, "")
	return &ec2.GetEbsDefaultKmsKeyIdResult{KmsKeyId: &arn}, err
}

// modifyEbsDefaultKmsKeyID takes the region's key, which is the default already, and no other.
func (s *Service) modifyEbsDefaultKmsKeyID(ctx context.Context, call *awsapi.Call, req *ec2.ModifyEbsDefaultKmsKeyIdRequest) (*ec2.ModifyEbsDefaultKmsKeyIdResult, error) {
	if deref(req.KmsKeyId) == "" {
		return nil, awsapi.MissingParameter("KmsKeyId")
	}
	var arn string
	err := s.update(ctx, call, func(tx *store.Tx) (err error) {
		arn, err = volumeKey(tx, call.Account, *req.KmsKeyId)
		return err
	})
	return &ec2.ModifyEbsDefaultKmsKeyIdResult{KmsKeyId: &arn}, err
}

func (s *Service) resetEbsDefaultKmsKeyID(ctx context.Context, call *awsapi.Call, _ *ec2.ResetEbsDefaultKmsKeyIdRequest) (*ec2.ResetEbsDefaultKmsKeyIdResult, error) {
	var arn string
	err := s.update(ctx, call, func(tx *store.Tx) (err error) {
		arn, err = volumeKey(tx, call.Account, "")
		return err
	})
	return &ec2.ResetEbsDefaultKmsKeyIdResult{KmsKeyId: &arn}, err
}
