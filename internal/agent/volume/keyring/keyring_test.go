package keyring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ring(t testing.TB) (*Ring, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.key")
	id, err := Make(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Make(path); err != nil || again != id {
		t.Fatalf("made again it is %s, %v, not %s", again, err, id)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Error("the master key's file:", st.Mode(), err)
	}
	return Open(path, id), path
}

func TestASealedKeyIsOpenedByItsMasterKeyAlone(t *testing.T) {
	r, path := ring(t)
	key, kept, err := r.New("vol-1/l0")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Open(path, r.id).Open(kept); err != nil || got != key {
		t.Errorf("after a restart: %v", err)
	}
	if bytes.Contains(kept, []byte(key.Text())) {
		t.Error("what is kept tells the key")
	}
	other, _ := ring(t)
	if _, err := other.Open(kept); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), r.id) {
		t.Error("another master key:", err)
	}
	for _, broken := range []*Ring{nil, Open(path+".not", r.id), Open(path, other.id)} {
		if _, err := broken.Open(kept); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), "vol-1/l0") {
			t.Error("without the master key:", err)
		}
		if _, _, err := broken.New("vol-2/l0"); !errors.Is(err, ErrNoKey) {
			t.Error("sealed without the master key:", err)
		}
	}
}

func TestASealedKeyThatWasChangedIsRefused(t *testing.T) {
	r, _ := ring(t)
	_, kept, err := r.New("vol-1/l0")
	if err != nil {
		t.Fatal(err)
	}
	var s sealed
	if err := json.Unmarshal(kept, &s); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*sealed){
		"what it opens": func(s *sealed) { s.Of = "vol-2/l0" },
		"the nonce":     func(s *sealed) { s.Nonce[0] ^= 1 },
		"a short nonce": func(s *sealed) { s.Nonce = s.Nonce[:3] },
		"the key":       func(s *sealed) { s.Key[0] ^= 1 },
	} {
		bad := s
		bad.Nonce, bad.Key = bytes.Clone(s.Nonce), bytes.Clone(s.Key)
		change(&bad)
		b, err := json.Marshal(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Open(b); err == nil {
			t.Errorf("%s was changed, and it opens", name)
		}
	}
}

func TestAKeyShowsItselfToNobody(t *testing.T) {
	r, _ := ring(t)
	key, _, err := r.New("vol-1/l0")
	if err != nil {
		t.Fatal(err)
	}
	type holder struct{ Key Key }
	said := fmt.Sprint(key, holder{key}, &holder{key}) + fmt.Sprintf("%+v %#v %q %x", key, holder{key}, key, key)
	if strings.Contains(said, key.Text()) || strings.Contains(said, fmt.Sprintf("%x", key.Text())) {
		t.Error("it says", said)
	}
	if b, err := json.Marshal(holder{key}); err == nil {
		t.Errorf("it was written down: %s", b)
	}
}

func TestAMasterKeyThatIsNoneIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	for _, text := range []string{"", "abc", strings.Repeat("0", 62), strings.Repeat("x", 64)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Make(path); err == nil {
			t.Errorf("%q was taken", text)
		}
		if err := Open(path, "").Err(); !errors.Is(err, ErrNoKey) {
			t.Errorf("%q was opened: %v", text, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	r, _ := ring(f)
	_, kept, err := r.New("vol-1/l0")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(kept)
	f.Add([]byte(`{"Master":"","Nonce":"AAAA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, err := r.Open(b); err == nil && len(key.Text()) != 2*keySize {
			t.Errorf("%q opens as a key of %d digits", b, len(key.Text()))
		}
	})
}
