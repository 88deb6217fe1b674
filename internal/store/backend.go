package store

import (
	"context"
	"errors"
)

// backend is where the bytes are: keys and values with etcd's revisions. One Store has one
// backend and calls follow and load from one goroutine; commit is called from many.
//
// Every commit that writes gets the next revision, for all its keys. Revisions are never
// used twice, also over restarts. What commit has confirmed is never lost.
type backend interface {
	// load returns all keys, as events, at one revision.
	load(ctx context.Context) (delta, error)

	// commit performs all writes, if each guard's key was last written at the guard's
	// revision (0: is absent), and none otherwise. It returns the revision of the commit, or,
	// when a guard failed, one at which it did. An error that leaves open whether
	// the writes were done is an ErrUncertain.
	commit(ctx context.Context, guards []guard, writes []write) (revision int64, won bool, err error)

	// follow calls apply with everything committed after a revision, in order, each
	// revision once and whole. It never returns nil, but the error of ctx or apply when one of
	// them ends it, and errTrimmed if the backend doesn't remember that far back.
	follow(ctx context.Context, after int64, apply func(delta) error) error

	// down is closed when the backend stopped by itself; reason says why.
	down() <-chan struct{}
	reason() error

	close() error
}

// delta is what happened up to a revision.
type delta struct {
	revision int64
	events   []event
}

// event is one key's new value, or its removal, at a revision.
type event struct {
	key      string
	value    []byte
	deleted  bool
	revision int64
}

// guard is a condition of a commit: key was last written at revision, 0 if it is absent.
type guard struct {
	key      string
	revision int64
}

// write puts a value, or removes the key.
type write struct {
	key    string
	value  []byte
	remove bool
}

var errTrimmed = errors.New("the history after that revision is no longer kept")
