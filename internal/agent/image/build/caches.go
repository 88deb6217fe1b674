package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Bounds of the directories that --mount=type=cache shows. What is longest unused goes first.
const (
	maxCachesBytes = 10 << 30
	cachesFor      = 30 * 24 * time.Hour
)

// caches are directories that commands share from build to build, by account and id. Their files belong to ids from 0 on, whichever a command has.
type caches struct {
	dir  string
	mu   *sync.Mutex
	held map[string]*cacheUse
}

type cacheUse struct {
	users int
	lock  chan struct{} // holds one when somebody has it alone
}

func newCaches(dir string) caches {
	return caches{dir: dir, mu: &sync.Mutex{}, held: map[string]*cacheUse{}}
}

// take finds or makes a directory, which stays until it is given back; alone waits for others who want it alone too.
func (c caches) take(ctx context.Context, id string, alone bool) (dir string, giveBack func(), err error) {
	sum := sha256.Sum256([]byte(id))
	name := hex.EncodeToString(sum[:16])
	dir = filepath.Join(c.dir, name)
	c.mu.Lock()
	use := c.held[name]
	if use == nil {
		use = &cacheUse{lock: make(chan struct{}, 1)}
		c.held[name] = use
	}
	use.users++
	c.mu.Unlock()
	leave := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if use.users--; use.users == 0 {
			delete(c.held, name)
		}
	}
	if alone {
		select {
		case use.lock <- struct{}{}:
		case <-ctx.Done():
			leave()
			return "", nil, ctx.Err()
		}
	}
	giveBack = func() {
		if alone {
			<-use.lock
		}
		now := time.Now()
		_ = os.Chtimes(dir, now, now)
		leave()
	}
	if err := os.MkdirAll(filepath.Join(dir, "files"), 0o700); err != nil {
		giveBack()
		return "", nil, fmt.Errorf("make a cache's directory: %w", err)
	}
	return filepath.Join(dir, "files"), giveBack, errors.Join(os.Chmod(dir, 0o711))
}

// own gives a cache's directory its mode and owner when it is new.
func (c caches) own(dir string, mode fs.FileMode, uid, gid int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look into a cache's directory: %w", err)
	}
	if len(entries) > 0 {
		return nil
	}
	return errors.Join(os.Chown(dir, uid, gid), os.Chmod(dir, mode&0o777))
}

// trim removes directories over the bounds that nobody uses.
func (c caches) trim() error { return c.trimTo(time.Now(), maxCachesBytes) }

func (c caches) trimTo(now time.Time, most int64) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	type one struct {
		name string
		used time.Time
		size int64
	}
	var all []one
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		o := one{name: e.Name(), used: info.ModTime()}
		_ = filepath.WalkDir(filepath.Join(c.dir, e.Name()), func(_ string, d fs.DirEntry, err error) error {
			if err == nil {
				if info, err := d.Info(); err == nil {
					o.size += info.Size()
				}
			}
			return nil
		})
		all, total = append(all, o), total+o.size
	}
	slices.SortFunc(all, func(a, b one) int { return a.used.Compare(b.used) })
	var problems []error
	for _, o := range all {
		if total <= most && now.Sub(o.used) < cachesFor {
			continue
		}
		c.mu.Lock()
		if c.held[o.name] == nil {
			problems = append(problems, os.RemoveAll(filepath.Join(c.dir, o.name)))
			total -= o.size
		}
		c.mu.Unlock()
	}
	return errors.Join(problems...)
}
