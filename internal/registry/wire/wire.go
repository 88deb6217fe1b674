// Package wire is the registry's HTTP: the OCI distribution specification 1.1, as docker, podman, skopeo and crane speak it.
//
// It reads requests, says answers, and decides nothing: package registry does. Repositories are those of the account whose token a client
// shows. Every answer but a layer's download is small and whole.
package wire

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
)

// Root is the path below which the protocol is.
const Root = "/v2/"

// Handler answers below Root. It is an http.Handler.
type Handler struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// request is one, taken apart.
type request struct {
	*http.Request
	account cloud.AccountID
	repo    string
	what    string // blobs, uploads, manifests, tags, referrers; catalog, and "" for the root
	last    string // the part of the path that comes after what
}

// split takes a path below Root apart. Repositories' names have slashes, so that the end decides.
func split(path string) (repo, what, last string, ok bool) {
	path, ok = strings.CutPrefix(path, Root)
	if !ok {
		return "", "", "", path == strings.TrimSuffix(Root, "/")
	}
	switch path {
	case "":
		return "", "", "", true
	case "_catalog":
		return "", "catalog", "", true
	}
	if repo, found := strings.CutSuffix(strings.TrimSuffix(path, "/"), "/blobs/uploads"); found {
		return repo, "uploads", "", true
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", "", "", false
	}
	rest, last := path[:i], path[i+1:]
	if repo, found := strings.CutSuffix(rest, "/blobs/uploads"); found {
		return repo, "uploads", last, last != ""
	}
	for _, what := range []string{"blobs", "manifests", "tags", "referrers"} {
		if repo, found := strings.CutSuffix(rest, "/"+what); found {
			return repo, what, last, last != ""
		}
	}
	return "", "", "", false
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff") // layers are anybody's bytes
	recorded := &recorder{ResponseWriter: w}
	account, err := h.answer(recorded, r)
	if err != nil && recorded.status == 0 {
		h.refuse(recorded, r, err)
	}
	h.Logger.Info("registry", "method", r.Method, "path", r.URL.Path, "account", account, "status", recorded.status)
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request) (cloud.AccountID, error) {
	repo, what, last, ok := split(r.URL.Path)
	if !ok {
		return "", &registry.Error{Code: "NOT_FOUND", Message: "there is nothing at this path"}
	}
	account, err := h.who(r, repo, what, last)
	if err != nil {
		return "", err
	}
	if repo != "" && !cloud.ValidRepositoryName(repo) {
		return account, &registry.Error{Code: registry.NameInvalid, Message: "this is no name of a repository"}
	}
	return account, h.route(w, &request{Request: r, account: account, repo: repo, what: what, last: last})
}

// who tells whom a request is from.
func (h *Handler) who(r *http.Request, repo, what, last string) (cloud.AccountID, error) {
	if user, password, ok := r.BasicAuth(); ok {
		if user != registry.TokenUser {
			return "", registry.ErrToken
		}
		return h.Registry.Account(password, "")
	}
	if token := r.URL.Query().Get("token"); token != "" && what == "blobs" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return h.Registry.Account(token, registry.DownloadScope(repo, last))
	}
	return "", registry.ErrToken
}

func (h *Handler) route(w http.ResponseWriter, r *request) error {
	handlers := map[string]func(http.ResponseWriter, *request) error{}
	switch r.what {
	case "":
		handlers["GET"] = func(w http.ResponseWriter, _ *request) error { return writeJSON(w, "application/json", struct{}{}) }
	case "catalog":
		handlers["GET"] = h.catalog
	case "tags":
		if r.last != "list" {
			return &registry.Error{Code: "NOT_FOUND", Message: "there is nothing at this path"}
		}
		handlers["GET"] = h.tags
	case "referrers":
		handlers["GET"] = h.referrers
	case "manifests":
		handlers["GET"], handlers["PUT"], handlers["DELETE"] = h.getManifest, h.putManifest, h.deleteManifest
	case "blobs":
		handlers["GET"], handlers["DELETE"] = h.getBlob, h.deleteBlob
	case "uploads":
		if r.last == "" {
			handlers["POST"] = h.beginUpload
			break
		}
		handlers["GET"], handlers["PATCH"], handlers["PUT"], handlers["DELETE"] = h.uploadStatus, h.patchUpload, h.finishUpload, h.cancelUpload
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if fn := handlers[method]; fn != nil {
		return fn(w, r)
	}
	return &registry.Error{Code: "UNSUPPORTED", Message: "this can't be done here"}
}

// statuses are those of refusals. What is not among them is 400.
var statuses = map[registry.Code]int{
	"NOT_FOUND":              http.StatusNotFound,
	"UNSUPPORTED":            http.StatusMethodNotAllowed,
	registry.BlobUnknown:     http.StatusNotFound,
	registry.BlobInUse:       http.StatusMethodNotAllowed,
	registry.UploadInvalid:   http.StatusConflict,
	registry.UploadUnknown:   http.StatusNotFound,
	registry.LayersUnknown:   http.StatusNotFound,
	registry.ImagesUnknown:   http.StatusNotFound,
	registry.ManifestUnknown: http.StatusNotFound,
	registry.ManifestInUse:   http.StatusMethodNotAllowed,
	registry.NameUnknown:     http.StatusNotFound,
	registry.RangeInvalid:    http.StatusRequestedRangeNotSatisfiable,
	registry.LimitExceeded:   http.StatusTooManyRequests,
}

// spoken are the codes of the specification for those of ours.
var spoken = map[registry.Code]registry.Code{
	"NOT_FOUND":            registry.NameUnknown,
	registry.BlobInUse:     "UNSUPPORTED",
	registry.ImagesUnknown: registry.LayersUnknown,
	registry.ManifestInUse: "UNSUPPORTED",
	registry.TagImmutable:  registry.TagInvalid,
}

func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var e *registry.Error
	status, code, message := http.StatusInternalServerError, registry.Code("UNKNOWN"), "an internal error has occurred"
	switch {
	case errors.Is(err, registry.ErrToken):
		w.Header().Set("WWW-Authenticate", `Basic realm="nacre"`)
		status, code, message = http.StatusUnauthorized, "UNAUTHORIZED", err.Error()
	case errors.As(err, &e):
		status, code, message = http.StatusBadRequest, e.Code, e.Message
		if s, ok := statuses[e.Code]; ok {
			status = s
		}
		if s, ok := spoken[e.Code]; ok {
			code = s
		}
	case errors.Is(err, registry.ErrFull):
		h.Logger.Error("a push was refused", "path", r.URL.Path, "error", err)
		status, code, message = http.StatusInsufficientStorage, "DENIED", registry.ErrFull.Error()
	case r.Context().Err() != nil, errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded):
		status, code, message = http.StatusBadRequest, registry.SizeInvalid, "the body ended early; ask how much has arrived and go on from there"
		h.Logger.Debug("a client of the registry went away", "path", r.URL.Path, "error", err)
	default:
		h.Logger.Error("a request to the registry failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	type one struct {
		Code    registry.Code `json:"code"`
		Message string        `json:"message"`
	}
	body, err := json.Marshal(map[string][]one{"errors": {{code, message}}})
	if err != nil {
		h.Logger.Error("say an error of the registry", "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	if r.ContentLength != 0 {
		w.Header().Set("Connection", "close") // the rest of a body that nobody wants
	}
	w.WriteHeader(status)
	w.Write(body)
}

func writeJSON(w http.ResponseWriter, mediaType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(http.StatusOK)
	w.Write(b)
	return nil
}

// recorder knows what was answered.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
