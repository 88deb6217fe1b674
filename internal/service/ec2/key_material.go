package ec2

import (
	"bytes"
	"crypto/ed25519"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

const (
	keyTypeRSA     = "rsa"
	keyTypeED25519 = "ed25519"
	rsaBits        = 2048
	// maxKeyMaterial bounds an imported public key, in bytes.
	maxKeyMaterial = 16 << 10
)

// keyMaterial is a public key with its fingerprint as EC2 computes it.
type keyMaterial struct {
	kind        string
	authorized  string // authorized_keys form, without a comment
	fingerprint string
}

// generateKey makes a key pair and returns the private half in PEM: PKCS#1 for RSA, OpenSSH's for ED25519.
func generateKey(kind string, rand io.Reader) (keyMaterial, string, error) {
	switch kind {
	case keyTypeRSA:
		key, err := rsa.GenerateKey(rand, rsaBits)
		if err != nil {
			return keyMaterial{}, "", fmt.Errorf("make an RSA key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return keyMaterial{}, "", fmt.Errorf("make an RSA key: %w", err)
		}
		sum := sha1.Sum(der) // of the private half: what EC2 does for RSA keys that it makes
		public, err := ssh.NewPublicKey(&key.PublicKey)
		if err != nil {
			return keyMaterial{}, "", fmt.Errorf("make an RSA key: %w", err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		return keyMaterial{kind, authorizedForm(public), colons(sum[:])}, string(text), nil
	case keyTypeED25519:
		_, key, err := ed25519.GenerateKey(rand)
		if err != nil {
			return keyMaterial{}, "", fmt.Errorf("make an ED25519 key: %w", err)
		}
		public, err := ssh.NewPublicKey(key.Public())
		if err != nil {
			return keyMaterial{}, "", fmt.Errorf("make an ED25519 key: %w", err)
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return keyMaterial{}, "", fmt.Errorf("make an ED25519 key: %w", err)
		}
		return keyMaterial{kind, authorizedForm(public), sshFingerprint(public)}, string(pem.EncodeToMemory(block)), nil
	}
	return keyMaterial{}, "", awsapi.InvalidParameterValue("Invalid value '%s' for keyType.", kind)
}

func authorizedForm(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func sshFingerprint(k ssh.PublicKey) string {
	sum := sha256.Sum256(k.Marshal())
	return base64.StdEncoding.EncodeToString(sum[:])
}

func colons(b []byte) string {
	parts := make([]string, len(b))
	for i := range b {
		parts[i] = hex.EncodeToString(b[i : i+1])
	}
	return strings.Join(parts, ":")
}

func invalidKey() error {
	return awsapi.Errorf("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
}

// parsePublicKey reads an imported key in one of the forms that EC2 takes: OpenSSH's, base64 of DER, or RFC 4716.
func parsePublicKey(data []byte) (keyMaterial, error) {
	if len(data) == 0 || len(data) > maxKeyMaterial {
		return keyMaterial{}, invalidKey()
	}
	public, err := readPublicKey(bytes.TrimSpace(data))
	if err != nil {
		return keyMaterial{}, invalidKey()
	}
	crypto, ok := public.(ssh.CryptoPublicKey)
	if !ok {
		return keyMaterial{}, invalidKey()
	}
	switch k := crypto.CryptoPublicKey().(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits != 1024 && bits != 2048 && bits != 4096 {
			return keyMaterial{}, awsapi.Errorf("InvalidKey.Format", "RSA keys have 1024, 2048 or 4096 bits, not %d", bits)
		}
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return keyMaterial{}, invalidKey()
		}
		sum := md5.Sum(der) // of the public half: what EC2 does for RSA keys that are imported
		return keyMaterial{keyTypeRSA, authorizedForm(public), colons(sum[:])}, nil
	case ed25519.PublicKey:
		return keyMaterial{keyTypeED25519, authorizedForm(public), sshFingerprint(public)}, nil
	}
	return keyMaterial{}, invalidKey()
}

func readPublicKey(data []byte) (ssh.PublicKey, error) {
	if k, _, _, rest, err := ssh.ParseAuthorizedKey(data); err == nil && len(bytes.TrimSpace(rest)) == 0 {
		return k, nil
	}
	if body, ok := rfc4716Body(string(data)); ok {
		raw, err := base64.StdEncoding.DecodeString(body)
		if err != nil {
			return nil, err
		}
		return ssh.ParsePublicKey(raw)
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(data)), ""))
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(key)
}

// rfc4716Body takes the base64 text out of an RFC 4716 public key file.
func rfc4716Body(s string) (string, bool) {
	s, ok := strings.CutPrefix(s, "---- BEGIN SSH2 PUBLIC KEY ----")
	if !ok {
		return "", false
	}
	if s, ok = strings.CutSuffix(s, "---- END SSH2 PUBLIC KEY ----"); !ok {
		return "", false
	}
	var body strings.Builder
	continued := false
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if continued || strings.Contains(line, ":") { // a header, which a backslash continues
			continued = strings.HasSuffix(line, "\\")
			continue
		}
		body.WriteString(line)
	}
	return body.String(), true
}
