package wire_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/registry/wire"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	ours   = cloud.AccountID("111111111111")
	theirs = cloud.AccountID("222222222222")
)

// world is a registry over a server's image store, behind HTTP, with a clock of its own.
type world struct {
	t        *testing.T
	dir      string
	store    *store.Store
	images   *image.Store
	registry *registry.Registry
	handler  atomic.Pointer[wire.Handler]
	url      string
	ahead    atomic.Int64 // how far the clock is
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "nacre-registry-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, dir: dir, store: store.OpenMemory()}
	t.Cleanup(func() { w.store.Close() })
	err = w.store.Update(t.Context(), func(tx *store.Tx) error {
		for _, a := range []cloud.AccountID{ours, theirs} {
			store.Put(tx, store.AccessKeys, &cloud.AccessKey{ID: cloud.AccessKeyID("AKIA" + a), Secret: "secret of " + string(a), Account: a})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.open()
	t.Cleanup(w.close)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.handler.Load().ServeHTTP(rw, r) }))
	t.Cleanup(server.Close)
	w.url = server.URL
	for _, a := range []cloud.AccountID{ours, theirs} {
		w.create(a, "team/app")
	}
	w.create(ours, "other")
	return w
}

func (w *world) create(a cloud.AccountID, name cloud.RepositoryName) {
	w.t.Helper()
	if err := w.registry.CreateRepository(w.t.Context(), &cloud.Repository{Account: a, Name: name}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	if w.images, err = image.Open(w.t.Context(), image.StoreConfig{Root: filepath.Join(w.dir, "images"), Logger: log}); err != nil {
		w.t.Fatal(err)
	}
	if w.registry, err = registry.New(w.t.Context(), registry.Config{Store: w.store, Blobs: w.images.Blobs(), Now: w.now, Logger: log}); err != nil {
		w.t.Fatal(err)
	}
	w.handler.Store(&wire.Handler{Registry: w.registry, Logger: log})
}

func (w *world) close() {
	if err := w.registry.Close(); err != nil {
		w.t.Error(err)
	}
	if err := w.images.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) token(a cloud.AccountID) string {
	key, _ := store.Get(w.store.View(), store.AccessKeys, cloud.AccessKeyID("AKIA"+a))
	return registry.NewToken(*key, w.now().Add(registry.TokenFor), "")
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) code() string {
	var doc struct{ Errors []struct{ Code string } }
	if json.Unmarshal(a.body, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	return doc.Errors[0].Code
}

type with func(*http.Request)

func header(key, value string) with { return func(r *http.Request) { r.Header.Set(key, value) } }
func as(token string) with {
	return func(r *http.Request) { r.SetBasicAuth(registry.TokenUser, token) }
}

func (w *world) do(method, path string, body []byte, options ...with) answer {
	w.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = w.url + path
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.SetBasicAuth(registry.TokenUser, w.token(ours))
	for _, o := range options {
		o(r)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, b}
}

func (w *world) expect(want int, method, path string, body []byte, options ...with) answer {
	w.t.Helper()
	a := w.do(method, path, body, options...)
	if a.status != want {
		w.t.Fatalf("%s %s answered %d, want %d: %.300s", method, path, a.status, want, a.body)
	}
	return a
}

func digestOf(b []byte) string { return digest.FromBytes(b).String() }

// push pushes a blob in one request.
func (w *world) push(repo string, b []byte, options ...with) string {
	w.t.Helper()
	w.expect(201, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+digestOf(b), b, options...)
	return digestOf(b)
}

// manifestOf is a manifest of blobs, the first of which is the configuration.
func manifestOf(blobs ...[]byte) []byte {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for n, b := range blobs {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(b), Size: int64(len(b))}
		if n == 0 {
			d.MediaType = ocispec.MediaTypeImageConfig
			m.Config = d
			continue
		}
		m.Layers = append(m.Layers, d)
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

var ofImage = header("Content-Type", ocispec.MediaTypeImageManifest)

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// held tells whether the server's image store has a blob.
func (w *world) held(d string) bool {
	w.t.Helper()
	blob, err := w.images.Blobs().Open(w.t.Context(), digest.Digest(d))
	if err != nil {
		return false
	}
	blob.Close()
	return true
}

// collect runs a collection to its end.
func (w *world) collect() {
	w.t.Helper()
	if err := w.registry.Collect(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if err := w.images.GC(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func TestAnUploadGoesOnAfterARestartWhereItWas(t *testing.T) {
	w := newWorld(t)
	blob := random(3 << 20)
	at := w.expect(202, "POST", "/v2/team/app/blobs/uploads/", nil).header.Get("Location")
	w.expect(202, "PATCH", at, blob[:1<<20], header("Content-Range", fmt.Sprintf("0-%d", 1<<20-1)))
	// What a crash leaves: nobody closes the upload in an orderly way, and the next process finds what is on the disk.
	w.close()
	w.open()
	if got := w.expect(204, "GET", at, nil).header.Get("Range"); got != fmt.Sprintf("0-%d", 1<<20-1) {
		t.Fatalf("the upload is at %q", got)
	}
	if w.do("HEAD", "/v2/team/app/blobs/"+digestOf(blob), nil).status != 404 {
		t.Error("half a blob is visible")
	}
	again := w.expect(416, "PATCH", at, blob[:1<<20], header("Content-Range", fmt.Sprintf("0-%d", 1<<20-1)))
	if again.header.Get("Range") != fmt.Sprintf("0-%d", 1<<20-1) {
		t.Errorf("a chunk out of order is told to go on at %q", again.header.Get("Range"))
	}
	w.expect(202, "PATCH", at, blob[1<<20:], header("Content-Range", fmt.Sprintf("%d-%d", 1<<20, 3<<20-1)))
	w.expect(201, "PUT", at+"?digest="+digestOf(blob), nil)
	if got := w.expect(200, "GET", "/v2/team/app/blobs/"+digestOf(blob), nil).body; !bytes.Equal(got, blob) {
		t.Errorf("%d bytes came back", len(got))
	}
	part := w.expect(206, "GET", "/v2/team/app/blobs/"+digestOf(blob), nil, header("Range", "bytes=2097152-"))
	if !bytes.Equal(part.body, blob[2<<20:]) {
		t.Errorf("%d bytes of the rest came back", len(part.body))
	}
	w.expect(404, "PATCH", at, blob)
}

func TestWrongBytesLeaveNothing(t *testing.T) {
	w := newWorld(t)
	blob, other := []byte("these bytes"), digestOf([]byte("others"))
	for name, push := range map[string]func() answer{
		"at once": func() answer { return w.do("POST", "/v2/team/app/blobs/uploads/?digest="+other, blob) },
		"in parts": func() answer {
			at := w.expect(202, "POST", "/v2/team/app/blobs/uploads/", nil).header.Get("Location")
			w.expect(202, "PATCH", at, blob)
			a := w.do("PUT", at+"?digest="+other, nil)
			w.expect(404, "GET", at, nil)
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			if a := push(); a.status != 400 || a.code() != "DIGEST_INVALID" {
				t.Errorf("answered %d %s", a.status, a.body)
			}
			for _, d := range []string{other, digestOf(blob)} {
				if w.do("HEAD", "/v2/team/app/blobs/"+d, nil).status != 404 {
					t.Errorf("%s is visible", d)
				}
			}
			if left, err := w.images.Blobs().Uploads(t.Context()); err != nil || len(left) != 0 {
				t.Errorf("uploads are left: %v %v", left, err)
			}
		})
	}
}

func TestWhatCantBeMeantIsRefused(t *testing.T) {
	w := newWorld(t)
	config := []byte("{}")
	w.push("team/app", config)
	good := manifestOf(config)
	at := w.expect(202, "POST", "/v2/team/app/blobs/uploads/", nil).header.Get("Location")
	layers := make([][]byte, 10_001)
	for n := range layers {
		layers[n] = config
	}
	with := func(text string) []byte { return []byte(text) }
	for name, c := range map[string]struct {
		method, path string
		body         []byte
		kind         string
		status       int
		code         string
	}{
		"a name that climbs":             {"GET", "/v2/a..b/tags/list", nil, "", 400, "NAME_INVALID"},
		"a name with dots for parts":     {"GET", "/v2/%2e%2e/%2e%2e/etc/tags/list", nil, "", 400, "NAME_INVALID"},
		"a name in capitals":             {"GET", "/v2/App/tags/list", nil, "", 400, "NAME_INVALID"},
		"a name that is too long":        {"GET", "/v2/" + strings.Repeat("a", 257) + "/tags/list", nil, "", 400, "NAME_INVALID"},
		"a repository that isn't":        {"GET", "/v2/nobodys/tags/list", nil, "", 404, "NAME_UNKNOWN"},
		"a push to no repository":        {"POST", "/v2/nobodys/blobs/uploads/", nil, "", 404, "NAME_UNKNOWN"},
		"a digest of another kind":       {"GET", "/v2/team/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", nil, "", 400, "DIGEST_INVALID"},
		"a digest that climbs":           {"GET", "/v2/team/app/blobs/sha256:..%2f..%2fetc", nil, "", 404, ""},
		"a tag that is too long":         {"PUT", "/v2/team/app/manifests/" + strings.Repeat("t", 129), good, ocispec.MediaTypeImageManifest, 400, "TAG_INVALID"},
		"a manifest of another digest":   {"PUT", "/v2/team/app/manifests/" + digestOf(config), good, ocispec.MediaTypeImageManifest, 400, "DIGEST_INVALID"},
		"a manifest without its layers":  {"PUT", "/v2/team/app/manifests/v1", manifestOf(config, []byte("never pushed")), ocispec.MediaTypeImageManifest, 404, "MANIFEST_BLOB_UNKNOWN"},
		"an index without its images":    {"PUT", "/v2/team/app/manifests/v1", with(`{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1,"digest":"` + digestOf(config) + `"}]}`), ocispec.MediaTypeImageIndex, 404, "MANIFEST_BLOB_UNKNOWN"},
		"a manifest of 10,000 layers":    {"PUT", "/v2/team/app/manifests/v1", manifestOf(layers...), ocispec.MediaTypeImageManifest, 400, "MANIFEST_INVALID"},
		"a manifest of 5 MiB":            {"PUT", "/v2/team/app/manifests/v1", bytes.Repeat([]byte(" "), 5<<20), ocispec.MediaTypeImageManifest, 400, "MANIFEST_INVALID"},
		"a media type that isn't known":  {"PUT", "/v2/team/app/manifests/v1", good, "text/html", 400, "MANIFEST_INVALID"},
		"a manifest that is an index":    {"PUT", "/v2/team/app/manifests/v1", with(`{"schemaVersion":2,"config":{},"manifests":[]}`), ocispec.MediaTypeImageIndex, 400, "MANIFEST_INVALID"},
		"a manifest of schema 1":         {"PUT", "/v2/team/app/manifests/v1", with(`{"schemaVersion":1,"fsLayers":[]}`), "application/vnd.docker.distribution.manifest.v1+prettyjws", 400, "MANIFEST_INVALID"},
		"a manifest that lies of a size": {"PUT", "/v2/team/app/manifests/v1", bytes.Replace(good, []byte(`"size":2`), []byte(`"size":3`), 1), ocispec.MediaTypeImageManifest, 400, "MANIFEST_INVALID"},
		"a negative size":                {"PUT", "/v2/team/app/manifests/v1", bytes.Replace(good, []byte(`"size":2`), []byte(`"size":-2`), 1), ocispec.MediaTypeImageManifest, 400, "MANIFEST_INVALID"},
		"no JSON":                        {"PUT", "/v2/team/app/manifests/v1", with("hello"), ocispec.MediaTypeImageManifest, 400, "MANIFEST_INVALID"},
		"a method that isn't":            {"PATCH", "/v2/team/app/manifests/v1", nil, "", 405, "UNSUPPORTED"},
		"an upload of nobody":            {"PATCH", "/v2/team/app/blobs/uploads/00000000-0000-4000-8000-000000000000", config, "", 404, "BLOB_UPLOAD_UNKNOWN"},
		"another repository's upload":    {"PATCH", strings.Replace(at, "team/app", "other", 1), config, "", 404, "BLOB_UPLOAD_UNKNOWN"},
		"a finish without a digest":      {"PUT", at, nil, "", 400, "DIGEST_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.do(c.method, c.path, c.body, header("Content-Type", c.kind))
			if a.status != c.status || c.code != "" && a.code() != c.code {
				t.Errorf("answered %d %.300s, want %d %s", a.status, a.body, c.status, c.code)
			}
		})
	}
	if a := w.do("PATCH", at, config, header("Content-Range", "0-99")); a.status != 400 || a.code() != "SIZE_INVALID" {
		t.Errorf("a range longer than its bytes answered %d %s", a.status, a.body)
	}
	if got := w.expect(200, "GET", "/v2/team/app/tags/list", nil).body; !strings.Contains(string(got), `"tags":[]`) {
		t.Errorf("something of it stayed: %s", got)
	}
}

func TestAccountsDontMeet(t *testing.T) {
	w := newWorld(t)
	config, layer := []byte("{}"), random(1000)
	them := as(w.token(theirs))
	w.push("team/app", config, them)
	w.push("team/app", layer, them)
	m := manifestOf(config, layer)
	w.expect(201, "PUT", "/v2/team/app/manifests/v1", m, ofImage, them)
	for path, want := range map[string]int{"/v2/team/app/manifests/v1": 404, "/v2/team/app/blobs/" + digestOf(layer): 404, "/v2/team/app/manifests/" + digestOf(m): 404} {
		w.expect(want, "GET", path, nil)
		w.expect(200, "GET", path, nil, them)
	}
	// Neither by mounting nor by naming it in a manifest.
	w.expect(202, "POST", "/v2/other/blobs/uploads/?mount="+digestOf(layer), nil)
	w.expect(202, "POST", "/v2/other/blobs/uploads/?from=team/app&mount="+digestOf(layer), nil)
	w.push("team/app", config)
	w.expect(404, "PUT", "/v2/team/app/manifests/v1", m, ofImage)
	key, _ := store.Get(w.store.View(), store.AccessKeys, cloud.AccessKeyID("AKIA"+theirs))
	forged := *key
	forged.Secret = "guessed"
	link := registry.NewToken(*key, w.now().Add(time.Hour), registry.DownloadScope("team/app", digestOf(layer)))
	for name, option := range map[string]with{
		"no token":          func(r *http.Request) { r.Header.Del("Authorization") },
		"another user":      func(r *http.Request) { r.SetBasicAuth("root", w.token(theirs)) },
		"an expired token":  as(registry.NewToken(*key, w.now().Add(-time.Second), "")),
		"a forged token":    as(registry.NewToken(forged, w.now().Add(time.Hour), "")),
		"a download's link": as(link),
		"rubbish":           as("nacre1.a.b.c.d"),
	} {
		a := w.expect(401, "GET", "/v2/team/app/blobs/"+digestOf(layer), nil, option)
		if a.header.Get("WWW-Authenticate") != `Basic realm="nacre"` || a.code() != "UNAUTHORIZED" {
			t.Errorf("%s: %v %s", name, a.header, a.body)
		}
	}
	anonymous := func(r *http.Request) { r.Header.Del("Authorization") }
	w.expect(200, "GET", "/v2/team/app/blobs/"+digestOf(layer)+"?token="+link, nil, anonymous)
	w.expect(401, "GET", "/v2/team/app/blobs/"+digestOf(config)+"?token="+link, nil, anonymous)
	w.expect(401, "GET", "/v2/team/app/manifests/v1?token="+link, nil, anonymous)
}

func TestWhatAnImageNeedsStaysAsLongAsIt(t *testing.T) {
	w := newWorld(t)
	config, layer, stray := []byte("{}"), random(1000), random(1000)
	for _, b := range [][]byte{config, layer, stray} {
		w.push("team/app", b)
	}
	m := manifestOf(config, layer)
	w.expect(201, "PUT", "/v2/team/app/manifests/v1", m, ofImage)
	w.expect(201, "PUT", "/v2/team/app/manifests/v1", m, ofImage) // the same again is the same
	w.expect(405, "DELETE", "/v2/team/app/blobs/"+digestOf(layer), nil)
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}}})
	if err != nil {
		t.Fatal(err)
	}
	w.expect(201, "PUT", "/v2/team/app/manifests/all", index, header("Content-Type", ocispec.MediaTypeImageIndex))
	w.expect(405, "DELETE", "/v2/team/app/manifests/"+digestOf(m), nil)

	w.collect()
	for _, b := range [][]byte{layer, stray, m, index} {
		if !w.held(digestOf(b)) {
			t.Error("something that was just pushed is gone")
		}
	}
	w.expect(201, "POST", "/v2/other/blobs/uploads/?from=team/app&mount="+digestOf(layer), nil)
	w.expect(202, "DELETE", "/v2/team/app/manifests/"+digestOf(index), nil)
	w.expect(202, "DELETE", "/v2/team/app/manifests/v1", nil)
	w.expect(200, "GET", "/v2/team/app/manifests/"+digestOf(m), nil) // untagged, and there
	w.expect(202, "DELETE", "/v2/team/app/manifests/"+digestOf(m), nil)
	w.collect()
	if w.held(digestOf(m)) || w.held(digestOf(index)) {
		t.Error("a deleted manifest is still stored")
	}
	if !w.held(digestOf(layer)) {
		t.Error("a layer is gone within the hour in which it was pushed")
	}
	// A push that is under way keeps all that its repository has, and so does asking for a blob.
	at := w.expect(202, "POST", "/v2/team/app/blobs/uploads/", nil).header.Get("Location")
	w.ahead.Add(int64(50 * time.Minute))
	w.expect(202, "PATCH", at, []byte("slowly"))
	w.ahead.Add(int64(50 * time.Minute))
	w.collect()
	if !w.held(digestOf(config)) {
		t.Error("a blob is gone while a push to its repository is under way")
	}
	w.expect(204, "DELETE", at, nil)
	w.expect(200, "HEAD", "/v2/team/app/blobs/"+digestOf(config), nil)
	w.collect()
	if !w.held(digestOf(config)) {
		t.Error("a blob is gone that somebody just asked for")
	}
	if w.held(digestOf(stray)) {
		t.Error("a blob that no image has is still stored")
	}
	w.ahead.Add(int64(2 * time.Hour))
	w.collect()
	if w.held(digestOf(config)) || w.held(digestOf(layer)) {
		t.Error("what no image has any more is still stored")
	}
	if list := store.List(w.store.View(), store.RepositoryLayers); len(list) != 0 {
		t.Errorf("%d blobs are kept", len(list))
	}
}

