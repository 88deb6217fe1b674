package store

import "errors"

// What can come of an Update, besides the function's own errors. Test with errors.Is.
var (
	// ErrExists is Insert's: the key is taken.
	ErrExists = errors.New("exists already")
	// ErrContended ends an Update that lost against others again and again.
	ErrContended = errors.New("too many transactions at the same objects")
	// ErrTooLarge refuses a transaction of more than MaxTxnBytes or MaxTxnOps.
	ErrTooLarge = errors.New("transaction too large")
	// ErrFull refuses writes when the database has reached its quota.
	ErrFull = errors.New("the database is full")
	// ErrUncertain says that the backend failed in the middle: the writes may have been
	// done, or may still be.
	ErrUncertain = errors.New("outcome unknown")
	// ErrClosed ends everything that waits on a store, or a subscription, that was closed.
	ErrClosed = errors.New("the store is closed")
)

// The limits of one transaction.
const (
	MaxTxnBytes = 32 << 20 // of keys and JSON
	MaxTxnOps   = 1 << 16  // objects read, or written
)
