package ecr

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/url"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ecr"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/registry/wire"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	// partSize is what a part should have, in bytes: as much as a call has room for in base64.
	partSize = 512 << 10
	// maxBatch bounds the layers and images of one call.
	maxBatch = 100
)

func (s *Service) registerLayers(r *awsapi.Registry) {
	awsapi.Handle(r, ecr.ActionBatchCheckLayerAvailability, s.batchCheckLayerAvailability, awsapi.Honours("RegistryId", "RepositoryName", "LayerDigests"))
	awsapi.Handle(r, ecr.ActionGetDownloadUrlForLayer, s.getDownloadURLForLayer, awsapi.Honours("RegistryId", "RepositoryName", "LayerDigest"))
	awsapi.Handle(r, ecr.ActionInitiateLayerUpload, s.initiateLayerUpload, awsapi.Honours("RegistryId", "RepositoryName"))
	awsapi.Handle(r, ecr.ActionUploadLayerPart, s.uploadLayerPart, awsapi.Honours("RegistryId", "RepositoryName", "UploadId", "PartFirstByte", "PartLastByte", "LayerPartBlob"))
	awsapi.Handle(r, ecr.ActionCompleteLayerUpload, s.completeLayerUpload, awsapi.Honours("RegistryId", "RepositoryName", "UploadId", "LayerDigests"))
}

func (s *Service) batchCheckLayerAvailability(_ context.Context, call *awsapi.Call, req *ecr.BatchCheckLayerAvailabilityRequest) (*ecr.BatchCheckLayerAvailabilityResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	if n := len(req.LayerDigests); n < 1 || n > maxBatch {
		return nil, invalid("Invalid parameter at 'layerDigests' failed to satisfy constraint: '1 to %d digests'", maxBatch)
	}
	out := &ecr.BatchCheckLayerAvailabilityResponse{Layers: []ecr.Layer{}, Failures: []ecr.LayerFailure{}}
	for _, d := range req.LayerDigests {
		l, err := s.registry.Layer(call.Account, string(repo.Name), d)
		switch registry.CodeOf(err) {
		case registry.DigestInvalid:
			out.Failures = append(out.Failures, ecr.LayerFailure{LayerDigest: &d, FailureCode: new(ecr.LayerFailureCodeInvalidLayerDigest), FailureReason: new(err.Error())})
		case registry.BlobUnknown:
			out.Layers = append(out.Layers, ecr.Layer{LayerDigest: &d, LayerAvailability: new(ecr.LayerAvailabilityUNAVAILABLE)})
		case "":
			out.Layers = append(out.Layers, ecr.Layer{LayerDigest: &d, LayerAvailability: new(ecr.LayerAvailabilityAVAILABLE), LayerSize: &l.Size})
		default:
			return nil, said(err)
		}
	}
	return out, nil
}

func (s *Service) getDownloadURLForLayer(_ context.Context, call *awsapi.Call, req *ecr.GetDownloadUrlForLayerRequest) (*ecr.GetDownloadUrlForLayerResponse, error) {
	if err := own(call, req.RegistryId); err != nil {
		return nil, err
	}
	l, err := s.registry.Layer(call.Account, deref(req.RepositoryName), deref(req.LayerDigest))
	if err != nil {
		return nil, said(err)
	}
	key, ok := store.Get(s.store.View(), store.AccessKeys, call.AccessKey)
	if !ok {
		return nil, fmt.Errorf("the key that signed the call is gone")
	}
	token := registry.NewToken(*key, call.Now.Add(registry.LinkFor), registry.DownloadScope(string(l.Repository), l.Digest))
	u := endpoint(call) + wire.Root + string(l.Repository) + "/blobs/" + l.Digest + "?token=" + url.QueryEscape(token)
	return &ecr.GetDownloadUrlForLayerResponse{LayerDigest: &l.Digest, DownloadUrl: &u}, nil
}

func (s *Service) initiateLayerUpload(ctx context.Context, call *awsapi.Call, req *ecr.InitiateLayerUploadRequest) (*ecr.InitiateLayerUploadResponse, error) {
	if err := own(call, req.RegistryId); err != nil {
		return nil, err
	}
	id := registry.NewUploadID(rand.Reader)
	if err := s.registry.BeginUpload(ctx, call.Account, deref(req.RepositoryName), id); err != nil {
		return nil, said(err)
	}
	return &ecr.InitiateLayerUploadResponse{UploadId: &id, PartSize: new(int64(partSize))}, nil
}

func (s *Service) uploadLayerPart(ctx context.Context, call *awsapi.Call, req *ecr.UploadLayerPartRequest) (*ecr.UploadLayerPartResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	first, last := deref(req.PartFirstByte), deref(req.PartLastByte)
	if first < 0 || last-first+1 != int64(len(req.LayerPartBlob)) {
		return nil, invalid("partFirstByte %d and partLastByte %d are not those of a part of %d bytes", first, last, len(req.LayerPartBlob))
	}
	at, err := s.registry.Append(ctx, call.Account, string(repo.Name), deref(req.UploadId), first, bytes.NewReader(req.LayerPartBlob))
	if err != nil {
		return nil, said(err)
	}
	return &ecr.UploadLayerPartResponse{RegistryId: new(string(repo.Account)), RepositoryName: new(string(repo.Name)), UploadId: req.UploadId, LastByteReceived: new(at - 1)}, nil
}

func (s *Service) completeLayerUpload(ctx context.Context, call *awsapi.Call, req *ecr.CompleteLayerUploadRequest) (*ecr.CompleteLayerUploadResponse, error) {
	repo, err := s.repository(call, req.RegistryId, req.RepositoryName)
	if err != nil {
		return nil, err
	}
	if len(req.LayerDigests) != 1 {
		return nil, invalid("Invalid parameter at 'layerDigests' failed to satisfy constraint: 'one digest, that of the layer's bytes'")
	}
	name, id := string(repo.Name), deref(req.UploadId)
	at, err := s.registry.UploadOffset(ctx, call.Account, name, id)
	if err != nil {
		return nil, said(err)
	}
	if at == 0 {
		return nil, awsapi.Errorf("EmptyUploadException", "The upload %s has no parts", id)
	}
	l, err := s.registry.Finish(ctx, call.Account, name, id, at, bytes.NewReader(nil), req.LayerDigests[0])
	if registry.CodeOf(err) == registry.DigestInvalid {
		return nil, awsapi.Errorf("InvalidLayerException", "%v", err)
	}
	if err != nil {
		return nil, said(err)
	}
	return &ecr.CompleteLayerUploadResponse{RegistryId: new(string(repo.Account)), RepositoryName: &name, UploadId: &id, LayerDigest: &l.Digest}, nil
}
