package registry

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// The media types of manifests and of lists of them.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// manifest is what the registry understands of a manifest: what it refers to.
type manifest struct {
	mediaType, artifactType string
	layers                  []ocispec.Descriptor // the configuration first; only what is to be in the repository
	children                []ocispec.Descriptor
	subject                 digest.Digest
}

// document is a manifest or an index as it is sent.
type document struct {
	SchemaVersion int                   `json:"schemaVersion"`
	MediaType     string                `json:"mediaType"`
	ArtifactType  string                `json:"artifactType"`
	Config        *ocispec.Descriptor   `json:"config"`
	Layers        *[]ocispec.Descriptor `json:"layers"`
	Manifests     *[]ocispec.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage       `json:"fsLayers"`
	Subject       *ocispec.Descriptor   `json:"subject"`
}

// parseManifest reads a manifest. said is the media type that it was sent as, "" for what it says itself.
func parseManifest(said string, b []byte) (manifest, error) {
	if len(b) > MaxManifest {
		return manifest{}, refuse(ManifestInvalid, "The manifest has %d bytes; %d at most", len(b), MaxManifest)
	}
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil {
		return manifest{}, refuse(ManifestInvalid, "The manifest is not JSON of the right shape: %v", err)
	}
	said, _, _ = strings.Cut(said, ";")
	said = strings.TrimSpace(said)
	m := manifest{mediaType: said, artifactType: doc.ArtifactType}
	if m.mediaType == "" {
		m.mediaType = doc.MediaType
	}
	switch {
	case doc.FSLayers != nil:
		return m, refuse(ManifestInvalid, "The manifest is of schema 1, which is not accepted: push it as an OCI image")
	case doc.SchemaVersion != 2:
		return m, refuse(ManifestInvalid, "The manifest says schemaVersion %d; it must be 2", doc.SchemaVersion)
	case doc.MediaType != "" && doc.MediaType != m.mediaType:
		return m, refuse(ManifestInvalid, "The manifest says that it is %.100q and was sent as %.100q", doc.MediaType, said)
	case len(m.artifactType) > 255:
		return m, refuse(ManifestInvalid, "The artifactType has %d characters; 255 at most", len(m.artifactType))
	}
	var err error
	switch m.mediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest:
		err = m.image(doc)
	case ocispec.MediaTypeImageIndex, dockerList:
		err = m.index(doc)
	default:
		return m, refuse(ManifestInvalid, "%.100q is not the media type of a manifest or an index: %s and %s are, and docker's", m.mediaType, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex)
	}
	if err == nil && doc.Subject != nil {
		m.subject = doc.Subject.Digest
		err = soundDescriptor(*doc.Subject)
	}
	return m, err
}

func (m *manifest) image(doc document) error {
	if doc.Config == nil || doc.Manifests != nil {
		return refuse(ManifestInvalid, "A manifest has a config and no list of manifests")
	}
	var layers []ocispec.Descriptor
	if doc.Layers != nil {
		layers = *doc.Layers
	}
	if len(layers) > MaxLayers {
		return refuse(ManifestInvalid, "The manifest has %d layers; %d at most", len(layers), MaxLayers)
	}
	if m.artifactType == "" {
		m.artifactType = doc.Config.MediaType
	}
	for _, d := range slices.Concat([]ocispec.Descriptor{*doc.Config}, layers) {
		if err := soundDescriptor(d); err != nil {
			return err
		}
		if elsewhere(d) {
			continue
		}
		m.layers = append(m.layers, d)
	}
	return nil
}

// elsewhere tells whether a layer is one that registries need not have.
func elsewhere(d ocispec.Descriptor) bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".rootfs.foreign.")
}

func (m *manifest) index(doc document) error {
	if doc.Manifests == nil || doc.Config != nil || doc.Layers != nil {
		return refuse(ManifestInvalid, "An index has a list of manifests, and neither config nor layers")
	}
	if len(*doc.Manifests) > MaxLayers {
		return refuse(ManifestInvalid, "The index has %d manifests; %d at most", len(*doc.Manifests), MaxLayers)
	}
	for _, d := range *doc.Manifests {
		if err := soundDescriptor(d); err != nil {
			return err
		}
		m.children = append(m.children, d)
	}
	return nil
}

func soundDescriptor(d ocispec.Descriptor) error {
	if _, err := soundDigest(string(d.Digest)); err != nil {
		return refuse(ManifestInvalid, "The manifest refers to something wrong: %v", err)
	}
	if d.Size < 0 || d.Size > MaxBlob {
		return refuse(ManifestInvalid, "The manifest says that %s has %d bytes; 0 to %d are accepted", d.Digest, d.Size, int64(MaxBlob))
	}
	return nil
}

// digests are those of a list, each once.
func digests(list []ocispec.Descriptor) []string {
	var out []string
	seen := map[digest.Digest]bool{}
	for _, d := range list {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, string(d.Digest))
		}
	}
	return out
}

// Reference is a tag or a digest.
type Reference struct {
	Tag    string
	Digest digest.Digest
}

// ParseReference reads what stands in the place of a tag or a digest.
func ParseReference(text string) (Reference, error) {
	if strings.Contains(text, ":") {
		d, err := soundDigest(text)
		return Reference{Digest: d}, err
	}
	if !cloud.ValidRepositoryTag(text) {
		return Reference{}, refuse(TagInvalid, "%.200q is no tag: 1 to %d letters, digits, underscores, dots and hyphens, the last two not at the beginning", text, cloud.MaxRepositoryTag)
	}
	return Reference{Tag: text}, nil
}
