package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// largestFiles is how many files of a layer are named.
const largestFiles = 5

// servedDir is where the daemons of volumes show them: as files of their own making, which are not weighed.
const servedDir = "daemons"

// Layers tells what an image is made of, layer by layer. It looks at every file.
func (s *Store) Layers(ctx context.Context, digest string) (cloud.ImageMakeup, error) {
	out := cloud.ImageMakeup{Digest: digest}
	r, err := s.find(digest)
	if err != nil || r.Image.Kind != KindLayers {
		return out, err
	}
	makeup, err := s.Makeup(ctx, "", digest)
	if err != nil {
		return out, err
	}
	ctx = s.context(ctx)
	chain, err := s.chain(ctx, r.Chain)
	if err != nil {
		return out, fmt.Errorf("the layers of %s: %w", digest, err)
	}
	for n, l := range makeup.Layers {
		layer := cloud.LayerContent{Digest: l.Digest, Size: l.Size, Images: l.Images}
		dir, err := s.dirOf(ctx, chain[len(chain)-1-n])
		if err == nil {
			err = count(ctx, dir, &layer)
		}
		if err != nil {
			return out, fmt.Errorf("look into the layer %s: %w", l.Digest, err)
		}
		out.Layers = append(out.Layers, layer)
	}
	return out, nil
}

// dirOf is the directory that holds what a committed layer adds.
func (s *Store) dirOf(ctx context.Context, name string) (string, error) {
	key := viewPrefix + newKey() + name
	mounts, err := s.snap.View(ctx, key, name)
	if err != nil {
		return "", err
	}
	if err := s.snap.Remove(context.WithoutCancel(ctx), key); err != nil {
		return "", err
	}
	if len(mounts) != 1 {
		return "", fmt.Errorf("it is mounted as %v", mounts)
	}
	for _, o := range mounts[0].Options {
		if lower, ok := strings.CutPrefix(o, "lowerdir="); ok {
			top, _, _ := strings.Cut(lower, ":")
			return top, nil
		}
	}
	return mounts[0].Source, nil
}

// count looks at what a layer's directory holds.
func count(ctx context.Context, dir string, l *cloud.LayerContent) error {
	defer func() { l.Largest = largest(l.Largest) }()
	return filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || at == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			l.Directories++
		case hides(info):
			l.Deleted++
		case e.Type().IsRegular():
			l.Files++
			l.Largest = append(l.Largest, cloud.FileSize{Path: strings.TrimPrefix(at, dir), Size: info.Size()})
			if len(l.Largest) > 64*largestFiles {
				l.Largest = largest(l.Largest)
			}
		default:
			l.Others++
		}
		return nil
	})
}

func largest(list []cloud.FileSize) []cloud.FileSize {
	slices.SortStableFunc(list, func(a, b cloud.FileSize) int { return cmp.Compare(b.Size, a.Size) })
	return list[:min(len(list), largestFiles)]
}

// hides tells whether a file of a layer says that one below is gone.
func hides(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

// Weigh tells where the store's bytes are, and those of the directory of volumes, which shares files with it by links.
func (s *Store) Weigh(ctx context.Context, volumes string) (cloud.ImageUse, error) {
	var out cloud.ImageUse
	sizes := map[string]int64{} // of content by digest, layers by name, bases by file
	ctx = s.context(ctx)
	err := s.db.ContentStore().Walk(ctx, func(i contentInfo) error {
		out.Content += i.Size
		sizes[i.Digest.String()] = i.Size
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("weigh the image content: %w", err)
	}
	err = s.snap.Walk(ctx, func(ctx context.Context, i snapshots.Info) error {
		u, err := s.snap.Usage(ctx, i.Name)
		if i.Kind == snapshots.KindCommitted {
			out.Layers += u.Size
			sizes[i.Name] = u.Size
		} else {
			out.Written += u.Size
		}
		return err
	})
	if err != nil {
		return out, fmt.Errorf("weigh the image layers: %w", err)
	}
	seen := map[[2]uint64]bool{}
	if err := blocks(filepath.Join(s.root, contentDir), seen, nil, nil); err != nil { // which volumes may be links to
		return out, err
	}
	for dir, to := range map[string]*int64{s.disks(basesDir): &out.Disks, s.disks(overlaysDir): &out.Frozen} {
		if err := blocks(dir, seen, to, sizes); err != nil {
			return out, err
		}
	}
	if err := blocks(volumes, seen, &out.Volumes, nil); err != nil {
		return out, err
	}
	out.Images, err = s.perImage(ctx, sizes)
	return out, err
}

// blocks adds up what the files below a directory take that were not seen, and notes each by its name.
func blocks(dir string, seen map[[2]uint64]bool, to *int64, sizes map[string]int64) error {
	err := filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile, or no such part here
		}
		if err == nil && e.IsDir() && e.Name() == servedDir {
			return fs.SkipDir // what is shown there lies elsewhere
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return nil
		}
		inode := [2]uint64{st.Dev, st.Ino}
		if seen[inode] {
			return nil
		}
		seen[inode] = true
		if to != nil {
			*to += st.Blocks * 512
		}
		if sizes != nil {
			sizes[filepath.Base(at)] = st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("weigh %s: %w", dir, err)
	}
	return nil
}

// perImage divides content, layers and disks among those that need them.
func (s *Store) perImage(ctx context.Context, sizes map[string]int64) ([]cloud.ImageBytes, error) {
	list, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	needs, users := map[string][]string{}, map[string]int{}
	for _, img := range list {
		parts, err := s.parts(ctx, img)
		if err != nil {
			return nil, fmt.Errorf("what %s is made of: %w", img.Digest, err)
		}
		slices.Sort(parts)
		needs[img.Digest] = slices.Compact(parts)
		for _, part := range needs[img.Digest] {
			users[part]++
		}
	}
	var out []cloud.ImageBytes
	for _, img := range list {
		b := cloud.ImageBytes{Image: img.Digest}
		for _, part := range needs[img.Digest] {
			if users[part] > 1 {
				b.Shared += sizes[part]
			} else {
				b.Own += sizes[part]
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// parts are the content, layers and disk that an image needs.
func (s *Store) parts(ctx context.Context, img Image) ([]string, error) {
	parts := []string{img.Digest}
	if img.Kind != KindLayers {
		return parts, nil
	}
	r, err := s.find(img.Digest)
	if errors.Is(err, ErrNotFound) {
		return parts, nil // removed just now
	}
	if err != nil {
		return nil, err
	}
	chain, err := s.chain(ctx, r.Chain)
	if err != nil {
		return nil, err
	}
	parts = append(parts, chain...)
	if name, err := s.baseName(img); err == nil {
		parts = append(parts, name)
	}
	record, err := s.imgs.Get(ctx, img.Digest)
	if err != nil {
		return parts, nil
	}
	architecture, err := ociArchitecture(img.Architecture)
	if err != nil {
		return nil, err
	}
	_, m, err := s.manifest(ctx, record.Target, architecture, 0)
	if err != nil {
		return nil, err
	}
	parts = append(parts, m.Config.Digest.String())
	for _, l := range m.Layers {
		parts = append(parts, l.Digest.String())
	}
	return parts, nil
}
