package main

import (
	"bytes"
	"testing"
)

func TestEscapesAreFoundAtTheBeginningOfALineOnly(t *testing.T) {
	for _, c := range []struct {
		typed, sent string
		escape      byte
	}{
		{"ls\r", "ls\r", 0},
		{"~.", "", '.'},
		{"ls\r~.", "ls\r", '.'},
		{"a~.", "a~.", 0},
		{"\r~~.", "\r~.", 0},
		{"\r~x", "\r~x", 0},
		{"~B", "", 'B'},
		{"~?", "", '?'},
		{"~", "", 0},
		{"\n~\r~.", "\n~\r", '.'},
	} {
		// All at once, and each key by itself.
		for _, size := range []int{len(c.typed), 1} {
			var e escapes
			var sent []byte
			escape := byte(0)
			for at := 0; at < len(c.typed) && escape == 0; at += size {
				var send []byte
				send, escape, _ = e.typed([]byte(c.typed[at : at+size]))
				sent = append(sent, send...)
			}
			if string(sent) != c.sent || escape != c.escape {
				t.Errorf("%q in pieces of %d sends %q and means %q", c.typed, size, sent, escape)
			}
		}
	}
}

func FuzzEscapesLoseNothing(f *testing.F) {
	f.Add([]byte("ls\r~~a~b\r~x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var e escapes
		send, escape, rest := e.typed(in)
		held := 0
		if e.pending {
			held = 1
		}
		doubled := bytes.Count(in, []byte("~~"))
		if n := len(send) + len(rest) + held; escape == 0 && n < len(in)-doubled || n > len(in) {
			t.Errorf("of %q %q is sent, %q means something, %q is left", in, send, escape, rest)
		}
	})
}
