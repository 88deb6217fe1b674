// Package imagetest makes images for tests: small, local, and as broken as a test wants them. Its archives are OCI image
// layouts; its registry serves them by the distribution protocol. It never asks a network.
package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/busybox"
)

// Entry is one entry of a layer. Its size is its body's, its mode 0755 and its kind a regular file unless it says
// otherwise.
type Entry struct {
	tar.Header
	Body string
}

// File is the entry of a regular file.
func File(name, body string) Entry { return Entry{Header: tar.Header{Name: name}, Body: body} }

// Tar packs entries.
func Tar(t testing.TB, list ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		e.Size = int64(len(e.Body))
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.Body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Change spoils an image before its manifest is written and it is packed.
type Change func(*ocispec.Manifest, *ocispec.Image, map[digest.Digest][]byte)

// Archive makes an OCI archive of layers, which are tar archives.
func Archive(t testing.TB, config ocispec.ImageConfig, layers [][]byte, changes ...Change) []byte {
	t.Helper()
	blobs := map[digest.Digest][]byte{}
	img := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, Config: config, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(layer); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, put(blobs, ocispec.MediaTypeImageLayerGzip, z.Bytes()))
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(layer))
	}
	for _, change := range changes {
		change(&m, &img, blobs)
	}
	m.Config = put(blobs, ocispec.MediaTypeImageConfig, asJSON(t, img))
	manifest := put(blobs, ocispec.MediaTypeImageManifest, asJSON(t, m))
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifest}}
	list := []Entry{File(ocispec.ImageLayoutFile, `{"imageLayoutVersion":"1.0.0"}`), File(ocispec.ImageIndexFile, string(asJSON(t, index)))}
	for _, d := range slices.Sorted(maps.Keys(blobs)) {
		list = append(list, File("blobs/sha256/"+d.Encoded(), string(blobs[d])))
	}
	return Tar(t, list...)
}

func put(blobs map[digest.Digest][]byte, mediaType string, b []byte) ocispec.Descriptor {
	d := digest.FromBytes(b)
	blobs[d] = b
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// BusyboxArchive is the path of an archive of a system image: busybox, with the users root and admin.
func BusyboxArchive(t testing.TB) string {
	t.Helper()
	return save(t, Archive(t, ocispec.ImageConfig{Labels: map[string]string{"cloud.nacre.system": "true", "cloud.nacre.login-user": busybox.LoginUser}}, busyboxLayers(t, 1)))
}

// AppArchive is the path of an archive of an application's image: busybox in the first of its layers, a file
// "/layer-N" in each other, and whatever config says.
func AppArchive(t testing.TB, config ocispec.ImageConfig, layers int) string {
	t.Helper()
	return save(t, Archive(t, config, busyboxLayers(t, layers)))
}

func busyboxLayers(t testing.TB, count int) [][]byte {
	t.Helper()
	root, err := busybox.RootFS(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	list := [][]byte{root}
	for n := 2; n <= count; n++ {
		list = append(list, Tar(t, File(fmt.Sprintf("layer-%d", n), fmt.Sprintln(n))))
	}
	return list
}

func save(t testing.TB, archive []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, archive, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
