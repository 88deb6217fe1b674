package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
)

// Layers that steps of builds made are found again by a key of all that went into them. What is longest unused goes first.
const (
	cachePrefix    = "step-layer/" // before a key, in the names of the metadata's records
	maxCached      = 2000
	maxCachedBytes = 10 << 30
	cachedFor      = 30 * 24 * time.Hour
	// touchEvery bounds how often the use of a layer is written down.
	touchEvery = time.Hour
	cacheLabel = "cloud.nacre.step"
)

// cachedLayer is a layer in the cache.
type cachedLayer struct {
	Layer Layer
	Chain string // of the stack that it is the top of
	Used  time.Time
}

func (c cachedLayer) bytes() int64 { return c.Layer.Size + c.Layer.Blob.Size }

// loadCached reads a record of the cache.
func (s *Store) loadCached(img images.Image) error {
	var c cachedLayer
	if err := json.Unmarshal([]byte(img.Labels[cacheLabel]), &c); err != nil {
		return fmt.Errorf("the layer cache's record %s is damaged: %w", img.Name, err)
	}
	s.cached[strings.TrimPrefix(img.Name, cachePrefix)] = c
	return nil
}

func cacheRecord(key string, c cachedLayer) (images.Image, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return images.Image{}, fmt.Errorf("encode a record of the layer cache: %w", err)
	}
	return images.Image{Name: cachePrefix + key, Target: c.Layer.Blob, Labels: map[string]string{cacheLabel: string(b), "containerd.io/gc.ref.snapshot." + snapshotter: c.Chain}}, nil
}

// Cached puts the layer on a stack that a step with this key made, if it is there. Keys are hexadecimal digits, of everything that the step
// depends on.
func (w *Work) Cached(ctx context.Context, key string, on Stack) (Stack, bool, error) {
	w.s.mu.RLock()
	c, ok := w.s.cached[key]
	w.s.mu.RUnlock()
	if !ok {
		return nil, false, nil
	}
	stack := append(slices.Clone(on), c.Layer)
	if stack.Chain() != c.Chain {
		return nil, false, nil
	}
	if err := w.hold(ctx, stack); err != nil {
		return nil, false, nil // collected in this moment
	}
	if time.Since(c.Used) < touchEvery {
		return stack, true, nil
	}
	return stack, true, w.Remember(ctx, key, stack)
}

// Remember has the topmost layer of a stack found by a key.
func (w *Work) Remember(ctx context.Context, key string, stack Stack) error {
	c := cachedLayer{Layer: stack[len(stack)-1], Chain: stack.Chain(), Used: time.Now().UTC()}
	rec, err := cacheRecord(key, c)
	if err != nil {
		return err
	}
	w.s.records.Lock()
	defer w.s.records.Unlock()
	if _, err := w.s.imgs.Create(ctx, rec); errdefs.IsAlreadyExists(err) {
		if _, err := w.s.imgs.Update(ctx, rec); err != nil {
			return fmt.Errorf("note a layer in the cache: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("note a layer in the cache: %w", err)
	}
	w.s.mu.Lock()
	w.s.cached[key] = c
	w.s.mu.Unlock()
	return nil
}

// CacheUsage is how many layers the cache of builds has, and their bytes. Images may have them too.
func (s *Store) CacheUsage() (layers int, bytes int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, c := range s.cached {
		bytes += c.bytes()
	}
	return len(s.cached), bytes
}

// TrimCache forgets what is over the cache's bounds.
func (s *Store) TrimCache(ctx context.Context) error {
	return s.trimCache(ctx, time.Now(), maxCached, maxCachedBytes)
}

func (s *Store) trimCache(ctx context.Context, now time.Time, most int, mostBytes int64) error {
	s.mu.RLock()
	keys := make([]string, 0, len(s.cached))
	var bytes int64
	for k, c := range s.cached {
		keys = append(keys, k)
		bytes += c.bytes()
	}
	slices.SortFunc(keys, func(a, b string) int { return s.cached[a].Used.Compare(s.cached[b].Used) })
	var drop []string
	for n, k := range keys {
		c := s.cached[k]
		if len(keys)-n > most || bytes > mostBytes || now.Sub(c.Used) > cachedFor {
			drop = append(drop, k)
			bytes -= c.bytes()
		}
	}
	s.mu.RUnlock()
	if len(drop) == 0 {
		return nil
	}
	ctx = s.context(ctx)
	s.records.Lock()
	for _, k := range drop {
		if err := s.imgs.Delete(ctx, cachePrefix+k); err != nil && !errdefs.IsNotFound(err) {
			s.records.Unlock()
			return fmt.Errorf("forget a layer of the cache: %w", err)
		}
		s.mu.Lock()
		delete(s.cached, k)
		s.mu.Unlock()
	}
	s.records.Unlock()
	return s.GC(ctx)
}
