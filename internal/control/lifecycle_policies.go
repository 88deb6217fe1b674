package control

import (
	"context"
	"fmt"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/store"
)

// evaluatedEvery is how exact it is noted when a policy that lets nothing expire was last acted on.
const evaluatedEvery = time.Hour

// expireImages removes what the lifecycle policies of repositories let expire.
func expireImages(ctx context.Context, s *store.Store, now time.Time) error {
	view := s.View()
	for _, repo := range store.List(view, store.Repositories) {
		if repo.Lifecycle == "" || len(expiring(view, repo, now)) == 0 && now.Sub(repo.Evaluated) < evaluatedEvery {
			continue
		}
		err := s.Update(ctx, func(tx *store.Tx) error {
			repo, ok := store.Get(tx, store.Repositories, store.RepositoryOf(repo.Account, repo.Name))
			if !ok || repo.Lifecycle == "" {
				return nil
			}
			for _, e := range expiring(tx, repo, now) {
				img, ok := store.Get(tx, store.RepositoryImages, store.RepositoryImageOf(repo.Account, repo.Name, e.Digest))
				if !ok {
					continue
				}
				if _, err := registry.RemoveImage(tx, img); err != nil {
					return err
				}
			}
			repo.Evaluated = now.UTC()
			store.Put(tx, store.Repositories, repo)
			return nil
		})
		if err != nil {
			return fmt.Errorf("expire images of the repository %s: %w", repo.Name, err)
		}
	}
	return nil
}

// expiring is what a repository's policy lets expire. A text that can't be read, which the API takes from nobody, lets nothing.
func expiring(r store.Reader, repo *cloud.Repository, now time.Time) []cloud.Expiry {
	policy, err := cloud.ParseLifecyclePolicy(repo.Lifecycle)
	if err != nil {
		return nil
	}
	return policy.Expire(registry.LifecycleImages(r, repo), now)
}
