package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/containerfile"
)

// entry is one of an archive: a directory when its name ends with a slash, a link when to is set.
type entry struct {
	name, content, to string
	mode              int64
	kind              byte
}

func archiveOf(t testing.TB, list ...entry) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.content)), Typeflag: tar.TypeReg, ModTime: time.Now()}
		switch {
		case e.kind != 0:
			h.Typeflag, h.Linkname = e.kind, e.to
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case e.to != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.to
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

func treeOf(t testing.TB, list ...entry) *contextTree {
	t.Helper()
	r := archiveOf(t, list...)
	tree, err := readContext(r, r.Size())
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// copied is the layer that a COPY makes, a line an entry.
func copied(t testing.TB, stage tree, src source, c *containerfile.Copy) ([]string, error) {
	t.Helper()
	list, err := picks(src.tree, c)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	l := newLayer(t.Context(), &b, stage, time.Unix(7, 0))
	if err := errors.Join(l.copyInto(src, c, list), l.out.Close()); err != nil {
		return nil, err
	}
	var lines []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 7 {
			t.Errorf("%s is dated %v", h.Name, h.ModTime)
		}
		lines = append(lines, fmt.Sprintf("%s %o %d:%d %s%s", h.Name, h.Mode, h.Uid, h.Gid, content, h.Linkname))
	}
}

func TestFilesGoWhereACopySays(t *testing.T) {
	ctx := source{tree: treeOf(t, entry{name: "a", content: "1"}, entry{name: "d/", mode: 0o750}, entry{name: "d/b", content: "2", mode: 0o4755}, entry{name: "d/l", to: "../../etc/passwd"},
		entry{name: "link", to: "/d/b"}, entry{name: "x1"}, entry{name: "x2"})}
	stage := treeOf(t, entry{name: "etc/passwd", content: "root:x:0:0::/:\nweb:x:33:34::/:\n"}, entry{name: "etc/group", content: "www:x:35:\n"}, entry{name: "srv/"}, entry{name: "real/"},
		entry{name: "lib", to: "real"}, entry{name: "out", to: "../../../real"}, entry{name: "file"})
	mode := uint32(0o640)
	for name, c := range map[string]struct {
		copy containerfile.Copy
		want []string
		err  string
	}{
		"a file to a name":            {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/new/b"}, want: []string{"new/ 755 0:0 ", "new/b 644 0:0 1"}},
		"a file into a directory":     {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/srv"}, want: []string{"srv/a 644 0:0 1"}},
		"a directory's contents":      {copy: containerfile.Copy{Paths: []string{"d"}, Dest: "/srv"}, want: []string{"srv/b 4755 0:0 2", "srv/l 777 0:0 ../../etc/passwd"}},
		"a directory that is new":     {copy: containerfile.Copy{Paths: []string{"d"}, Dest: "/n"}, want: []string{"n/ 750 0:0 ", "n/b 4755 0:0 2", "n/l 777 0:0 ../../etc/passwd"}},
		"a link that is named":        {copy: containerfile.Copy{Paths: []string{"link"}, Dest: "/srv/"}, want: []string{"srv/link 4755 0:0 2"}},
		"wildcards":                   {copy: containerfile.Copy{Paths: []string{"x?"}, Dest: "/srv/"}, want: []string{"srv/x1 644 0:0 ", "srv/x2 644 0:0 "}},
		"through a link of the stage": {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/lib/"}, want: []string{"real/a 644 0:0 1"}},
		"a link that climbs":          {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/out/"}, want: []string{"real/a 644 0:0 1"}},
		"a link made anew":            {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/lib/", Link: true}, want: []string{"lib/ 755 0:0 ", "lib/a 644 0:0 1"}},
		"owner and mode":              {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/n/a", Chown: "web:www", Mode: &mode}, want: []string{"n/ 640 33:35 ", "n/a 640 33:35 1"}},
		"a user's own group":          {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/srv/", Chown: "web"}, want: []string{"srv/a 644 33:34 1"}},
		"numbers":                     {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/srv/", Chown: "7"}, want: []string{"srv/a 644 7:7 1"}},
		"what stands in the text":     {copy: containerfile.Copy{Inline: []containerfile.Inline{{Name: "f", Content: "t"}}, Dest: "/srv/"}, want: []string{"srv/f 644 0:0 t"}},
		"left out":                    {copy: containerfile.Copy{Paths: []string{"d"}, Dest: "/srv", Exclude: []string{"l"}}, want: []string{"srv/b 4755 0:0 2"}},
		"a path that climbs":          {copy: containerfile.Copy{Paths: []string{"../../a"}, Dest: "/srv/"}, want: []string{"srv/a 644 0:0 1"}},
		"over a file":                 {copy: containerfile.Copy{Paths: []string{"d"}, Dest: "/file"}, err: "not a directory"},
		"below a file":                {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/file/x"}, err: "/file is not a directory"},
		"nothing there":               {copy: containerfile.Copy{Paths: []string{"no"}, Dest: "/"}, err: "/no is not there"},
		"nothing matches":             {copy: containerfile.Copy{Paths: []string{"no*"}, Dest: "/"}, err: "nothing is called"},
		"an id out of range":          {copy: containerfile.Copy{Paths: []string{"a"}, Dest: "/", Chown: "70000"}, err: "65535"},
	} {
		got, err := copied(t, stage, ctx, &c.copy)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestArchivesAreUnpackedBelowTheirDestination(t *testing.T) {
	add := func(list ...entry) ([]string, error) {
		inner, err := io.ReadAll(archiveOf(t, list...))
		if err != nil {
			t.Fatal(err)
		}
		return copied(t, treeOf(t, entry{name: "srv/"}), source{tree: treeOf(t, entry{name: "x.tar", content: string(inner)})}, &containerfile.Copy{Paths: []string{"x.tar"}, Dest: "/srv", Unpack: true})
	}
	got, err := add(entry{name: "./"}, entry{name: "./b/", mode: 0o700}, entry{name: "/b/f", content: "1"}, entry{name: "h", kind: tar.TypeLink, to: "b/f"}, entry{name: "null", kind: tar.TypeChar})
	if want := []string{"srv/b/ 700 0:0 ", "srv/b/f 644 0:0 1", "srv/h 644 0:0 srv/b/f"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, bad := range []entry{{name: "../x"}, {name: "a/../../x"}, {name: ".wh.x"}, {name: "h", kind: tar.TypeLink, to: "../../etc/shadow"}} {
		if _, err := add(bad); err == nil {
			t.Errorf("%+v is unpacked", bad)
		}
	}
}

func TestAContextIsRefusedThatIsNotPlain(t *testing.T) {
	for name, list := range map[string][]entry{
		"climbs":            {{name: "../x"}},
		"climbs in between": {{name: "a/../../x"}},
		"a device":          {{name: "sda", kind: tar.TypeBlock}},
		"a pipe":            {{name: "p", kind: tar.TypeFifo}},
		"below a link":      {{name: "l", to: "/etc"}, {name: "l/passwd", content: "x"}},
		"below a file":      {{name: "f"}, {name: "f/x"}},
		"a hard link out":   {{name: "h", kind: tar.TypeLink, to: "../x"}},
		"a hard link ahead": {{name: "h", kind: tar.TypeLink, to: "later"}, {name: "later"}},
		"too deep":          {{name: strings.Repeat("d/", maxNameDepth+1) + "f"}},
	} {
		r := archiveOf(t, list...)
		if _, err := readContext(r, r.Size()); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	loop := treeOf(t, entry{name: "a", to: "b"}, entry{name: "b", to: "a"})
	if _, _, _, err := resolve(loop, "a"); err == nil {
		t.Error("links in a circle are followed")
	}
}

func TestAKeyIsOfTheContentAndNothingElse(t *testing.T) {
	key := func(list ...entry) string {
		src := source{tree: treeOf(t, list...)}
		c := &containerfile.Copy{Paths: []string{"."}, Dest: "/"}
		p, err := picks(src.tree, c)
		if err != nil {
			t.Fatal(err)
		}
		k, err := inputs(src, c, p)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one := key(entry{name: "a", content: "1"}, entry{name: "b", content: "2"})
	if one != key(entry{name: "b", content: "2"}, entry{name: "a", content: "1"}) {
		t.Error("the order of an archive is in it")
	}
	for _, other := range [][]entry{{{name: "a", content: "1"}, {name: "b", content: "3"}}, {{name: "a", content: "1"}, {name: "c", content: "2"}}, {{name: "a", content: "1", mode: 0o600}, {name: "b", content: "2"}},
		{{name: "a", content: "1"}, {name: "b", to: "a"}}} {
		if key(other...) == one {
			t.Errorf("%+v has the same", other)
		}
	}
}

// FuzzContexts has every path of whatever tree resolve within it.
func FuzzContexts(f *testing.F) {
	b, err := io.ReadAll(archiveOf(f, entry{name: "a/b", content: "c"}, entry{name: "l", to: "../a"}, entry{name: "m", to: "/l/b"}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, "m/../l")
	f.Fuzz(func(t *testing.T, archive []byte, name string) {
		r := bytes.NewReader(archive)
		tree, err := readContext(r, r.Size())
		if err != nil {
			return
		}
		real, _, there, err := resolve(tree, name)
		if err == nil && slices.Contains(split(real), "..") {
			t.Errorf("%q leads to %q", name, real)
		}
		if _, err := tree.lstat(real); there && err != nil {
			t.Errorf("%q is said to be at %q: %v", name, real, err)
		}
		_ = walk(tree, "", "", node{mode: 1 << 31}, nil, func(name, _ string, n node) error {
			if n.mode.IsRegular() {
				f, err := tree.open(name)
				if err != nil {
					t.Fatal(err)
				}
				if size, err := io.Copy(io.Discard, f); err != nil || size != n.size {
					t.Errorf("%s has %d bytes of %d: %v", name, size, n.size, err)
				}
			}
			return context.Cause(t.Context())
		})
	})
}
