package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// pulledEvery is how exact the time of the last pull is.
const pulledEvery = 24 * time.Hour

// Put is a manifest to be kept.
type Put struct {
	Repository string
	MediaType  string // as it was sent, "" for what the manifest says
	Manifest   []byte
	Tag        string        // "" for none
	Digest     digest.Digest // that it must have, "" for its sha256
}

// PutImage keeps a manifest whose layers are in the repository, and gives it the tag. The same again changes nothing, which changed tells.
func (r *Registry) PutImage(ctx context.Context, account cloud.AccountID, p Put) (img cloud.RepositoryImage, changed bool, err error) {
	m, err := parseManifest(p.MediaType, p.Manifest)
	if err != nil {
		return img, false, err
	}
	d := digest.FromBytes(p.Manifest)
	if p.Digest != "" {
		if d = p.Digest.Algorithm().FromBytes(p.Manifest); d != p.Digest {
			return img, false, refuse(DigestInvalid, "The manifest has the digest %s and was sent as %s", d, p.Digest)
		}
	}
	name := cloud.RepositoryName(p.Repository)
	img = cloud.RepositoryImage{Account: account, Repository: name, Digest: string(d), MediaType: m.mediaType, ArtifactType: m.artifactType,
		ManifestSize: int64(len(p.Manifest)), Layers: digests(m.layers), Children: digests(m.children), Subject: string(m.subject), Pushed: r.cfg.Now().UTC()}
	// Before anything is written for it: whoever has no repository keeps nothing.
	if _, err := Repository(r.cfg.Store.View(), account, p.Repository); err != nil {
		return img, false, err
	}
	r.links.RLock()
	defer r.links.RUnlock()
	if err := r.cfg.Blobs.Put(ctx, d, p.Manifest); err != nil {
		return img, false, fmt.Errorf("keep manifest %s of %s: %w", d, p.Repository, err)
	}
	err = r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		changed = false
		repo, err := Repository(tx, account, p.Repository)
		if err != nil {
			return err
		}
		if img.Size, err = weigh(tx, account, name, m); err != nil {
			return err
		}
		if old, ok := store.Get(tx, store.RepositoryImages, store.RepositoryImageOf(account, name, img.Digest)); ok {
			img.Pushed, img.Pulled = old.Pushed, old.Pulled
		} else {
			changed = true
			if n := len(store.ListBy(tx.View(), store.RepositoryImagesByRepository, store.RepositoryOf(account, name))); n >= cloud.MaxImagesStored {
				return refuse(LimitExceeded, "The repository %s has %d images, the most that one can have", name, n)
			}
		}
		store.Put(tx, store.RepositoryImages, &img)
		if p.Tag == "" {
			return nil
		}
		moved, err := tagImage(tx, repo, p.Tag, img.Digest)
		changed = changed || moved
		return err
	})
	return img, changed, err
}

// weigh adds up what a manifest needs, all of which must be in the repository.
func weigh(tx *store.Tx, account cloud.AccountID, name cloud.RepositoryName, m manifest) (size int64, err error) {
	for _, d := range m.layers {
		l, ok := store.Get(tx, store.RepositoryLayers, store.RepositoryLayerOf(account, name, string(d.Digest)))
		if !ok {
			return 0, refuse(LayersUnknown, "The layer %s that the manifest refers to is not in the repository %s; push it first", d.Digest, name)
		}
		if l.Size != d.Size {
			return 0, refuse(ManifestInvalid, "The manifest says that %s has %d bytes; it has %d", d.Digest, d.Size, l.Size)
		}
		size += l.Size
	}
	for _, d := range m.children {
		if _, ok := store.Get(tx, store.RepositoryImages, store.RepositoryImageOf(account, name, string(d.Digest))); !ok {
			return 0, refuse(ImagesUnknown, "The image %s that the index lists is not in the repository %s; push it first", d.Digest, name)
		}
	}
	return size, nil
}

// tagImage gives an image a tag, and tells whether it had it not.
func tagImage(tx *store.Tx, repo *cloud.Repository, tag, digest string) (bool, error) {
	if !cloud.ValidRepositoryTag(tag) {
		return false, refuse(TagInvalid, "%.200q is no tag", tag)
	}
	if t, ok := store.Get(tx, store.RepositoryTags, store.RepositoryTagOf(repo.Account, repo.Name, tag)); ok {
		if t.Digest == digest {
			return false, nil
		}
		if repo.Immutable {
			return false, refuse(TagImmutable, "The image tag '%s' already exists in the '%s' repository and cannot be overwritten because the tag is immutable.", tag, repo.Name)
		}
	}
	if n := len(store.ListBy(tx.View(), store.RepositoryTagsByImage, store.RepositoryImageOf(repo.Account, repo.Name, digest))); n >= cloud.MaxTagsOfImage {
		return false, refuse(LimitExceeded, "The image %s has %d tags, the most that one can have", digest, n)
	}
	store.Put(tx, store.RepositoryTags, &cloud.RepositoryTag{Account: repo.Account, Repository: repo.Name, Tag: tag, Digest: digest})
	return true, nil
}

