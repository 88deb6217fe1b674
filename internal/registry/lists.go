package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Tags lists the tags of a repository in their order, after the one that is named, n of them at most. more tells that there are more.
func (r *Registry) Tags(account cloud.AccountID, name, after string, n int) (list []string, more bool, err error) {
	view := r.cfg.Store.View()
	if _, err := Repository(view, account, name); err != nil {
		return nil, false, err
	}
	for _, t := range store.ListBy(view, store.RepositoryTagsByRepository, store.RepositoryOf(account, cloud.RepositoryName(name))) {
		list = append(list, t.Tag)
	}
	list, more = cut(list, after, n)
	return list, more, nil
}

// Names lists an account's repositories in the same way.
func (r *Registry) Names(account cloud.AccountID, after string, n int) (list []string, more bool) {
	for _, x := range store.ListBy(r.cfg.Store.View(), store.RepositoriesByAccount, account) {
		list = append(list, string(x.Name))
	}
	return cut(list, after, n)
}

func cut(list []string, after string, n int) (page []string, more bool) {
	slices.Sort(list)
	begin, found := slices.BinarySearch(list, after)
	if found {
		begin++
	}
	list = list[begin:]
	if len(list) > n {
		return list[:n], true
	}
	return append([]string{}, list...), false
}

// Referrers describes what is about an image, which need not be there, by digest: of one type of artifact, or all for "".
func (r *Registry) Referrers(ctx context.Context, account cloud.AccountID, name, subject, kind, after string, n int) (list []ocispec.Descriptor, more bool, err error) {
	d, err := soundDigest(subject)
	if err != nil {
		return nil, false, err
	}
	view := r.cfg.Store.View()
	if _, err := Repository(view, account, name); err != nil {
		return nil, false, err
	}
	found := slices.Clone(store.ListBy(view, store.RepositoryImagesBySubject, store.RepositoryImageOf(account, cloud.RepositoryName(name), string(d))))
	slices.SortFunc(found, func(a, b *cloud.RepositoryImage) int { return cmp.Compare(a.Digest, b.Digest) })
	list = []ocispec.Descriptor{}
	for _, img := range found {
		if kind != "" && img.ArtifactType != kind || img.Digest <= after {
			continue
		}
		if len(list) == n {
			return list, true, nil
		}
		b, err := r.small(ctx, digest.Digest(img.Digest))
		if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
			continue
		}
		var says struct {
			Annotations map[string]string `json:"annotations"`
		}
		if err == nil {
			err = json.Unmarshal(b, &says)
		}
		if err != nil {
			return nil, false, fmt.Errorf("read manifest %s of %s: %w", img.Digest, name, err)
		}
		list = append(list, ocispec.Descriptor{MediaType: img.MediaType, Digest: digest.Digest(img.Digest), Size: img.ManifestSize, ArtifactType: img.ArtifactType, Annotations: says.Annotations})
	}
	return list, false, nil
}
