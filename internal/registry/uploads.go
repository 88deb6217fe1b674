package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// session is an upload of which an account knows the id. Its bytes, and its name, which says whose it is, are in Blobs and outlive this process.
type session struct {
	id      string // a UUID
	account cloud.AccountID
	repo    cloud.RepositoryName

	mu   sync.Mutex // one request at a time
	w    Upload     // nil until somebody goes on with it after a start
	gone bool

	last time.Time // of the last byte; under Registry.mu
}

// name is what the bytes are under in Blobs.
func (s *session) name() string { return string(s.account) + "/" + string(s.repo) + "/" + s.id }

var sessionName = regexp.MustCompile(`^([0-9]{12})/(.+)/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)

// findUploads takes up what was under way when the process before this one ended.
func (r *Registry) findUploads(ctx context.Context) error {
	there, err := r.cfg.Blobs.Uploads(ctx)
	if err != nil {
		return fmt.Errorf("look for interrupted pushes: %w", err)
	}
	for name, last := range there {
		part := sessionName.FindStringSubmatch(name)
		if part == nil {
			if err := r.cfg.Blobs.Abort(ctx, name); err != nil {
				return fmt.Errorf("remove the interrupted push %q: %w", name, err)
			}
			continue
		}
		r.uploads[part[3]] = &session{id: part[3], account: cloud.AccountID(part[1]), repo: cloud.RepositoryName(part[2]), last: last}
	}
	return nil
}

// NewUploadID makes an id for an upload, a UUID.
func NewUploadID(random io.Reader) string {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		panic(fmt.Sprintf("registry: no random bytes: %v", err))
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// BeginUpload starts one under an id of NewUploadID.
func (r *Registry) BeginUpload(ctx context.Context, account cloud.AccountID, name, id string) error {
	if _, err := Repository(r.cfg.Store.View(), account, name); err != nil {
		return err
	}
	s := &session{id: id, account: account, repo: cloud.RepositoryName(name), last: r.cfg.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mu.Lock()
	open := 0
	for _, other := range r.uploads {
		if other.account == account {
			open++
		}
	}
	if open >= MaxOpenUploads {
		r.mu.Unlock()
		return refuse(LimitExceeded, "The registry %s has %d open uploads; finish or cancel some: those that stand still for %v are removed", account, open, IdleUpload)
	}
	r.uploads[id] = s
	r.mu.Unlock()
	w, err := r.cfg.Blobs.Upload(ctx, s.name(), true)
	if err != nil {
		r.forget(s)
		return fmt.Errorf("begin an upload to %s: %w", name, err)
	}
	s.w = w
	return nil
}

// forget has nobody find an upload any more. The caller has it.
func (r *Registry) forget(s *session) {
	s.gone, s.w = true, nil
	r.mu.Lock()
	delete(r.uploads, s.id)
	r.mu.Unlock()
}

// take gives an upload to one request. The caller unlocks it.
func (r *Registry) take(ctx context.Context, account cloud.AccountID, name, id string) (*session, error) {
	unknown := refuse(UploadUnknown, "There is no upload %.100q to the repository %.300s: it was finished or cancelled, or stood still for %v; begin again", id, name, IdleUpload)
	r.mu.Lock()
	s := r.uploads[id]
	r.mu.Unlock()
	if s == nil || s.account != account || string(s.repo) != name {
		return nil, unknown
	}
	if !s.mu.TryLock() {
		return nil, refuse(UploadInvalid, "Another request is writing to the upload %s", id)
	}
	if s.gone {
		s.mu.Unlock()
		return nil, unknown
	}
	if s.w == nil {
		w, err := r.cfg.Blobs.Upload(ctx, s.name(), false)
		if errors.Is(err, fs.ErrNotExist) {
			r.forget(s)
			s.mu.Unlock()
			return nil, unknown
		}
		if err != nil {
			s.mu.Unlock()
			return nil, fmt.Errorf("go on with the upload %s: %w", id, err)
		}
		s.w = w
	}
	return s, nil
}

func (r *Registry) touch(s *session) {
	r.mu.Lock()
	s.last = r.cfg.Now()
	r.mu.Unlock()
}

// UploadOffset tells how many bytes of an upload have arrived.
func (r *Registry) UploadOffset(ctx context.Context, account cloud.AccountID, name, id string) (int64, error) {
	s, err := r.take(ctx, account, name, id)
	if err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	return s.w.Offset(), nil
}

// Append writes more of an upload, from an offset that must be where it is, or -1 for wherever it is, and returns where it is then. What
// arrived before body failed stays.
func (r *Registry) Append(ctx context.Context, account cloud.AccountID, name, id string, at int64, body io.Reader) (int64, error) {
	s, err := r.take(ctx, account, name, id)
	if err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	return r.append(s, at, body)
}

func (r *Registry) append(s *session, at int64, body io.Reader) (int64, error) {
	if now := s.w.Offset(); at >= 0 && at != now {
		return now, refuse(RangeInvalid, "The upload %s is at byte %d, and this begins at byte %d; go on from there", s.id, now, at)
	}
	defer r.touch(s)
	left := MaxBlob - s.w.Offset()
	n, err := io.Copy(s.w, io.LimitReader(body, left+1))
	if err == nil && n > left {
		err = refuse(SizeInvalid, "A layer has %d bytes at most", int64(MaxBlob))
	}
	return s.w.Offset(), err
}

// Finish appends what is left of an upload, and makes it a blob of the repository. Bytes with another digest end the upload.
func (r *Registry) Finish(ctx context.Context, account cloud.AccountID, name, id string, at int64, body io.Reader, text string) (*cloud.RepositoryLayer, error) {
	d, err := soundDigest(text)
	if err != nil {
		return nil, err
	}
	s, err := r.take(ctx, account, name, id)
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if _, err := r.append(s, at, body); err != nil {
		return nil, err
	}
	size := s.w.Offset()
	r.links.RLock()
	defer r.links.RUnlock()
	err = s.w.Commit(context.WithoutCancel(ctx), d)
	r.forget(s)
	if err != nil {
		err = errors.Join(err, r.cfg.Blobs.Abort(context.WithoutCancel(ctx), s.name()))
	}
	if errors.Is(err, ErrDigest) {
		return nil, refuse(DigestInvalid, "The %d bytes that were sent don't have the digest %s; nothing of them is kept", size, d)
	}
	if err != nil {
		return nil, fmt.Errorf("keep %s of %s: %w", d, name, err)
	}
	return r.link(ctx, account, name, d, size)
}

// link has a repository keep a blob. The caller has the links.
func (r *Registry) link(ctx context.Context, account cloud.AccountID, name string, d digest.Digest, size int64) (*cloud.RepositoryLayer, error) {
	l := &cloud.RepositoryLayer{Account: account, Repository: cloud.RepositoryName(name), Digest: string(d), Size: size, Pushed: r.cfg.Now().UTC()}
	return l, r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := Repository(tx, account, name); err != nil {
			return err
		}
		store.Put(tx, store.RepositoryLayers, l)
		return nil
	})
}

// Cancel ends an upload.
func (r *Registry) Cancel(ctx context.Context, account cloud.AccountID, name, id string) error {
	s, err := r.take(ctx, account, name, id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	return r.drop(ctx, s)
}

func (r *Registry) drop(ctx context.Context, s *session) error {
	var err error
	if s.w != nil {
		err = s.w.Close()
	}
	r.forget(s)
	return errors.Join(err, r.cfg.Blobs.Abort(context.WithoutCancel(ctx), s.name()))
}

// dropIdle removes the uploads that stand still.
func (r *Registry) dropIdle(ctx context.Context) error {
	now := r.cfg.Now()
	var idle []*session
	r.mu.Lock()
	for _, s := range r.uploads {
		if now.Sub(s.last) > IdleUpload {
			idle = append(idle, s)
		}
	}
	r.mu.Unlock()
	var problems []error
	for _, s := range idle {
		if !s.mu.TryLock() {
			continue // bytes are coming after all
		}
		if !s.gone {
			problems = append(problems, r.drop(ctx, s))
		}
		s.mu.Unlock()
	}
	return errors.Join(problems...)
}

// pushing are the repositories with open uploads.
func (r *Registry) pushing() map[store.RepositoryKey]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[store.RepositoryKey]bool{}
	for _, s := range r.uploads {
		out[store.RepositoryOf(s.account, s.repo)] = true
	}
	return out
}

// Close lets go of the open uploads, which another process can go on with.
func (r *Registry) Close() error {
	r.mu.Lock()
	var all []*session
	for _, s := range r.uploads {
		all = append(all, s)
	}
	r.mu.Unlock()
	var problems []error
	for _, s := range all {
		s.mu.Lock()
		if s.w != nil {
			problems = append(problems, s.w.Close())
			s.w = nil
		}
		s.gone = true
		s.mu.Unlock()
	}
	return errors.Join(problems...)
}
