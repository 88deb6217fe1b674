package registry

import (
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// LifecycleImages is what a lifecycle policy is to know of a repository's images.
func LifecycleImages(r store.Reader, repo *cloud.Repository) []cloud.LifecycleImage {
	key := store.RepositoryOf(repo.Account, repo.Name)
	tags := map[string][]string{}
	for _, t := range store.ListBy(r, store.RepositoryTagsByRepository, key) {
		tags[t.Digest] = append(tags[t.Digest], t.Tag)
	}
	var out []cloud.LifecycleImage
	for _, img := range store.ListBy(r, store.RepositoryImagesByRepository, key) {
		listed := len(store.ListBy(r, store.RepositoryIndexesByChild, store.RepositoryImageOf(img.Account, img.Repository, img.Digest))) > 0
		out = append(out, cloud.LifecycleImage{Digest: img.Digest, Tags: tags[img.Digest], Pushed: img.Pushed, Listed: listed})
	}
	return out
}
