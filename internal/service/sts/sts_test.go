package sts_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	gen "github.com/nacre-cloud/nacre/internal/awsapi/gen/sts"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/service/sts"
)

func TestACallerLearnsWhoItIs(t *testing.T) {
	registry := awsapi.NewRegistry(gen.Service)
	sts.Register(registry)
	keys := func(_ context.Context, id cloud.AccessKeyID) (string, awsapi.Identity, error) {
		return "secret", awsapi.Identity{Account: "123456789012", AccessKey: id, ARN: "arn:aws:iam::123456789012:root", UserID: "123456789012"}, nil
	}
	server := httptest.NewServer(&awsapi.Server{Registry: registry, Auth: &awsapi.Authenticator{Region: "us-east-1", Keys: keys, Now: time.Now},
		Logger: slog.New(slog.DiscardHandler)})
	defer server.Close()
	client := sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &server.URL, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATESTTESTTESTTEST", "secret", "")})
	out, err := client.GetCallerIdentity(t.Context(), &sdk.GetCallerIdentityInput{})
	if err != nil || *out.Account != "123456789012" || *out.Arn != "arn:aws:iam::123456789012:root" || *out.UserId != "123456789012" {
		t.Errorf("it is %+v, %v", out, err)
	}
}
