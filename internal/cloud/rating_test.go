package cloud

import (
	"math/big"
	"math/rand"
	"strings"
	"testing"
	"time"
)

var newYear = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func row(c Charge, from, to time.Duration) *Usage {
	u := &Usage{Charge: c, Account: "123456789012", Resource: "i-1", Number: 1, Start: newYear.Add(from)}
	if to > 0 {
		u.End = newYear.Add(to)
	}
	return u
}

func TestKnownTimesCostWhatAWSsListSays(t *testing.T) {
	vm := func(name string) Charge { return Charge{Kind: UsageInstance, Type: name, Isolation: IsolationVM} }
	year := 365 * 24 * time.Hour
	for name, test := range map[string]struct {
		row  *Usage
		want string
	}{
		"an hour of t3.micro":              {row(vm("t3.micro"), 0, time.Hour), "0.010400"},
		"an hour of t3.micro, a container": {row(Charge{Kind: UsageInstance, Type: "t3.micro", Isolation: IsolationContainer}, 0, time.Hour), "0.005200"},
		"an hour of t3.large":              {row(vm("t3.large"), 0, time.Hour), "0.083200"},
		"a year of c5.18xlarge":            {row(vm("c5.18xlarge"), 0, year), "26805.600000"},
		"a second of t3.micro":             {row(vm("t3.micro"), 0, time.Second), "0.000173"},
		"61 seconds of t3.micro":           {row(vm("t3.micro"), 0, 60*time.Second+time.Millisecond), "0.000176"},
		"no time":                          {row(vm("t3.micro"), time.Hour, time.Hour), "0.000000"},
		"twice the memory":                 {row(Charge{Kind: UsageInstance, Type: "t3.micro", Isolation: IsolationVM, MemoryMiB: 2048}, 0, time.Hour), "0.020800"},
		"twice the CPUs, half the memory":  {row(Charge{Kind: UsageInstance, Type: "m5.large", Isolation: IsolationVM, CPUs: 4, MemoryMiB: 4096}, 0, time.Hour), "0.192000"},
		"a second of an address":           {row(Charge{Kind: UsageAddress}, 0, time.Second), "0.000001"},
		"a day of a NAT gateway":           {row(Charge{Kind: UsageNAT}, 0, 24*time.Hour), "1.080000"},
		"100 GiB of gp2 for half a month":  {row(Charge{Kind: UsageVolume, Type: "gp2", GiB: 100}, 0, 15*24*time.Hour), "5.000000"},
		"what a gp3 volume comes with":     {row(Charge{Kind: UsageVolume, Type: "gp3", GiB: 100, IOPS: 3000, Throughput: 125}, 0, 30*24*time.Hour), "8.000000"},
		"a faster gp3 volume":              {row(Charge{Kind: UsageVolume, Type: "gp3", GiB: 100, IOPS: 4000, Throughput: 225}, 0, 30*24*time.Hour), "17.000000"},
		"an io1 volume":                    {row(Charge{Kind: UsageVolume, Type: "io1", GiB: 10, IOPS: 500}, 0, 15*24*time.Hour), "16.875000"},
		"an io2 volume through all tiers":  {row(Charge{Kind: UsageVolume, Type: "io2", GiB: 100, IOPS: 65_000}, 0, 30*24*time.Hour), "3596.500000"},
		"a GiB of snapshots for a month":   {row(Charge{Kind: UsageSnapshot, GiB: 1}, 0, 30*24*time.Hour), "0.050000"},
	} {
		items := Rate([]*Usage{test.row}, NewPriceBook(nil), newYear, newYear.Add(year), newYear.Add(2*year))
		if got := Total(items).Micro().String(); got != test.want {
			t.Errorf("%s costs %s, want %s", name, got, test.want)
		}
	}
}

