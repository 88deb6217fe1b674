// Package keyring keeps the keys of encrypted volumes: a key for each layer of a volume, sealed by the master key of the region.
//
// A sealed key is kept beside what it opens, and is worth nothing without the master key; the master key is a file of root's, and opens nothing without the
// sealed ones. So neither a copy of the volumes nor one of the store tells a byte, and whoever destroys a sealed key has destroyed what it opens.
// A master key is never made in the place of one that is lost: everything that was sealed by it would look damaged.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

const (
	keySize = 32 // bytes, of all keys
	// maxSealed bounds a sealed key, in bytes.
	maxSealed = 4096
)

// ErrNoKey is returned where a master key is missing, or is another than the one that something was sealed by.
var ErrNoKey = errors.New("the master key for encrypted volumes is not there")

// Ring opens and seals the keys of volumes. It is safe for concurrent use.
type Ring struct {
	id   string
	seal cipher.AEAD
	err  error // why it can't
}

// Key is what opens one layer: a passphrase of hexadecimal digits, as LUKS takes text only. It shows itself to nobody: not to a log, nor to a record.
type Key struct{ text string }

// Text is the passphrase. It goes to a process that opens the layer, by its monitor or a descriptor, and nowhere else.
func (k Key) Text() string { return k.text }

// File is an anonymous file that holds the passphrase, for a program that inherits its descriptor and reads it by /proc/self/fd.
func (k Key) File() (*os.File, error) {
	fd, err := unix.MemfdCreate("key", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a file for a key: %w", err)
	}
	f := os.NewFile(uintptr(fd), "key")
	_, err = f.WriteString(k.text)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write a key for the program that needs it: %w", err)
	}
	return f, nil
}

// IsZero tells whether there is no key.
func (k Key) IsZero() bool { return k.text == "" }

// String implements fmt.Stringer.
func (k Key) String() string { return "(a key)" }

// GoString implements fmt.GoStringer.
func (k Key) GoString() string { return k.String() }

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) { return nil, errors.New("a key is not to be written down") }

// Make makes a master key, unless there is one, and tells its id.
func Make(path string) (id string, err error) {
	raw, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw = make([]byte, keySize)
		rand.Read(raw)
		err = renameio.WriteFile(path, []byte(hex.EncodeToString(raw)+"\n"), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("make the master key for encrypted volumes: %w", err)
	}
	return idOf(raw), nil
}

// read reads a master key.
func read(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != keySize {
		return nil, fmt.Errorf("%s does not hold a key of %d hexadecimal digits", path, 2*keySize)
	}
	return raw, nil
}

// derive makes one of a master key's own keys. The master key itself enciphers nothing.
func derive(raw []byte, what string, size int) []byte {
	key, err := hkdf.Key(sha256.New, raw, nil, "nacre "+what, size)
	if err != nil {
		panic("keyring: " + err.Error()) // the sizes are constants
	}
	return key
}

// idOf is by which a master key is known, in the form of a KMS key's id. It tells nothing about the key.
func idOf(raw []byte) string {
	b := derive(raw, "id of a master key", 16)
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // a UUID of version 8, for ids of one's own making
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Open opens the ring of the master key that is called id. A ring whose key is missing or another opens and seals nothing, and says why each time it is asked: what
// is not encrypted goes on.
func Open(path, id string) *Ring {
	r := &Ring{id: id}
	raw, err := read(path)
	switch {
	case err != nil:
		r.err = fmt.Errorf("%w: %w; put the file back from a copy and start nacre again", ErrNoKey, err)
		return r
	case idOf(raw) != id:
		r.err = fmt.Errorf("%w: %s holds the key %s, and volumes are encrypted by %s; put the right file back from a copy and start nacre again", ErrNoKey, path, idOf(raw), id)
		return r
	}
	block, err := aes.NewCipher(derive(raw, "seal of volumes' keys", keySize))
	if err == nil {
		r.seal, err = cipher.NewGCM(block)
	}
	if err != nil {
		panic("keyring: " + err.Error())
	}
	return r
}

// Err is why the ring opens and seals nothing, nil when it does.
func (r *Ring) Err() error {
	if r == nil {
		return ErrNoKey
	}
	return r.err
}

// sealed is a key as it is kept.
type sealed struct {
	Master string // the id of the master key
	Of     string // what it opens; as authentic as the key
	Nonce  []byte
	Key    []byte // AES-256-GCM
}

func (s sealed) label() []byte { return []byte(s.Master + "\n" + s.Of) }

// New makes a key and seals it. of names what it is to open.
func (r *Ring) New(of string) (Key, []byte, error) {
	if r.Err() != nil {
		return Key{}, nil, r.cannot("seal a key of " + of)
	}
	raw, s := make([]byte, keySize), sealed{Master: r.id, Of: of, Nonce: make([]byte, r.seal.NonceSize())}
	rand.Read(raw)
	rand.Read(s.Nonce)
	s.Key = r.seal.Seal(nil, s.Nonce, raw, s.label())
	b, err := json.Marshal(s)
	return Key{hex.EncodeToString(raw)}, b, err
}

// Open opens a key that New sealed.
func (r *Ring) Open(b []byte) (Key, error) {
	var s sealed
	if len(b) > maxSealed {
		return Key{}, fmt.Errorf("a sealed key has %d bytes at most", maxSealed)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return Key{}, fmt.Errorf("a sealed key is damaged: %w", err)
	}
	switch {
	case r.Err() != nil:
		return Key{}, r.cannot("open the key of " + s.Of)
	case s.Master != r.id:
		return Key{}, fmt.Errorf("open the key of %q: it is sealed by the master key %q, and this region has %s: %w", s.Of, s.Master, r.id, ErrNoKey)
	case len(s.Nonce) != r.seal.NonceSize():
		return Key{}, fmt.Errorf("the sealed key of %q is damaged", s.Of)
	}
	raw, err := r.seal.Open(nil, s.Nonce, s.Key, s.label())
	if err != nil || len(raw) != keySize {
		return Key{}, fmt.Errorf("the sealed key of %q is damaged", s.Of)
	}
	return Key{hex.EncodeToString(raw)}, nil
}

func (r *Ring) cannot(what string) error { return fmt.Errorf("%s: %w", what, r.Err()) }
