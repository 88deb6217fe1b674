package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func encoded(t testing.TB, f Frame) []byte {
	t.Helper()
	b, err := Append(nil, f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFramesComeOutAsTheyWentInWhateverThePieces(t *testing.T) {
	want := []Frame{{TypeStdin, 7, []byte("abc")}, {TypeStdout, 1 << 31, []byte{}}, {TypeExit, 0, bytes.Repeat([]byte(Magic), MaxPayload/4)}}
	var stream []byte
	for _, f := range want {
		stream = append(stream, encoded(t, f)...)
	}
	for name, from := range map[string]io.Reader{"whole": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream))} {
		r := NewReader(from)
		r.Strict = true
		for _, w := range want {
			f, err := r.Next()
			if err != nil || f.Type != w.Type || f.Stream != w.Stream || !bytes.Equal(f.Payload, w.Payload) {
				t.Fatalf("%s: %d bytes of type %d, %v", name, len(f.Payload), f.Type, err)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: %v at the end", name, err)
		}
	}
}

func TestAFrameIsFoundBehindHalfOfAnother(t *testing.T) {
	long := encoded(t, Frame{TypeStdin, 1, bytes.Repeat([]byte("x"), MaxPayload)})
	for _, cut := range []int{1, 3, 8, headerSize, 1000, len(long) - 1} {
		stream := append(append(bytes.Clone(long[:cut]), Preamble()...), encoded(t, Frame{TypeHello, 0, []byte("x")})...)
		f, err := NewReader(bytes.NewReader(stream)).Next()
		if err != nil || f.Type != TypeHello {
			t.Errorf("cut at %d: type %d, %v", cut, f.Type, err)
		}
	}
}

func TestStrictReadersTakeNothingButFrames(t *testing.T) {
	good := encoded(t, Frame{TypeStdin, 1, []byte("abc")})
	bad := bytes.Clone(good)
	bad[len(bad)-1]++
	for name, b := range map[string][]byte{"a byte before": append([]byte{0}, good...), "another checksum": bad} {
		r := NewReader(bytes.NewReader(b))
		r.Strict = true
		if _, err := r.Next(); !errors.Is(err, ErrGarbage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Append(nil, Frame{TypeStdin, 1, make([]byte, MaxPayload+1)}); !errors.Is(err, ErrTooLong) {
		t.Errorf("a payload too long: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(Magic), false)
	f.Add(encoded(f, Frame{TypeStdin, 1, []byte("abc")}), true)
	f.Fuzz(func(t *testing.T, b []byte, strict bool) {
		r := NewReader(bytes.NewReader(b))
		r.Strict = strict
		total := 0
		for {
			got, err := r.Next()
			if err != nil {
				break
			}
			again := encoded(t, got)
			if !bytes.Contains(b, again) {
				t.Fatalf("%x is no part of %x", again, b)
			}
			total += len(again)
		}
		if total > len(b) {
			t.Fatalf("%d bytes of frames in %d", total, len(b))
		}
		r = NewReader(bytes.NewReader(append(append(bytes.Clone(b), Preamble()...), encoded(t, Frame{TypeHello, 77, nil})...)))
		for {
			got, err := r.Next()
			if err != nil {
				t.Fatalf("the greeting was not found: %v", err)
			}
			if got.Type == TypeHello && got.Stream == 77 {
				break
			}
		}
	})
}
