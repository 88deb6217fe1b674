package focus_test

import (
	"bytes"
	"encoding/csv"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/nacre-cloud/nacre/internal/focus"
)

// filled has a value in every column that may not be null, and the given ones.
func filled(values focus.Row) focus.Row {
	r := focus.Row{}
	for _, c := range focus.Columns {
		switch {
		case c.Nullable:
		case c.Kind == focus.Decimal:
			r[c.Name] = "0.00017333333333333333"
		case c.Kind == focus.Time:
			r[c.Name] = "2026-11-01T00:00:00Z"
		default:
			r[c.Name] = c.Name
		}
	}
	for name, v := range values {
		r[name] = v
	}
	return r
}

func TestCSVAndParquetSayTheSameToTheLastDecimal(t *testing.T) {
	rows := []focus.Row{filled(nil), filled(focus.Row{"Tags": "{\"a\":\"x,\\\"y\"}", "ListUnitPrice": "3.06", "ConsumedQuantity": "123456789012345678", "ResourceName": "é\n"})}
	var text, file bytes.Buffer
	asText, err := focus.CSV(&text)
	if err != nil {
		t.Fatal(err)
	}
	asFile := focus.Parquet(&file)
	for _, r := range rows {
		for _, w := range []focus.Writer{asText, asFile} {
			if err := w.Write(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range []focus.Writer{asText, asFile} {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	lines, err := csv.NewReader(&text).ReadAll()
	if err != nil || len(lines) != 3 {
		t.Fatal(lines, err)
	}
	in, err := parquet.OpenFile(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil || in.NumRows() != 2 {
		t.Fatal(in, err)
	}
	if v, ok := in.Lookup("focus_version"); !ok || v != "1.2" {
		t.Errorf("the file is of FOCUS %q", v)
	}
	reader := parquet.NewReader(in)
	defer reader.Close()
	got := make([]parquet.Row, 2)
	if n, _ := reader.ReadRows(got); n != 2 {
		t.Fatalf("%d rows", n)
	}
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(20), nil)
	for n, path := range in.Schema().Columns() {
		i := slices.Index(lines[0], path[0])
		leaf, _ := in.Schema().Lookup(path...)
		for row := range rows {
			v, want := got[row][n], lines[row+1][i]
			switch {
			case want == "":
				if !v.IsNull() || !focus.Columns[i].Nullable {
					t.Errorf("%s is %v and not null", path[0], v)
				}
			case focus.Columns[i].Kind == focus.Decimal:
				x := new(big.Rat).SetFrac(new(big.Int).SetBytes(v.ByteArray()), scale)
				if w, _ := new(big.Rat).SetString(want); x.Cmp(w) != 0 || !strings.HasPrefix(leaf.Node.Type().String(), "DECIMAL(38,20)") {
					t.Errorf("%s is %s, want %s", path[0], x.FloatString(20), want)
				}
			case focus.Columns[i].Kind == focus.Time:
				if at := time.UnixMilli(v.Int64()).UTC().Format(time.RFC3339); at != want || !strings.HasPrefix(leaf.Node.Type().String(), "TIMESTAMP(isAdjustedToUTC=true,unit=MILLIS)") {
					t.Errorf("%s is %s, want %s", path[0], at, want)
				}
			default:
				if v.String() != want {
					t.Errorf("%s is %q, want %q", path[0], v, want)
				}
			}
		}
	}
}

func TestWhatIsNoValueOfItsColumnIsNotWritten(t *testing.T) {
	for name, r := range map[string]focus.Row{
		"a cost that is missing":   {"BilledCost": "1"},
		"a cost that is no number": filled(focus.Row{"BilledCost": "much"}),
		"less than nothing":        filled(focus.Row{"BilledCost": "-1"}),
		"too fine":                 filled(focus.Row{"BilledCost": "0.000000000000000000001"}),
		"too large":                filled(focus.Row{"BilledCost": "1234567890123456789"}),
		"no time":                  filled(focus.Row{"ChargePeriodStart": "today"}),
	} {
		if err := focus.Parquet(&bytes.Buffer{}).Write(r); err == nil {
			t.Errorf("%s is written", name)
		}
	}
}
