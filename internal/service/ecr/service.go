// Package ecr answers the Elastic Container Registry's API: repositories, images, layers, tokens and lifecycle policies.
//
// What it says and what package registry's other door, the registry protocol, says is one state. A registry is an account's: its id is the
// account's number, and another account's registry doesn't exist. Addresses in answers are those by which the client reached the
// endpoint. Repositories have no policies: there is nobody to let in.
package ecr

import (
	"context"
	"errors"
	"log/slog"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ecr"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Config is what the service works with.
type Config struct {
	Store    *store.Store
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Service answers from one registry.
type Service struct {
	store    *store.Store
	registry *registry.Registry
	log      *slog.Logger
}

// New returns the service.
func New(cfg Config) *Service { return &Service{cfg.Store, cfg.Registry, cfg.Logger} }

// Register adds the actions.
func (s *Service) Register(r *awsapi.Registry) {
	s.registerRepositories(r)
	s.registerImages(r)
	s.registerLayers(r)
	s.registerLifecycle(r)
	s.registerTags(r)
	r.Refuse(ecr.Service, func(action string) string {
		if action == "SetRepositoryPolicy" || action == "PutRegistryPolicy" {
			return "there are no policies of resources, and repositories are their account's alone"
		}
		return ""
	})
	awsapi.Handle(r, ecr.ActionGetAuthorizationToken, s.getAuthorizationToken, awsapi.Honours("RegistryIds"))
	awsapi.Handle(r, ecr.ActionDescribeRegistry, s.describeRegistry)
}

// exceptions are ECR's words for refusals. What is not among them is InvalidParameterException.
var exceptions = map[registry.Code]string{
	registry.NameUnknown:     "RepositoryNotFoundException",
	registry.NameTaken:       "RepositoryAlreadyExistsException",
	registry.NotEmpty:        "RepositoryNotEmptyException",
	registry.LimitExceeded:   "LimitExceededException",
	registry.BlobUnknown:     "LayersNotFoundException",
	registry.LayersUnknown:   "LayersNotFoundException",
	registry.ImagesUnknown:   "ReferencedImagesNotFoundException",
	registry.ManifestUnknown: "ImageNotFoundException",
	registry.TagImmutable:    "ImageTagAlreadyExistsException",
	registry.UploadUnknown:   "UploadNotFoundException",
	registry.RangeInvalid:    "InvalidLayerPartException",
}

// said says an error as ECR does.
func said(err error) error {
	var e *registry.Error
	switch {
	case errors.As(err, &e):
		if name, ok := exceptions[e.Code]; ok {
			return awsapi.Errorf(name, "%s", e.Message)
		}
		return invalid("%s", e.Message)
	case errors.Is(err, registry.ErrFull):
		return awsapi.Errorf("LimitExceededException", "%v", registry.ErrFull)
	case errors.Is(err, store.ErrContended), errors.Is(err, store.ErrFull):
		return awsapi.Errorf("Unavailable", "The registry can't be written now; try again.")
	}
	return err
}

func invalid(format string, args ...any) error {
	return awsapi.Errorf("InvalidParameterException", format, args...)
}

// own refuses a registry that isn't the caller's.
func own(call *awsapi.Call, id *string) error {
	if id != nil && *id != string(call.Account) {
		return invalid("The registry with id '%.20s' is not the caller's; that is '%s'", *id, call.Account)
	}
	return nil
}

// repository finds the one that a request names.
func (s *Service) repository(call *awsapi.Call, id, name *string) (*cloud.Repository, error) {
	if err := own(call, id); err != nil {
		return nil, err
	}
	repo, err := registry.Repository(s.store.View(), call.Account, deref(name))
	if err != nil {
		return nil, said(err)
	}
	return repo, nil
}

// change runs a transaction on a repository.
func (s *Service) change(ctx context.Context, call *awsapi.Call, id, name *string, fn func(*store.Tx, *cloud.Repository) error) (repo *cloud.Repository, err error) {
	if err := own(call, id); err != nil {
		return nil, err
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		if repo, err = registry.Repository(tx, call.Account, deref(name)); err != nil {
			return err
		}
		if err := fn(tx, repo); err != nil {
			return err
		}
		store.Put(tx, store.Repositories, repo)
		return nil
	})
	return repo, said(err)
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// optional is nil for the zero value.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