func TestAPriceHoldsFromItsDayOn(t *testing.T) {
	dearer := DefaultPrices()
	dearer.Effective = newYear.Add(24 * time.Hour)
	dearer.Instances["t3.micro"] *= 2
	book := NewPriceBook([]*PriceList{dearer})
	ledger := []*Usage{row(Charge{Kind: UsageInstance, Type: "t3.micro", Isolation: IsolationVM}, 23*time.Hour, 26*time.Hour)}
	items := Rate(ledger, book, newYear, newYear.Add(72*time.Hour), newYear.Add(72*time.Hour))
	if len(items) != 2 || items[0].Price.String() != "0.0104" || items[1].Price.String() != "0.0208" || Total(items).Micro() != 52_000 {
		t.Errorf("they are %+v", items)
	}
}

// TestPartsOfAPeriodAddUpToIt rates random rows over random cuts of a month and a half, in which prices change.
func TestPartsOfAPeriodAddUpToIt(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	dearer := DefaultPrices()
	dearer.Effective, dearer.PublicIPv4 = newYear.Add(20*24*time.Hour), 7_777_777_777
	dearer.Instances["c5.large"] = 123_456_789_012
	book := NewPriceBook([]*PriceList{dearer})
	charges := []Charge{{Kind: UsageInstance, Type: "c5.large", Isolation: IsolationVM}, {Kind: UsageAddress}, {Kind: UsageVolume, Type: "gp3", GiB: 33, IOPS: 5001, Throughput: 130}}
	span := 45 * 24 * time.Hour
	for range 300 {
		var ledger []*Usage
		for range 20 {
			from := time.Duration(r.Int63n(int64(span)))
			to := from + time.Duration(r.Int63n(int64(span))>>r.Intn(30))
			if r.Intn(5) == 0 {
				to = 0
			}
			ledger = append(ledger, row(charges[r.Intn(len(charges))], from, to))
		}
		end, now := newYear.Add(span), newYear.Add(time.Duration(r.Int63n(int64(span))))
		whole := Total(Rate(ledger, book, newYear, end, now))
		var sum Cost
		for at := newYear; at.Before(end); {
			next := at.Add(time.Duration(1 + r.Int63n(int64(span/4))))
			if next.After(end) {
				next = end
			}
			sum = sum.Add(Total(Rate(ledger, book, at, next, now)))
			at = next
		}
		if sum != whole {
			t.Fatalf("the whole is %s, its parts are %s", whole.Micro(), sum.Micro())
		}
	}
}

func TestCostsAreExactAndRoundedOnce(t *testing.T) {
	r := rand.New(rand.NewSource(2))
	for range 10_000 {
		price, seconds := Price(r.Int63n(int64(maxPrice))>>r.Intn(50)), r.Int63n(1<<40)>>r.Intn(40)
		exact := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(int64(price)), big.NewInt(seconds)), big.NewInt(3600*1_000_000))
		exact.Add(exact, big.NewRat(1, 2))
		want := new(big.Int).Quo(exact.Num(), exact.Denom())
		if got := price.perHour(seconds).Micro(); want.IsInt64() && int64(got) != want.Int64() {
			t.Fatalf("%s an hour for %d seconds is %d, want %s", price, seconds, got, want)
		}
	}
}

func FuzzPrices(f *testing.F) {
	for _, text := range []string{"0.0104", "3.06", "0", "1000000", "1000001", ".5", "5.", "-1", "1e3", "0.0000000000001", "+1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePrice(text)
		if err != nil {
			return
		}
		again, err := ParsePrice(p.String())
		if err != nil || again != p || p < 0 || p > maxPrice || strings.ContainsAny(text, "+-eE_ ") {
			t.Errorf("%q is %d, which is written %s and read %d: %v", text, p, p, again, err)
		}
	})
}

func TestFineAmountsAreWrittenToTheLastDecimal(t *testing.T) {
	for price, want := range map[Price]string{0: "0", dollar: "0.00027777777777777777", 3600: "0.000000000001", 3 * 3600 * dollar: "3"} {
		if got := FineString(price.perHour(1).Fine()); got != want {
			t.Errorf("a second at %s an hour is %s, want %s", price, got, want)
		}
	}
	for seconds, want := range map[int64]string{1: "0.00027777777777777777", 5400: "1.5"} {
		if got := FineString(FineQuantity(UnitHours, big.NewInt(seconds))); got != want {
			t.Errorf("%d seconds are %s hours, want %s", seconds, got, want)
		}
	}
}
