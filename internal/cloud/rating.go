package cloud

import "time"

// Item is what one row of the ledger comes to at one price.
type Item struct {
	*Usage
	From, To time.Time // the part of the period in which it lasted, its end excluded
	Seconds  int64     // to be paid
	Price    Price     // of an hour, or of a GiB and month
	Cost     Cost
}

// Quantity is what is paid for, in the unit of the price: hours, or GiB-months.
func (it *Item) Quantity() float64 {
	if it.Stored() {
		return float64(it.Seconds) * float64(it.GiB) / monthSeconds
	}
	return float64(it.Seconds) / hourSeconds
}

// Stored tells whether the charge is for GiB and months, not for hours.
func (c Charge) Stored() bool { return c.Kind == UsageVolume || c.Kind == UsageSnapshot }

// Rate works out what a period costs: from its beginning up to its end, which is excluded, and no further than now. It looks at nothing but
// its arguments: the same ledger and prices make the same bill. Periods that meet add up to the whole.
func Rate(ledger []*Usage, book PriceBook, from, to, now time.Time) []Item {
	if to.After(now) {
		to = now
	}
	var items []Item
	for _, u := range ledger {
		if !u.Start.Before(to) || !u.End.IsZero() && !u.End.After(from) {
			continue
		}
		for n, l := range book {
			begin, end := from, to
			if n > 0 && l.Effective.After(begin) {
				begin = l.Effective
			}
			if n+1 < len(book) && book[n+1].Effective.Before(end) {
				end = book[n+1].Effective
			}
			if !begin.Before(end) {
				continue
			}
			if it := rate(u, l, begin, end); it.Seconds > 0 {
				items = append(items, it)
			}
		}
	}
	return items
}

func rate(u *Usage, l *PriceList, from, to time.Time) Item {
	it := Item{Usage: u, From: from, To: to, Seconds: u.SecondsIn(from, to), Price: l.Price(u.Charge)}
	if u.Start.After(from) {
		it.From = u.Start
	}
	if !u.End.IsZero() && u.End.Before(to) {
		it.To = u.End
	}
	if it.Stored() {
		it.Cost = it.Price.perMonth(it.Seconds * u.GiB)
	} else {
		it.Cost = it.Price.perHour(it.Seconds)
	}
	return it
}

// Total adds items up.
func Total(items []Item) Cost {
	var sum Cost
	for i := range items {
		sum = sum.Add(items[i].Cost)
	}
	return sum
}
