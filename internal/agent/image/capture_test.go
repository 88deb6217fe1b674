package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
)

var captured = CaptureOptions{Name: "copy", Created: time.Unix(1700000000, 0).UTC(), By: "a test"}

// tree tells everything of the files below root that an image has to keep, with owners as seen from base on.
func tree(t *testing.T, root string, base uint32) map[string]string {
	t.Helper()
	out := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, at)
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if name == "." || ofInstances(name) {
			return nil
		}
		line := fmt.Sprintf("%v %d:%d %d", info.Mode(), st.Uid-base, st.Gid-base, info.ModTime().Unix())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(at)
			if err != nil {
				return err
			}
			line += " -> " + to
		case info.Mode().IsRegular():
			b, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			line += " " + string(b)
			if first, seen := inodes[st.Ino]; seen {
				line += " is " + first
			} else if st.Nlink > 1 {
				inodes[st.Ino] = name
			}
		}
		attrs, err := xattrs(at)
		for attr, v := range attrs {
			if belongsInLayer(attr) && attr != "security.capability" { // which has the root's id in it
				line += " " + attr + "=" + v
			}
		}
		out[name] = line
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAnImageOfARootIsALayerMoreAndHoldsWhatItsMachineSaw(t *testing.T) {
	s := newStore(t)
	below := imagetest.Tar(t, imagetest.File("kept", "k"), imagetest.File("changed", "old"), imagetest.File("gone", "g"),
		imagetest.Entry{Header: tar.Header{Name: "dangling", Typeflag: tar.TypeSymlink, Linkname: "/nowhere"}},
		imagetest.Entry{Header: tar.Header{Name: "full/", Typeflag: tar.TypeDir}}, imagetest.File("full/a", "a"), imagetest.File("full/b", "b"),
		imagetest.Entry{Header: tar.Header{Name: "dir/", Typeflag: tar.TypeDir}}, imagetest.File("dir/in", "i"),
		imagetest.Entry{Header: tar.Header{Name: "etc/", Typeflag: tar.TypeDir}}, imagetest.File("etc/hostname", "the image's"))
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{Env: []string{"A=b"}}, [][]byte{below}))
	const base = 0x10000000
	root := target(t, s, "first")
	if err := s.PrepareRoot(t.Context(), "first", img.Digest, base, root, nil); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(root, name) }
	write := func(name, text string, owner int) error {
		return errors.Join(os.WriteFile(at(name), []byte(text), 0o640), os.Chown(at(name), base+owner, base+owner))
	}
	listener, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := errors.Join(
		write("changed", "new", 0), write("mine", "m", 1000), os.Chmod(at("mine"), 0o4755), os.Link(at("mine"), at("linked")), os.Symlink("../out", at("link")),
		os.Remove(at("gone")), os.Remove(at("dangling")), os.RemoveAll(at("full")), os.Mkdir(at("full"), 0o700), write("full/b", "another", 33),
		os.RemoveAll(at("dir")), write("dir", "a file now", 0), write("etc/hostname", "the instance's", 0), unix.Mkfifo(at("fifo"), 0o600),
		unix.Setxattr(at("mine"), "user.color", []byte("green"), 0), os.Mkdir(at("empty"), 0o711), os.Chtimes(at("mine"), time.Time{}, time.Unix(1234567890, 0)),
		os.Chown(at("empty"), base+7, base+8), os.Chown(at("full"), base, base), os.Lchown(at("link"), base, base), os.Chown(at("fifo"), base, base),
	); err != nil {
		t.Fatal(err)
	}
	// A capability of the machine's own root, as the kernel keeps it for a user namespace.
	own := []byte{1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(base >> 24)}
	if err := unix.Setxattr(at("changed"), "security.capability", own, 0); err != nil {
		t.Fatal(err)
	}
	made, err := s.Capture(t.Context(), "first", img.Digest, captured)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Capture(t.Context(), "first", img.Digest, captured)
	if err != nil || again.Digest != made.Digest {
		t.Errorf("the same root made %s and %s, %v", made.Digest, again.Digest, err)
	}
	if made.Layers != 2 || made.Architecture != img.Architecture || len(made.Config.Env) != 1 {
		t.Errorf("it is %+v", made)
	}
	want := tree(t, root, base)
	delete(want, "socket")
	second := target(t, s, "second")
	if err := s.PrepareRoot(t.Context(), "second", made.Digest, base+idCount, second, nil); err != nil {
		t.Fatal(err)
	}
	got := tree(t, second, base+idCount)
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%s is %q, not %q", name, got[name], line)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is there", name)
		}
	}
	if b, err := os.ReadFile(filepath.Join(second, "etc/hostname")); err != nil || string(b) != "the image's" {
		t.Errorf("its name is %q, %v", b, err)
	}
	if v, err := xattrs(filepath.Join(second, "changed")); err != nil || len(v["security.capability"]) == 0 {
		t.Errorf("the capability is %q, %v", v["security.capability"], err)
	}
	// The layers below are shared, by content.
	makeup, err := s.Makeup(t.Context(), "second", made.Digest)
	if err != nil || len(makeup.Layers) != 2 || len(makeup.Layers[0].Images) != 2 || len(makeup.Layers[1].Images) != 1 {
		t.Errorf("%+v, %v", makeup, err)
	}
	b, err := s.readSmall(s.context(t.Context()), configOf(t, s, made.Digest))
	if err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(b, &config); err != nil || len(config.History) == 0 || config.History[len(config.History)-1].CreatedBy != captured.By || !config.Created.Equal(captured.Created) {
		t.Errorf("the configuration is %s, %v", b, err)
	}
}

// configOf is the configuration's descriptor of an image.
func configOf(t *testing.T, s *Store, digest string) ocispec.Descriptor {
	t.Helper()
	img, err := s.imgs.Get(s.context(t.Context()), digest)
	if err != nil {
		t.Fatal(err)
	}
	_, m, err := s.manifest(s.context(t.Context()), img.Target, native, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m.Config
}

func TestWhatALayerCanNotHoldIsNamedAndNothingStays(t *testing.T) {
	s := newStore(t)
	img := importOne(t, s, imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)}))
	root := target(t, s, "a")
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, root, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	content, layers, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		name string
		do   func(at string) error
	}{
		"a file that would be a deletion": {"x/.wh.hello", func(at string) error {
			return errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.Chown(filepath.Dir(at), 0x10000000, 0x10000000), os.WriteFile(at, nil, 0o644))
		}},
		"a file larger than layers": {"big", func(at string) error {
			return errors.Join(os.WriteFile(at, nil, 0o644), os.Truncate(at, maxLayer+1))
		}},
	} {
		at := filepath.Join(root, c.name)
		if err := c.do(at); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Capture(t.Context(), "a", img.Digest, captured); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "/"+c.name) {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.Remove(at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Capture(t.Context(), "nobody", img.Digest, captured); err == nil || !strings.Contains(err.Error(), "no root") {
		t.Errorf("a root that isn't there: %v", err)
	}
	if c, l, err := s.Usage(t.Context()); err != nil || c != content || l > layers+1<<16 {
		t.Errorf("%d bytes of content and %d of layers, where %d and %d were; %v", c, l, content, layers, err)
	}
}
