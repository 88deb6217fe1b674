package imagetest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry serves one image, read-only, under every name and tag.
type Registry struct {
	manifest ocispec.Descriptor
	blobs    map[digest.Digest][]byte
}

// NewRegistry makes a registry of an OCI archive's first image.
func NewRegistry(t testing.TB, archive []byte) *Registry {
	t.Helper()
	r := &Registry{blobs: Blobs(t, archive)}
	var index ocispec.Index
	if err := json.Unmarshal(r.blobs[digest.NewDigestFromEncoded(digest.SHA256, ocispec.ImageIndexFile)], &index); err != nil {
		t.Fatal(err)
	}
	r.manifest = index.Manifests[0]
	return r
}

// Blobs are an OCI archive's files by the last part of their names, as digests.
func Blobs(t testing.TB, archive []byte) map[digest.Digest][]byte {
	t.Helper()
	blobs := map[digest.Digest][]byte{}
	files := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		blobs[digest.NewDigestFromEncoded(digest.SHA256, path.Base(h.Name))] = b
	}
	return blobs
}

// Serve starts a registry on loopback, through handler when there is one, and returns its host and port.
func (r *Registry) Serve(t testing.TB, through func(http.Handler) http.Handler) string {
	t.Helper()
	var h http.Handler = r
	if through != nil {
		h = through(r)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	name := path.Base(q.URL.Path)
	d := digest.Digest(name)
	switch kind := path.Base(path.Dir(q.URL.Path)); {
	case q.URL.Path == "/v2/":
		return
	case kind == "manifests":
		if !strings.HasPrefix(name, "sha256:") {
			d = r.manifest.Digest
		}
		w.Header().Set("Content-Type", r.manifest.MediaType)
		w.Header().Set("Docker-Content-Digest", d.String())
	case kind == "blobs":
		w.Header().Set("Content-Type", "application/octet-stream")
	default:
		http.NotFound(w, q)
		return
	}
	b, ok := r.blobs[d]
	if !ok {
		http.NotFound(w, q)
		return
	}
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(b))
}
