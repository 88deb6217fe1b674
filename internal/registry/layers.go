package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Layer finds a blob that a repository keeps, and keeps it for a while longer if no image has it: who asks is about to push one that does.
func (r *Registry) Layer(account cloud.AccountID, name, text string) (*cloud.RepositoryLayer, error) {
	d, err := soundDigest(text)
	if err != nil {
		return nil, err
	}
	view := r.cfg.Store.View()
	if _, err := Repository(view, account, name); err != nil {
		return nil, err
	}
	key := store.RepositoryLayerOf(account, cloud.RepositoryName(name), string(d))
	// First asked, then looked: what a collection removes in between is not found.
	r.mu.Lock()
	r.asked[key] = r.cfg.Now()
	r.mu.Unlock()
	l, ok := store.Get(r.cfg.Store.View(), store.RepositoryLayers, key)
	if !ok {
		r.mu.Lock()
		delete(r.asked, key)
		r.mu.Unlock()
		return nil, refuse(BlobUnknown, "There is no blob %s in the repository %s", d, name)
	}
	return l, nil
}

// OpenLayer reads a blob that a repository keeps.
func (r *Registry) OpenLayer(ctx context.Context, account cloud.AccountID, name, text string) (Blob, *cloud.RepositoryLayer, error) {
	l, err := r.Layer(account, name, text)
	if err != nil {
		return nil, nil, err
	}
	blob, err := r.cfg.Blobs.Open(ctx, digest.Digest(l.Digest))
	if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
		return nil, nil, refuse(BlobUnknown, "There is no blob %s in the repository %s", l.Digest, name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s of %s: %w", l.Digest, name, err)
	}
	return blob, l, nil
}

// Mount has a repository keep a blob that another one of the account keeps: that of the name, or any for "". BlobUnknown when none does.
func (r *Registry) Mount(ctx context.Context, account cloud.AccountID, name, text, from string) (*cloud.RepositoryLayer, error) {
	d, err := soundDigest(text)
	if err != nil {
		return nil, err
	}
	r.links.RLock()
	defer r.links.RUnlock()
	view := r.cfg.Store.View()
	var source *cloud.RepositoryLayer
	for _, l := range store.ListBy(view, store.RepositoryLayersByDigest, store.AccountBlob(account, string(d))) {
		if from == "" || string(l.Repository) == from {
			source = l
		}
	}
	if source == nil {
		return nil, refuse(BlobUnknown, "There is no blob %s to mount", d)
	}
	return r.link(ctx, account, name, d, source.Size)
}

// DeleteLayer has a repository not keep a blob any more that no image of it has.
func (r *Registry) DeleteLayer(ctx context.Context, account cloud.AccountID, name, text string) error {
	l, err := r.Layer(account, name, text)
	if err != nil {
		return err
	}
	_, err = r.unlink(ctx, l, func(*cloud.RepositoryLayer) bool { return true })
	return err
}

// unlink removes a blob from a repository if no image has it and due says so of what is there then, and tells whether it did.
func (r *Registry) unlink(ctx context.Context, l *cloud.RepositoryLayer, due func(*cloud.RepositoryLayer) bool) (done bool, err error) {
	key := store.RepositoryLayerOf(l.Account, l.Repository, l.Digest)
	err = r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		done = false
		now, ok := store.Get(tx, store.RepositoryLayers, key)
		if !ok || !due(now) {
			return nil
		}
		// Not by the view: a manifest that is pushed meanwhile must not find its layers gone afterwards.
		if by := store.ListBy(tx, store.RepositoryImagesByLayer, key); len(by) > 0 {
			return refuse(BlobInUse, "The image %s has the layer %s; delete that first", by[0].Digest, l.Digest)
		}
		done = store.Delete(tx, store.RepositoryLayers, key)
		return nil
	})
	return done, err
}

// lately tells whether a blob was pushed or asked for so short a time ago that an image with it may still come.
func (r *Registry) lately(l *cloud.RepositoryLayer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := l.Pushed
	for _, t := range []time.Time{r.began, r.asked[store.RepositoryLayerOf(l.Account, l.Repository, l.Digest)]} {
		if t.After(last) {
			last = t
		}
	}
	return r.cfg.Now().Sub(last) <= Unreferenced
}
