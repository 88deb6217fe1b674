package wire

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
)

// getBlob answers with a blob or the ranges of it that are asked for.
func (h *Handler) getBlob(w http.ResponseWriter, r *request) error {
	blob, l, err := h.Registry.OpenLayer(r.Context(), r.account, r.repo, r.last)
	if err != nil {
		return err
	}
	defer blob.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", l.Digest)
	w.Header().Set("ETag", strconv.Quote(l.Digest))
	http.ServeContent(awsapi.PatientWriter(w), r.Request, "", time.Time{}, io.NewSectionReader(blob, 0, blob.Size()))
	return nil
}

func (h *Handler) deleteBlob(w http.ResponseWriter, r *request) error {
	if err := h.Registry.DeleteLayer(r.Context(), r.account, r.repo, r.last); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// beginUpload begins one, or does all of it at once: by mounting a blob that is there, or by taking it from this request.
func (h *Handler) beginUpload(w http.ResponseWriter, r *request) error {
	query := r.URL.Query()
	if d := query.Get("mount"); d != "" {
		l, err := h.Registry.Mount(r.Context(), r.account, r.repo, d, query.Get("from"))
		if err == nil {
			return created(w, r, l)
		}
		if registry.CodeOf(err) != registry.BlobUnknown {
			return err
		}
	}
	id := registry.NewUploadID(rand.Reader)
	if err := h.Registry.BeginUpload(r.Context(), r.account, r.repo, id); err != nil {
		return err
	}
	if d := query.Get("digest"); d != "" {
		l, err := h.Registry.Finish(r.Context(), r.account, r.repo, id, 0, awsapi.PatientBody(w, r.Request), d)
		if err != nil {
			// Nobody else knows of it.
			if cancel := h.Registry.Cancel(r.Context(), r.account, r.repo, id); cancel != nil && registry.CodeOf(cancel) != registry.UploadUnknown {
				err = errors.Join(err, cancel)
			}
			return err
		}
		return created(w, r, l)
	}
	progress(w, r.repo, id, 0, http.StatusAccepted)
	return nil
}

func created(w http.ResponseWriter, r *request, l *cloud.RepositoryLayer) error {
	w.Header().Set("Location", Root+r.repo+"/blobs/"+l.Digest)
	w.Header().Set("Docker-Content-Digest", l.Digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// progress says how far an upload is.
func progress(w http.ResponseWriter, repo, id string, offset int64, status int) {
	at(w, repo, id, offset)
	w.WriteHeader(status)
}

func at(w http.ResponseWriter, repo, id string, offset int64) {
	w.Header().Set("Location", Root+repo+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, offset-1)))
}

func (h *Handler) uploadStatus(w http.ResponseWriter, r *request) error {
	offset, err := h.Registry.UploadOffset(r.Context(), r.account, r.repo, r.last)
	if err != nil {
		return err
	}
	progress(w, r.repo, r.last, offset, http.StatusNoContent)
	return nil
}

func (h *Handler) patchUpload(w http.ResponseWriter, r *request) error {
	from, err := contentRange(r.Request)
	if err != nil {
		return err
	}
	offset, err := h.Registry.Append(r.Context(), r.account, r.repo, r.last, from, awsapi.PatientBody(w, r.Request))
	if err != nil {
		if registry.CodeOf(err) == registry.RangeInvalid {
			at(w, r.repo, r.last, offset)
		}
		return err
	}
	progress(w, r.repo, r.last, offset, http.StatusAccepted)
	return nil
}

func (h *Handler) finishUpload(w http.ResponseWriter, r *request) error {
	from, err := contentRange(r.Request)
	if err != nil {
		return err
	}
	l, err := h.Registry.Finish(r.Context(), r.account, r.repo, r.last, from, awsapi.PatientBody(w, r.Request), r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	return created(w, r, l)
}

func (h *Handler) cancelUpload(w http.ResponseWriter, r *request) error {
	if err := h.Registry.Cancel(r.Context(), r.account, r.repo, r.last); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

var rangeForm = regexp.MustCompile(`^(?:bytes[ =])?([0-9]{1,15})-([0-9]{1,15})(?:/(?:[0-9]{1,15}|\*))?$`)

// contentRange tells where a chunk begins, -1 when it doesn't say. What it says must be as long as what it sends.
func contentRange(r *http.Request) (from int64, err error) {
	text := r.Header.Get("Content-Range")
	if text == "" {
		return -1, nil
	}
	part := rangeForm.FindStringSubmatch(text)
	if part == nil {
		return 0, &registry.Error{Code: registry.RangeInvalid, Message: fmt.Sprintf("%.100q is no Content-Range such as 0-1023", text)}
	}
	from, _ = strconv.ParseInt(part[1], 10, 64) // 15 digits fit
	to, _ := strconv.ParseInt(part[2], 10, 64)
	if r.ContentLength < 0 || to-from+1 != r.ContentLength && !(from == 0 && to == 0 && r.ContentLength == 0) {
		return 0, &registry.Error{Code: registry.SizeInvalid, Message: fmt.Sprintf("the Content-Range %s is of %d bytes, and the Content-Length says %d", text, to-from+1, r.ContentLength)}
	}
	return from, nil
}
