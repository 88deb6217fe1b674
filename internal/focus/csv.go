package focus

import (
	"encoding/csv"
	"io"
)

type csvWriter struct{ out *csv.Writer }

// CSV writes a header and a line a row. Null is an empty field.
func CSV(w io.Writer) (Writer, error) {
	out := csv.NewWriter(w)
	header := make([]string, len(Columns))
	for i, c := range Columns {
		header[i] = c.Name
	}
	return csvWriter{out}, out.Write(header)
}

func (w csvWriter) Write(r Row) error {
	line := make([]string, len(Columns))
	for i, c := range Columns {
		line[i] = r[c.Name]
	}
	return w.out.Write(line)
}

func (w csvWriter) Close() error {
	w.out.Flush()
	return w.out.Error()
}
