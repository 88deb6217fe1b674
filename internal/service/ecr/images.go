package ecr

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ecr"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerImages(r *awsapi.Registry) {
	awsapi.Handle(r, ecr.ActionPutImage, s.putImage, awsapi.Honours("RegistryId", "RepositoryName", "ImageManifest", "ImageManifestMediaType", "ImageTag", "ImageDigest"))
	awsapi.Handle(r, ecr.ActionBatchGetImage, s.batchGetImage, awsapi.Honours("RegistryId", "RepositoryName", "ImageIds", "AcceptedMediaTypes"))
	awsapi.Handle(r, ecr.ActionBatchDeleteImage, s.batchDeleteImage, awsapi.Honours("RegistryId", "RepositoryName", "ImageIds"))
	awsapi.Handle(r, ecr.ActionListImages, s.listImages, awsapi.Honours("RegistryId", "RepositoryName", "Filter.TagStatus", "MaxResults", "NextToken"))
	awsapi.Handle(r, ecr.ActionDescribeImages, s.describeImages, awsapi.Honours("RegistryId", "RepositoryName", "ImageIds", "Filter.TagStatus", "MaxResults", "NextToken"))
}

func (s *Service) putImage(ctx context.Context, call *awsapi.Call, req *ecr.PutImageRequest) (*ecr.PutImageResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	if req.ImageDigest != nil {
		if err := digest.Digest(*req.ImageDigest).Validate(); err != nil {
			return nil, invalid("Invalid parameter at 'imageDigest': %v", err)
		}
	}
	text := deref(req.ImageManifest)
	img, changed, err := s.registry.PutImage(ctx, call.Account, registry.Put{Repository: string(repo.Name), MediaType: deref(req.ImageManifestMediaType), Manifest: []byte(text),
		Tag: deref(req.ImageTag), Digest: digest.Digest(deref(req.ImageDigest))})
	switch {
	case registry.CodeOf(err) == registry.DigestInvalid:
		return nil, awsapi.Errorf("ImageDigestDoesNotMatchException", "%v", err)
	case err != nil:
		return nil, said(err)
	case !changed:
		return nil, awsapi.Errorf("ImageAlreadyExistsException", "Image with digest '%s' and tag '%s' already exists in the repository with name '%s' in registry with id '%s'", img.Digest, deref(req.ImageTag), repo.Name, repo.Account)
	}
	return &ecr.PutImageResponse{Image: &ecr.Image{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), ImageManifest: &text, ImageManifestMediaType: &img.MediaType,
		ImageId: &ecr.ImageIdentifier{ImageDigest: &img.Digest, ImageTag: req.ImageTag}}}, nil
}

// reference reads an image's identifier; a failure's code is "" when it is sound.
func reference(id ecr.ImageIdentifier) (ref registry.Reference, code, reason string) {
	switch {
	case id.ImageDigest == nil && id.ImageTag == nil:
		return ref, ecr.ImageFailureCodeMissingDigestAndTag, "Invalid request parameters: both tag and digest are missing"
	case id.ImageTag != nil && !cloud.ValidRepositoryTag(*id.ImageTag):
		return ref, ecr.ImageFailureCodeInvalidImageTag, "Invalid request parameters: the tag is none"
	case id.ImageTag != nil:
		return registry.Reference{Tag: *id.ImageTag}, "", ""
	}
	d := digest.Digest(*id.ImageDigest)
	if err := d.Validate(); err != nil {
		return ref, ecr.ImageFailureCodeInvalidImageDigest, "Invalid request parameters: " + err.Error()
	}
	return registry.Reference{Digest: d}, "", ""
}

func failure(id ecr.ImageIdentifier, code, reason string) ecr.ImageFailure {
	return ecr.ImageFailure{ImageId: &id, FailureCode: &code, FailureReason: &reason}
}

// find is the image of an identifier, whose tag and digest must be the same image's.
func find(r store.Reader, account cloud.AccountID, name string, id ecr.ImageIdentifier) (img *cloud.RepositoryImage, ref registry.Reference, code, reason string, err error) {
	if ref, code, reason = reference(id); code != "" {
		return nil, ref, code, reason, nil
	}
	img, err = registry.FindImage(r, account, name, ref)
	switch {
	case registry.CodeOf(err) == registry.ManifestUnknown:
		return nil, ref, ecr.ImageFailureCodeImageNotFound, "Requested image not found", nil
	case err != nil:
		return nil, ref, "", "", said(err)
	case id.ImageDigest != nil && *id.ImageDigest != img.Digest:
		return nil, ref, ecr.ImageFailureCodeImageTagDoesNotMatchDigest, "The tag is another image's than the digest", nil
	}
	return img, ref, "", "", nil
}

