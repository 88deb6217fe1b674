package registry

import (
	"context"
	"errors"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// CreateRepository makes one.
func (r *Registry) CreateRepository(ctx context.Context, repo *cloud.Repository) error {
	if !cloud.ValidRepositoryName(string(repo.Name)) {
		return refuse(NameInvalid, "'%.300s' is no name of a repository: 2 to %d characters, parts of lower-case letters and digits with single dots, hyphens and underscores in between, joined by slashes", repo.Name, cloud.MaxRepositoryName)
	}
	return r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if n := len(store.ListBy(tx.View(), store.RepositoriesByAccount, repo.Account)); n >= cloud.MaxRepositories {
			return refuse(LimitExceeded, "The registry has %d repositories, the most that one can have", n)
		}
		err := store.Insert(tx, store.Repositories, repo)
		if errors.Is(err, store.ErrExists) {
			return refuse(NameTaken, "The repository with name '%s' already exists in the registry with id '%s'", repo.Name, repo.Account)
		}
		return err
	})
}

// DeleteRepository removes one, with what it holds when force is set.
func (r *Registry) DeleteRepository(ctx context.Context, account cloud.AccountID, name string, force bool) (repo *cloud.Repository, err error) {
	err = r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if repo, err = Repository(tx, account, name); err != nil {
			return err
		}
		key := store.RepositoryOf(account, repo.Name)
		// Not by the view: what is pushed meanwhile must not be left without its repository.
		images := store.ListBy(tx, store.RepositoryImagesByRepository, key)
		if len(images) > 0 && !force {
			return refuse(NotEmpty, "The repository with name '%s' in registry with id '%s' cannot be deleted because it still contains images", name, account)
		}
		for _, img := range images {
			store.Delete(tx, store.RepositoryImages, store.RepositoryImageOf(account, repo.Name, img.Digest))
		}
		for _, t := range store.ListBy(tx, store.RepositoryTagsByRepository, key) {
			store.Delete(tx, store.RepositoryTags, store.RepositoryTagOf(account, repo.Name, t.Tag))
		}
		for _, l := range store.ListBy(tx, store.RepositoryLayersByRepository, key) {
			store.Delete(tx, store.RepositoryLayers, store.RepositoryLayerOf(account, repo.Name, l.Digest))
		}
		store.Delete(tx, store.Repositories, key)
		return nil
	})
	return repo, err
}
