package main

import (
	"bytes"
	"testing"
)

func TestAConsoleThatIsFollowedIsPrintedOnceAlsoWhenItsBeginningIsDropped(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789abcdef\n"), 500)
	for _, c := range []struct{ name, seen, now, want string }{
		{"first look", "", "boot\n", "boot\n"},
		{"nothing new", "boot\n", "boot\n", ""},
		{"more", "boot\n", "boot\nlogin:", "login:"},
		{"the beginning was dropped", "gone" + string(long) + "here\n", string(long) + "here\nmore\n", "more\n"},
		{"another boot", "old boot\n", "new\n", "new\n"},
	} {
		if got := string(unseen([]byte(c.seen), []byte(c.now))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