func batch(ids []ecr.ImageIdentifier) error {
	if len(ids) < 1 || len(ids) > maxBatch {
		return invalid("Invalid parameter at 'imageIds' failed to satisfy constraint: '1 to %d images'", maxBatch)
	}
	return nil
}

func (s *Service) batchGetImage(ctx context.Context, call *awsapi.Call, req *ecr.BatchGetImageRequest) (*ecr.BatchGetImageResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	if err := batch(req.ImageIds); err != nil {
		return nil, err
	}
	out := &ecr.BatchGetImageResponse{Images: []ecr.Image{}, Failures: []ecr.ImageFailure{}}
	for _, id := range req.ImageIds {
		img, _, code, reason, err := find(s.store.View(), call.Account, string(repo.Name), id)
		if err != nil {
			return nil, err
		}
		if code == "" && len(req.AcceptedMediaTypes) > 0 && !slices.Contains(req.AcceptedMediaTypes, img.MediaType) {
			code, reason = ecr.ImageFailureCodeImageNotFound, "The image's manifest is of the media type "+img.MediaType+", which is not among those that are accepted"
		}
		if code != "" {
			out.Failures = append(out.Failures, failure(id, code, reason))
			continue
		}
		img, b, err := s.registry.Manifest(ctx, call.Account, string(repo.Name), registry.Reference{Digest: digest.Digest(img.Digest)}, true)
		if err != nil {
			return nil, said(err)
		}
		out.Images = append(out.Images, ecr.Image{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), ImageManifest: new(string(b)), ImageManifestMediaType: &img.MediaType,
			ImageId: &ecr.ImageIdentifier{ImageDigest: &img.Digest, ImageTag: id.ImageTag}})
	}
	return out, nil
}

func (s *Service) batchDeleteImage(ctx context.Context, call *awsapi.Call, req *ecr.BatchDeleteImageRequest) (*ecr.BatchDeleteImageResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	if err := batch(req.ImageIds); err != nil {
		return nil, err
	}
	out := &ecr.BatchDeleteImageResponse{ImageIds: []ecr.ImageIdentifier{}, Failures: []ecr.ImageFailure{}}
	for _, id := range req.ImageIds {
		_, ref, code, reason, err := find(s.store.View(), call.Account, string(repo.Name), id)
		if err != nil {
			return nil, err
		}
		if code != "" {
			out.Failures = append(out.Failures, failure(id, code, reason))
			continue
		}
		img, tags, err := s.registry.DeleteImage(ctx, call.Account, string(repo.Name), ref, true)
		switch registry.CodeOf(err) {
		case registry.ManifestInUse:
			out.Failures = append(out.Failures, failure(id, ecr.ImageFailureCodeImageReferencedByManifestList, err.Error()))
			continue
		case registry.ManifestUnknown: // deleted meanwhile
			out.Failures = append(out.Failures, failure(id, ecr.ImageFailureCodeImageNotFound, "Requested image not found"))
			continue
		}
		if err != nil {
			return nil, said(err)
		}
		for _, t := range tags {
			out.ImageIds = append(out.ImageIds, ecr.ImageIdentifier{ImageDigest: &img.Digest, ImageTag: &t})
		}
		if len(tags) == 0 {
			out.ImageIds = append(out.ImageIds, ecr.ImageIdentifier{ImageDigest: &img.Digest})
		}
	}
	return out, nil
}

// tagged is an image with its tags, in their order.
type tagged struct {
	*cloud.RepositoryImage
	tags []string
}

