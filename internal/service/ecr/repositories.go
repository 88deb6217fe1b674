package ecr

import (
	"cmp"
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ecr"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	defaultPage = 100
	maxPage     = 1000
)

func (s *Service) registerRepositories(r *awsapi.Registry) {
	awsapi.Handle(r, ecr.ActionCreateRepository, s.createRepository, awsapi.Honours("RegistryId", "RepositoryName", "ImageTagMutability", "ImageScanningConfiguration.ScanOnPush", "Tags"))
	awsapi.Handle(r, ecr.ActionDescribeRepositories, s.describeRepositories, awsapi.Honours("RegistryId", "RepositoryNames", "MaxResults", "NextToken"))
	awsapi.Handle(r, ecr.ActionDeleteRepository, s.deleteRepository, awsapi.Honours("RegistryId", "RepositoryName", "Force"))
	awsapi.Handle(r, ecr.ActionPutImageTagMutability, s.putImageTagMutability, awsapi.Honours("RegistryId", "RepositoryName", "ImageTagMutability"))
	awsapi.Handle(r, ecr.ActionGetRepositoryPolicy, s.getRepositoryPolicy, awsapi.Honours("RegistryId", "RepositoryName"))
	awsapi.Handle(r, ecr.ActionDeleteRepositoryPolicy, s.deleteRepositoryPolicy, awsapi.Honours("RegistryId", "RepositoryName"))
}

// shape is a repository as ECR shows it.
func shape(call *awsapi.Call, repo *cloud.Repository) *ecr.Repository {
	return &ecr.Repository{RepositoryArn: new(arn(call, repo)), RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)),
		RepositoryUri: new(call.Host + "/" + string(repo.Name)), CreatedAt: &repo.Created, ImageTagMutability: new(mutability(repo)),
		ImageScanningConfiguration: &ecr.ImageScanningConfiguration{ScanOnPush: new(false)}}
}

func mutability(repo *cloud.Repository) string {
	if repo.Immutable {
		return ecr.ImageTagMutabilityIMMUTABLE
	}
	return ecr.ImageTagMutabilityMUTABLE
}

// immutable reads ImageTagMutability; "" is mutable.
func immutable(word string) (bool, error) {
	switch word {
	case "", ecr.ImageTagMutabilityMUTABLE:
		return false, nil
	case ecr.ImageTagMutabilityIMMUTABLE:
		return true, nil
	}
	return false, invalid("Invalid parameter at 'imageTagMutability' failed to satisfy constraint: 'must be MUTABLE or IMMUTABLE'")
}

func (s *Service) createRepository(ctx context.Context, call *awsapi.Call, req *ecr.CreateRepositoryRequest) (*ecr.CreateRepositoryResponse, error) {
	if err := own(call, req.RegistryId); err != nil {
		return nil, err
	}
	if c := req.ImageScanningConfiguration; c != nil && deref(c.ScanOnPush) {
		return nil, awsapi.Unsupported("Images are not scanned by this cloud: scanOnPush can only be false.")
	}
	keep, err := immutable(deref(req.ImageTagMutability))
	if err != nil {
		return nil, err
	}
	tags, err := withTags(nil, req.Tags)
	if err != nil {
		return nil, err
	}
	repo := &cloud.Repository{Account: call.Account, Name: cloud.RepositoryName(deref(req.RepositoryName)), Immutable: keep, Tags: tags, Created: call.Now}
	if err := s.registry.CreateRepository(ctx, repo); err != nil {
		return nil, said(err)
	}
	return &ecr.CreateRepositoryResponse{Repository: shape(call, repo)}, nil
}

func (s *Service) describeRepositories(_ context.Context, call *awsapi.Call, req *ecr.DescribeRepositoriesRequest) (*ecr.DescribeRepositoriesResponse, error) {
	if err := own(call, req.RegistryId); err != nil {
		return nil, err
	}
	if len(req.RepositoryNames) > 0 && (req.MaxResults != nil || req.NextToken != nil) {
		return nil, invalid("maxResults and nextToken can't go with repositoryNames")
	}
	view := s.store.View()
	var list []*cloud.Repository
	for _, name := range req.RepositoryNames {
		repo, err := registry.Repository(view, call.Account, name)
		if err != nil {
			return nil, said(err)
		}
		list = append(list, repo)
	}
	if len(req.RepositoryNames) == 0 {
		list = slices.Clone(store.ListBy(view, store.RepositoriesByAccount, call.Account))
		slices.SortFunc(list, func(a, b *cloud.Repository) int { return cmp.Compare(a.Name, b.Name) })
	}
	size, err := pageSize(req.MaxResults)
	if err != nil {
		return nil, err
	}
	page, err := awsapi.Paginate(list, func(r *cloud.Repository) string { return string(r.Name) }, size, req.NextToken, "repositories")
	if err != nil {
		return nil, err
	}
	out := &ecr.DescribeRepositoriesResponse{Repositories: []ecr.Repository{}, NextToken: page.Next}
	for _, repo := range page.Items {
		out.Repositories = append(out.Repositories, *shape(call, repo))
	}
	return out, nil
}

// pageSize is how many a page has: 100, or as many as are asked for, 1 to 1000.
func pageSize(asked *int64) (*int64, error) {
	if asked == nil {
		return new(int64(defaultPage)), nil
	}
	if *asked < 1 || *asked > maxPage {
		return nil, invalid("Invalid parameter at 'maxResults' failed to satisfy constraint: 'must be 1 to %d'", maxPage)
	}
	return asked, nil
}

func (s *Service) deleteRepository(ctx context.Context, call *awsapi.Call, req *ecr.DeleteRepositoryRequest) (*ecr.DeleteRepositoryResponse, error) {
	if err := own(call, req.RegistryId); err != nil {
		return nil, err
	}
	repo, err := s.registry.DeleteRepository(ctx, call.Account, deref(req.RepositoryName), deref(req.Force))
	if err != nil {
		return nil, said(err)
	}
	return &ecr.DeleteRepositoryResponse{Repository: shape(call, repo)}, nil
}

func (s *Service) putImageTagMutability(ctx context.Context, call *awsapi.Call, req *ecr.PutImageTagMutabilityRequest) (*ecr.PutImageTagMutabilityResponse, error) {
	keep, err := immutable(deref(req.ImageTagMutability))
	if err != nil {
		return nil, err
	}
	repo, err := s.change(ctx, call, req.RegistryId, req.RepositoryName, func(_ *store.Tx, repo *cloud.Repository) error {
		repo.Immutable = keep
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecr.PutImageTagMutabilityResponse{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), ImageTagMutability: new(mutability(repo))}, nil
}

func (s *Service) getRepositoryPolicy(_ context.Context, call *awsapi.Call, req *ecr.GetRepositoryPolicyRequest) (*ecr.GetRepositoryPolicyResponse, error) {
	return nil, s.noPolicy(call, req.RegistryId, req.RepositoryName)
}

func (s *Service) deleteRepositoryPolicy(_ context.Context, call *awsapi.Call, req *ecr.DeleteRepositoryPolicyRequest) (*ecr.DeleteRepositoryPolicyResponse, error) {
	return nil, s.noPolicy(call, req.RegistryId, req.RepositoryName)
}

// noPolicy is what there is to say of any repository's policy.
func (s *Service) noPolicy(call *awsapi.Call, id, name *string) error {
	repo, err := s.repository(call, id, name)
	if err != nil {
		return err
	}
	return awsapi.Errorf("RepositoryPolicyNotFoundException", "Repository policy does not exist for the repository with name '%s' in the registry with id '%s'", repo.Name, repo.Account)
}
