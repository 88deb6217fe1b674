package sums

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/volume/qcow2"
)

func always(context.Context, int) error { return nil }

// layer writes a layer with the given clusters of random bytes, and its sums.
func layer(t testing.TB, dir string, at ...int64) (path string, s []byte) {
	t.Helper()
	path = filepath.Join(dir, "layer")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := qcow2.NewWriter(f, 1<<30)
	for _, c := range at {
		b := make([]byte, qcow2.Cluster)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		where, failed := w.Append(b)
		err = errors.Join(err, failed, w.Map(c, qcow2.Place{Kind: qcow2.Data, Offset: where}))
	}
	if err := errors.Join(err, w.Finish()); err != nil {
		t.Fatal(err)
	}
	return path, sumsOf(t, path, false)
}

func sumsOf(t testing.TB, path string, raw bool) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(path + ".sums")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := Make(context.Background(), f, info.Size(), raw, out, always); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path + ".sums")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func opened(t testing.TB, b []byte) *Sums {
	t.Helper()
	s, err := Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnyBitThatFlipsIsFoundAndNeverRead(t *testing.T) {
	path, b := layer(t, t.TempDir(), 0, 7, 9000, 16000)
	s := opened(t, b)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 400 {
		rotten := bytes.Clone(whole)
		bit := rand.IntN(8 * len(rotten))
		rotten[bit/8] ^= 1 << (bit % 8)
		got := make([]byte, len(rotten))
		at := bit / 8 / qcow2.Cluster * qcow2.Cluster
		n, err := Reader{bytes.NewReader(rotten), s}.ReadAt(got, 0)
		if !errors.Is(err, ErrRot) || n > at || !bytes.Equal(got[:n], whole[:n]) {
			t.Fatalf("with the bit %d flipped, %d bytes were read: %v", bit, n, err)
		}
	}
	got := make([]byte, len(whole))
	if _, err := (Reader{bytes.NewReader(whole), s}).ReadAt(got, 0); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("the sound file is not read: %v", err)
	}
}

func TestRotInTheSumsIsTheirOwn(t *testing.T) {
	path, b := layer(t, t.TempDir(), 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		rotten := bytes.Clone(b)
		bit := rand.IntN(8 * len(rotten))
		rotten[bit/8] ^= 1 << (bit % 8)
		s, err := Open(bytes.NewReader(rotten))
		if err == nil {
			_, err = Reader{bytes.NewReader(whole), s}.ReadAt(make([]byte, len(whole)), 0)
		}
		if err == nil { // it is in the copies of tables
			var c [qcow2.Cluster]byte
			_, err = s.Spare(0, &c)
		}
		if err != nil && (!errors.Is(err, ErrNoSums) || errors.Is(err, ErrRot)) {
			t.Fatalf("the bit %d: %v", bit, err)
		}
	}
}

func TestTablesHaveASecondCopy(t *testing.T) {
	path, b := layer(t, t.TempDir(), 0, 9000)
	s := opened(t, b)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q, err := qcow2.Open(f, s.Long())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = q.Tables(func(offset int64) {
		var b [qcow2.Cluster]byte
		if ok, err := s.Spare(offset, &b); !ok || err != nil || s.Check(&b, offset) != nil {
			t.Errorf("the table at %#x has no second copy: %v", offset, err)
		}
		n++
	})
	if err != nil || n != 6 { // header, first table, two of the second level, counts and their table
		t.Errorf("there are %d tables, %v", n, err)
	}
	var c [qcow2.Cluster]byte
	if ok, _ := s.Spare(2*qcow2.Cluster, &c); ok {
		t.Error("a cluster of the disk has a second copy")
	}
}

func TestHolesAndTheEndOfAFileAreZeros(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 300*qcow2.Cluster + 5
	if _, err := f.WriteAt([]byte("here"), 200*qcow2.Cluster+9); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("end"), size-3); err != nil {
		t.Fatal(err)
	}
	s := opened(t, sumsOf(t, path, true))
	if s.Clusters() != 301 {
		t.Fatalf("there are %d clusters", s.Clusters())
	}
	for c := range s.Clusters() {
		if d, err := s.Digest(c); err != nil || (d != ZeroDigest) != (c == 200 || c == 300) {
			t.Errorf("the cluster %d has another sum: %v", c, err)
		}
	}
	got := make([]byte, 10)
	if n, err := (Reader{f, s}).ReadAt(got, size-3); n != 3 || !errors.Is(err, io.EOF) || string(got[:3]) != "end" {
		t.Errorf("at the end there is %q, %v", got[:n], err)
	}
}

func FuzzOpen(f *testing.F) {
	_, b := layer(f, f.TempDir(), 1)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Open(bytes.NewReader(b))
		if err != nil {
			return
		}
		s.Digest(0)
		var c [qcow2.Cluster]byte
		s.Spare(0, &c)
	})
}
