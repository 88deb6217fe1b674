// Package registry keeps images of accounts in repositories: what ECR's actions and the registry protocol of OCI (package wire) have in common.
//
// What a repository holds is in the store: images, tags, and the blobs that each repository keeps. The bytes are in a server's image store,
// beside those of AMIs, each blob once. It promises that a blob is visible only whole and with its right digest; that what an image needs is
// there as long as the image is; and that an upload goes on after a crash where it was, or is gone as if it had never begun. Accounts
// don't meet: a blob of another account's repositories doesn't exist. It never looks inside a layer.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Limits.
const (
	MaxManifest    = 4 << 20      // bytes of a manifest or an index
	MaxLayers      = 1_000        // of a manifest; manifests of an index
	MaxBlob        = 52_000 << 20 // bytes of a layer
	MaxOpenUploads = 100          // of an account
	// IdleUpload is how long an upload that stands still is kept.
	IdleUpload = time.Hour
	// Unreferenced is how long a blob that no image has is kept after somebody pushed it or asked for it.
	Unreferenced = time.Hour
)

// Blobs is where bytes are. What is in it is held until Release lets it go. Names of uploads and digests are judged by their caller.
type Blobs interface {
	// Upload opens an upload: a new one when create is set, else one that is there, also from before a crash; fs.ErrNotExist when it isn't.
	// One caller at a time has it.
	Upload(ctx context.Context, name string, create bool) (Upload, error)
	// Uploads lists the uploads that are there, with the time of their last byte.
	Uploads(ctx context.Context) (map[string]time.Time, error)
	// Abort removes an upload that nobody has open. One that isn't there is no error.
	Abort(ctx context.Context, name string) error
	// Put keeps small content.
	Put(ctx context.Context, d digest.Digest, b []byte) error
	// Open reads a blob; fs.ErrNotExist when it isn't there.
	Open(ctx context.Context, d digest.Digest) (Blob, error)
	// Release lets go of everything that keep doesn't want, and collects what nobody else holds either.
	Release(ctx context.Context, keep func(digest.Digest) bool) error
}

// Upload is a blob on its way.
type Upload interface {
	io.Writer
	// Offset is how many bytes have arrived.
	Offset() int64
	// Commit makes it a blob, and ends the upload either way. ErrDigest when the bytes are others. A blob that is there already is no error.
	Commit(ctx context.Context, d digest.Digest) error
	// Close lets go of it; it stays.
	Close() error
}

// Blob is content that is there.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

var (
	// ErrDigest reports bytes that don't have the digest that they were sent under.
	ErrDigest = errors.New("the bytes don't have the digest that they were sent under")
	// ErrFull reports that there is no room for more.
	ErrFull = errors.New("the server that keeps the registry's blobs has no room left: make some, or delete images")
)

// Config is what a registry works with.
type Config struct {
	Store  *store.Store
	Blobs  Blobs
	Now    func() time.Time
	Logger *slog.Logger
}

// Registry is safe for concurrent use.
type Registry struct {
	cfg Config
	// links is held shared from when a blob is held until the store says who keeps it, and exclusively while blobs are let go.
	links sync.RWMutex

	mu      sync.Mutex
	uploads map[string]*session // by id
	// asked tells when somebody last asked for a blob that a push may be about to refer to.
	asked map[store.RepositoryLayerKey]time.Time
	began time.Time // what was asked before is not known
}

// New returns the registry of a store and finds the uploads that a crash interrupted.
func New(ctx context.Context, cfg Config) (*Registry, error) {
	r := &Registry{cfg: cfg, uploads: map[string]*session{}, asked: map[store.RepositoryLayerKey]time.Time{}, began: cfg.Now()}
	return r, r.findUploads(ctx)
}

// Code says what went wrong, in the words of the OCI distribution specification, and a few of our own.
type Code string

const (
	BlobUnknown     Code = "BLOB_UNKNOWN"
	BlobInUse       Code = "BLOB_IN_USE" // ours: an image has it
	UploadInvalid   Code = "BLOB_UPLOAD_INVALID"
	UploadUnknown   Code = "BLOB_UPLOAD_UNKNOWN"
	DigestInvalid   Code = "DIGEST_INVALID"
	LayersUnknown   Code = "MANIFEST_BLOB_UNKNOWN"
	ImagesUnknown   Code = "MANIFEST_IMAGE_UNKNOWN" // ours: an index lists what isn't there
	ManifestInvalid Code = "MANIFEST_INVALID"
	ManifestUnknown Code = "MANIFEST_UNKNOWN"
	ManifestInUse   Code = "MANIFEST_IN_USE" // ours: an index lists it
	NameInvalid     Code = "NAME_INVALID"
	NameUnknown     Code = "NAME_UNKNOWN"
	NameTaken       Code = "NAME_TAKEN"     // ours
	NotEmpty        Code = "NAME_NOT_EMPTY" // ours
	SizeInvalid     Code = "SIZE_INVALID"
	RangeInvalid    Code = "RANGE_INVALID"
	TagInvalid      Code = "TAG_INVALID"
	TagImmutable    Code = "TAG_IMMUTABLE" // ours: the tag has another image
	LimitExceeded   Code = "TOOMANYREQUESTS"
)

// Error is a refusal.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return e.Message }

func refuse(code Code, format string, args ...any) error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

// CodeOf is the code of a refusal, "" for what is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Repository finds one; NameUnknown when there is none.
func Repository(r store.Reader, account cloud.AccountID, name string) (*cloud.Repository, error) {
	if repo, ok := store.Get(r, store.Repositories, store.RepositoryOf(account, cloud.RepositoryName(name))); ok {
		return repo, nil
	}
	return nil, refuse(NameUnknown, "The repository with name '%.300s' does not exist in the registry with id '%s'", name, account)
}

// soundDigest reads a digest; sha256 and sha512 are known.
func soundDigest(text string) (digest.Digest, error) {
	d := digest.Digest(text)
	if err := d.Validate(); err != nil {
		return "", refuse(DigestInvalid, "%.200q is no digest: %v", text, err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", refuse(DigestInvalid, "%.200q is neither a sha256 nor a sha512 digest", text)
	}
	return d, nil
}
