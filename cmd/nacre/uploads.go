package main

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/upload"
)

const (
	// uploadPath and the digest behind it take an archive for an import.
	uploadPath = "/_nacre/uploads/"
	// uploadService is what uploads are signed for.
	uploadService = "nacre"
)

// uploadHandler takes archives from signed requests whose signature covers the digest.
func uploadHandler(dir *upload.Dir, auth *awsapi.Authenticator, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		digest := r.PathValue("digest")
		who, hash, err := auth.Stream(r, uploadService)
		switch {
		case err != nil:
			awsapi.WriteError(w, err)
			return
		case "sha256:"+hash != digest:
			awsapi.WriteError(w, awsapi.InvalidParameterValue("The digest in the path is not the one that was signed."))
			return
		case r.ContentLength < 0:
			awsapi.WriteError(w, awsapi.Errorf("MissingContentLength", "The request must say its length."))
			return
		}
		err = dir.Put(r.Context(), digest, awsapi.PatientBody(w, r), r.ContentLength)
		log.Info("upload", "digest", digest, "bytes", r.ContentLength, "account", who.Account, "error", err)
		switch {
		case errors.Is(err, upload.ErrTooLarge):
			w.Header().Set("Connection", "close")
			awsapi.WriteError(w, awsapi.Errorf("RequestEntityTooLarge", "%v", err))
		case errors.Is(err, upload.ErrMismatch), errors.Is(err, upload.ErrDigest):
			awsapi.WriteError(w, awsapi.Errorf("InvalidDigest", "%v", err))
		case err != nil:
			log.Error("an upload failed", "digest", digest, "error", err)
			awsapi.WriteError(w, awsapi.Errorf("IncompleteBody", "The upload did not arrive whole; send it again."))
		default:
			w.WriteHeader(http.StatusCreated)
		}
	}
}
