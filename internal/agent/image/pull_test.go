package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
)

// noise is a file that doesn't shrink.
func noise(t testing.TB, name string, size int) imagetest.Entry {
	t.Helper()
	b := make([]byte, size)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return imagetest.File(name, string(b))
}

func TestAPulledImageIsTheOneThatItsArchiveHolds(t *testing.T) {
	archive := imagetest.Archive(t, ocispec.ImageConfig{Cmd: []string{"/hello"}}, [][]byte{imagetest.Tar(t, hello()...), imagetest.Tar(t, noise(t, "n", 1<<20))})
	want := importOne(t, newStore(t), archive)
	var blobs atomic.Int64
	host := imagetest.NewRegistry(t, archive).Serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if strings.Contains(q.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			next.ServeHTTP(w, q)
		})
	})
	s := newStore(t)
	last := int64(-1)
	img, err := s.Pull(t.Context(), host+"/team/app:1", "", func(done, total int64, what string) {
		if total > 0 && done > total {
			t.Errorf("%d of %d %s", done, total, what)
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if img.Digest != want.Digest || img.Name != host+"/team/app:1" || last < 1 {
		t.Errorf("pulled %s as %s with progress %d; the archive's is %s", img.Digest, img.Name, last, want.Digest)
	}
	if err := s.PrepareRoot(t.Context(), "a", img.Digest, 0x10000000, target(t, s, "a"), nil); err != nil {
		t.Error(err)
	}
	before := blobs.Load()
	if _, err := s.Pull(t.Context(), host+"/team/app@"+want.Digest, "", nil); err != nil {
		t.Errorf("by its digest: %v", err)
	}
	if blobs.Load() != before {
		t.Errorf("%d blobs were fetched again", blobs.Load()-before)
	}
}

// cutter ends a connection after some bytes of a response, once.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) >= c.left {
		c.ResponseWriter.Write(b[:c.left])
		http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

func TestAFetchThatIsCutOffGoesOnWhereItWas(t *testing.T) {
	archive := imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, noise(t, "big", 4<<20))})
	var mu sync.Mutex
	ranges := map[string][]string{} // by blob
	host := imagetest.NewRegistry(t, archive).Serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if strings.Contains(q.URL.Path, "/blobs/") && q.Method == http.MethodGet {
				mu.Lock()
				ranges[q.URL.Path] = append(ranges[q.URL.Path], q.Header.Get("Range"))
				first := len(ranges[q.URL.Path]) == 1
				mu.Unlock()
				if first { // the configuration is too small to be hit
					w = &cutter{ResponseWriter: w, left: 1 << 20}
				}
			}
			next.ServeHTTP(w, q)
		})
	})
	s := newStore(t)
	if _, err := s.Pull(t.Context(), host+"/app:1", "", nil); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	resumed := 0
	for _, asked := range ranges {
		if len(asked) < 2 {
			continue
		}
		resumed++
		for _, again := range asked[1:] {
			if !strings.HasPrefix(again, "bytes=") || strings.HasPrefix(again, "bytes=0-") {
				t.Errorf("asked for %q: not for the rest", asked)
			}
		}
	}
	if resumed != 1 {
		t.Errorf("%d blobs were asked for again: %q", resumed, ranges)
	}
}

func TestARegistryThatLiesIsRefusedAndLeavesNothing(t *testing.T) {
	layer := imagetest.Tar(t, hello()...)
	spoil := func(change func(*ocispec.Manifest)) []byte {
		return imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{layer}, func(m *ocispec.Manifest, _ *ocispec.Image, _ map[digest.Digest][]byte) { change(m) })
	}
	for name, archive := range map[string][]byte{
		"missing layer": spoil(func(m *ocispec.Manifest) { m.Layers[0].Digest = digest.FromString("x") }),
		"no digest":     spoil(func(m *ocispec.Manifest) { m.Layers[0].Digest = "latest" }),
		"longer layer":  spoil(func(m *ocispec.Manifest) { m.Layers[0].Size-- }),
		"absurd size":   spoil(func(m *ocispec.Manifest) { m.Layers[0].Size = 1 << 62 }),
		"negative size": spoil(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }),
		"129 layers": spoil(func(m *ocispec.Manifest) {
			for range maxLayers {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		}),
		"changed layer": imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{layer}, func(m *ocispec.Manifest, _ *ocispec.Image, blobs map[digest.Digest][]byte) {
			b := bytes.Clone(blobs[m.Layers[0].Digest])
			b[len(b)/2] ^= 1
			blobs[m.Layers[0].Digest] = b
		}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if img, err := s.Pull(t.Context(), imagetest.NewRegistry(t, archive).Serve(t, nil)+"/app:1", "", nil); err == nil {
				t.Errorf("it became %+v", img)
			}
			nothingOnDisk(t, s)
		})
	}
	for _, ref := range []string{"", "UPPER", "a b", "http://x/y", "127.0.0.1:1/x:1"} {
		if _, err := newStore(t).Pull(t.Context(), ref, "", nil); err == nil {
			t.Errorf("%q was pulled", ref)
		}
	}
}

func TestACollectionNeitherWaitsForAPullNorDisturbsIt(t *testing.T) {
	archive := imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, hello()...)})
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	host := imagetest.NewRegistry(t, archive).Serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if strings.Contains(q.URL.Path, "/blobs/") {
				once.Do(func() { close(reached) })
				<-goOn
			}
			next.ServeHTTP(w, q)
		})
	})
	s := newStore(t)
	pulled := make(chan error, 1)
	go func() {
		_, err := s.Pull(t.Context(), host+"/app:1", "", nil)
		pulled <- err
	}()
	<-reached
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.GC(ctx); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := <-pulled; err != nil {
		t.Error(err)
	}
}

func TestAPullThatIsGivenUpLeavesNothing(t *testing.T) {
	archive := imagetest.Archive(t, ocispec.ImageConfig{}, [][]byte{imagetest.Tar(t, noise(t, "n", 1<<20))})
	ctx, cancel := context.WithCancel(t.Context())
	host := imagetest.NewRegistry(t, archive).Serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if strings.Contains(q.URL.Path, "/blobs/") {
				cancel()
				<-q.Context().Done()
				return
			}
			next.ServeHTTP(w, q)
		})
	})
	s := newStore(t)
	if _, err := s.Pull(ctx, host+"/app:1", "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	nothingOnDisk(t, s)
}

func TestCredentialsAreDockers(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	if user, secret, err := credentials("registry.example"); user != "" || secret != "" || err != nil {
		t.Errorf("with no file: %q %q %v", user, secret, err)
	}
	if err := os.Mkdir(filepath.Join(home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`{"auths":{"registry.example":{"auth":"bWU6c2VjcmV0OjE="}}}`:        "me secret:1",
		`{"auths":{"other.example":{"auth":"bWU6c2VjcmV0"}}}`:               " ",
		`{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"}}}`: " ",
		`{"auths":{"registry.example":{"auth":"not base64!"}}}`:             "error",
		`{"auths":`:                         "error",
		`{"credsStore":"desktop"}`:          " ",
		`{"auths":{"registry.example":{}}}`: " ",
	} {
		if err := os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		user, secret, err := credentials("registry.example")
		got := user + " " + secret
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
