package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	// collectEvery is how often unreferenced blobs are looked for when nothing is deleted.
	collectEvery = 5 * time.Minute
	// collectDelay gathers deletions.
	collectDelay = time.Second
)

// Run collects until ctx ends: uploads that stand still, blobs that no image has, and the bytes of what no repository keeps.
func (r *Registry) Run(ctx context.Context) error {
	_, sub := r.cfg.Store.Watch(store.RepositoryImages, store.Repositories)
	defer sub.Close()
	for {
		if err := r.Collect(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Error("collect what no image of the registry needs", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(collectEvery):
		case <-sub.Ready():
			if _, err := sub.Next(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("watch the registry's images: %w", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(collectDelay):
			}
		}
	}
}

// Collect removes what nobody needs: now, and never what a push that is under way may refer to.
func (r *Registry) Collect(ctx context.Context) error {
	problems := []error{r.dropIdle(ctx), r.dropUnreferenced(ctx)}
	r.links.Lock()
	view := r.cfg.Store.View()
	kept := map[digest.Digest]bool{}
	for _, l := range store.List(view, store.RepositoryLayers) {
		kept[digest.Digest(l.Digest)] = true
	}
	for _, i := range store.List(view, store.RepositoryImages) {
		kept[digest.Digest(i.Digest)] = true
	}
	err := r.cfg.Blobs.Release(ctx, func(d digest.Digest) bool { return kept[d] })
	r.links.Unlock()
	return errors.Join(append(problems, err)...)
}

// dropUnreferenced has repositories not keep blobs that no image has, and that nobody asked for lately.
func (r *Registry) dropUnreferenced(ctx context.Context) error {
	r.forgetAsked()
	pushing := r.pushing()
	view := r.cfg.Store.View()
	var problems []error
	for _, l := range store.List(view, store.RepositoryLayers) {
		key := store.RepositoryLayerOf(l.Account, l.Repository, l.Digest)
		if len(store.ListBy(view, store.RepositoryImagesByLayer, key)) > 0 || pushing[store.RepositoryOf(l.Account, l.Repository)] || r.lately(l) {
			continue
		}
		_, err := r.unlink(ctx, l, func(now *cloud.RepositoryLayer) bool { return !r.lately(now) })
		if err != nil && CodeOf(err) != BlobInUse {
			problems = append(problems, fmt.Errorf("let go of %s of %s: %w", l.Digest, l.Repository, err))
		}
	}
	return errors.Join(problems...)
}

// forgetAsked forgets questions that are too old to matter.
func (r *Registry) forgetAsked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, t := range r.asked {
		if r.cfg.Now().Sub(t) > Unreferenced {
			delete(r.asked, key)
		}
	}
}
