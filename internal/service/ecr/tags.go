package ecr

import (
	"context"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ecr"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerTags(r *awsapi.Registry) {
	awsapi.Handle(r, ecr.ActionTagResource, s.tagResource, awsapi.Honours("ResourceArn", "Tags"))
	awsapi.Handle(r, ecr.ActionUntagResource, s.untagResource, awsapi.Honours("ResourceArn", "TagKeys"))
	awsapi.Handle(r, ecr.ActionListTagsForResource, s.listTagsForResource, awsapi.Honours("ResourceArn"))
}

func arnBefore(call *awsapi.Call, account cloud.AccountID) string {
	return "arn:aws:ecr:" + call.Region + ":" + string(account) + ":repository/"
}

func arn(call *awsapi.Call, repo *cloud.Repository) string {
	return arnBefore(call, repo.Account) + string(repo.Name)
}

// named is the repository that an ARN names.
func named(call *awsapi.Call, text *string) (*string, error) {
	name, ok := strings.CutPrefix(deref(text), arnBefore(call, call.Account))
	if !ok {
		return nil, invalid("Invalid parameter at 'resourceArn' failed to satisfy constraint: 'must be an ARN such as %sNAME'", arnBefore(call, call.Account))
	}
	return &name, nil
}

// withTags is tags with more, all of them valid.
func withTags(tags cloud.Tags, more []ecr.Tag) (cloud.Tags, error) {
	out := maps.Clone(tags)
	if out == nil {
		out = cloud.Tags{}
	}
	for _, t := range more {
		key, value := deref(t.Key), deref(t.Value)
		switch {
		case key == "" || !utf8.ValidString(key+value) || utf8.RuneCountInString(key) > cloud.MaxTagKeyLength || utf8.RuneCountInString(value) > cloud.MaxTagValueLength:
			return nil, awsapi.Errorf("InvalidTagParameterException", "A tag has a key of 1 to %d characters and a value of at most %d", cloud.MaxTagKeyLength, cloud.MaxTagValueLength)
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return nil, awsapi.Errorf("InvalidTagParameterException", "Keys of tags that begin with 'aws:' are reserved")
		}
		out[key] = value
	}
	if len(out) > cloud.MaxTagsPerResource {
		return nil, awsapi.Errorf("TooManyTagsException", "A repository has %d tags at most", cloud.MaxTagsPerResource)
	}
	return out, nil
}

func (s *Service) tagResource(ctx context.Context, call *awsapi.Call, req *ecr.TagResourceRequest) (*ecr.TagResourceResponse, error) {
	name, err := named(call, req.ResourceArn)
	if err != nil {
		return nil, err
	}
	_, err = s.change(ctx, call, nil, name, func(_ *store.Tx, repo *cloud.Repository) (err error) {
		repo.Tags, err = withTags(repo.Tags, req.Tags)
		return err
	})
	return &ecr.TagResourceResponse{}, err
}

func (s *Service) untagResource(ctx context.Context, call *awsapi.Call, req *ecr.UntagResourceRequest) (*ecr.UntagResourceResponse, error) {
	name, err := named(call, req.ResourceArn)
	if err != nil {
		return nil, err
	}
	_, err = s.change(ctx, call, nil, name, func(_ *store.Tx, repo *cloud.Repository) error {
		for _, key := range req.TagKeys {
			delete(repo.Tags, key)
		}
		return nil
	})
	return &ecr.UntagResourceResponse{}, err
}

func (s *Service) listTagsForResource(_ context.Context, call *awsapi.Call, req *ecr.ListTagsForResourceRequest) (*ecr.ListTagsForResourceResponse, error) {
	name, err := named(call, req.ResourceArn)
	if err != nil {
		return nil, err
	}
	repo, err := s.repository(call, nil, name)
	if err != nil {
		return nil, err
	}
	out := &ecr.ListTagsForResourceResponse{Tags: []ecr.Tag{}}
	for _, key := range slices.Sorted(maps.Keys(repo.Tags)) {
		out.Tags = append(out.Tags, ecr.Tag{Key: &key, Value: new(repo.Tags[key])})
	}
	return out, nil
}
