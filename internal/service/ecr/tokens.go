package ecr

import (
	"context"
	"encoding/base64"
	"errors"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ecr"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/store"
)

// getAuthorizationToken makes what `aws ecr get-login-password` prints the password of.
func (s *Service) getAuthorizationToken(_ context.Context, call *awsapi.Call, req *ecr.GetAuthorizationTokenRequest) (*ecr.GetAuthorizationTokenResponse, error) {
	for _, id := range req.RegistryIds {
		if err := own(call, &id); err != nil {
			return nil, err
		}
	}
	key, ok := store.Get(s.store.View(), store.AccessKeys, call.AccessKey)
	if !ok {
		return nil, errors.New("the key that signed the call is gone")
	}
	until := call.Now.Add(registry.TokenFor)
	token := base64.StdEncoding.EncodeToString([]byte(registry.TokenUser + ":" + registry.NewToken(*key, until, "")))
	return &ecr.GetAuthorizationTokenResponse{AuthorizationData: []ecr.AuthorizationData{{AuthorizationToken: &token, ExpiresAt: &until, ProxyEndpoint: new(endpoint(call))}}}, nil
}

// endpoint is the registry's address as the client knows it.
func endpoint(call *awsapi.Call) string { return "http://" + call.Host }

func (s *Service) describeRegistry(_ context.Context, call *awsapi.Call, _ *ecr.DescribeRegistryRequest) (*ecr.DescribeRegistryResponse, error) {
	return &ecr.DescribeRegistryResponse{RegistryId: new(string(call.Account)), ReplicationConfiguration: &ecr.ReplicationConfiguration{Rules: []ecr.ReplicationRule{}}}, nil
}
