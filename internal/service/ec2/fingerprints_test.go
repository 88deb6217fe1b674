package ec2_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// The commands are those by which AWS's documentation has users check a key pair.
const (
	madeRSA     = "openssl pkcs8 -in key -inform PEM -outform DER -topk8 -nocrypt | openssl sha1 -c"
	importedRSA = "ssh-keygen -ef key -m PEM | openssl rsa -RSAPublicKey_in -outform DER | openssl md5 -c"
	ed25519     = "ssh-keygen -l -f key"
)

// checked runs such a command on a key file and returns the fingerprint that it prints.
func checked(t *testing.T, dir, command string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	fields := strings.Fields(string(out))
	if _, sum, ok := strings.Cut(string(out), "SHA256:"); ok {
		return strings.Fields(sum)[0] // ssh-keygen leaves out the padding that EC2 shows
	}
	return fields[len(fields)-1]
}

func TestFingerprintsAreThoseThatAWSsCommandsPrint(t *testing.T) {
	w := newWorld(t)
	for kind, command := range map[types.KeyType]string{types.KeyTypeRsa: madeRSA, types.KeyTypeEd25519: ed25519} {
		made, err := w.CreateKeyPair(t.Context(), &sdk.CreateKeyPairInput{KeyName: aws.String("made-" + string(kind)), KeyType: kind})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "key"), []byte(*made.KeyMaterial), 0o600); err != nil {
			t.Fatal(err)
		}
		if want := checked(t, dir, command); strings.TrimRight(*made.KeyFingerprint, "=") != want {
			t.Errorf("a made %s key has %s, and AWS's command prints %s", kind, *made.KeyFingerprint, want)
		}
	}
	for kind, command := range map[string]string{"rsa": importedRSA, "ed25519": ed25519} {
		dir := t.TempDir()
		if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-b", "2048", "-m", "PEM", "-N", "", "-f", filepath.Join(dir, "key")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		public, err := os.ReadFile(filepath.Join(dir, "key.pub"))
		if err != nil {
			t.Fatal(err)
		}
		imported, err := w.ImportKeyPair(t.Context(), &sdk.ImportKeyPairInput{KeyName: aws.String("imported-" + kind), PublicKeyMaterial: public})
		if err != nil {
			t.Fatal(err)
		}
		if want := checked(t, dir, command); strings.TrimRight(*imported.KeyFingerprint, "=") != want {
			t.Errorf("an imported %s key has %s, and AWS's command prints %s", kind, *imported.KeyFingerprint, want)
		}
	}
}
