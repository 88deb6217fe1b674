package registry

import (
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func FuzzManifests(f *testing.F) {
	f.Add(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":{"mediaType":"a","size":2,"digest":"`+someDigest+`"},"layers":[{"urls":["u"],"size":1,"digest":"`+someDigest+`"}]}`))
	f.Add(ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[{"size":2,"digest":"`+someDigest+`"}],"subject":{"digest":"`+someDigest+`"}}`))
	f.Add("", []byte(`{"schemaVersion":2,"mediaType":"`+dockerManifest+`","config":{}}`))
	f.Fuzz(func(t *testing.T, said string, b []byte) {
		m, err := parseManifest(said, b)
		if err != nil {
			if CodeOf(err) != ManifestInvalid {
				t.Errorf("refused with %q: %v", CodeOf(err), err)
			}
			return
		}
		if len(m.layers) > MaxLayers+1 || len(m.children) > MaxLayers || len(m.layers) > 0 && len(m.children) > 0 {
			t.Errorf("%d layers and %d manifests", len(m.layers), len(m.children))
		}
		for _, d := range append(m.layers, m.children...) {
			if d.Digest.Validate() != nil || d.Size < 0 || d.Size > MaxBlob {
				t.Errorf("%+v", d)
			}
		}
	})
}

func FuzzTokens(f *testing.F) {
	key := cloud.AccessKey{ID: "AKIA", Secret: "secret"}
	until := time.Unix(1_800_000_000, 0)
	for _, scope := range []string{"", DownloadScope("a/b", someDigest), "a.b\n"} {
		f.Add(NewToken(key, until, scope))
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseToken(text)
		if err != nil {
			return
		}
		if !strings.HasPrefix(text, p.body+".") || len(text) > maxToken {
			t.Errorf("%q has the body %q", text, p.body)
		}
	})
}

func TestATokenTellsItsKeyItsEndAndItsScope(t *testing.T) {
	key := cloud.AccessKey{ID: "AKIA", Secret: "secret"}
	until := time.Unix(1_800_000_000, 0)
	p, err := parseToken(NewToken(key, until, "download x@y"))
	if err != nil || p.key != key.ID || p.until != until.Unix() || p.scope != "download x@y" {
		t.Errorf("%+v %v", p, err)
	}
}

func FuzzUploadNames(f *testing.F) {
	f.Add("111111111111/team/app/00000000-0000-4000-8000-000000000000")
	f.Add("x")
	f.Fuzz(func(t *testing.T, name string) {
		part := sessionName.FindStringSubmatch(name)
		if part == nil {
			return
		}
		s := session{id: part[3], account: cloud.AccountID(part[1]), repo: cloud.RepositoryName(part[2])}
		if s.name() != name {
			t.Errorf("%q is read as %q", name, s.name())
		}
	})
}
