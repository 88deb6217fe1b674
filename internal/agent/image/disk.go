package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
)

const (
	disksDir    = "disks"
	basesDir    = "bases"    // read-only disks made of layers, named after what they were made of
	overlaysDir = "machines" // what machines wrote, a directory a key
	makingDir   = "making"   // what is not finished; emptied by Open
	overlayFile = "overlay.qcow2"
	diskFile    = "disk.json"
	buildPrefix = "build-"

	// slack is room in a base besides its files, so that its own structures fit; in bytes. Guests grow it to their disk's size.
	slack = 96 << 20
	// bytesPerInode suits trees of small files.
	bytesPerInode = 8192
)

// File is one that every disk made of layers gets, whatever the image: the guest's program.
type File struct {
	Path    string      // absolute
	Mode    fs.FileMode // permissions; of a link: fs.ModeSymlink
	Content []byte
	Symlink string // what a link leads to
}

// Disk is a virtual machine's root disk: an overlay of its own on a base that nobody writes.
type Disk struct {
	Path       string // a qcow2 whose header names no other file
	Base       string
	BaseFormat string // "raw" or "qcow2"
}

// madeOf is kept beside an overlay: which base it is laid over, for good.
type madeOf struct {
	Digest string // of the image
	Base   string // the file's name in the bases' directory, or "" for a disk image's own content
	Format string
	Size   int64
}

func (s *Store) disks(names ...string) string {
	return filepath.Join(append([]string{s.root, disksDir}, names...)...)
}