// FindImage returns the image that a tag or digest means.
func FindImage(r store.Reader, account cloud.AccountID, name string, ref Reference) (*cloud.RepositoryImage, error) {
	if _, err := Repository(r, account, name); err != nil {
		return nil, err
	}
	d, what := string(ref.Digest), string(ref.Digest)
	if ref.Tag != "" {
		what = ref.Tag
		if t, ok := store.Get(r, store.RepositoryTags, store.RepositoryTagOf(account, cloud.RepositoryName(name), ref.Tag)); ok {
			d = t.Digest
		}
	}
	img, ok := store.Get(r, store.RepositoryImages, store.RepositoryImageOf(account, cloud.RepositoryName(name), d))
	if !ok {
		return nil, refuse(ManifestUnknown, "Requested image not found: %s in the repository %s", what, name)
	}
	return img, nil
}

// Manifest reads an image's manifest. pulled notes that somebody took it.
func (r *Registry) Manifest(ctx context.Context, account cloud.AccountID, name string, ref Reference, pulled bool) (*cloud.RepositoryImage, []byte, error) {
	img, err := FindImage(r.cfg.Store.View(), account, name, ref)
	if err != nil {
		return nil, nil, err
	}
	b, err := r.small(ctx, digest.Digest(img.Digest))
	if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
		return nil, nil, refuse(ManifestUnknown, "Requested image not found: %s in the repository %s", img.Digest, name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read manifest %s of %s: %w", img.Digest, name, err)
	}
	if pulled {
		r.notePull(ctx, img)
	}
	return img, b, nil
}

func (r *Registry) small(ctx context.Context, d digest.Digest) ([]byte, error) {
	blob, err := r.cfg.Blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	return io.ReadAll(io.NewSectionReader(blob, 0, min(blob.Size(), MaxManifest)))
}

// notePull writes when an image was last taken. That it can't is nobody's failure: the time is only to the day.
func (r *Registry) notePull(ctx context.Context, img *cloud.RepositoryImage) {
	now := r.cfg.Now().UTC()
	if now.Sub(img.Pulled) < pulledEvery {
		return
	}
	err := r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		x, ok := store.Get(tx, store.RepositoryImages, store.RepositoryImageOf(img.Account, img.Repository, img.Digest))
		if ok && now.Sub(x.Pulled) >= pulledEvery {
			x.Pulled = now
			store.Put(tx, store.RepositoryImages, x)
		}
		return nil
	})
	if err != nil {
		r.cfg.Logger.Warn("note the pull of an image", "repository", img.Repository, "digest", img.Digest, "error", err)
	}
}

// DeleteImage removes an image and its tags, or, when ref is a tag, that tag alone; an image whose last tag goes stays, untagged. all has the image go with its last tag,
// as ECR does it.
func (r *Registry) DeleteImage(ctx context.Context, account cloud.AccountID, name string, ref Reference, all bool) (img *cloud.RepositoryImage, gone []string, err error) {
	err = r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		gone = nil
		if img, err = FindImage(tx, account, name, ref); err != nil {
			return err
		}
		key := store.RepositoryImageOf(account, img.Repository, img.Digest)
		tags := store.ListBy(tx.View(), store.RepositoryTagsByImage, key)
		if ref.Tag != "" && (!all || len(tags) > 1) {
			store.Delete(tx, store.RepositoryTags, store.RepositoryTagOf(account, img.Repository, ref.Tag))
			gone = []string{ref.Tag}
			store.Put(tx, store.RepositoryImages, img) // whoever tags it meanwhile comes before or after
			return nil
		}
		gone, err = RemoveImage(tx, img)
		return err
	})
	return img, gone, err
}

// RemoveImage removes an image and its tags, which it returns.
func RemoveImage(tx *store.Tx, img *cloud.RepositoryImage) (tags []string, err error) {
	key := store.RepositoryImageOf(img.Account, img.Repository, img.Digest)
	// Not by the view: an index that is pushed meanwhile must not find its image gone afterwards.
	if by := store.ListBy(tx, store.RepositoryIndexesByChild, key); len(by) > 0 {
		return nil, refuse(ManifestInUse, "The index %s lists the image %s; delete that first", by[0].Digest, img.Digest)
	}
	for _, t := range store.ListBy(tx.View(), store.RepositoryTagsByImage, key) {
		store.Delete(tx, store.RepositoryTags, store.RepositoryTagOf(t.Account, t.Repository, t.Tag))
		tags = append(tags, t.Tag)
	}
	store.Delete(tx, store.RepositoryImages, key)
	slices.Sort(tags)
	return tags, nil
}
