package focus

import (
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
)

// Decimals are 16 bytes of DECIMAL(38, 20), times milliseconds of UTC.
const (
	decimalScale, decimalDigits = 20, 38
	decimalBytes                = 16
	groupRows                   = 50_000 // rows that are held in memory before they are written
)

type parquetWriter struct {
	out     *parquet.GenericWriter[any]
	indexes []int // of Columns, in the schema's order
	rows    int
}

// Parquet writes a file with a column of each of Columns; its metadata name the specification and its version.
func Parquet(w io.Writer) Writer {
	group := parquet.Group{}
	at := map[string]int{}
	for i, c := range Columns {
		var node parquet.Node
		switch c.Kind {
		case Decimal:
			node = parquet.Decimal(decimalScale, decimalDigits, parquet.FixedLenByteArrayType(decimalBytes))
		case Time:
			node = parquet.Timestamp(parquet.Millisecond)
		default:
			node = parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
		}
		if c.Nullable {
			node = parquet.Optional(node)
		}
		group[c.Name] = parquet.Compressed(node, &parquet.Snappy)
		at[c.Name] = i
	}
	schema := parquet.NewSchema("focus", group)
	p := &parquetWriter{out: parquet.NewGenericWriter[any](w, schema, parquet.KeyValueMetadata("focus_version", Version))}
	for _, path := range schema.Columns() {
		p.indexes = append(p.indexes, at[path[0]])
	}
	return p
}

func (p *parquetWriter) Write(r Row) error {
	line := make(parquet.Row, len(p.indexes))
	for n, i := range p.indexes {
		c := Columns[i]
		text, ok := r[c.Name]
		if !ok && !c.Nullable {
			return fmt.Errorf("write a row of %s: the column %s has no value", r["ResourceId"], c.Name)
		}
		v := parquet.NullValue()
		level := 0
		if ok {
			var err error
			if v, err = c.value(text); err != nil {
				return fmt.Errorf("write a row of %s: %s: %w", r["ResourceId"], c.Name, err)
			}
			if c.Nullable {
				level = 1
			}
		}
		line[n] = v.Level(0, level, n)
	}
	if _, err := p.out.WriteRows([]parquet.Row{line}); err != nil {
		return err
	}
	if p.rows++; p.rows%groupRows == 0 {
		return p.out.Flush()
	}
	return nil
}

func (p *parquetWriter) Close() error { return p.out.Close() }

func (c Column) value(text string) (parquet.Value, error) {
	switch c.Kind {
	case Decimal:
		n, err := scaled(text)
		if err != nil {
			return parquet.Value{}, err
		}
		return parquet.FixedLenByteArrayValue(n.FillBytes(make([]byte, decimalBytes))), nil
	case Time:
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return parquet.Value{}, err
		}
		return parquet.Int64Value(t.UnixMilli()), nil
	}
	return parquet.ByteArrayValue([]byte(text)), nil
}

// scaled reads a decimal, which is never negative, as a whole number of 10^-20.
func scaled(text string) (*big.Int, error) {
	whole, part, _ := strings.Cut(text, ".")
	n, ok := new(big.Int).SetString(whole+part+strings.Repeat("0", max(0, decimalScale-len(part))), 10)
	if !ok || whole == "" || n.Sign() < 0 || len(part) > decimalScale || len(whole)+decimalScale > decimalDigits {
		return nil, fmt.Errorf("%q is no amount with %d decimals at most", text, decimalScale)
	}
	return n, nil
}
