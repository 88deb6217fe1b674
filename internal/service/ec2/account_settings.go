package ec2

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerAccountSettings(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionGetInstanceMetadataDefaults, s.getInstanceMetadataDefaults)
	awsapi.Handle(r, ec2.ActionModifyInstanceMetadataDefaults, s.modifyInstanceMetadataDefaults, awsapi.Honours("HttpEndpoint", "HttpPutResponseHopLimit", "HttpTokens", "InstanceMetadataTags"))
	awsapi.Handle(r, ec2.ActionGetSerialConsoleAccessStatus, s.getSerialConsoleAccessStatus)
	awsapi.Handle(r, ec2.ActionEnableSerialConsoleAccess, s.enableSerialConsoleAccess)
	awsapi.Handle(r, ec2.ActionDisableSerialConsoleAccess, s.disableSerialConsoleAccess)
}

// settingsOf is what an account has chosen.
func settingsOf(r store.Reader, account cloud.AccountID) *cloud.AccountSettings {
	if s, ok := store.Get(r, store.AccountSettings, account); ok {
		return s
	}
	return &cloud.AccountSettings{Account: account}
}

// changeSettings changes what the caller's account has chosen.
func (s *Service) changeSettings(ctx context.Context, call *awsapi.Call, change func(*cloud.AccountSettings)) error {
	return s.update(ctx, call, func(tx *store.Tx) error {
		chosen := settingsOf(tx, call.Account)
		change(chosen)
		store.Put(tx, store.AccountSettings, chosen)
		return nil
	})
}

func (s *Service) getInstanceMetadataDefaults(_ context.Context, call *awsapi.Call, _ *ec2.GetInstanceMetadataDefaultsRequest) (*ec2.GetInstanceMetadataDefaultsResult, error) {
	d := settingsOf(s.store.View(), call.Account).Metadata
	return &ec2.GetInstanceMetadataDefaultsResult{AccountLevel: &ec2.InstanceMetadataDefaultsResponse{HttpTokens: optional(d.Tokens), HttpEndpoint: optional(d.Endpoint),
		InstanceMetadataTags: optional(d.InstanceTags), HttpPutResponseHopLimit: optional(int64(d.HopLimit))}}, nil
}

// noPreference takes a choice back; for numbers it is -1.
const noPreference = "no-preference"

func (s *Service) modifyInstanceMetadataDefaults(ctx context.Context, call *awsapi.Call, req *ec2.ModifyInstanceMetadataDefaultsRequest) (*ec2.ModifyInstanceMetadataDefaultsResult, error) {
	if n := req.HttpPutResponseHopLimit; n != nil && *n != -1 && (*n < 1 || *n > 64) {
		return nil, awsapi.InvalidParameterValue("HttpPutResponseHopLimit must be from 1 to 64, or -1 for no preference")
	}
	err := s.changeSettings(ctx, call, func(chosen *cloud.AccountSettings) {
		d := &chosen.Metadata
		for _, choice := range []struct {
			at    *string
			given *string
		}{{&d.Tokens, req.HttpTokens}, {&d.Endpoint, req.HttpEndpoint}, {&d.InstanceTags, req.InstanceMetadataTags}} {
			switch {
			case choice.given == nil:
			case *choice.given == noPreference:
				*choice.at = ""
			default:
				*choice.at = *choice.given
			}
		}
		if n := req.HttpPutResponseHopLimit; n != nil {
			d.HopLimit = int(max(*n, 0))
		}
	})
	return &ec2.ModifyInstanceMetadataDefaultsResult{Return: new(true)}, err
}

func (s *Service) getSerialConsoleAccessStatus(_ context.Context, call *awsapi.Call, _ *ec2.GetSerialConsoleAccessStatusRequest) (*ec2.GetSerialConsoleAccessStatusResult, error) {
	return &ec2.GetSerialConsoleAccessStatusResult{SerialConsoleAccessEnabled: new(settingsOf(s.store.View(), call.Account).SerialConsole)}, nil
}

func (s *Service) enableSerialConsoleAccess(ctx context.Context, call *awsapi.Call, _ *ec2.EnableSerialConsoleAccessRequest) (*ec2.EnableSerialConsoleAccessResult, error) {
	err := s.changeSettings(ctx, call, func(chosen *cloud.AccountSettings) { chosen.SerialConsole = true })
	return &ec2.EnableSerialConsoleAccessResult{SerialConsoleAccessEnabled: new(true)}, err
}

func (s *Service) disableSerialConsoleAccess(ctx context.Context, call *awsapi.Call, _ *ec2.DisableSerialConsoleAccessRequest) (*ec2.DisableSerialConsoleAccessResult, error) {
	err := s.changeSettings(ctx, call, func(chosen *cloud.AccountSettings) { chosen.SerialConsole = false })
	return &ec2.DisableSerialConsoleAccessResult{SerialConsoleAccessEnabled: new(false)}, err
}
