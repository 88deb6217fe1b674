package cloud

import (
	"fmt"
	"math/big"
	"math/bits"
	"strconv"
	"strings"
)

// Price is a rate in millionths of a millionth of a US dollar, for an hour, or for a month of 30 days.
type Price int64

const (
	priceDigits = 12
	dollar      = Price(1_000_000_000_000)
	maxPrice    = 1_000_000 * dollar
)

// ParsePrice reads dollars with at most 12 decimals, from 0 to a million.
func ParsePrice(text string) (Price, error) {
	whole, part, _ := strings.Cut(text, ".")
	if len(whole) == 0 || len(whole) > 7 || len(part) > priceDigits || strings.HasSuffix(text, ".") {
		return 0, fmt.Errorf("%q is no price: dollars such as \"0.0104\", with %d decimals at most", text, priceDigits)
	}
	n, err := strconv.ParseUint(whole+part+strings.Repeat("0", priceDigits-len(part)), 10, 63)
	if err != nil || Price(n) > maxPrice {
		return 0, fmt.Errorf("%q is no price: dollars such as \"0.0104\", from 0 to 1000000", text)
	}
	return Price(n), nil
}

// String writes the price in dollars, with as many decimals as it has.
func (p Price) String() string {
	text := fmt.Sprintf("%d.%012d", p/dollar, p%dollar)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// Micro is an amount of money in millionths of a US dollar.
type Micro int64

// String writes the amount in dollars with six decimals.
func (m Micro) String() string {
	sign := ""
	if m < 0 {
		sign, m = "-", -m
	}
	return fmt.Sprintf("%s%d.%06d", sign, m/1_000_000, m%1_000_000)
}

// Cost is an exact amount of money, never negative, that costs are added up in before one is rounded: whole parts of
// Price / monthSeconds. It is good for 10^19 dollars.
type Cost struct{ hi, lo uint64 }

const (
	hourSeconds  = 3600
	monthSeconds = 30 * 24 * hourSeconds // the month that prices of storage are for, as AWS has it
	microParts   = 1_000_000 * monthSeconds
)

// Add is the sum.
func (c Cost) Add(d Cost) Cost {
	lo, carry := bits.Add64(c.lo, d.lo, 0)
	hi, _ := bits.Add64(c.hi, d.hi, carry)
	return Cost{hi, lo}
}

// Micro rounds the cost to millionths of a dollar, halves up.
func (c Cost) Micro() Micro {
	c = c.Add(Cost{lo: microParts / 2})
	q, _ := bits.Div64(c.hi%microParts, c.lo, microParts)
	return Micro(q)
}

// Dollars is the cost for those who calculate on.
func (c Cost) Dollars() float64 { return float64(c.Micro()) / 1e6 }

// perHour is what a price an hour comes to in a time.
func (p Price) perHour(seconds int64) Cost {
	hi, lo := bits.Mul64(uint64(p), uint64(seconds)*(monthSeconds/hourSeconds))
	return Cost{hi, lo}
}

// perMonth is what a price a month comes to for something times seconds, such as GiB-seconds.
func (p Price) perMonth(unitSeconds int64) Cost {
	hi, lo := bits.Mul64(uint64(p), uint64(unitSeconds))
	return Cost{hi, lo}
}

// scaled is the price times n/d, rounded, halves up.
func (p Price) scaled(n, d int64) Price {
	hi, lo := bits.Mul64(uint64(p), uint64(n))
	lo, carry := bits.Add64(lo, uint64(d)/2, 0)
	q, _ := bits.Div64((hi+carry)%uint64(d), lo, uint64(d))
	return Price(q)
}

// FineDigits are the decimals that Fine writes: so many that what it cuts off is less than the smallest difference that two costs can have.
const FineDigits = 20

// Fine is the cost in dollars, cut off after FineDigits decimals. Sums of the differences between one Fine and the next
// round to the same micro-dollar as the costs that they stand for.
func (c Cost) Fine() *big.Int {
	parts := new(big.Int).SetUint64(c.hi)
	parts.Lsh(parts, 64).Or(parts, new(big.Int).SetUint64(c.lo))
	parts.Mul(parts, ten(FineDigits-priceDigits))
	return parts.Div(parts, big.NewInt(monthSeconds))
}

func ten(n int64) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil) }

// FineString writes a whole number of 10^-FineDigits.
func FineString(n *big.Int) string {
	whole, part := new(big.Int).QuoRem(n, ten(FineDigits), new(big.Int))
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%s.%020s", whole, part), "0"), ".")
}
