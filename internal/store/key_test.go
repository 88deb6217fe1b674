package store

import (
	"slices"
	"testing"
)

func FuzzJoinedKeysComeApartAgain(f *testing.F) {
	f.Add("ip", "subnet-1", "10.0.0.1")
	f.Add("name", "a/b", "c%2Fd")
	f.Add("", "/", "\x00\xff")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		parts := []string{a, b, c}
		key := JoinKey(parts...)
		got, err := SplitKey(key)
		if err != nil || !slices.Equal(got, parts) {
			t.Errorf("%q became %q and came apart as %q, %v", parts, key, got, err)
		}
		// The key is found again behind its table's prefix.
		s, found, ok := splitStored(Claims.schema.prefix + key)
		if !ok || s != Claims.schema || found != key {
			t.Errorf("stored key of %q came apart as %v %q", key, s, found)
		}
	})
}

func FuzzAnyKeyComesApartOrIsRefused(f *testing.F) {
	f.Add("a%2")
	f.Add("%zz/%00")
	f.Fuzz(func(t *testing.T, key string) {
		parts, err := SplitKey(key)
		if err != nil {
			return
		}
		again, err := SplitKey(JoinKey(parts...))
		if err != nil || !slices.Equal(again, parts) {
			t.Errorf("%q: %q, then %q, %v", key, parts, again, err)
		}
	})
}
