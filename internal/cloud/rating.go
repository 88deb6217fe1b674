package cloud

import (
	"math/big"
	"time"
)

// Item is what one row of the ledger comes to at one price. A row of a volume may come to several.
type Item struct {
	*Usage
	Share
	From, To time.Time // the part of the period in which it lasted, its end excluded
	Seconds  int64     // to be paid
	Cost     Cost
}

// Quantity is what is paid for, in the unit of the price.
func (it *Item) Quantity() float64 {
	if it.Unit == UnitHours {
		return float64(it.Seconds) / hourSeconds
	}
	return float64(it.Seconds) * float64(it.Units) / monthSeconds
}

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
			if seconds := u.SecondsIn(begin, end); seconds > 0 {
				for _, share := range l.Shares(u.Charge) {
					items = append(items, rate(u, share, begin, end, seconds))
				}
			}
		}
	}
	return items
}

func rate(u *Usage, share Share, from, to time.Time, seconds int64) Item {
	it := Item{Usage: u, Share: share, From: from, To: to, Seconds: seconds}
	if u.Start.After(from) {
		it.From = u.Start
	}
	if !u.End.IsZero() && u.End.Before(to) {
		it.To = u.End
	}
	if it.Unit == UnitHours {
		it.Cost = it.Price.perHour(it.Seconds)
	} else {
		it.Cost = it.Price.perMonth(it.Seconds * it.Units)
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

// FineQuantity is the quantity of a price's unit that seconds times units are, in 10^-FineDigits, cut off.
func FineQuantity(unit Unit, unitSeconds *big.Int) *big.Int {
	per := int64(monthSeconds)
	if unit == UnitHours {
		per = hourSeconds
	}
	n := new(big.Int).Mul(unitSeconds, ten(FineDigits))
	return n.Div(n, big.NewInt(per))
}
