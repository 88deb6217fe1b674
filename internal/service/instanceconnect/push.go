package instanceconnect

import (
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2instanceconnect"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// maxPushed is how many keys are let in to an instance's consoles at a time.
const maxPushed = 32

// Register adds the service's actions.
func (s *Service) Register(r *awsapi.Registry) {
	awsapi.Handle(r, ec2instanceconnect.ActionSendSerialConsoleSSHPublicKey, s.sendSerialConsoleSSHPublicKey, awsapi.Honours("InstanceId", "SSHPublicKey", "SerialPort"))
	awsapi.Handle(r, nacre.ActionGetConsoleHostKeys, s.getConsoleHostKeys)
}

// sendSerialConsoleSSHPublicKey lets a key in to an instance's consoles for a minute. The same key again begins a new one.
func (s *Service) sendSerialConsoleSSHPublicKey(ctx context.Context, call *awsapi.Call, req *ec2instanceconnect.SendSerialConsoleSSHPublicKeyRequest) (*ec2instanceconnect.SendSerialConsoleSSHPublicKeyResponse, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(*req.SSHPublicKey))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return nil, awsapi.Errorf("InvalidArgsException", "SSHPublicKey is not one public key in OpenSSH's form, without options.")
	}
	if !cloud.ValidID[cloud.InstanceID](*req.InstanceId) {
		return nil, awsapi.Errorf("InvalidArgsException", "InstanceId '%s' is not an instance's id.", *req.InstanceId)
	}
	id := cloud.InstanceID(*req.InstanceId)
	if s.full(id) {
		return nil, awsapi.Errorf("SerialConsoleSessionLimitExceededException", "%s has %d console sessions, which are the most; try again when one has ended.", id, maxSessions)
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		i, ok := store.Get(tx, store.Instances, id)
		if !ok || i.Account != call.Account || i.State == cloud.StateTerminated {
			return awsapi.Errorf("EC2InstanceNotFoundException", "The instance %s was not found.", id)
		}
		if settings, ok := store.Get(tx, store.AccountSettings, call.Account); !ok || !settings.SerialConsole {
			return awsapi.Errorf("SerialConsoleAccessDisabledException", "The account does not allow serial consoles. EnableSerialConsoleAccess allows them.")
		}
		if i.State != cloud.StateRunning {
			return awsapi.Errorf("EC2InstanceStateInvalidException", "The instance %s is %s; only running instances have consoles.", id, i.State)
		}
		valid := 0
		for _, k := range store.ListBy(tx, store.PushedKeysByInstance, id) {
			if k.Expires.After(call.Now) {
				valid++
			}
		}
		if valid >= maxPushed {
			return awsapi.Errorf("ThrottlingException", "%d keys were pushed for %s within the last minute, which are the most.", valid, id)
		}
		store.Put(tx, store.PushedKeys, &cloud.PushedKey{Instance: id, Account: call.Account, Key: authorizedForm(key), Expires: call.Now.Add(cloud.PushedKeyFor)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2instanceconnect.SendSerialConsoleSSHPublicKeyResponse{RequestId: &call.RequestID, Success: new(true)}, nil
}

func (s *Service) getConsoleHostKeys(ctx context.Context, _ *awsapi.Call, _ *nacre.GetConsoleHostKeysRequest) (*nacre.GetConsoleHostKeysResponse, error) {
	key, err := s.hostKey(ctx)
	if err != nil {
		return nil, err
	}
	return &nacre.GetConsoleHostKeysResponse{HostKeys: []string{authorizedForm(key.PublicKey())}}, nil
}
