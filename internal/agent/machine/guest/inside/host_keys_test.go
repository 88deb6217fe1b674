package inside

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// somebodysKeys are two private host keys, as the agent tells them.
func somebodysKeys(t *testing.T) []byte {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, key := range []any{ed, ec} {
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pem.EncodeToMemory(block)...)
	}
	return out
}

func TestAnInstanceGetsItsHostKeysOnceAndNoneOfTheImagesOrALentOneIsLeft(t *testing.T) {
	dir := t.TempDir()
	marker := filepath.Join(dir, "state/marker")
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if err := lendHostKey(dir); err != nil {
		t.Fatal(err)
	}
	lent := read("ssh_host_ed25519_key.pub")
	if err := lendHostKey(dir); err != nil || read("ssh_host_ed25519_key.pub") != lent {
		t.Errorf("%v, or a second key was lent", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ssh_host_rsa_key"), []byte("the image's"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := somebodysKeys(t)
	if fresh, err := putHostKeys(dir, marker, "i-1", "vm-1", keys); err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	own := read("ssh_host_ed25519_key.pub")
	if own == lent || !strings.HasSuffix(own, " root@vm-1\n") {
		t.Errorf("its key is %q", own)
	}
	if _, err := os.Stat(filepath.Join(dir, "ssh_host_rsa_key")); !os.IsNotExist(err) {
		t.Errorf("the image's key is still there: %v", err)
	}
	for _, name := range []string{"ssh_host_ed25519_key", "ssh_host_ecdsa_key"} {
		key, err := ssh.ParsePrivateKey([]byte(read(name)))
		if err != nil || !strings.Contains(read(name+".pub"), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))) {
			t.Errorf("%s does not go with its public key: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	// What the owner does with them stays; another instance of the same disk has its own.
	if err := os.WriteFile(filepath.Join(dir, "ssh_host_ed25519_key.pub"), []byte("the owner's"), 0o644); err != nil {
		t.Fatal(err)
	}
	if fresh, err := putHostKeys(dir, marker, "i-1", "vm-1", keys); err != nil || fresh || read("ssh_host_ed25519_key.pub") != "the owner's" {
		t.Error(fresh, err, "or the owner's key was replaced")
	}
	if fresh, err := putHostKeys(dir, marker, "i-2", "vm-2", somebodysKeys(t)); err != nil || !fresh || read("ssh_host_ed25519_key.pub") == own {
		t.Error(fresh, err, "or another instance has the same key")
	}
	own = read("ssh_host_ed25519_key.pub")
	if _, err := putHostKeys(dir, marker, "i-3", "vm-3", []byte("no keys")); err == nil || read("ssh_host_ed25519_key.pub") != own {
		t.Errorf("%v, or a key is gone for none at all", err)
	}
}