// imagesOf lists a repository's images by digest: those with tags, those without, or all.
func imagesOf(r store.Reader, repo *cloud.Repository, status *string) ([]tagged, error) {
	switch deref(status) {
	case "", "ANY", "TAGGED", "UNTAGGED":
	default:
		return nil, invalid("Invalid parameter at 'tagStatus' failed to satisfy constraint: 'must be TAGGED, UNTAGGED or ANY'")
	}
	key := store.RepositoryOf(repo.Account, repo.Name)
	tags := map[string][]string{}
	for _, t := range store.ListBy(r, store.RepositoryTagsByRepository, key) {
		tags[t.Digest] = append(tags[t.Digest], t.Tag)
	}
	var list []tagged
	for _, img := range store.ListBy(r, store.RepositoryImagesByRepository, key) {
		has := tags[img.Digest]
		if s := deref(status); s == "TAGGED" && has == nil || s == "UNTAGGED" && has != nil {
			continue
		}
		slices.Sort(has)
		list = append(list, tagged{img, has})
	}
	slices.SortFunc(list, func(a, b tagged) int { return strings.Compare(a.Digest, b.Digest) })
	return list, nil
}

func (s *Service) listImages(_ context.Context, call *awsapi.Call, req *ecr.ListImagesRequest) (*ecr.ListImagesResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	var status *string
	if req.Filter != nil {
		status = req.Filter.TagStatus
	}
	images, err := imagesOf(s.store.View(), repo, status)
	if err != nil {
		return nil, err
	}
	var list []ecr.ImageIdentifier
	for _, img := range images {
		for _, t := range img.tags {
			list = append(list, ecr.ImageIdentifier{ImageDigest: &img.Digest, ImageTag: &t})
		}
		if len(img.tags) == 0 {
			list = append(list, ecr.ImageIdentifier{ImageDigest: &img.Digest})
		}
	}
	size, err := pageSize(req.MaxResults)
	if err != nil {
		return nil, err
	}
	page, err := awsapi.Paginate(list, func(id ecr.ImageIdentifier) string { return deref(id.ImageDigest) + " " + deref(id.ImageTag) }, size, req.NextToken, []any{repo.Name, status})
	if err != nil {
		return nil, err
	}
	return &ecr.ListImagesResponse{ImageIds: append([]ecr.ImageIdentifier{}, page.Items...), NextToken: page.Next}, nil
}

func (s *Service) describeImages(_ context.Context, call *awsapi.Call, req *ecr.DescribeImagesRequest) (*ecr.DescribeImagesResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	var status *string
	if req.Filter != nil {
		status = req.Filter.TagStatus
	}
	if len(req.ImageIds) > 0 && (req.MaxResults != nil || req.NextToken != nil || req.Filter != nil) {
		return nil, invalid("maxResults, nextToken and filter can't go with imageIds")
	}
	view := s.store.View()
	list, err := imagesOf(view, repo, status)
	if err != nil {
		return nil, err
	}
	if len(req.ImageIds) > 0 {
		if err := batch(req.ImageIds); err != nil {
			return nil, err
		}
		wanted := map[string]bool{}
		for _, id := range req.ImageIds {
			img, _, code, reason, err := find(view, call.Account, string(repo.Name), id)
			if err != nil {
				return nil, err
			}
			switch code {
			case "":
				wanted[img.Digest] = true
			case ecr.ImageFailureCodeImageNotFound, ecr.ImageFailureCodeImageTagDoesNotMatchDigest:
				return nil, awsapi.Errorf("ImageNotFoundException", "The image with imageId {imageDigest:'%s', imageTag:'%s'} does not exist within the repository with name '%s' in the registry with id '%s'",
					deref(id.ImageDigest), deref(id.ImageTag), repo.Name, repo.Account)
			default:
				return nil, invalid("%s", reason)
			}
		}
		list = slices.DeleteFunc(list, func(t tagged) bool { return !wanted[t.Digest] })
	}
	size, err := pageSize(req.MaxResults)
	if err != nil {
		return nil, err
	}
	page, err := awsapi.Paginate(list, func(t tagged) string { return t.Digest }, size, req.NextToken, []any{repo.Name, status})
	if err != nil {
		return nil, err
	}
	out := &ecr.DescribeImagesResponse{ImageDetails: []ecr.ImageDetail{}, NextToken: page.Next}
	for _, t := range page.Items {
		d := ecr.ImageDetail{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), ImageDigest: &t.Digest, ImageTags: t.tags, ImageSizeInBytes: &t.Size,
			ImagePushedAt: &t.Pushed, ImageManifestMediaType: &t.MediaType, ArtifactMediaType: optional(t.ArtifactType)}
		if !t.Pulled.IsZero() {
			d.LastRecordedPullTime = &t.Pulled
		}
		out.ImageDetails = append(out.ImageDetails, d)
	}
	return out, nil
}