// PrepareDisk returns a machine's disk of size bytes, and makes it the first time: an empty overlay over the image's base,
// which is built of the layers when this is the first machine of the image. It may be repeated; what the machine wrote stays
// until RemoveDisk. A base larger than size is an error.
func (s *Store) PrepareDisk(ctx context.Context, key, digest string, size int64) (Disk, error) {
	dir := s.disks(overlaysDir, key)
	if d, err := s.overlay(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	made, err := s.baseOf(ctx, digest, size)
	if err == nil {
		err = s.makeOverlay(ctx, dir, made)
	}
	if err != nil {
		return Disk{}, fmt.Errorf("disk %s: %w", key, err)
	}
	return s.overlay(dir)
}

// BaseDisk returns what a disk of an image is laid over, of size bytes: it is kept as long as the image is, and nobody writes it. It has no overlay.
func (s *Store) BaseDisk(ctx context.Context, digest string, size int64) (Disk, error) {
	made, err := s.baseOf(ctx, digest, size)
	if err != nil {
		return Disk{}, fmt.Errorf("a disk of image %s: %w", digest, err)
	}
	return s.standsOn(made)
}

// baseOf finds what a disk of an image is laid over, and builds it when there is none.
func (s *Store) baseOf(ctx context.Context, digest string, size int64) (madeOf, error) {
	r, err := s.find(digest)
	if err != nil {
		return madeOf{}, err
	}
	made := madeOf{Digest: digest, Format: r.Image.Format, Size: size}
	smallest := r.Image.VirtualSize
	if r.Image.Kind == KindLayers {
		if made.Base, err = s.base(ctx, r); err != nil {
			return made, err
		}
		made.Format = "raw"
		info, err := os.Stat(s.disks(basesDir, made.Base))
		if err != nil {
			return made, err
		}
		smallest = info.Size()
	}
	if size < smallest {
		return made, fmt.Errorf("its image needs %d MiB and it has %d", smallest>>20, size>>20)
	}
	return made, nil
}

// standsOn is a disk without its overlay.
func (s *Store) standsOn(made madeOf) (d Disk, err error) {
	d = Disk{Base: s.disks(basesDir, made.Base), BaseFormat: made.Format}
	if made.Base == "" {
		d.Base, err = s.File(made.Digest)
	}
	return d, err
}

// PrepareBase builds what disks of an image are laid over, when it isn't there.
func (s *Store) PrepareBase(ctx context.Context, digest string) error {
	r, err := s.find(digest)
	if err != nil || r.Image.Kind != KindLayers {
		return err
	}
	_, err = s.base(ctx, r)
	return err
}

// overlay reads what a machine's disk is made of.
func (s *Store) overlay(dir string) (Disk, error) {
	b, err := os.ReadFile(filepath.Join(dir, diskFile))
	if err != nil {
		return Disk{}, err
	}
	var made madeOf
	if err := json.Unmarshal(b, &made); err != nil {
		return Disk{}, fmt.Errorf("%s is damaged: %w", filepath.Join(dir, diskFile), err)
	}
	d, err := s.standsOn(made)
	d.Path = filepath.Join(dir, overlayFile)
	return d, err
}

// makeOverlay makes a disk aside and gives it its name when it is whole.
func (s *Store) makeOverlay(ctx context.Context, dir string, made madeOf) error {
	aside, err := os.MkdirTemp(s.disks(makingDir), "overlay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside)
	b, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(aside, diskFile), b, 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(aside, overlayFile), strconv.FormatInt(made.Size, 10)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make an overlay: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return os.Rename(aside, dir)
}

// RemoveDisk deletes what a machine wrote. Unknown ones are no error.
func (s *Store) RemoveDisk(_ context.Context, key string) error {
	if err := os.RemoveAll(s.disks(overlaysDir, key)); err != nil {
		return fmt.Errorf("remove disk %s: %w", key, err)
	}
	return s.sweepBases()
}

// Disks lists the keys of all machines' disks.
func (s *Store) Disks(context.Context) ([]string, error) {
	entries, err := os.ReadDir(s.disks(overlaysDir))
	if err != nil {
		return nil, fmt.Errorf("list the machines' disks: %w", err)
	}
	keys := make([]string, 0, len(entries))
	for _, e := range entries {
		keys = append(keys, e.Name())
	}
	return keys, nil
}

// guestFiles are what every base gets, and a word that changes with them.
type guestFiles struct {
	files []File
	mark  string
}

// loadGuest has the guest's files of each architecture read once, when they are needed.
func (s *Store) loadGuest(get func(architecture string) ([]File, error)) {
	load := map[string]func() (guestFiles, error){}
	for _, architecture := range ec2Words {
		load[architecture] = sync.OnceValues(func() (g guestFiles, err error) {
			if get != nil {
				g.files, err = get(architecture)
			}
			h := sha256.New()
			for _, f := range g.files {
				fmt.Fprintf(h, "%s %v %d %s\n", f.Path, f.Mode, len(f.Content), f.Symlink)
				h.Write(f.Content)
			}
			g.mark = hex.EncodeToString(h.Sum(nil)[:6])
			return g, err
		})
	}
	s.guest = func(architecture string) (guestFiles, error) {
		if f, ok := load[architecture]; ok {
			return f()
		}
		return guestFiles{}, fmt.Errorf("there is no guest program for the architecture %q", architecture)
	}
}

// baseName is what the base of an image is called: it changes with the image and with the files that are put in.
func (s *Store) baseName(img Image) (string, error) {
	g, err := s.guest(img.Architecture)
	return strings.TrimPrefix(img.Digest, "sha256:") + "-" + g.mark + ".ext4", err
}

// base returns the name of an image's base, which is built when there is none. Several that ask at once wait for one build.
func (s *Store) base(ctx context.Context, r record) (string, error) {
	name, err := s.baseName(r.Image)
	if err != nil {
		return "", err
	}
	_, err, _ = s.building.Do(name, func() (any, error) {
		if _, err := os.Stat(s.disks(basesDir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		began := time.Now()
		// Whoever gives up must not end what others wait for.
		if err := s.build(context.WithoutCancel(ctx), r, name); err != nil {
			return nil, err
		}
		s.log.Info("a disk was made of an image's layers", "image", r.Image.Digest, "name", r.Image.Name, "took", time.Since(began))
		return nil, nil
	})
	return name, err
}

// build makes an ext4 file system of an image's layers and the guest's files.
func (s *Store) build(ctx context.Context, r record, name string) error {
	g, err := s.guest(r.Image.Architecture)
	if err != nil {
		return err
	}
	if err := s.Room(r.Image.Size + slack); err != nil {
		return err
	}
	aside := filepath.Join(s.disks(makingDir), newKey()+name)
	defer os.Remove(aside)
	key := buildPrefix + newKey()
	err = s.leased(ctx, func(ctx context.Context) error {
		// A writable layer for the guest's files, thrown away afterwards.
		mounts, err := s.snap.Prepare(ctx, key, r.Chain, snapshots.WithLabels(map[string]string{}))
		if err != nil {
			return fmt.Errorf("lay the image out: %w", err)
		}
		err = s.withMount(withOptions(mounts, "nodev", "nosuid", "noexec"), func(root string) error {
			if err := putFiles(root, g.files); err != nil {
				return err
			}
			return makeExt4(ctx, root, aside, r.Image.Digest)
		})
		return errors.Join(err, s.snap.Remove(context.WithoutCancel(ctx), key))
	})
	if err != nil {
		return fmt.Errorf("make a disk of image %s: %w", r.Image.Digest, err)
	}
	if err := os.Chmod(aside, 0o400); err != nil {
		return err
	}
	return os.Rename(aside, s.disks(basesDir, name))
}

// putFiles writes files into an image's tree; no link of the image's leads out of it.
func putFiles(dir string, files []File) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		name := strings.TrimPrefix(path.Clean(f.Path), "/")
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return fmt.Errorf("put %s into the image: %w", f.Path, err)
		}
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("put %s into the image: %w", f.Path, err)
		}
		if f.Mode&fs.ModeSymlink != 0 {
			err = root.Symlink(f.Symlink, name)
		} else {
			err = root.WriteFile(name, f.Content, f.Mode.Perm())
		}
		if err != nil {
			return fmt.Errorf("put %s into the image: %w", f.Path, err)
		}
	}
	return nil
}

