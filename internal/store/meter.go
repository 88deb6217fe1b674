package store

import (
	"maps"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// The usage ledger. Its rows are written by no one but the transactions whose changes they meter.
var (
	Usages           = newTable("usage", func(u *cloud.Usage) UsageKey { return UsageKey(u.Key()) })
	UsagesByResource = newIndexOf(Usages, func(u *cloud.Usage) usageResource { return usageResource(u.Resource) })
	UsagesByAccount  = newIndexOf(Usages, func(u *cloud.Usage) cloud.AccountID { return u.Account })
)

// UsageKey is a row's cloud.Usage.Key.
type UsageKey string

type usageResource string

// UsageOf lists the rows of a resource, the oldest first.
func UsageOf(r Reader, resource string) []*cloud.Usage {
	return ListBy(r, UsagesByResource, usageResource(resource))
}

// meters tell what the objects of a table cost. Whatever changes such an object, by whichever path, changes the ledger in the same
// transaction: nobody can forget to.
var meters = []meter{
	metered(Instances, (*cloud.Instance).Metered),
	metered(Addresses, (*cloud.Address).Metered),
	metered(Interfaces, (*cloud.Interface).Metered),
	metered(NATGateways, (*cloud.NATGateway).Metered),
	metered(Volumes, (*cloud.Volume).Metered),
}

type meter struct {
	schema *schema
	of     func(any) cloud.Metered
}

func metered[K ~string, T any](t Table[K, T], of func(*T) cloud.Metered) meter {
	return meter{t.schema, func(obj any) cloud.Metered { return of(obj.(*T)) }}
}

// At says when what the transaction does happens, for the meters of what doesn't know it itself. Without it, that is now.
func (tx *Tx) At(now time.Time) { tx.now = now.UTC() }

// meter writes what the transaction's changes mean for the ledger.
func (tx *Tx) meter() {
	if tx.now.IsZero() {
		tx.now = time.Now().UTC()
	}
	for _, m := range meters {
		for _, key := range slices.Sorted(maps.Keys(tx.writes[m.schema])) {
			var before, after cloud.Metered
			if r, ok := tx.view.row(m.schema, key); ok {
				before = m.of(r.obj)
			}
			if d := tx.writes[m.schema][key]; d.obj != nil {
				after = m.of(d.obj)
			}
			tx.enter(before, after)
		}
	}
}

// enter brings the ledger from what a resource cost to what it costs.
func (tx *Tx) enter(before, after cloud.Metered) {
	none := cloud.Charge{}
	resource := before.Resource
	if after.Resource != "" {
		resource = after.Resource
	}
	if before.Charge == none && after.Charge == none && before.Until.Equal(after.Until) {
		return
	}
	last := tx.lastUsage(resource)
	lasts := last != nil && last.End.IsZero()
	switch {
	case lasts && after.Charge == last.Charge:
		if !maps.Equal(last.Tags, after.Tags) {
			last.Tags = after.Tags
			Put(tx, Usages, last)
		}
		return
	case lasts:
		until := tx.now
		if after.Charge == none && !after.Until.IsZero() {
			until = after.Until
		}
		last.End = latest(last.Start, until)
		Put(tx, Usages, last)
	case last != nil && after.Charge == none && !after.Until.IsZero() && after.Until.Before(last.End):
		// It is learned only now that it had ended before.
		last.End = latest(last.Start, after.Until)
		Put(tx, Usages, last)
	}
	if after.Charge == none {
		return
	}
	u := &cloud.Usage{Charge: after.Charge, Account: after.Account, Resource: resource, Number: 1, Tags: after.Tags, Start: tx.now}
	if last != nil {
		u.Number = last.Number + 1
	}
	if before.Charge == none && !after.Since.IsZero() {
		u.Start = after.Since.UTC()
	}
	if last != nil {
		u.Start = latest(u.Start, last.End) // nothing is paid twice
	}
	Put(tx, Usages, u)
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b.UTC()
	}
	return a.UTC()
}

// lastUsage is a resource's newest row, nil when there is none. The view tells which it is: whoever adds one has written the resource
// too, which this transaction guards.
func (tx *Tx) lastUsage(resource string) *cloud.Usage {
	rows := UsageOf(tx.view, resource)
	if len(rows) == 0 {
		return nil
	}
	last, ok := Get(tx, Usages, UsageKey(rows[len(rows)-1].Key()))
	if !ok {
		return nil
	}
	return last
}

// PriceLists are the operator's; the default prices aren't among them.
var PriceLists = newTable("price-lists", func(l *cloud.PriceList) PriceListKey { return PriceListKey(l.Effective.Format(time.DateOnly)) })

// PriceListKey is the day from which a list holds.
type PriceListKey string

// PriceBook is what everything costs, and did.
func PriceBook(r Reader) cloud.PriceBook { return cloud.NewPriceBook(List(r, PriceLists)) }
