package billing

import (
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ce"
)

// period is a time from its beginning to its end, which is excluded.
type period struct{ from, to time.Time }

const (
	hourForm   = "2006-01-02T15:04:05Z"
	longestAgo = 14 // months that costs are told of
	longestFor = 12 // months that a forecast reaches
	mostHours  = 14 * 24
)

// periodOf reads a request's period. Days and months begin at midnight UTC; hours may be given too where hours are asked for.
func periodOf(p *ce.DateInterval, granularity string, earliest, latest time.Time) (period, error) {
	form, shown := time.DateOnly, "2026-01-01"
	if granularity == ce.GranularityHOURLY && len(*p.Start) > len(time.DateOnly) {
		form, shown = hourForm, "2026-01-01T00:00:00Z"
	}
	var parsed period
	for text, at := range map[*string]*time.Time{p.Start: &parsed.from, p.End: &parsed.to} {
		t, err := time.Parse(form, *text)
		if err != nil {
			return period{}, invalid("'%s' is no time such as %s.", *text, shown)
		}
		*at = t.UTC()
	}
	switch {
	case !parsed.from.Before(parsed.to):
		return period{}, invalid("Start date (and hour) should be before end date (and hour).")
	case parsed.from.Before(earliest):
		return period{}, invalid("The period begins at %s, and may not begin before %s.", parsed.from.Format(hourForm), earliest.Format(hourForm))
	case parsed.to.After(latest):
		return period{}, invalid("The period ends at %s, and may not end after %s.", parsed.to.Format(hourForm), latest.Format(hourForm))
	case granularity == ce.GranularityHOURLY && parsed.to.Sub(parsed.from) > mostHours*time.Hour:
		return period{}, invalid("Hours are told of %d days at most.", mostHours/24)
	}
	return parsed, nil
}

// past reads the period of a question about what was.
func past(p *ce.DateInterval, granularity string, now time.Time) (period, error) {
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	return periodOf(p, granularity, month.AddDate(0, -longestAgo, 0), month.AddDate(0, longestFor, 0))
}

// cut parts a period by hours, days or months of the calendar.
func (p period) cut(granularity string) (parts []period) {
	for at := p.from; at.Before(p.to); {
		var next time.Time
		switch granularity {
		case ce.GranularityHOURLY:
			next = at.Truncate(time.Hour).Add(time.Hour)
		case ce.GranularityDAILY:
			next = at.Truncate(24*time.Hour).AddDate(0, 0, 1)
		default:
			next = time.Date(at.Year(), at.Month()+1, 1, 0, 0, 0, 0, time.UTC)
		}
		if next.After(p.to) {
			next = p.to
		}
		parts = append(parts, period{at, next})
		at = next
	}
	return parts
}

func (p period) shape(granularity string) *ce.DateInterval {
	form := time.DateOnly
	if granularity == ce.GranularityHOURLY {
		form = hourForm
	}
	return &ce.DateInterval{Start: new(p.from.Format(form)), End: new(p.to.Format(form))}
}
