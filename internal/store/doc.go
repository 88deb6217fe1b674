// Package store keeps the cloud's state: typed tables with indexes, optimistic
// transactions, and watches. One Store serves a whole control plane; it stands on an
// embedded etcd (OpenEtcd) or on memory (OpenMemory), with the same semantics.
//
// # Terms
//
// A Table holds objects of one type by key. An Index finds a table's objects by a value they
// hold. A View is everything at one revision: immutable, taken in constant time, read
// without locks. A Tx reads a view and collects writes. A Batch is what changed between two
// views.
//
// # Promises
//
//   - Transactions are serialisable. A transaction commits only if nothing that its function
//     read or wrote through the Tx changed since its view, including what a List or ListBy
//     would have found in addition or no longer; otherwise the function runs again
//     on a newer view. No update is lost.
//   - A transaction is atomic: all its writes appear at one revision, or none do.
//   - When Update returns nil, the writes are on disk (OpenEtcd), every later View of this
//     Store shows them, and every subscription has them queued.
//   - A subscription misses nothing: from the view it starts with, its batches lead through
//     strictly rising revisions to the present. A slow subscriber holds nobody up; it gets
//     fewer, larger batches, in which each object appears once.
//   - An object that can't be decoded is never skipped: the store refuses to open, or stops
//     and says so through Done and Err.
//
// Commits are durable, also against a power cut: etcd syncs its log to disk before it
// confirms. When it can't (the disk is full or broken), it ends the process rather than
// confirm; start-up is the recovery.
//
// # Use
//
//	i, ok := store.Get(s.View(), store.Instances, id)      // shared: don't modify
//
//	err := s.Update(ctx, func(tx *store.Tx) error {
//		i, ok := store.Get(tx, store.Instances, id)        // a copy of one's own
//		if !ok {
//			return notFound(id)                             // nothing is written
//		}
//		i.Desired = cloud.DesiredStopped
//		store.Put(tx, store.Instances, i)
//		return store.Insert(tx, store.Claims, &store.Claim{Key: key, Owner: owner})
//	})
//
//	view, sub := s.Watch(store.Instances)                  // the view, and all that follows it
//	defer sub.Close()
//	for {
//		batch, err := sub.Next(ctx)
//		…
//		for _, c := range store.ChangesOf(batch, store.Instances) { … }
//	}
//
// A List or ListBy in a transaction is undone by any write to its table, so a busy table's
// lists belong into tx.View(), with an Insert or a Get to prove what they propose.
//
// # What it never does
//
// It knows no rules of the domain: what may follow what, and who may see it, is decided by
// those who write the transaction. It never hands out an object that a caller may modify,
// except the private copies that Get, List and ListBy return inside a transaction.
package store
