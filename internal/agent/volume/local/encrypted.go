package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/volume"
	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/agent/volume/luks"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// An encrypted layer has a key of its own, which lies beside it, sealed, and is shared by links as the layer is: it goes with the last volume or snapshot that needs
// the layer, and is overwritten first. What is said of layers' files elsewhere, sums over their bytes among it, is said of what is enciphered: equal contents
// of two layers look different, and nobody learns that they are equal.

// keySuffix ends the name of a layer's sealed key.
const keySuffix = ".key"

// keyed notes that a layer is encrypted.
func (r *record) keyed(layer string) {
	if !slices.Contains(r.Keyed, layer) {
		r.Keyed = append(slices.Clone(r.Keyed), layer)
	}
}

// of are those of some layers that are encrypted.
func (r *record) of(layers []string) []string {
	return slices.DeleteFunc(slices.Clone(layers), func(l string) bool { return !slices.Contains(r.Keyed, l) })
}

// newLayer makes a layer without content, as the record says encrypted or not.
func (b *Backend) newLayer(ctx context.Context, dir string, r *record, layer string, size int64) error {
	path := filepath.Join(dir, layer+suffix)
	if !r.Encrypted {
		return b.empty(ctx, path, size)
	}
	key, sealed, err := b.cfg.Keys.New(r.ID + "/" + layer)
	if err != nil {
		return err
	}
	// The key is there before what it opens.
	if err := renameio.WriteFile(filepath.Join(dir, layer+keySuffix), sealed, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = luks.Write(f, size, key.Text())
	if err == nil {
		r.keyed(layer)
	}
	return errors.Join(err, f.Chown(b.cfg.User, b.cfg.User), f.Sync(), f.Close())
}

// keyOf is a layer's key, the zero key for one that is not encrypted.
func (b *Backend) keyOf(dir string, r record, layer string) (keyring.Key, error) {
	if !slices.Contains(r.Keyed, layer) {
		return keyring.Key{}, nil
	}
	sealed, err := os.ReadFile(filepath.Join(dir, layer+keySuffix))
	if err != nil {
		return keyring.Key{}, fmt.Errorf("read the key of a layer of %s: %w", r.ID, err)
	}
	key, err := b.cfg.Keys.Open(sealed)
	if err != nil {
		return key, fmt.Errorf("%s is encrypted: %w", r.ID, err)
	}
	return key, nil
}

// layers are the files that a volume or a snapshot is made of, with their keys.
func (b *Backend) layers(dir string, r record) ([]volume.Layer, error) {
	var list []volume.Layer
	if r.Base != "" {
		list = append(list, volume.Layer{Name: baseFile, Path: filepath.Join(dir, baseFile), Raw: r.Base == "raw"})
	}
	for _, name := range r.Layers {
		key, err := b.keyOf(dir, r, name)
		if err != nil {
			return nil, err
		}
		list = append(list, volume.Layer{Name: name, Path: filepath.Join(dir, name+suffix), Key: key})
	}
	return list, nil
}

// image runs qemu-img, with keys that it is told by descriptors.
type image struct {
	args []string
	keys []*os.File
	err  error
}

// opened is how qemu-img calls layers that lie over one another.
func (c *image) opened(layers []volume.Layer) string {
	var top map[string]any
	for n, l := range layers {
		node := map[string]any{"driver": "qcow2", "file": map[string]any{"driver": "file", "filename": l.Path, "locking": "off"}}
		switch {
		case l.Raw:
			node["driver"] = "raw"
		case n > 0:
			node["backing"] = top
		default:
			node["backing"] = nil
		}
		if name := c.key(l.Key); name != "" {
			node["encrypt"] = map[string]any{"format": "luks", "key-secret": name}
		}
		top = node
	}
	b, err := json.Marshal(top)
	c.err = errors.Join(c.err, err)
	return "json:" + string(b)
}

// key hands a key over and tells what it is called there, "" for none.
func (c *image) key(key keyring.Key) string {
	if key.IsZero() {
		return ""
	}
	f, err := key.File()
	if err != nil {
		c.err = errors.Join(c.err, err)
		return ""
	}
	c.keys = append(c.keys, f)
	name := fmt.Sprintf("k%d", len(c.keys))
	c.args = append(c.args, "--object", fmt.Sprintf("secret,id=%s,file=/proc/self/fd/%d", name, 2+len(c.keys)))
	return name
}

// target is how qemu-img calls an encrypted layer that is written to.
func (c *image) target(l volume.Layer) string {
	return "driver=qcow2,file.filename=" + strings.ReplaceAll(l.Path, ",", ",,") + ",encrypt.format=luks,encrypt.key-secret=" + c.key(l.Key)
}

func (c *image) run(ctx context.Context, img, verb string, args ...string) error {
	defer func() {
		for _, f := range c.keys {
			f.Close()
		}
	}()
	if c.err != nil {
		return c.err
	}
	cmd := exec.CommandContext(ctx, img, append(append([]string{verb}, c.args...), args...)...)
	cmd.ExtraFiles = c.keys
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// encipher makes the first layer of a record, in dir, of the whole content of another, which is not encrypted. It takes as long as there is content.
func (b *Backend) encipher(ctx context.Context, dir string, r *record, fromDir string, from record) error {
	source, err := b.layers(fromDir, from)
	if err != nil {
		return err
	}
	r.Encrypted, r.Base, r.Keyed, r.Next = true, "", nil, 1
	r.Layers = []string{volume.LayerName(0)}
	if err := b.newLayer(ctx, dir, r, r.Layers[0], from.Size); err != nil {
		return err
	}
	target, err := b.layers(dir, *r)
	if err != nil {
		return err
	}
	c := &image{}
	if err := c.run(ctx, b.img, "convert", "-n", "--target-image-opts", c.opened(source), c.target(target[0])); err != nil {
		return fmt.Errorf("encrypt a copy of %s: %w", from.ID, err)
	}
	f, err := os.Open(target[0].Path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), b.freeze(target[0].Path))
}

// enlarge makes a layer that nobody has open larger.
func (b *Backend) enlarge(ctx context.Context, l volume.Layer, size int64) error {
	c := &image{}
	name := []string{"-f", "qcow2", l.Path}
	if !l.Key.IsZero() {
		name = []string{"--image-opts", c.target(l)}
	}
	return c.run(ctx, b.img, "resize", append(append([]string{"-q"}, name...), fmt.Sprint(size))...)
}

// shred overwrites the sealed keys in a directory that nobody else has: what they open is gone, whatever becomes of its bytes on the disk.
func (b *Backend) shred(dir string) error {
	// One at a time, or two that end at once each leave a key to the other.
	b.shredding.Lock()
	defer b.shredding.Unlock()
	keys, err := filepath.Glob(filepath.Join(dir, "*"+keySuffix))
	for _, path := range keys {
		err = errors.Join(err, overwrite(path), os.Remove(path))
	}
	return err
}

// overwrite replaces a file's bytes on the disk, unless it has another name.
func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && st.Nlink == 1 {
		_, err = f.WriteAt(make([]byte, st.Size), 0)
		err = errors.Join(err, f.Sync())
	}
	return errors.Join(err, f.Close())
}

// encrypts tells whether volumes can be encrypted now.
func (b *Backend) encrypts(encrypted bool, id cloud.VolumeID) error {
	if !encrypted {
		return nil
	}
	if err := b.cfg.Keys.Err(); err != nil {
		return fmt.Errorf("encrypt volume %s: %w", id, err)
	}
	return nil
}
