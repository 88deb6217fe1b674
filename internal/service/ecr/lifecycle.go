package ecr

import (
	"context"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ecr"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerLifecycle(r *awsapi.Registry) {
	awsapi.Handle(r, ecr.ActionPutLifecyclePolicy, s.putLifecyclePolicy, awsapi.Honours("RegistryId", "RepositoryName", "LifecyclePolicyText"))
	awsapi.Handle(r, ecr.ActionGetLifecyclePolicy, s.getLifecyclePolicy, awsapi.Honours("RegistryId", "RepositoryName"))
	awsapi.Handle(r, ecr.ActionDeleteLifecyclePolicy, s.deleteLifecyclePolicy, awsapi.Honours("RegistryId", "RepositoryName"))
	awsapi.Handle(r, ecr.ActionStartLifecyclePolicyPreview, s.startLifecyclePolicyPreview, awsapi.Honours("RegistryId", "RepositoryName", "LifecyclePolicyText"))
	awsapi.Handle(r, ecr.ActionGetLifecyclePolicyPreview, s.getLifecyclePolicyPreview, awsapi.Honours("RegistryId", "RepositoryName", "ImageIds", "Filter.TagStatus", "MaxResults", "NextToken"))
}

func validPolicy(text string) error {
	if _, err := cloud.ParseLifecyclePolicy(text); err != nil {
		return invalid("Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: 'Lifecycle policy validation failure: %v'", err)
	}
	return nil
}

func (s *Service) putLifecyclePolicy(ctx context.Context, call *awsapi.Call, req *ecr.PutLifecyclePolicyRequest) (*ecr.PutLifecyclePolicyResponse, error) {
	text := deref(req.LifecyclePolicyText)
	if err := validPolicy(text); err != nil {
		return nil, err
	}
	repo, err := s.change(ctx, call, req.RegistryId, req.RepositoryName, func(_ *store.Tx, repo *cloud.Repository) error {
		repo.Lifecycle, repo.Evaluated = text, time.Time{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecr.PutLifecyclePolicyResponse{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), LifecyclePolicyText: &text}, nil
}

func noLifecycle(repo *cloud.Repository) error {
	return awsapi.Errorf("LifecyclePolicyNotFoundException", "Lifecycle policy does not exist for the repository with name '%s' in the registry with id '%s'", repo.Name, repo.Account)
}

// evaluated is when a policy was last acted on, nil before it was.
func evaluated(repo *cloud.Repository) *time.Time {
	if repo.Evaluated.IsZero() {
		return nil
	}
	return &repo.Evaluated
}

func (s *Service) getLifecyclePolicy(_ context.Context, call *awsapi.Call, req *ecr.GetLifecyclePolicyRequest) (*ecr.GetLifecyclePolicyResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	if repo.Lifecycle == "" {
		return nil, noLifecycle(repo)
	}
	return &ecr.GetLifecyclePolicyResponse{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), LifecyclePolicyText: &repo.Lifecycle, LastEvaluatedAt: evaluated(repo)}, nil
}

func (s *Service) deleteLifecyclePolicy(ctx context.Context, call *awsapi.Call, req *ecr.DeleteLifecyclePolicyRequest) (*ecr.DeleteLifecyclePolicyResponse, error) {
	out := &ecr.DeleteLifecyclePolicyResponse{}
	_, err := s.change(ctx, call, req.RegistryId, req.RepositoryName, func(_ *store.Tx, repo *cloud.Repository) error {
		if repo.Lifecycle == "" {
			return noLifecycle(repo)
		}
		*out = ecr.DeleteLifecyclePolicyResponse{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), LifecyclePolicyText: new(repo.Lifecycle)}
		if !repo.Evaluated.IsZero() {
			out.LastEvaluatedAt = new(repo.Evaluated)
		}
		repo.Lifecycle, repo.Evaluated = "", time.Time{}
		return nil
	})
	return out, err
}

