package luks

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

const passphrase = "0123456789abcdef"

func write(t *testing.T, size int64) (path, key string) {
	t.Helper()
	dir := t.TempDir()
	path, key = filepath.Join(dir, "image"), filepath.Join(dir, "key")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(f, size, passphrase); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte(passphrase), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, key
}

func qemu(t *testing.T, name string, args ...string) ([]byte, error) {
	t.Helper()
	return exec.CommandContext(t.Context(), name, args...).CombinedOutput()
}

func TestQEMUOpensWhatIsWrittenByItsPassphraseAlone(t *testing.T) {
	for _, size := range []int64{1 << 20, 1<<29 + 512, 1 << 40, MaxSize} {
		path, key := write(t, size)
		open := []string{"--object", "secret,id=k,file=" + key, "--image-opts", "driver=qcow2,file.filename=" + path + ",encrypt.format=luks,encrypt.key-secret=k"}
		last := strconv.FormatInt(size-4096, 10)
		secret := bytes.Repeat([]byte{0xa7}, 64)
		for _, do := range []string{"write -P 0xa7 0 4k", "write -P 0xa7 " + last + " 4k", "read -P 0xa7 0 4k", "read -P 0 64k 64k", "read -P 0xa7 " + last + " 4k"} {
			if out, err := qemu(t, "qemu-io", append([]string{"-c", do}, open...)...); err != nil || bytes.Contains(out, []byte("failed")) {
				t.Fatalf("%d bytes: %s: %v: %s", size, do, err, out)
			}
		}
		if out, err := qemu(t, "qemu-img", append([]string{"check"}, open...)...); err != nil {
			t.Errorf("%d bytes: %v: %s", size, err, out)
		}
		if size <= 1<<30 {
			if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, secret) {
				t.Error("the file tells what was written", err)
			}
		}
		if err := os.WriteFile(key, []byte("another"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := qemu(t, "qemu-io", append([]string{"-c", "read 0 4k"}, open...)...); err == nil {
			t.Errorf("another passphrase opens it: %s", out)
		}
	}
}

func TestTwoImagesOfOnePassphraseHaveNothingInCommon(t *testing.T) {
	var heads [2][]byte
	for n := range heads {
		path, _ := write(t, 1<<20)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		heads[n] = b[luksHeader*cluster+firstSlot*sector:][:stripes*keyBytes]
	}
	for n := 0; n < len(heads[0]); n += 16 {
		if bytes.Equal(heads[0][n:n+16], heads[1][n:n+16]) {
			t.Fatalf("their key material is the same at %d", n)
		}
	}
}

func TestImagesThatCantBeAreRefused(t *testing.T) {
	for _, size := range []int64{-1, 0, 100, MaxSize + sector} {
		if err := Write(nil, size, passphrase); err == nil {
			t.Errorf("%d bytes were written", size)
		}
	}
	if err := Write(nil, 1<<20, ""); err == nil {
		t.Error("it was written without a passphrase")
	}
}
