// Package sts answers STS: who is calling. Sessions and roles come with identities; until then every caller is its
// account's root.
package sts

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/sts"
)

// Register adds the service's actions.
func Register(r *awsapi.Registry) {
	awsapi.Handle(r, sts.ActionGetCallerIdentity, callerIdentity)
}

func callerIdentity(_ context.Context, c *awsapi.Call, _ *sts.GetCallerIdentityRequest) (*sts.GetCallerIdentityResponse, error) {
	return &sts.GetCallerIdentityResponse{Account: new(string(c.Account)), Arn: &c.ARN, UserId: &c.UserID}, nil
}