func (s *Service) startLifecyclePolicyPreview(ctx context.Context, call *awsapi.Call, req *ecr.StartLifecyclePolicyPreviewRequest) (*ecr.StartLifecyclePolicyPreviewResponse, error) {
	if req.LifecyclePolicyText != nil {
		if err := validPolicy(*req.LifecyclePolicyText); err != nil {
			return nil, err
		}
	}
	repo, err := s.change(ctx, call, req.RegistryId, req.RepositoryName, func(_ *store.Tx, repo *cloud.Repository) error {
		text := deref(req.LifecyclePolicyText)
		if text == "" {
			text = repo.Lifecycle
		}
		if text == "" {
			return noLifecycle(repo)
		}
		repo.Preview = text
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecr.StartLifecyclePolicyPreviewResponse{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), LifecyclePolicyText: &repo.Preview, Status: new(ecr.LifecyclePolicyPreviewStatusCOMPLETE)}, nil
}

// getLifecyclePolicyPreview tells what a policy would let expire now.
func (s *Service) getLifecyclePolicyPreview(_ context.Context, call *awsapi.Call, req *ecr.GetLifecyclePolicyPreviewRequest) (*ecr.GetLifecyclePolicyPreviewResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	if repo.Preview == "" {
		return nil, awsapi.Errorf("LifecyclePolicyPreviewNotFoundException", "Lifecycle policy preview does not exist for the repository with name '%s' in the registry with id '%s'", repo.Name, repo.Account)
	}
	policy, err := cloud.ParseLifecyclePolicy(repo.Preview)
	if err != nil {
		return nil, err
	}
	var status *string
	if req.Filter != nil {
		status = req.Filter.TagStatus
	}
	view := s.store.View()
	images, err := imagesOf(view, repo, status)
	if err != nil {
		return nil, err
	}
	shown := map[string]tagged{}
	for _, img := range images {
		shown[img.Digest] = img
	}
	wanted := map[string]bool{}
	for _, id := range req.ImageIds {
		img, _, code, reason, err := find(view, call.Account, string(repo.Name), id)
		if err != nil {
			return nil, err
		}
		if code != "" && code != ecr.ImageFailureCodeImageNotFound {
			return nil, invalid("%s", reason)
		}
		if img != nil {
			wanted[img.Digest] = true
		}
	}
	expiries := policy.Expire(registry.LifecycleImages(view, repo), call.Now)
	var list []ecr.LifecyclePolicyPreviewResult
	for _, e := range expiries {
		img, ok := shown[e.Digest]
		if !ok || len(req.ImageIds) > 0 && !wanted[e.Digest] {
			continue
		}
		list = append(list, ecr.LifecyclePolicyPreviewResult{ImageDigest: &img.Digest, ImageTags: img.tags, ImagePushedAt: &img.Pushed, AppliedRulePriority: new(int64(e.Rule)),
			Action: &ecr.LifecyclePolicyRuleAction{Type: new(ecr.ImageActionTypeEXPIRE)}})
	}
	key := func(r ecr.LifecyclePolicyPreviewResult) string { return *r.ImageDigest }
	slices.SortFunc(list, func(a, b ecr.LifecyclePolicyPreviewResult) int {
		if key(a) < key(b) {
			return -1
		}
		return 1
	})
	size, err := pageSize(req.MaxResults)
	if err != nil {
		return nil, err
	}
	page, err := awsapi.Paginate(list, key, size, req.NextToken, []any{repo.Name, repo.Preview, status})
	if err != nil {
		return nil, err
	}
	return &ecr.GetLifecyclePolicyPreviewResponse{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), LifecyclePolicyText: &repo.Preview,
		Status: new(ecr.LifecyclePolicyPreviewStatusCOMPLETE), PreviewResults: append([]ecr.LifecyclePolicyPreviewResult{}, page.Items...), NextToken: page.Next,
		Summary: &ecr.LifecyclePolicyPreviewSummary{ExpiringImageTotalCount: new(int64(len(expiries)))}}, nil
}