func TestUploadsThatStandStillAreRemoved(t *testing.T) {
	w := newWorld(t)
	var last string
	for range registry.MaxOpenUploads {
		last = w.expect(202, "POST", "/v2/team/app/blobs/uploads/", nil).header.Get("Location")
	}
	w.expect(429, "POST", "/v2/team/app/blobs/uploads/", nil)
	w.expect(202, "POST", "/v2/team/app/blobs/uploads/", nil, as(w.token(theirs)))
	w.ahead.Add(int64(59 * time.Minute))
	w.expect(202, "PATCH", last, []byte("alive"))
	w.ahead.Add(int64(2 * time.Minute))
	w.collect()
	if left, err := w.images.Blobs().Uploads(t.Context()); err != nil || len(left) != 1 {
		t.Errorf("%d uploads are left: %v", len(left), err)
	}
	w.expect(204, "GET", last, nil)
}

func TestABlobOfAnAMIIsStoredOnceAndOutlivesTheRepository(t *testing.T) {
	w := newWorld(t)
	archive := imagetest.Archive(t, ocispec.ImageConfig{Cmd: []string{"/hello"}}, [][]byte{imagetest.Tar(t, imagetest.File("hello", string(random(100_000))))})
	list, err := w.images.Import(t.Context(), bytes.NewReader(archive), "ami", "", nil)
	if err != nil || len(list) != 1 {
		t.Fatalf("%v %v", list, err)
	}
	before, _, err := w.images.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	blobs := imagetest.Blobs(t, archive)
	m := blobs[digest.Digest(list[0].Digest)]
	var manifest ocispec.Manifest
	if err := json.Unmarshal(m, &manifest); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(manifest.Layers, manifest.Config) {
		w.push("team/app", blobs[d.Digest])
	}
	w.expect(201, "PUT", "/v2/team/app/manifests/v1", m, ofImage)
	if after, _, err := w.images.Usage(t.Context()); err != nil || after != before {
		t.Errorf("the content had %d bytes and has %d: %v", before, after, err)
	}
	if _, err := w.registry.DeleteRepository(t.Context(), ours, "team/app", true); err != nil {
		t.Fatal(err)
	}
	w.collect()
	if !w.held(list[0].Digest) || !w.held(string(manifest.Layers[0].Digest)) {
		t.Error("the AMI's content went with the repository")
	}
	if err := w.images.Delete(context.WithoutCancel(t.Context()), list[0].Digest); err != nil {
		t.Fatal(err)
	}
	w.collect()
	if w.held(list[0].Digest) || w.held(string(manifest.Layers[0].Digest)) {
		t.Error("content that nobody has is still stored")
	}
}

func FuzzPaths(f *testing.F) {
	for _, path := range []string{"/v2/", "/v2", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/x", "/v2/a/manifests/sha256:0", "/v2//blobs/", "/v2/blobs/uploads"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		repo, what, last, ok := wire.Split(path)
		if !ok {
			return
		}
		joined := path == "/v2" || strings.Contains(path, repo) && strings.Contains(path, last)
		if !joined || what == "" && path != "/v2" && path != "/v2/" {
			t.Errorf("%q was taken apart into %q, %q and %q", path, repo, what, last)
		}
	})
}
