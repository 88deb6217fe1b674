package access

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// hostKeysFile holds an instance's host keys, in the instance's own directory: they are the instance's
// identity to SSH clients and live as long as it does.
const hostKeysFile = "ssh_host_keys"

// LoadOrCreateHostKeys returns the host keys kept in dir, ED25519 first. The first call makes
// them. Calls side by side return the same keys. A file that can't be read is an error and stays as it
// is: new keys would look to every client as if somebody had come in between.
func LoadOrCreateHostKeys(dir string) ([]ssh.Signer, error) {
	name := filepath.Join(dir, hostKeysFile)
	signers, err := loadHostKeys(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return signers, err
	}
	data, err := newHostKeys()
	if err != nil {
		return nil, fmt.Errorf("make SSH host keys for %s: %w", name, err)
	}
	if err := createFile(name, data); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("keep SSH host keys: %w", err)
	}
	return loadHostKeys(name)
}

func loadHostKeys(name string) ([]ssh.Signer, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("load SSH host keys: %w", err)
	}
	signers, err := ParseHostKeys(data)
	if err != nil {
		return nil, fmt.Errorf("load SSH host keys from %s: %w", name, err)
	}
	return signers, nil
}

// HostKeyFile returns the keys that LoadOrCreateHostKeys made in dir, as ParseHostKeys reads them.
func HostKeyFile(dir string) ([]byte, error) {
	if _, err := LoadOrCreateHostKeys(dir); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, hostKeysFile))
}

// ParseHostKeys reads private keys in PEM, one after the other; there is one at least.
func ParseHostKeys(data []byte) ([]ssh.Signer, error) {
	var signers []ssh.Signer
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		signer, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
		if err != nil {
			return nil, err
		}
		signers, data = append(signers, signer), rest
	}
	if len(signers) == 0 {
		return nil, errors.New("there is none in it")
	}
	return signers, nil
}

func newHostKeys() ([]byte, error) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	var data []byte
	for _, key := range []any{ed, ec} {
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return nil, err
		}
		data = append(data, pem.EncodeToMemory(block)...)
	}
	return data, nil
}

// createFile makes a file readable by its owner only, whole or not at all and durably, and fails when there is one.
func createFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Greeting is what an operating system says of its host keys on its console, in cloud-init's form, so that a client's user can compare
// what the network showed with what the console did.
func Greeting(keys []ssh.Signer, host string) string {
	var b strings.Builder
	b.WriteString("-----BEGIN SSH HOST KEY FINGERPRINTS-----\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "256 %s root@%s (%s)\n", ssh.FingerprintSHA256(k.PublicKey()), host, map[string]string{ssh.KeyAlgoED25519: "ED25519", ssh.KeyAlgoECDSA256: "ECDSA"}[k.PublicKey().Type()])
	}
	b.WriteString("-----END SSH HOST KEY FINGERPRINTS-----\n-----BEGIN SSH HOST KEY KEYS-----\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "%s root@%s\n", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey()))), host)
	}
	b.WriteString("-----END SSH HOST KEY KEYS-----\n")
	return b.String()
}
