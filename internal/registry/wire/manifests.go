package wire

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/registry"
)

const (
	// maxPage bounds the lists of tags and repositories.
	maxPage = 1000
	// referrersPage bounds one page of referrers, each of which is read.
	referrersPage = 100
)

func (h *Handler) getManifest(w http.ResponseWriter, r *request) error {
	ref, err := registry.ParseReference(r.last)
	if err != nil {
		return asUnknown(err)
	}
	img, b, err := h.Registry.Manifest(r.Context(), r.account, r.repo, ref, r.Method == http.MethodGet)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", img.MediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Header().Set("Docker-Content-Digest", img.Digest)
	w.Header().Set("ETag", strconv.Quote(img.Digest))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		w.Write(b)
	}
	return nil
}

// asUnknown has what can't be the name of anything not be there.
func asUnknown(err error) error {
	if registry.CodeOf(err) == registry.TagInvalid {
		return &registry.Error{Code: registry.ManifestUnknown, Message: err.Error()}
	}
	return err
}

func (h *Handler) putManifest(w http.ResponseWriter, r *request) error {
	ref, err := registry.ParseReference(r.last)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(awsapi.PatientBody(w, r.Request), registry.MaxManifest+1))
	if err != nil {
		return fmt.Errorf("read the manifest: %w", err)
	}
	img, _, err := h.Registry.PutImage(r.Context(), r.account, registry.Put{Repository: r.repo, MediaType: r.Header.Get("Content-Type"), Manifest: b, Tag: ref.Tag, Digest: ref.Digest})
	if err != nil {
		return err
	}
	w.Header().Set("Location", Root+r.repo+"/manifests/"+img.Digest)
	w.Header().Set("Docker-Content-Digest", img.Digest)
	if img.Subject != "" {
		w.Header().Set("OCI-Subject", img.Subject)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (h *Handler) deleteManifest(w http.ResponseWriter, r *request) error {
	ref, err := registry.ParseReference(r.last)
	if err != nil {
		return asUnknown(err)
	}
	if _, _, err := h.Registry.DeleteImage(r.Context(), r.account, r.repo, ref, false); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// page is how much of a list is wanted.
func page(r *request) (n int, last string, err error) {
	query, n := r.URL.Query(), maxPage
	if text := query.Get("n"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 0 {
			return 0, "", &registry.Error{Code: "PAGINATION_NUMBER_INVALID", Message: fmt.Sprintf("n is a number, not %.50q", text)}
		}
	}
	return min(n, maxPage), query.Get("last"), nil
}

// next tells where a list goes on.
func next(w http.ResponseWriter, r *request, last string) {
	query := r.URL.Query()
	query.Set("last", last)
	w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, (&url.URL{Path: r.URL.Path, RawQuery: query.Encode()}).String()))
}

func (h *Handler) tags(w http.ResponseWriter, r *request) error {
	n, last, err := page(r)
	if err != nil {
		return err
	}
	list, more, err := h.Registry.Tags(r.account, r.repo, last, n)
	if err != nil {
		return err
	}
	if more && len(list) > 0 {
		next(w, r, list[len(list)-1])
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{r.repo, list})
}

func (h *Handler) catalog(w http.ResponseWriter, r *request) error {
	n, last, err := page(r)
	if err != nil {
		return err
	}
	list, more := h.Registry.Names(r.account, last, n)
	if more && len(list) > 0 {
		next(w, r, list[len(list)-1])
	}
	return writeJSON(w, "application/json", map[string][]string{"repositories": list})
}

func (h *Handler) referrers(w http.ResponseWriter, r *request) error {
	query := r.URL.Query()
	kind := query.Get("artifactType")
	list, more, err := h.Registry.Referrers(r.Context(), r.account, r.repo, r.last, kind, query.Get("last"), referrersPage)
	if err != nil {
		return err
	}
	if more {
		next(w, r, string(list[len(list)-1].Digest))
	}
	if kind != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list})
}