// treeSize is how large a file system has to be for a tree, in bytes, whole MiB.
func treeSize(tree string) (int64, error) {
	var bytes, entries int64
	err := filepath.WalkDir(tree, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		if info, err := e.Info(); err == nil && e.Type().IsRegular() {
			bytes += (info.Size() + 4095) &^ 4095
		} else if e.IsDir() {
			bytes += 4096
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("weigh the image's files: %w", err)
	}
	return max(bytes+bytes/8+slack, (entries+entries/8)*bytesPerInode) &^ (1<<20 - 1), nil
}

// makeExt4 makes a file system of a tree, large enough for it. Its identity comes from the digest: the same image makes the
// same disk.
func makeExt4(ctx context.Context, tree, to, digest string) error {
	size, err := treeSize(tree)
	if err != nil {
		return err
	}
	id := strings.TrimPrefix(digest, "sha256:")[:32]
	uuid := strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:32]}, "-")
	cmd := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-L", "nacre-root", "-U", uuid, "-i", strconv.Itoa(bytesPerInode), "-m", "1",
		"-E", "lazy_itable_init=1,hash_seed="+uuid, "-d", tree, to, strconv.FormatInt(size>>10, 10)+"k")
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+fmt.Sprint(bakedAt.Unix()))
	if out, err := cmd.CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("virtual machines need mkfs.ext4, which is not installed; `nacre doctor --install` installs it")
		}
		return fmt.Errorf("mkfs.ext4: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// openDisks makes the disks' directories and removes what a crash left half made.
func (s *Store) openDisks() error {
	if err := os.RemoveAll(s.disks(makingDir)); err != nil {
		return fmt.Errorf("remove disks that a crash left half made: %w", err)
	}
	for _, dir := range []string{basesDir, overlaysDir, makingDir} {
		if err := os.MkdirAll(s.disks(dir), 0o700); err != nil {
			return fmt.Errorf("make the disks' directory: %w", err)
		}
	}
	return nil
}

// sweepBases removes the bases of which neither an image nor a machine's disk is left, or that another version of the guest's
// program is in.
func (s *Store) sweepBases() error {
	entries, err := os.ReadDir(s.disks(basesDir))
	if err != nil {
		return fmt.Errorf("look for unused disks: %w", err)
	}
	var kept []string
	keys, err := s.Disks(context.Background())
	if err != nil {
		return err
	}
	for _, key := range keys {
		var made madeOf
		b, err := os.ReadFile(filepath.Join(s.disks(overlaysDir, key), diskFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue // just removed
		}
		if err := errors.Join(err, json.Unmarshal(b, &made)); err != nil {
			return fmt.Errorf("disk %s: what it stands on is unknown, so no disk is removed: %w", key, err)
		}
		kept = append(kept, made.Base)
	}
	list, err := s.List(context.Background())
	if err != nil {
		return err
	}
	for _, img := range list {
		if img.Kind == KindLayers {
			name, err := s.baseName(img)
			if err != nil {
				return err
			}
			kept = append(kept, name)
		}
	}
	for _, e := range entries {
		if !slices.Contains(kept, e.Name()) {
			if err := os.Remove(s.disks(basesDir, e.Name())); err != nil {
				return fmt.Errorf("remove an unused disk: %w", err)
			}
		}
	}
	return nil
}
