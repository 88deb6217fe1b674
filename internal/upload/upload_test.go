package upload

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestAnArchiveComesBackAsItWasSent(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("an archive")
	for range 2 { // sending twice is no error
		if err := d.Put(t.Context(), digestOf(data), bytes.NewReader(data), int64(len(data))); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.Open(t.Context(), digestOf(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestLyingAndTruncatedAndOverlongBytesLeaveNothing(t *testing.T) {
	data := []byte("an archive")
	for name, c := range map[string]struct {
		digest string
		sent   []byte
		size   int64
		want   error
	}{
		"other bytes":   {digestOf([]byte("another")), data, int64(len(data)), ErrMismatch},
		"truncated":     {digestOf(data), data[:3], int64(len(data)), ErrMismatch},
		"overlong":      {digestOf(data), append([]byte("an archive"), 'x'), int64(len(data)), ErrMismatch},
		"absurd size":   {digestOf(data), data, MaxSize + 1, ErrTooLarge},
		"climbing name": {"sha256:../../etc/passwd", data, int64(len(data)), ErrDigest},
		"no digest":     {"", data, int64(len(data)), ErrDigest},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Put(t.Context(), c.digest, bytes.NewReader(c.sent), c.size); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("%d files are left", len(left))
			}
		})
	}
}

func TestOnlyUnwantedOldArchivesAreCleanedAway(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	wanted, unwanted := []byte("wanted"), []byte("unwanted")
	for _, b := range [][]byte{wanted, unwanted} {
		if err := d.Put(t.Context(), digestOf(b), bytes.NewReader(b), int64(len(b))); err != nil {
			t.Fatal(err)
		}
	}
	keep := map[string]bool{digestOf(wanted): true}
	for _, c := range []struct {
		at   time.Time
		left int
	}{{time.Now(), 2}, {time.Now().Add(2 * time.Hour), 1}} {
		if err := d.Clean(keep, c.at); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != c.left {
			t.Errorf("at %v %d archives are left, want %d", c.at, len(left), c.left)
		}
	}
}
