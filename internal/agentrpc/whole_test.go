package agentrpc

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func sent(t testing.TB, payload []byte, err error) []byte {
	t.Helper()
	var b bytes.Buffer
	got := SendWhole(&b, func(w io.Writer) error {
		if _, err := w.Write(payload); err != nil {
			t.Fatal(err)
		}
		return err
	})
	if !errors.Is(got, err) {
		t.Fatal(got)
	}
	return b.Bytes()
}

func TestAStreamIsWholeOrSaysThatItIsNot(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789"), 20_000)
	stream := sent(t, payload, nil)
	if got, err := io.ReadAll(WholeReader(bytes.NewReader(stream))); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, cut := range []int{0, 1, 3, 4, 5, maxPiece, len(stream) - 5, len(stream) - 4, len(stream) - 1} {
		got, err := io.ReadAll(WholeReader(bytes.NewReader(stream[:cut])))
		if !errors.Is(err, ErrNotWhole) || !bytes.HasPrefix(payload, got) {
			t.Errorf("cut off at %d: %d bytes, %v", cut, len(got), err)
		}
	}
	if _, err := io.ReadAll(WholeReader(bytes.NewReader(sent(t, payload[:9], errors.New("no such thing"))))); !errors.Is(err, ErrNotWhole) || !strings.Contains(err.Error(), "no such thing") {
		t.Error(err)
	}
}

func FuzzWholeReader(f *testing.F) {
	f.Add(sent(f, []byte("hello"), nil))
	f.Add(sent(f, []byte("hello"), io.ErrClosedPipe))
	f.Add([]byte{0, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := io.ReadAll(WholeReader(bytes.NewReader(b)))
		if len(got) > len(b) || err != nil && !errors.Is(err, ErrNotWhole) {
			t.Errorf("%d bytes of %d, %v", len(got), len(b), err)
		}
	})
}
